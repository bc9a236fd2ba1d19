// merge.wgsl: out[row, head] = epilogue(merge of the row's states), lse[row, head].
// Maths     m = max lse_i, w_i = exp(lse_i - m), out = sum w_i out_i / sum w_i, lse = m + ln(sum w_i); a sink is one more
//           state with out = 0; epilogue: the rotation by the row's position undone (ROTATION), per-head RMS norm,
//           gate, scale of codes.
// Shapes    states [state, num_q_heads, value dim] f32; state_lse [state, num_q_heads] f32;
//           tables: header [rows, indptr_base, index_base, -], indptr [rows + 1], index [nnz], and behind it with
//           ROTATION positions [rows][4], of all steps, a step's rows side by side;
//           out [row, num_q_heads, value dim]; gate the same, or one per head; lse [row, num_q_heads] f32.
// Grid      one lane per (row, head), workgroups folded to two dimensions.
// Numerics  f32, one rounding at the store. States are added in the order of index. No arithmetic on infinities: an
//           empty state is known by the bits of its lse and skipped, so that its output may hold anything.
// Constants LANES, VALUE_CHUNKS (value dim / 4), HAS_EPILOGUE (a norm or a gate), ROTATION, HAS_STEPS (rows of ROTATION
//           stand elsewhere in every step); storage gate, out.
// #include "common/dtype.wgsl"
// #include "common/gate.wgsl"
// #include "common/norm.wgsl"
// #include "common/rope.wgsl"
// #include "common/rotate.wgsl"
// #include "common/steps.wgsl"

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
    // First word of the rotation in `constants`, first lane and number of the lane pairs that turn.
    rope_table: u32,
    first_lane: u32,
    pairs: u32,
    out_factor: f32, // multiplies what is stored: 1 over the scale of codes, or 1
}

@group(0) @binding(0) var<uniform> params: MergeParams;
@group(0) @binding(1) var<storage, read> states: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> state_lse: array<u32>;
@group(0) @binding(3) var<storage, read> tables: array<u32>;
@group(0) @binding(4) var<storage, read> constants: array<u32>;
@group(0) @binding(5) var<storage, read> gate: array<gate_chunk>;
@group(0) @binding(6) var<storage, read_write> out: array<out_chunk>;
@group(0) @binding(7) var<storage, read_write> lse: array<u32>;
@group(0) @binding(8) var<storage, read> steps: array<u32>;

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

// One head of one row.
struct Head {
    index: u32,
    // Its states are tables[first..last], the largest lse, and what their sum is multiplied by.
    first: u32,
    last: u32,
    most: f32,
    inverse: f32,
    norm: f32,
    // Chunk 0 of the output; of the gate as in `gates_of`.
    out: u32,
    gate: u32,
    // First word of the row's position in `tables`.
    position: u32,
}

// Chunk c of the weighted sum of the states.
fn unturned(head: Head, c: u32) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    for (var i = head.first; i < head.last; i++) {
        let entry = tables[i];
        let bits = state_lse[lse_place(entry, head.index)];
        if !is_empty(bits) {
            let place = params.state_offset + entry * params.state_row_stride + head.index * params.state_head_stride;
            sum = fma(vec4<f32>(exp2((bitcast<f32>(bits) - head.most) * LOG2_E)), states[place + c], sum);
        }
    }
    return sum * head.inverse;
}

// (cos, sin) of lane pair `pair` by the row's position, backwards.
fn turn(head: Head, pair: u32) -> vec2<f32> {
    let at = params.rope_table + 3u * pair;
    let position = bitcast<i32>(tables[head.position + constants[at + 2u]]);
    return rope_cos_sin(position, constants[at], constants[at + 1u]) * vec2<f32>(1.0, -1.0);
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

fn store(head: Head, c: u32, lanes: vec4<f32>) {
    var x = lanes;
    if HAS_EPILOGUE {
        x *= head.norm;
        if norm_is_weighted(params.norm) {
            x *= norm_weight(params.norm, weights_chunk(c));
        }
        if params.gate_code != GATE_NONE {
            x *= gates_of(head.gate, c);
        }
    }
    out[head.out + c] = pack_out(x * params.out_factor);
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
    var mine = Head(head, first, last, most, select(1.0 / total, 0.0, total == 0.0), 1.0, 0u, 0u, 0u);
    mine.out = params.out_offset + row * params.out_row_stride + head * params.out_head_stride;
    mine.gate = params.gate_offset + row * params.gate_row_stride + head * params.gate_head_stride;

    // -- a row of one state and no sink is that state: its weight is its total
    let only = tables[min(first, last - 1u)];
    let is_single = ROTATION == ROTATE_NONE && last - first == 1u && params.has_sinks == 0u
        && !is_empty(state_lse[lse_place(only, head)]);
    let single = params.state_offset + only * params.state_row_stride + head * params.state_head_stride;
    mine.last = select(last, first, is_single);

    // -- norm; turning changes no square
    if HAS_EPILOGUE && params.norm != NORM_NONE {
        var squares = vec4<f32>(0.0);
        for (var c = 0u; c < VALUE_CHUNKS; c++) {
            var x = unturned(mine, c);
            if is_single {
                x = states[single + c];
            }
            squares = fma(x, x, squares);
        }
        let total_squares = (squares.x + squares.y) + (squares.z + squares.w);
        mine.norm = norm_factor(params.norm, total_squares, VALUE_CHUNKS * 4u, params.norm_eps);
    }

    // -- write out and lse: two loops, since a driver that masks lanes out instead of branching runs both arms of an `if`
    let num_merged = select(VALUE_CHUNKS, 0u, is_single);
    if ROTATION != ROTATE_NONE {
        let rows = tables[params.header];
        let num_states = tables[tables[params.header + 1u] + rows];
        mine.position = index_base + num_states + 4u * (step_now() * rows + row);
        for (var c = 0u; c < VALUE_CHUNKS; c++) {
            rotate(mine, c);
        }
    } else {
        for (var c = 0u; c < num_merged; c++) {
            store(mine, c, unturned(mine, c));
        }
        for (var c = num_merged; c < VALUE_CHUNKS; c++) {
            store(mine, c, states[single + c]);
        }
    }
    if params.has_lse != 0u {
        let value = bitcast<u32>(most + log2(total) * LN_2);
        lse[params.lse_offset + row * params.lse_row_stride + head * params.lse_head_stride] =
            select(value, 0xff800000u, total == 0.0);
    }
}
