// merge.wgsl: out[row, head] = epilogue(merge of the row's states), lse[row, head].
// Maths     m = max lse_i, w_i = exp(lse_i - m), out = sum w_i out_i / sum w_i, lse = m + ln(sum w_i); a sink is one more
//           state with out = 0; epilogue: per-head RMS norm, then gate.
// Shapes    states [state, num_q_heads, value dim] f32; state_lse [state, num_q_heads] f32;
//           tables: header [rows, indptr_base, index_base, -], indptr [rows + 1], index [nnz];
//           out [row, num_q_heads, value dim]; gate the same, or one per head; lse [row, num_q_heads] f32.
// Grid      one lane per (row, head), workgroups folded to two dimensions.
// Numerics  f32, one rounding at the store. States are added in the order of index. No arithmetic on infinities: an
//           empty state is known by the bits of its lse and skipped, so that its output may hold anything.
// Constants LANES, VALUE_CHUNKS (value dim / 4), HAS_EPILOGUE (a norm or a gate); storage gate, out.
// #include "common/dtype.wgsl"
// #include "common/gate.wgsl"
// #include "common/norm.wgsl"

struct MergeParams {
    num_q_heads: u32,
    state_offset: u32,
    state_row_stride: u32,
    state_head_stride: u32,
    state_lse_offset: u32,
    state_lse_row_stride: u32,
    state_lse_head_stride: u32,
    gate_offset: u32,
    gate_row_stride: u32,
    gate_head_stride: u32,
    out_offset: u32,
    out_row_stride: u32,
    out_head_stride: u32,
    lse_offset: u32,
    lse_row_stride: u32,
    lse_head_stride: u32,
    norm: u32,
    norm_eps: f32,
    norm_base: u32,
    sinks_base: u32,
    has_sinks: u32,
    gate_code: u32,
    has_lse: u32,
    header: u32,
}

@group(0) @binding(0) var<uniform> params: MergeParams;
@group(0) @binding(1) var<storage, read> states: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> state_lse: array<u32>;
@group(0) @binding(3) var<storage, read> tables: array<u32>;
@group(0) @binding(4) var<storage, read> constants: array<u32>;
@group(0) @binding(5) var<storage, read> gate: array<gate_chunk>;
@group(0) @binding(6) var<storage, read_write> out: array<out_chunk>;
@group(0) @binding(7) var<storage, read_write> lse: array<u32>;

const LOG2_E: f32 = 1.4426950408889634;
const LN_2: f32 = 0.6931471805599453;
// Below every lse of a state with keys.
const NOTHING: f32 = -1e30;

// -1.6e29 and below, down to -inf; NaN is not among them.
fn is_empty(bits: u32) -> bool {
    return bits >= 0xf0000000u && bits <= 0xff800000u;
}

fn lse_place(entry: u32, head: u32) -> u32 {
    return params.state_lse_offset + entry * params.state_lse_row_stride + head * params.state_lse_head_stride;
}

// Chunk c of the weighted sum of the states, not yet divided by the total weight.
fn weighted_chunk(first: u32, last: u32, head: u32, most: f32, c: u32) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    for (var i = first; i < last; i++) {
        let entry = tables[i];
        let bits = state_lse[lse_place(entry, head)];
        if !is_empty(bits) {
            let place = params.state_offset + entry * params.state_row_stride + head * params.state_head_stride;
            sum = fma(vec4<f32>(exp2((bitcast<f32>(bits) - most) * LOG2_E)), states[place + c], sum);
        }
    }
    return sum;
}

// The factors of a chunk of (row, head), whose first gate is at chunk, or for a gate per head at element, `place`.
fn gates_of(place: u32, c: u32) -> vec4<f32> {
    if params.gate_code >= GATE_OF_HEAD {
        let g = unpack_gate(gate[place / 4u]);
        return gate_factor(params.gate_code, vec4<f32>(g[place % 4u]));
    }
    return gate_factor(params.gate_code, unpack_gate(gate[place + c]));
}

