// kv_append: rows of the packed projection -> q, and K and V in their pages. One launch.
//
//   q[row, h]             = scale * temperature[row] * rotate(norm_q(packed.q[row, h]))
//   k[page, h, slot]      =         rotate(norm_k(packed.k[row, h]))      page * page_size + slot = places[row]
//   v[page, h, slot]      = v_scale * norm_v(packed.v[row, h]), or of the same rotated
//   where V is in K (V_IN_K) there is no v, and norm_k is over the first Dv lanes, the others pass
//   codes (KV_SCALE)      = round(x * code) for x of k and v: code is 1 / the scale of all, or measured per head and kept
//                           as in common/scale.wgsl
//   with a tail (HAS_TAIL)  lanes of k behind the first Dv are no codes: they are not measured, and are stored as bf16
//   norm(x)               = as in common/norm.wgsl, or nothing
//   rotate: lanes (a, b) of pair j -> mscale * (a cos - b sin, b cos + a sin), angle = position[axis[j]] * inv_freq[j];
//           lanes outside the pairs pass
//
// Shapes     packed [rows, width], q [rows, Hq, D], k [pages, Hkv, page_size, D], v [pages, Hkv, page_size, Dv]: views
//            with strides, lanes contiguous. Every offset and stride here counts chunks of 4 elements.
//            tables: places[rows], positions[rows][4], temperature[rows] if the layer has one; of all steps, a step's
//            rows side by side. constants: see LayerConstants.
//            places[row] = 0xffffffff: a padding row, whose q is written and whose k and v are not.
// Grid       one invocation per (row, head of q, k or v), heads fastest; workgroups of 64, folded to 2-D. An invocation
//            owns the whole head, so no two write into one word of 16-bit elements.
// Numerics   f32 throughout, one rounding at each store; angles as in common/rope.wgsl.
// Memory     a head is read twice if it has a norm, three times if that takes a mean off, once otherwise; no workgroup memory, no private arrays.
// Limits     D and Dv multiples of 4; places are distinct, and k and v share no element (the plan and the caller see
//            to it).
//
// Header     HEAD_DIM, HEAD_DIM_V: u32; V_IN_K, HAS_STEPS, HAS_MEAN (some norm takes a mean off), HAS_TAIL: bool;
//            ROTATION: u32 as in common/rotate.wgsl; KV_SCALE: u32 as below; CODE_MOST; storage of packed, q, k, v.

// #include "common/dtype.wgsl"
// #include "common/norm.wgsl"
// #include "common/rope.wgsl"
// #include "common/rotate.wgsl"
// #include "common/scale.wgsl"
// #include "common/steps.wgsl"

// Values of KV_SCALE: k and v as they are, codes under one scale each, codes under a scale per token and head.
const SCALE_NONE = 0u;
const SCALE_TENSOR = 1u;
const SCALE_TOKEN = 2u;

