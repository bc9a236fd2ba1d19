// lm_head.cu: the last projection and what a draw needs of its logits, slice by slice of the vocabulary. No logit is
// stored. lm_head_combine.cu makes the draw of what this leaves.
//
//   l[row, t] = sum over d of hidden[row, d] * weight[t, d]           then sampling.cu's x, z and noise
//   per (row, slice of 256 tokens): the largest logit and its lowest id; sum e^z and sum z e^z, z = x - the slice's largest;
//     the kept token of the greatest z + gumbel, lowest id on ties; the `list` largest keys
//   kept: all in the first round; in the second key >= lowest[row] and x - max x of the row >= ln min_p
//
// Shapes   hidden [rows, width], weight [vocab, width]: any row stride in chunks of 4 elements, unit stride along width;
//          rows [rows]; partials, words: [rows][slices][stride] records (common/lm_head_params.cuh), then [rows] of
//          (lowest key, largest logit).
// Grid     one block of 256 threads per (slice, ROWS rows), rows fastest: blocks that read one slice run side by side.
// Products MMA: a warp has 32 tokens and 16 rows at a time, in tensor-core products. A lane loads 16 bytes of each of its
//          rows and of its tokens; these 8 elements serve as the k-places of two products, in the same order on both
//          sides, so no operand goes through shared memory. Else a thread has a token and ROWS rows, by chunks.
//          Logits meet in shared memory, where a warp finishes a row.
// Numerics f32 sums in the order of width, of which a row's neighbours are no part. Ranks are counted: no sort.
// Memory   the floor is one read of the weight; with more than ROWS rows it is read again, from the second-level cache.
// Limits   width a multiple of 4, with MMA of 8 (and rows 16-byte aligned); ROWS KiB of shared memory.
//
// Header: ROWS (MMA: a multiple of 16), MMA, SOFT_CAP, HAS_STEPS; storage of hidden and weight.

// #include "common/prelude.cuh"
// #include "common/dtype.cuh"
// #include "common/vector.cuh"
// #include "common/warp.cuh"
// #include "common/mma.cuh"
// #include "common/random.cuh"
// #include "common/draw.cuh"
// #include "common/lm_head_params.cuh"
// #include "common/steps.cuh"

struct LmHeadArgs {
    LmHeadParams params;
    const SamplingRow* rows;
    const hidden_t* hidden;
    const weight_t* weight;
    u32* partials;
    const u32* steps; // see steps.cuh; added to the rows' own
    u64 pad;
};

constexpr u32 THREADS = 256;
constexpr u32 WARPS = THREADS / 32;
constexpr u32 SLICE = 256; // tokens
constexpr u32 QUADS = SLICE / 4 / 32; // of a lane that finishes a row

struct Shared {
    f32 logits[ROWS][SLICE];
};

#if MMA

// 8 elements of a row, zeros past the width.
DEVICE u32x4 load_8(const hidden_t* row, u32 element, u32 width) {
    return element < width ? *reinterpret_cast<const u32x4*>(row + element) : u32x4{0, 0, 0, 0};
}