fn weights_chunk(c: u32) -> vec4<f32> {
    let w = params.norm_base + c * 4u;
    return bitcast<vec4<f32>>(vec4<u32>(constants[w], constants[w + 1u], constants[w + 2u], constants[w + 3u]));
}

// Chunk 0 of a row's head; its gate as in `gates_of`.
struct Place {
    out: u32,
    gate: u32,
}

fn write_chunk(place: Place, c: u32, merged: vec4<f32>, norm: f32) {
    var x = merged;
    if HAS_EPILOGUE {
        x *= norm;
        if norm_is_weighted(params.norm) {
            x *= norm_weight(params.norm, weights_chunk(c));
        }
        if params.gate_code != GATE_NONE {
            x *= gates_of(place.gate, c);
        }
    }
    out[place.out + c] = pack_out(x);
}

@compute @workgroup_size(LANES)
fn merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) num_groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // -- which row and head are mine
    let place = (group.y * num_groups.x + group.x) * LANES + lane;
    let row = place / params.num_q_heads;
    let head = place % params.num_q_heads;
    if row >= tables[params.header] {
        return;
    }
    let indptr = tables[params.header + 1u] + row;
    let index_base = tables[params.header + 2u];
    let first = index_base + tables[indptr];
    let last = index_base + tables[indptr + 1u];

    // -- total weight
    var most = NOTHING;
    if params.has_sinks != 0u {
        most = bitcast<f32>(constants[params.sinks_base + head]);
    }
    for (var i = first; i < last; i++) {
        let bits = state_lse[lse_place(tables[i], head)];
        if !is_empty(bits) {
            most = max(most, bitcast<f32>(bits));
        }
    }
    var total = 0.0;
    if params.has_sinks != 0u {
        total = exp2((bitcast<f32>(constants[params.sinks_base + head]) - most) * LOG2_E);
    }
    for (var i = first; i < last; i++) {
        let bits = state_lse[lse_place(tables[i], head)];
        if !is_empty(bits) {
            total += exp2((bitcast<f32>(bits) - most) * LOG2_E);
        }
    }
    let inverse = select(1.0 / total, 0.0, total == 0.0);

    // -- a row of one state and no sink is that state: its weight is its total
    let only = tables[min(first, last - 1u)];
    let is_single = last - first == 1u && params.has_sinks == 0u && !is_empty(state_lse[lse_place(only, head)]);
    let single = params.state_offset + only * params.state_row_stride + head * params.state_head_stride;
    let many = select(last, first, is_single);

    // -- norm
    var norm = 1.0;
    if HAS_EPILOGUE && params.norm != NORM_NONE {
        var squares = vec4<f32>(0.0);
        for (var c = 0u; c < VALUE_CHUNKS; c++) {
            var x = weighted_chunk(first, many, head, most, c) * inverse;
            if is_single {
                x = states[single + c];
            }
            squares = fma(x, x, squares);
        }
        let total_squares = (squares.x + squares.y) + (squares.z + squares.w);
        norm = norm_factor(params.norm, total_squares, VALUE_CHUNKS * 4u, params.norm_eps);
    }

    // -- write out and lse: two loops, since a driver that masks lanes out instead of branching runs both arms of an `if`
    let chunk_place = Place(
        params.out_offset + row * params.out_row_stride + head * params.out_head_stride,
        params.gate_offset + row * params.gate_row_stride + head * params.gate_head_stride,
    );
    let num_merged = select(VALUE_CHUNKS, 0u, is_single);
    for (var c = 0u; c < num_merged; c++) {
        write_chunk(chunk_place, c, weighted_chunk(first, last, head, most, c) * inverse, norm);
    }
    for (var c = num_merged; c < VALUE_CHUNKS; c++) {
        write_chunk(chunk_place, c, states[single + c], norm);
    }
    if params.has_lse != 0u {
        let value = bitcast<u32>(most + log2(total) * LN_2);
        lse[params.lse_offset + row * params.lse_row_stride + head * params.lse_head_stride] =
            select(value, 0xff800000u, total == 0.0);
    }
}
