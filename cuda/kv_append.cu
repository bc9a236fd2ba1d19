// kv_append.cu: rows of the packed projection -> q, and K and V in their pages. One launch.
//
//   q[row, h]             = scale * temperature[row] * rotate(norm_q(packed.q[row, h]))
//   k[page, h, slot]      =         rotate(norm_k(packed.k[row, h]))      page * page_size + slot = places[row]
//   v[page, h, slot]      = v_scale * norm_v(packed.v[row, h]), or of the same rotated
//   where V is in K (V_IN_K) there is no v, and norm_k is over the first Dv lanes, the others pass
//   codes (KV_SCALE)      = round(x * code) for x of k and v: code is 1 / the scale of all, or measured per head and kept
//                           as in common/scale.cuh
//   with a tail (HAS_TAIL)  lanes of k behind the first Dv are no codes: they are not measured, and are stored as bf16
//   norm(x)               = as in common/norm.cuh, or nothing
//   rotate: lanes (a, b) of pair j -> mscale * (a cos - b sin, b cos + a sin), angle = position[axis[j]] * inv_freq[j];
//           lanes outside the pairs pass
//
// Shapes     packed [rows, width], q [rows, Hq, D], k [pages, Hkv, page_size, D], v [pages, Hkv, page_size, Dv]: views
//            with strides, lanes contiguous. Every offset and stride here counts chunks of 4 elements.
//            tables: places[rows], positions[rows][4], temperature[rows] if the layer has one; of all steps, a step's
//            rows side by side. constants: see LayerConstants.
//            places[row] = 0xffffffff: a padding row, whose q is written and whose k and v are not. Of a row that has
//            ended (common/steps.cuh) nothing is written.
// Grid       one block per row. The block computes the row's cosines and sines once, for all its heads. A head is the
//            work of a team: TEAM neighbouring threads of a warp, OWN chunks each: chunk n of member t is t + n * TEAM.
//            Teams take heads in turn.
// Numerics   f32 throughout, one rounding at each store; angles as in common/rope.cuh.
// Memory     one pass: a head stays in registers between its load and its store, every chunk is read and written once,
//            neighbouring threads take neighbouring chunks, and the next head's loads are under way before this one is
//            used. Lanes that turn together meet in shared memory (16 bytes a chunk, and 8 per pair of the row). The
//            floor is the bytes of the heads, read once and written once.
// Limits     D and Dv multiples of 4 up to 576; places are distinct, and k and v share no element (the plan and the
//            caller see to it).
//
// Header     HEAD_DIM, HEAD_DIM_V: u32; V_IN_K, HAS_STEPS, HAS_MEAN (some norm takes a mean off), HAS_TAIL: bool;
//            ROTATION: u32 as in common/rotate.cuh; TEAM: a power of two up to 32; OWN: as many chunks as make a head; THREADS: whole warps; KV_SCALE: u32 as
//            below; CODE_MOST; storage of packed, q, k, v.

// #include "common/prelude.cuh"
// #include "common/dtype.cuh"
// #include "common/warp.cuh"
// #include "common/vector.cuh"
// #include "common/norm.cuh"
// #include "common/rope.cuh"
// #include "common/rotate.cuh"
// #include "common/scale.cuh"
// #include "common/steps.cuh"

// Values of KV_SCALE: k and v as they are, codes under one scale each, codes under a scale per token and head.
constexpr u32 SCALE_NONE = 0, SCALE_TENSOR = 1, SCALE_TOKEN = 2;

struct Params {
    u32 rows;
    u32 q_heads;
    u32 kv_heads;
    u32 page_size;
    // Where the parts of a packed row begin, in chunks; `packed_row` is from row to row.
    u32 packed_row;
    u32 packed_q;
    u32 packed_k;
    u32 packed_v;
    u32 packed_q_head;
    u32 packed_k_head;
    u32 packed_v_head;
    // First word of the rotation in `constants`.
    u32 rope_table;
    u32 q_base;
    u32 q_row;
    u32 q_head;
    u32 first_lane;
    u32 k_base;
    u32 k_page;
    u32 k_head;
    u32 k_slot;
    u32 v_base;
    u32 v_page;
    u32 v_head;
    u32 v_slot;
    u32 q_norm;
    u32 k_norm;
    u32 v_norm;
    // Lane pairs that turn.
    u32 pairs;
    f32 q_eps;
    f32 k_eps;
    f32 v_eps;
    f32 mscale;
    f32 q_scale;
    // 1 if each row has a factor of its own for q.
    u32 temperature;
    f32 v_scale;
    // Rows of the tables: those of all steps.
    u32 table_rows;
    // First weights of the norms of k and v in `constants` (those of q are first of all), the distance between heads that
    // have weights of their own, 0 otherwise, and the distance from a weight to its bias.
    u32 k_weights;
    u32 v_weights;
    u32 q_weights_head;
    u32 k_weights_head;
    u32 v_weights_head;
    u32 bias;
    // 1 if v turns as k does.
    u32 v_turns;
    // What k and v are multiplied by before they are rounded to codes, if it is the same for all of each.
    f32 k_code;
    f32 v_code;
    // Where scales lie: elements.
    u32 k_scales;
    u32 v_scales;
    u32 scale_page;
    u32 scale_head;
    u32 scale_slot;
    u32 pad[2];
};

