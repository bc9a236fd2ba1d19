// rebase.cu: turns stored keys by a position shift, in place. One launch.
//
//   k[page, h, slot] = rotate(k[page, h, slot], shift[token]) + delta[run, h]    page * page_size + slot = places[token]
//   rotate: lanes (a, b) of pair j -> (a cos - b sin, b cos + a sin), angle = shift[axis[j]] * inv_freq[j];
//           lanes outside the pairs pass
//
// Shapes     k [pages, Hkv, page_size, D], delta [runs, Hkv, D] (f32, only with HAS_DELTA): views with strides, lanes
//            contiguous. Every offset and stride here counts chunks of 4 elements.
//            tables: places[tokens], shifts[tokens][4], runs[tokens]. constants: see LayerConstants.
// Grid       one block per token. The block computes the token's cosines and sines once, for all its heads. A head is the
//            work of a team: TEAM neighbouring threads of a warp, OWN chunks each. Teams take heads in turn.
// Numerics   f32, one rounding at the store; angles as in common/rope.cuh. mscale is in the keys already.
// Memory     a head stays in registers between its load and its store: every chunk is read and written once. The floor
//            is the bytes of the keys, read once and written once.
// Limits     D a multiple of 4; places are distinct.
//
// Header     HEAD_DIM: u32; ROTATION: u32 as in common/rotate.cuh; TEAM: a power of two up to 32; OWN: chunks of a
//            thread, TEAM * OWN at least a head's; THREADS: whole warps; HAS_DELTA; storage of k.

// #include "common/prelude.cuh"
// #include "common/dtype.cuh"
// #include "common/vector.cuh"
// #include "common/rope.cuh"
// #include "common/rotate.cuh"

struct Params {
    u32 tokens;
    u32 kv_heads;
    u32 page_size;
    // First word of the rotation in `constants`.
    u32 rope_table;
    u32 k_base;
    u32 k_page;
    u32 k_head;
    u32 k_slot;
    u32 delta_base;
    u32 delta_run;
    u32 delta_head;
    u32 first_lane;
    // Lane pairs that turn.
    u32 pairs;
    u32 pad_0;
    u32 pad_1;
    u32 pad_2;
};

struct RebaseArgs {
    Params params;
    const u32* tables;
    const u32* constants;
    k_t* k;
    const f32* delta;
};

// Chunk n of a head's team member t is t + n * TEAM.
constexpr u32 TEAMS = THREADS / TEAM;

struct Shared {
    // The heads of the teams.
    f32x4 heads[TEAMS][OWN * TEAM];
    // (cos, sin) of the token's pairs.
    f32 cos[HEAD_DIM / 2];
    f32 sin[HEAD_DIM / 2];
};

KERNEL(rebase, RebaseArgs, THREADS, 1) {
    const Params& params = args.params;
    Shared& shared = shared_memory<Shared>();
    const u32 team = threadIdx.x / TEAM;
    const u32 member = threadIdx.x % TEAM;
    const u32 token = blockIdx.x;
    const u32 place = args.tables[token];
    const u32 run = args.tables[5 * u64(params.tokens) + token];

    for (u32 pair = threadIdx.x; pair < params.pairs; pair += THREADS) {
        const u32* word = args.constants + params.rope_table + 3 * pair;
        const i32 shift = i32(args.tables[params.tokens + 4 * u64(token) + word[2]]);
        const CosSin t = rope_cos_sin(shift, word[0], word[1]);
        shared.cos[pair] = t.cos;
        shared.sin[pair] = t.sin;
    }
    __syncthreads();
    const Turns turns{shared.cos, shared.sin, params.first_lane, params.pairs};
    const u64 first_key =
        u64(place / params.page_size) * params.k_page + u64(place % params.page_size) * params.k_slot;
    for (u32 first = 0; first < params.kv_heads; first += TEAMS) { // whole warps go round
        const u32 h = first + team;
        const u64 keys = first_key + u64(h) * params.k_head;
        f32x4 x[OWN];
#pragma unroll
        for (u32 n = 0; n < OWN; n++) {
            const u32 chunk = member + n * TEAM;
            x[n] = h < params.kv_heads && chunk < HEAD_DIM / 4 ? load_chunk(args.k, keys + chunk) : splat(0.0f);
        }
        if (MEETS_IN_SHARED) {
            __syncwarp(); // the head before this one has been read
#pragma unroll
            for (u32 n = 0; n < OWN; n++) {
                shared.heads[team][member + n * TEAM] = x[n];
            }
            __syncwarp();
        }
#pragma unroll
        for (u32 n = 0; n < OWN; n++) {
            const u32 chunk = member + n * TEAM;
            if (h < params.kv_heads && chunk < HEAD_DIM / 4) {
                f32x4 y = ROTATION == ROTATE_NONE ? x[n] : rotated(turns, shared.heads[team], chunk, x[n]);
                if (HAS_DELTA) {
                    y = y + load_chunk(args.delta, u64(run) * params.delta_run + u64(h) * params.delta_head + chunk);
                }
                store_chunk(args.k, keys + chunk, y);
            }
        }
    }
}