struct Params {
    rows: u32,
    q_heads: u32,
    kv_heads: u32,
    page_size: u32,
    // Where the parts of a packed row begin, in chunks of the buffer; `packed_row` is from row to row.
    packed_row: u32,
    packed_q: u32,
    packed_k: u32,
    packed_v: u32,
    packed_q_head: u32,
    packed_k_head: u32,
    packed_v_head: u32,
    // First word of the rotation in `constants`.
    rope_table: u32,
    q_base: u32,
    q_row: u32,
    q_head: u32,
    first_lane: u32,
    k_base: u32,
    k_page: u32,
    k_head: u32,
    k_slot: u32,
    v_base: u32,
    v_page: u32,
    v_head: u32,
    v_slot: u32,
    q_norm: u32,
    k_norm: u32,
    v_norm: u32,
    // Lane pairs that turn.
    pairs: u32,
    q_eps: f32,
    k_eps: f32,
    v_eps: f32,
    mscale: f32,
    q_scale: f32,
    // 1 if each row has a factor of its own for q.
    temperature: u32,
    v_scale: f32,
    // Rows of the tables: those of all steps.
    table_rows: u32,
    // First weights of the norms of k and v in `constants` (those of q are first of all), the distance between heads that
    // have weights of their own, 0 otherwise, and the distance from a weight to its bias.
    k_weights: u32,
    v_weights: u32,
    q_weights_head: u32,
    k_weights_head: u32,
    v_weights_head: u32,
    bias: u32,
    // 1 if v turns as k does.
    v_turns: u32,
    // What k and v are multiplied by before they are rounded to codes, if it is the same for all of each.
    k_code: f32,
    v_code: f32,
    // Where scales lie: elements.
    k_scales: u32,
    v_scales: u32,
    scale_page: u32,
    scale_head: u32,
    scale_slot: u32,
    pad_0: u32,
    pad_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> packed: array<packed_chunk>;
@group(0) @binding(2) var<storage, read> tables: array<u32>;
@group(0) @binding(3) var<storage, read> constants: array<u32>;
@group(0) @binding(4) var<storage, read_write> q: array<q_chunk>;
@group(0) @binding(5) var<storage, read_write> k: array<k_chunk>;
@group(0) @binding(6) var<storage, read_write> v: array<v_chunk>;
@group(0) @binding(7) var<storage, read> steps: array<u32>;
@group(0) @binding(8) var<storage, read_write> scales: array<f32>;

const PADDING = 0xffffffffu;

const PART_Q = 0u;
const PART_K = 1u;
const PART_V = 2u;

// One head of one row: the work of one invocation.
struct Head {
    // The row of this step in the tables.
    entry: u32,
    part: u32,
    // First chunk in `packed`, and in q, k or v.
    source: u32,
    target_chunk: u32,
    chunks: u32,
    // Those that the norm is over: the first ones.
    norm_chunks: u32,
    norm: u32,
    // First weight of the norm in `constants`.
    weights: u32,
    // Taken off every lane, 0 but for a layer norm.
    mean: f32,
    // Multiplies every lane then: the reciprocal root mean square, or 1.
    factor: f32,
    // Multiplies every lane of q after the rotation.
    scale: f32,
    // Multiplies every lane of k and v before it is rounded to a code.
    code: f32,
    // Whether lanes are looked at and not stored.
    is_measured: bool,
}

// Bits of the greatest size of a lane of the head that is measured.
var<private> greatest: u32;

fn constant_chunk(at: u32) -> vec4<f32> {
    let words = vec4<u32>(constants[at], constants[at + 1u], constants[at + 2u], constants[at + 3u]);
    return bitcast<vec4<f32>>(words);
}

fn unturned(head: Head, chunk: u32) -> vec4<f32> {
    var x = unpack_packed(packed[head.source + chunk]);
    if V_IN_K && chunk >= head.norm_chunks {
        return x;
    }
    if HAS_MEAN {
        x -= head.mean;
    }
    x *= head.factor;
    if !norm_is_weighted(head.norm) {
        return x;
    }
    let at = head.weights + 4u * chunk;
    x *= norm_weight(head.norm, constant_chunk(at));
    if HAS_MEAN && head.norm == NORM_LAYER_BIASED {
        x += constant_chunk(params.bias + at);
    }
    return x;
}

fn store(head: Head, chunk: u32, x: vec4<f32>) {
    let at = head.target_chunk + chunk;
    if head.part == PART_Q {
        q[at] = pack_q(x * head.scale);
        return;
    }
    if HAS_TAIL && chunk >= head.norm_chunks {
        if !head.is_measured { // a chunk has the room of two of codes
            let words = pack_bf16_chunk(x);
            k[at + chunk - head.norm_chunks] = k_chunk(words.x);
            k[at + chunk - head.norm_chunks + 1u] = k_chunk(words.y);
        }
        return;
    }
    var y = x;
    if head.part == PART_V {
        y *= params.v_scale;
    }
    if KV_SCALE == SCALE_TOKEN && head.is_measured {
        let size = bitcast<vec4<u32>>(y) & vec4<u32>(0x7fffffffu);
        greatest = max(greatest, max(max(size.x, size.y), max(size.z, size.w)));
        return;
    }
    if KV_SCALE != SCALE_NONE {
        y *= head.code;
    }
    if head.part == PART_K {
        k[at] = pack_k(y);
    } else {
        v[at] = pack_v(y);
    }
}

// mscale * (cos, sin) of lane pair `pair` in this row.
fn turn(head: Head, pair: u32) -> vec2<f32> {
    let at = params.rope_table + 3u * pair;
    let position = bitcast<i32>(tables[params.table_rows + 4u * head.entry + constants[at + 2u]]);
    return rope_cos_sin(position, constants[at], constants[at + 1u]) * params.mscale;
}

// All chunks of the head, stored or measured.
fn put(head: Head) {
    if ROTATION == ROTATE_NONE || (head.part == PART_V && params.v_turns == 0u) {
        for (var c = 0u; c < head.chunks; c++) {
            store(head, c, unturned(head, c));
        }
    } else {
        for (var c = 0u; c < head.chunks; c++) {
            rotate(head, c);
        }
    }
}

@compute @workgroup_size(64)
fn kv_append(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let item = (group.y * groups.x + group.x) * 64u + local;
    let heads = params.q_heads + select(2u, 1u, V_IN_K) * params.kv_heads;
    if item >= params.rows * heads {
        return;
    }
    let row = item / heads;
    if has_ended(row) {
        return;
    }
    let index = item % heads;
    let entry = step_now() * params.rows + row;
    var place = tables[entry];
    if HAS_STEPS {
        place = select(place, PADDING, steps[0] > steps[1]); // past the room nothing is stored
    }
    let page = place / params.page_size;
    let slot = place % params.page_size;
    let source_row = row * params.packed_row;

    var head: Head;
    var eps = params.q_eps;
    head.entry = entry;
    head.is_measured = false;
    var scale_place = page * params.scale_page + slot * params.scale_slot;
    head.chunks = HEAD_DIM / 4u;
    head.norm_chunks = HEAD_DIM / 4u;
    if index < params.q_heads {
        head.part = PART_Q;
        head.source = source_row + params.packed_q + index * params.packed_q_head;
        head.target_chunk = params.q_base + row * params.q_row + index * params.q_head;
        head.norm = params.q_norm;
        head.weights = index * params.q_weights_head;
        head.scale = params.q_scale;
        if params.temperature != 0u {
            head.scale *= bitcast<f32>(tables[5u * params.table_rows + entry]);
        }
    } else {
        if place == PADDING {
            return;
        }
        let kv = index - params.q_heads;
        if kv < params.kv_heads {
            head.part = PART_K;
            head.code = params.k_code;
            scale_place += params.k_scales + kv * params.scale_head;
            head.source = source_row + params.packed_k + kv * params.packed_k_head;
            head.target_chunk = params.k_base + page * params.k_page + kv * params.k_head + slot * params.k_slot;
            head.norm = params.k_norm;
            head.weights = params.k_weights + kv * params.k_weights_head;
            head.norm_chunks = select(HEAD_DIM, HEAD_DIM_V, V_IN_K) / 4u;
            eps = params.k_eps;
        } else {
            let h = kv - params.kv_heads;
            head.part = PART_V;
            head.code = params.v_code;
            scale_place += params.v_scales + h * params.scale_head;
            head.source = source_row + params.packed_v + h * params.packed_v_head;
            head.target_chunk = params.v_base + page * params.v_page + h * params.v_head + slot * params.v_slot;
            head.chunks = HEAD_DIM_V / 4u;
            head.norm_chunks = HEAD_DIM_V / 4u;
            head.norm = params.v_norm;
            head.weights = params.v_weights + h * params.v_weights_head;
            eps = params.v_eps;
        }
    }

    head.factor = 1.0;
    head.mean = 0.0;
    if HAS_MEAN && head.norm >= NORM_LAYER {
        var total = vec4<f32>(0.0);
        for (var c = 0u; c < head.norm_chunks; c++) {
            total += unpack_packed(packed[head.source + c]);
        }
        head.mean = ((total.x + total.y) + (total.z + total.w)) / f32(4u * head.norm_chunks);
    }
    if head.norm != NORM_NONE {
        var squares = 0.0;
        for (var c = 0u; c < head.norm_chunks; c++) {
            let x = unpack_packed(packed[head.source + c]) - head.mean;
            squares += dot(x, x);
        }
        if head.norm == NORM_CLIP {
            head.factor = clip_factor(squares, eps);
        } else {
            head.factor = norm_factor(head.norm, squares, 4u * head.norm_chunks, eps);
        }
    }

    if KV_SCALE == SCALE_TOKEN && head.part != PART_Q {
        greatest = 0u;
        head.is_measured = true;
        put(head);
        head.is_measured = false;
        let scale = scale_of(greatest);
        head.code = scale.y;
        scales[scale_place] = scale.x;
    }
    put(head);
}