struct KvAppendArgs {
    Params params;
    const packed_t* packed;
    const u32* tables;
    const u32* constants;
    q_t* q;
    k_t* k;
    v_t* v;
    const u32* steps; // see steps.cuh
    f32* k_scales; // [page, head, slot], or null
    f32* v_scales;
};

constexpr u32 PADDING = 0xffffffffu;
constexpr u32 TEAMS = THREADS / TEAM;
// Of k and v, those that are stored.
constexpr u32 KV_PARTS = V_IN_K ? 1 : 2;

struct Shared {
    // The normed heads of the teams.
    f32x4 heads[TEAMS][OWN * TEAM];
    // mscale * (cos, sin) of the row's pairs.
    f32 cos[HEAD_DIM / 2];
    f32 sin[HEAD_DIM / 2];
};

enum Part : u32 { PART_Q, PART_K, PART_V, PART_NONE };

// One head of one row: the work of one team.
struct Head {
    Part part;
    // Its number among the heads of its part.
    u32 index;
    // First chunk in `packed`, and in q, k or v.
    u64 source;
    u64 target;
};

// The row's head number `index`, counted q, k, v. PART_NONE past the last, and for k and v of a padding row.
DEVICE Head head_of(const Params& params, u32 row, u32 place, u32 index) {
    Head head{PART_NONE, 0, u64(row) * params.packed_row, 0};
    if (index < params.q_heads) {
        head.part = PART_Q;
        head.index = index;
        head.source += params.packed_q + u64(index) * params.packed_q_head;
        head.target = u64(row) * params.q_row + u64(index) * params.q_head;
    } else if (index < params.q_heads + KV_PARTS * params.kv_heads && place != PADDING) {
        const u32 page = place / params.page_size;
        const u32 slot = place % params.page_size;
        const u32 kv = index - params.q_heads;
        if (kv < params.kv_heads) {
            head.part = PART_K;
            head.index = kv;
            head.source += params.packed_k + u64(kv) * params.packed_k_head;
            head.target = u64(page) * params.k_page + u64(kv) * params.k_head + u64(slot) * params.k_slot;
        } else {
            const u32 h = kv - params.kv_heads;
            head.part = PART_V;
            head.index = h;
            head.source += params.packed_v + u64(h) * params.packed_v_head;
            head.target = u64(page) * params.v_page + u64(h) * params.v_head + u64(slot) * params.v_slot;
        }
    }
    return head;
}

// Whether the head has this chunk: teams are wider than most heads.
DEVICE bool has_chunk(const Head& head, u32 chunk) {
    return head.part < PART_V ? chunk < HEAD_DIM / 4 : head.part == PART_V && chunk < HEAD_DIM_V / 4;
}

// Whether the head's norm is over this chunk of it.
DEVICE bool is_normed(const Head& head, u32 chunk) {
    return !V_IN_K || head.part != PART_K || chunk < HEAD_DIM_V / 4;
}

// Whether this chunk of the head is of K's tail.
DEVICE bool is_tail(const Head& head, u32 chunk) {
    return HAS_TAIL && !is_normed(head, chunk);
}

// One thread's chunks of a head; zeros where it has none.
struct Chunks {
    f32x4 x[OWN];
};

DEVICE Chunks load(const KvAppendArgs& args, const Head& head, u32 member) {
    Chunks chunks;
#pragma unroll
    for (u32 n = 0; n < OWN; n++) {
        const u32 chunk = member + n * TEAM;
        chunks.x[n] = has_chunk(head, chunk) ? load_chunk(args.packed, head.source + chunk) : splat(0.0f);
    }
    return chunks;
}

// Sum over the lanes of a head, to all threads of its team. Whole warps.
DEVICE f32 team_sum(f32 x) {
#pragma unroll
    for (u32 mask = TEAM / 2; mask > 0; mask /= 2) {
        x += shuffle_xor(x, mask);
    }
    return x;
}