DEVICE void project(const LmHeadArgs& args, Shared& shared, u32 first_row, u32 first_token) {
    const LmHeadParams& params = args.params;
    const u32 lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4;
    const u32 own = threadIdx.x / 32 * 32; // the warp's first token in the slice
    const u32 width = 4 * params.width;
    constexpr u32 TILES = ROWS / 16;
    f32 c[TILES][4][4] = {};
    const weight_t* tokens[4];
#pragma unroll
    for (u32 n = 0; n < 4; n++) {
        const u32 token = min(first_token + own + 8 * n + group, params.vocab - 1);
        tokens[n] = args.weight + 4 * u64(token) * params.weight_row;
    }
    for (u32 base = 8 * pair; base < width + 8 * pair; base += 32) { // whole warps go round
        u32x4 b[4];
#pragma unroll
        for (u32 n = 0; n < 4; n++) {
            b[n] = load_8(tokens[n], base, width);
        }
#pragma unroll
        for (u32 m = 0; m < TILES; m++) {
            const u32 low = min(first_row + 16 * m + group, params.rows - 1);
            const u32 high = min(first_row + 16 * m + group + 8, params.rows - 1);
            const u32x4 a = load_8(args.hidden + 4 * u64(low) * params.hidden_row, base, width);
            const u32x4 d = load_8(args.hidden + 4 * u64(high) * params.hidden_row, base, width);
            const u32 first[4] = {a.x, d.x, a.y, d.y}, second[4] = {a.z, d.z, a.w, d.w};
#pragma unroll
            for (u32 n = 0; n < 4; n++) {
                mma_16x8x16(hidden_t{}, c[m][n], first, b[n].x, b[n].y);
                mma_16x8x16(hidden_t{}, c[m][n], second, b[n].z, b[n].w);
            }
        }
    }
#pragma unroll
    for (u32 m = 0; m < TILES; m++) {
#pragma unroll
        for (u32 n = 0; n < 4; n++) {
            const u32 token = own + 8 * n + 2 * pair, row = 16 * m + group;
            shared.logits[row][token] = c[m][n][0];
            shared.logits[row][token + 1] = c[m][n][1];
            shared.logits[row + 8][token] = c[m][n][2];
            shared.logits[row + 8][token + 1] = c[m][n][3];
        }
    }
}

#else

DEVICE void project(const LmHeadArgs& args, Shared& shared, u32 first_row, u32 first_token) {
    const LmHeadParams& params = args.params;
    const u32 token = min(first_token + threadIdx.x, params.vocab - 1);
    const u64 weight = u64(token) * params.weight_row;
    f32 logits[ROWS] = {};
    for (u32 chunk = 0; chunk < params.width; chunk++) {
        const f32x4 w = load_chunk(args.weight, weight + chunk);
#pragma unroll
        for (u32 r = 0; r < ROWS; r++) {
            const u32 row = min(first_row + r, params.rows - 1);
            logits[r] += sum(w * load_chunk(args.hidden, u64(row) * params.hidden_row + chunk));
        }
    }
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
        shared.logits[r][threadIdx.x] = logits[r];
    }
}

#endif

// Writes the largest keys of the slice in order. A key's place is the number of those before it.
DEVICE void list_keys(const f32* logits, u32 inside, const u32 (&keys)[QUADS][4], u32 list, u32* places) {
    const u32 lane = threadIdx.x % 32;
    u32 rank[QUADS][4] = {};
    for (u32 i = 0; i < SLICE; i++) {
        const u32 other = i < inside ? finite_key(logits[i]) : 0;
#pragma unroll
        for (u32 q = 0; q < QUADS; q++) {
#pragma unroll
            for (u32 c = 0; c < 4; c++) {
                const bool is_before = i < 4 * (lane + 32 * q) + c;
                rank[q][c] += other > keys[q][c] || (other == keys[q][c] && is_before) ? 1 : 0;
            }
        }
    }
#pragma unroll
    for (u32 q = 0; q < QUADS; q++) {
#pragma unroll
        for (u32 c = 0; c < 4; c++) {
            if (rank[q][c] < list) {
                places[rank[q][c]] = keys[q][c];
            }
        }
    }
}

