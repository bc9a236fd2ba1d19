// rebase: turns stored keys by a position shift, in place. One launch.
//
//   k[page, h, slot] = rotate(k[page, h, slot], shift[token]) + delta[run, h]    page * page_size + slot = places[token]
//   rotate: lanes (a, b) of pair j -> (a cos - b sin, b cos + a sin), angle = shift[axis[j]] * inv_freq[j];
//           lanes outside the pairs pass
//
// Shapes     k [pages, Hkv, page_size, D], delta [runs, Hkv, D] (f32, only with HAS_DELTA): views with strides, lanes
//            contiguous. Every offset and stride here counts chunks of 4 elements.
//            tables: places[tokens], shifts[tokens][4], runs[tokens]. constants: see LayerConstants.
// Grid       one invocation per (token, head), heads fastest; workgroups of 64, folded to 2-D. An invocation owns the
//            whole head, so no two write into one word of 16-bit elements.
// Algorithm  the simple one: pair by pair, each lane changed inside its chunk. What a chunk's other lanes hold goes
//            through f32 and back, which is exact.
// Numerics   f32, one rounding of each lane; angles as in common/rope.wgsl. mscale is in the keys already.
// Limits     D a multiple of 4; places are distinct.
//
// Header     HEAD_DIM: u32; IS_HALF: pairs are lanes (j, j + pairs), else (2j, 2j + 1); HAS_DELTA; storage of k, delta.

// #include "common/dtype.wgsl"
// #include "common/rope.wgsl"

struct Params {
    tokens: u32,
    kv_heads: u32,
    page_size: u32,
    // First word of the rotation in `constants`.
    rope_table: u32,
    k_base: u32,
    k_page: u32,
    k_head: u32,
    k_slot: u32,
    delta_base: u32,
    delta_run: u32,
    delta_head: u32,
    first_lane: u32,
    // Lane pairs that turn.
    pairs: u32,
    pad_0: u32,
    pad_1: u32,
    pad_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tables: array<u32>;
@group(0) @binding(2) var<storage, read> constants: array<u32>;
@group(0) @binding(3) var<storage, read> delta: array<delta_chunk>;
@group(0) @binding(4) var<storage, read_write> k: array<k_chunk>;

// One head of one token: its first chunk in `k` and in `delta`.
struct Head {
    keys: u32,
    delta: u32,
}

fn lane_of(head: Head, lane: u32) -> f32 {
    return unpack_k(k[head.keys + lane / 4u])[lane % 4u];
}

// Stores one lane, with its delta.
fn store(head: Head, lane: u32, x: f32) {
    var y = x;
    if HAS_DELTA {
        y += unpack_delta(delta[head.delta + lane / 4u])[lane % 4u];
    }
    var chunk = unpack_k(k[head.keys + lane / 4u]);
    chunk[lane % 4u] = y;
    k[head.keys + lane / 4u] = pack_k(chunk);
}

@compute @workgroup_size(64)
fn rebase(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let item = (group.y * groups.x + group.x) * 64u + local;
    if item >= params.tokens * params.kv_heads {
        return;
    }
    let token = item / params.kv_heads;
    let h = item % params.kv_heads;
    let place = tables[token];
    let run = tables[5u * params.tokens + token];
    var head: Head;
    head.keys = params.k_base + place / params.page_size * params.k_page + h * params.k_head
        + place % params.page_size * params.k_slot;
    head.delta = params.delta_base + run * params.delta_run + h * params.delta_head;

    for (var pair = 0u; pair < params.pairs; pair++) {
        let at = params.rope_table + 3u * pair;
        let shift = bitcast<i32>(tables[params.tokens + 4u * token + constants[at + 2u]]);
        let t = rope_cos_sin(shift, constants[at], constants[at + 1u]);
        let first = params.first_lane + select(2u * pair, pair, IS_HALF);
        let second = first + select(1u, params.pairs, IS_HALF);
        let a = lane_of(head, first);
        let b = lane_of(head, second);
        store(head, first, a * t.x - b * t.y);
        store(head, second, b * t.x + a * t.y);
    }
    if HAS_DELTA {
        for (var lane = 0u; lane < HEAD_DIM; lane++) {
            if lane - params.first_lane >= 2u * params.pairs { // wraps below the first lane: past the end, too
                store(head, lane, lane_of(head, lane));
            }
        }
    }
}