// First weight of the head's norm in `constants`.
DEVICE u32 weights_of(const Params& params, const Head& head) {
    return head.part == PART_Q   ? head.index * params.q_weights_head
           : head.part == PART_K ? params.k_weights + head.index * params.k_weights_head
                                 : params.v_weights + head.index * params.v_weights_head;
}

// Called by whole warps, whatever their teams do.
DEVICE void norm(const KvAppendArgs& args, const Head& head, u32 member, Chunks& chunks) {
    const Params& params = args.params;
    const u32 code = head.part == PART_Q ? params.q_norm : head.part == PART_K ? params.k_norm : params.v_norm;
    const f32 eps = head.part == PART_Q ? params.q_eps : head.part == PART_K ? params.k_eps : params.v_eps;
    const bool is_over_v = head.part == PART_V || (V_IN_K && head.part == PART_K);
    const u32 lanes = is_over_v ? HEAD_DIM_V : HEAD_DIM;
    if (HAS_MEAN) {
        f32 total = 0.0f;
#pragma unroll
        for (u32 n = 0; n < OWN; n++) {
            total += is_normed(head, member + n * TEAM) ? sum(chunks.x[n]) : 0.0f;
        }
        total = team_sum(total);
        const f32 mean = code >= NORM_LAYER ? total / f32(lanes) : 0.0f;
#pragma unroll
        for (u32 n = 0; n < OWN; n++) {
            if (has_chunk(head, member + n * TEAM) && is_normed(head, member + n * TEAM)) { // the others stay as they are
                chunks.x[n] = chunks.x[n] + splat(-mean);
            }
        }
    }
    f32 squares = 0.0f;
#pragma unroll
    for (u32 n = 0; n < OWN; n++) {
        squares += is_normed(head, member + n * TEAM) ? sum(chunks.x[n] * chunks.x[n]) : 0.0f;
    }
    squares = team_sum(squares);
    const f32 factor = code == NORM_CLIP ? clip_factor(squares, eps) : norm_factor(code, squares, lanes, eps);
    const f32* weights = reinterpret_cast<const f32*>(args.constants) + weights_of(params, head);
#pragma unroll
    for (u32 n = 0; n < OWN; n++) {
        const u32 chunk = member + n * TEAM;
        if (!is_normed(head, chunk)) {
            continue;
        }
        chunks.x[n] = chunks.x[n] * factor;
        if (norm_is_weighted(code) && has_chunk(head, chunk)) {
            chunks.x[n] = chunks.x[n] * norm_weight(code, load_chunk(weights, chunk));
            if (HAS_MEAN && code == NORM_LAYER_BIASED) {
                chunks.x[n] = chunks.x[n] + load_chunk(weights + params.bias, chunk);
            }
        }
    }
}

// mscale * (cos, sin) of every lane pair of the row, by the whole block.
DEVICE void turn(const KvAppendArgs& args, u32 entry, Shared& shared) {
    const Params& params = args.params;
    for (u32 pair = threadIdx.x; pair < params.pairs; pair += THREADS) {
        const u32* word = args.constants + params.rope_table + 3 * pair;
        const i32 position = i32(args.tables[params.table_rows + 4 * u64(entry) + word[2]]);
        const CosSin t = rope_cos_sin(position, word[0], word[1]);
        shared.cos[pair] = t.cos * params.mscale;
        shared.sin[pair] = t.sin * params.mscale;
    }
}

// Called by whole warps. The barriers keep a team's lanes together: all are in its warp.
DEVICE void rotate(const Params& params, Shared& shared, const Head& head, u32 team, u32 member, Chunks& chunks) {
    if (MEETS_IN_SHARED) {
        __syncwarp(); // the head before this one has been read
#pragma unroll
        for (u32 n = 0; n < OWN; n++) {
            shared.heads[team][member + n * TEAM] = chunks.x[n];
        }
        __syncwarp();
    }
    if (head.part < PART_V || (head.part == PART_V && params.v_turns != 0)) {
        const Turns turns{shared.cos, shared.sin, params.first_lane, params.pairs};
#pragma unroll
        for (u32 n = 0; n < OWN; n++) {
            const u32 chunk = member + n * TEAM;
            if (has_chunk(head, chunk)) {
                chunks.x[n] = rotated(turns, shared.heads[team], chunk, chunks.x[n]);
            }
        }
    }
}