// What the slice leaves of one row, by a warp.
DEVICE void finish(const LmHeadArgs& args, const f32* logits, u32 index, u32 slice) {
    const LmHeadParams& params = args.params;
    const u32 lane = threadIdx.x % 32;
    const u32 inside = min(params.vocab - slice * SLICE, SLICE); // tokens of the slice
    const SamplingRow& row = args.rows[index];
    u32* words = args.partials + (u64(index) * params.slices + slice) * params.stride;
    const u32* thresholds = args.partials + u64(params.rows) * params.slices * params.stride + 2 * index;

    u32 keys[QUADS][4];
    u64 top = ranked(0, NO_TOKEN);
    bool is_undefined = false;
#pragma unroll
    for (u32 q = 0; q < QUADS; q++) {
#pragma unroll
        for (u32 c = 0; c < 4; c++) {
            const u32 i = 4 * (lane + 32 * q) + c;
            const f32 x = i < inside ? logits[i] : __uint_as_float(NEGATIVE_INFINITY);
            is_undefined |= !(x < __uint_as_float(INFINITY_BITS));
            keys[q][c] = finite_key(x);
            top = max(top, keys[q][c] != 0 ? ranked(keys[q][c], slice * SLICE + i) : ranked(0, NO_TOKEN));
        }
    }
    top = warp_best(top);
    const u32 top_key = u32(top >> 32);
    const f32 peak = value_of(top_key != 0 ? logit_of_key(top_key) : 0.0f, params.cap_scale, params.cap_limit);
    const u32 lowest = params.second != 0 ? thresholds[0] : LOWEST_KEY;
    const f32 row_peak = params.second != 0
                             ? value_of(__uint_as_float(thresholds[1]), params.cap_scale, params.cap_limit)
                             : peak;

    f32 exp_sum = 0.0f;
    f32 exp_z_sum = 0.0f;
    u64 best = ranked(0, NO_TOKEN);
#pragma unroll
    for (u32 q = 0; q < QUADS; q++) {
        const u32 quad = slice * (SLICE / 4) + lane + 32 * q;
        const u32x4 counter{quad, row.agent, row.step + step_of(args.steps), 0};
        const u32x4 noise = philox4x32(counter, u32x2{params.seed_low, params.seed_high});
        const u32 word[4] = {noise.x, noise.y, noise.z, noise.w};
#pragma unroll
        for (u32 c = 0; c < 4; c++) {
            if (keys[q][c] != 0) {
                const f32 value = value_of(logit_of_key(keys[q][c]), params.cap_scale, params.cap_limit);
                const f32 z = z_of_value(value, row, peak);
                const f32 e = exp2_approx(z * LOG2_E);
                exp_sum += e;
                exp_z_sum += e * z;
                const bool is_above = params.second == 0 || z_of_value(value, row, row_peak) >= row.min_z;
                if (row.greedy == 0 && keys[q][c] >= lowest && is_above) {
                    best = max(best, ranked(key_of(z + gumbel(word[c])), 4 * quad + c));
                }
            }
        }
    }
    exp_sum = warp_sum(exp_sum);
    exp_z_sum = warp_sum(exp_z_sum);
    best = warp_best(best);
    is_undefined = warp_any(is_undefined);
    if (lane == 0) {
        const u32 id = ~u32(best);
        SliceRecord record{top_key, ~u32(top), exp_sum, exp_z_sum, -1e30f, id, 0.0f, is_undefined ? 1u : 0u};
        if (id != NO_TOKEN) {
            record.best = logit_of_key(u32(best >> 32));
            record.best_logit = logits[id % SLICE];
        }
        *reinterpret_cast<SliceRecord*>(words) = record;
    }
    if (params.list != 0) {
        list_keys(logits, inside, keys, params.list, words + RECORD);
    }
}

KERNEL(lm_head, LmHeadArgs, THREADS, 1) {
    const LmHeadParams& params = args.params;
    Shared& shared = shared_memory<Shared>();
    const u32 row_groups = (params.rows + ROWS - 1) / ROWS;
    const u32 slice = blockIdx.x / row_groups;
    const u32 first_row = blockIdx.x % row_groups * ROWS;
    const u32 rows = min(params.rows - first_row, ROWS);
    u32 ended = 0;
    while (ended < rows && has_ended(args.steps, first_row + ended)) {
        ended++;
    }
    if (ended == rows) {
        return; // lm_head_combine.cu does not look at their records
    }
    project(args, shared, first_row, slice * SLICE);
    __syncthreads();
    for (u32 r = threadIdx.x / 32; r < rows; r += WARPS) {
        finish(args, shared.logits[r], first_row + r, slice);
    }
}