// A chunk of k or v as it is stored, but for its code.
DEVICE f32x4 scaled(const KvAppendArgs& args, const Head& head, f32x4 x) {
    return head.part == PART_V ? x * args.params.v_scale : x;
}

// What lanes of k and v are multiplied by before they are rounded to codes. Keeps the scale of a token that has its own.
// Called by whole warps.
DEVICE f32 code_of(const KvAppendArgs& args, const Head& head, u32 place, u32 member, const Chunks& chunks) {
    const Params& params = args.params;
    if (KV_SCALE != SCALE_TOKEN) {
        return head.part == PART_K ? params.k_code : params.v_code;
    }
    u32 greatest = 0;
#pragma unroll
    for (u32 n = 0; n < OWN; n++) { // zeros where a thread has no chunk
        if (is_tail(head, member + n * TEAM)) {
            continue;
        }
        const f32x4 x = scaled(args, head, chunks.x[n]);
        const u32 size[4] = {__float_as_uint(x.x) & 0x7fffffff, __float_as_uint(x.y) & 0x7fffffff,
                             __float_as_uint(x.z) & 0x7fffffff, __float_as_uint(x.w) & 0x7fffffff};
        greatest = max(greatest, max(max(size[0], size[1]), max(size[2], size[3])));
    }
#pragma unroll
    for (u32 mask = TEAM / 2; mask > 0; mask /= 2) {
        greatest = max(greatest, shuffle_xor(greatest, mask));
    }
    const Scale scale = scale_of(greatest);
    if (member == 0 && (head.part == PART_K || head.part == PART_V)) {
        f32* scales = head.part == PART_K ? args.k_scales : args.v_scales;
        const u64 page = place / params.page_size, slot = place % params.page_size;
        scales[page * params.scale_page + u64(head.index) * params.scale_head + slot * params.scale_slot] = scale.scale;
    }
    return scale.inverse;
}

// `scale` multiplies every lane of q, `code` those of k and v that become codes.
DEVICE void store(const KvAppendArgs& args, const Head& head, u32 member, const Chunks& chunks, f32 scale, f32 code) {
#pragma unroll
    for (u32 n = 0; n < OWN; n++) {
        const u32 chunk = member + n * TEAM;
        if (!has_chunk(head, chunk)) {
            continue;
        }
        if (head.part == PART_Q) {
            store_chunk(args.q, head.target + chunk, chunks.x[n] * scale);
            continue;
        }
        if (is_tail(head, chunk)) {
            constexpr u32 BEFORE = HEAD_DIM_V / 4;
            store_chunk(reinterpret_cast<bf16*>(args.k + (head.target + BEFORE) * 4), chunk - BEFORE, chunks.x[n]);
            continue;
        }
        f32x4 x = scaled(args, head, chunks.x[n]);
        if (KV_SCALE != SCALE_NONE) {
            x = x * code;
        }
        if (head.part == PART_K) {
            store_chunk(args.k, head.target + chunk, x);
        } else {
            store_chunk(args.v, head.target + chunk, x);
        }
    }
}

KERNEL(kv_append, KvAppendArgs, THREADS, 1) {
    const Params& params = args.params;
    Shared& shared = shared_memory<Shared>();
    const u32 team = threadIdx.x / TEAM;
    const u32 member = threadIdx.x % TEAM;
    const u32 row = blockIdx.x;
    if (has_ended(args.steps, row)) {
        return;
    }
    // The row of this step in the tables; past the room nothing is stored.
    const u32 entry = step_of(args.steps) * params.rows + row;
    const u32 place = HAS_STEPS && args.steps[0] > args.steps[1] ? PADDING : args.tables[entry];
    const u32 heads = params.q_heads + KV_PARTS * params.kv_heads;
    f32 scale = params.q_scale;
    if (params.temperature != 0) {
        scale *= reinterpret_cast<const f32*>(args.tables)[5 * u64(params.table_rows) + entry];
    }

    // The first heads are under way while the block works out how the row turns.
    Head head = head_of(params, row, place, team);
    Chunks chunks = load(args, head, member);
    if (ROTATION != ROTATE_NONE) {
        turn(args, entry, shared);
        __syncthreads();
    }
    for (u32 first = 0; first < heads; first += TEAMS) {
        const Head next = head_of(params, row, place, first + TEAMS + team);
        const Chunks next_chunks = load(args, next, member);
        norm(args, head, member, chunks);
        if (ROTATION != ROTATE_NONE) {
            rotate(params, shared, head, team, member, chunks);
        }
        store(args, head, member, chunks, scale, code_of(args, head, place, member, chunks));
        head = next;
        chunks = next_chunks;
    }
}
