// lm_head_combine.cu: one draw per row of what lm_head.cu left of its slices.
//
//   M = largest of the slices; s = slice's largest - M in x; sum e^z = sum over slices of e^s * theirs;
//   sum z e^z = sum of e^s * (theirs + s * their sum e^z); token = greatest of best + s, lowest id on ties
//   lowest key = the top_k-th largest of all listed keys; confidence = ln sum e^z - mean of the largest z
//
// Shapes   as in lm_head.cu; sampled [rows] of (token, log_prob, entropy, confidence).
// Grid     one block of 256 threads per row.
// Method   the k-th largest of the listed keys by halving: 32 rounds, a bit each, over a few thousand keys. The lists hold
//          the largest of each slice, so the k-th largest of the lists is that of the row.
// Numerics as sampling.cu; z has one more rounding, s + theirs.
//
// Header: SOFT_CAP, HAS_STEPS.

// #include "common/prelude.cuh"
// #include "common/warp.cuh"
// #include "common/random.cuh"
// #include "common/draw.cuh"
// #include "common/lm_head_params.cuh"
// #include "common/steps.cuh"

struct LmHeadCombineArgs {
    LmHeadParams params;
    const SamplingRow* rows;
    u32* partials;
    u32x4* sampled;
    const u32* steps; // see steps.cuh
};

constexpr u32 THREADS = 256;
constexpr u32 WARPS = THREADS / 32;

struct Shared {
    u64 best[WARPS];
    f32 sums[4][WARPS];
};

// -- block-wide steps: all threads call them

DEVICE u64 block_best(Shared& shared, u64 best) {
    best = warp_best(best);
    __syncthreads(); // `best` may still be read
    if (threadIdx.x % 32 == 0) {
        shared.best[threadIdx.x / 32] = best;
    }
    __syncthreads();
    return warp_best(threadIdx.x % 32 < WARPS ? shared.best[threadIdx.x % 32] : 0);
}

DEVICE void block_sums(Shared& shared, f32 (&own)[4]) {
    __syncthreads(); // `sums` may still be read
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const f32 sum = warp_sum(own[i]);
        if (threadIdx.x % 32 == 0) {
            shared.sums[i][threadIdx.x / 32] = sum;
        }
    }
    __syncthreads();
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        own[i] = warp_sum(threadIdx.x % 32 < WARPS ? shared.sums[i][threadIdx.x % 32] : 0.0f);
    }
}

// Calls visit(key) for the thread's part of the k largest keys of each slice. How long the lists are is the launch's
// business and must not show in the order of a sum.
template <class Visit> DEVICE void for_each_key(const LmHeadParams& params, const u32* records, u32 k, Visit visit) {
    for (u32 i = threadIdx.x; i < params.slices * k; i += THREADS) {
        visit(records[u64(i / k) * params.stride + RECORD + i % k]);
    }
}

// The k-th largest listed key; 0 if there are fewer finite ones.
DEVICE u32 key_of_rank(const LmHeadParams& params, Shared& shared, const u32* records, u32 k) {
    u32 key = 0;
#pragma unroll 1
    for (u32 bit = 0x80000000u; bit > 0; bit >>= 1) {
        f32 count[4] = {}; // below 2^24: slices of at most 2^16 by 256
        for_each_key(params, records, k, [&](u32 listed) { count[0] += listed >= (key | bit) ? 1.0f : 0.0f; });
        block_sums(shared, count);
        key |= count[0] >= f32(k) ? bit : 0;
    }
    return key;
}

KERNEL(lm_head_combine, LmHeadCombineArgs, THREADS, 1) {
    const LmHeadParams& params = args.params;
    Shared& shared = shared_memory<Shared>();
    const u32 index = blockIdx.x;
    const SamplingRow& row = args.rows[index];
    if (has_ended(args.steps, index)) {
        if (threadIdx.x == 0) {
            args.sampled[index] = nothing_drawn(row);
        }
        return;
    }
    const u32* records = args.partials + u64(index) * params.slices * params.stride;
    const auto value = [&](f32 l) { return value_of(l, params.cap_scale, params.cap_limit); };
    const auto record_of = [&](u32 slice) {
        return *reinterpret_cast<const SliceRecord*>(records + u64(slice) * params.stride);
    };

    u64 top = ranked(0, NO_TOKEN);
    f32 sums[4] = {}; // of e^z, of z e^z, of slices without a distribution
    for (u32 slice = threadIdx.x; slice < params.slices; slice += THREADS) {
        const SliceRecord record = record_of(slice);
        top = max(top, ranked(record.top_key, record.top_id));
        sums[2] += f32(record.undefined);
    }
    top = block_best(shared, top);
    const f32 top_logit = u32(top >> 32) != 0 ? logit_of_key(u32(top >> 32)) : 0.0f;
    const f32 peak = value(top_logit);

    u64 best = ranked(0, NO_TOKEN);
    f32 own_logit = 0.0f; // of the thread's best
    for (u32 slice = threadIdx.x; slice < params.slices; slice += THREADS) {
        const SliceRecord record = record_of(slice);
        if (record.top_key != 0) {
            const f32 s = z_of_value(value(logit_of_key(record.top_key)), row, peak);
            const f32 e = exp2_approx(s * LOG2_E);
            sums[0] += e * record.exp_sum;
            sums[1] += e * (record.exp_z_sum + s * record.exp_sum);
            const u64 candidate = ranked(key_of(record.best + s), record.best_id);
            if (record.best_id != NO_TOKEN && candidate > best) {
                best = candidate;
                own_logit = record.best_logit;
            }
        }
    }
    const u64 drawn = block_best(shared, best);
    block_sums(shared, sums);

    u32 last_key = 0;
    f32 most[4] = {}; // sum of z above last_key, and their number
    if (row.confidence != 0) {
        last_key = key_of_rank(params, shared, records, row.confidence);
        for_each_key(params, records, row.confidence, [&](u32 key) {
            if (key > last_key) {
                most[0] += z_of_value(value(logit_of_key(key)), row, peak);
                most[1] += 1.0f;
            }
        });
        block_sums(shared, most);
    }
    if (params.second == 0) {
        u32 lowest = LOWEST_KEY;
        if (row.top_k != 0) {
            lowest = max(lowest, key_of_rank(params, shared, records, row.top_k));
        }
        if (threadIdx.x == 0) {
            u32* thresholds = args.partials + u64(params.rows) * params.slices * params.stride + 2 * index;
            thresholds[0] = lowest;
            thresholds[1] = __float_as_uint(top_logit);
        }
    }
    // Whoever has the draw writes it; of a greedy row, or one without a draw, the first thread.
    const bool is_drawn = row.greedy == 0 && ~u32(drawn) != NO_TOKEN;
    if (is_drawn ? best != drawn : threadIdx.x != 0) {
        return;
    }
    const u32 token = row.greedy != 0 ? ~u32(top) : ~u32(drawn);
    if (token == NO_TOKEN || sums[2] != 0.0f) {
        args.sampled[index] = nothing_drawn(row);
        return;
    }
    const f32 z = z_of_value(value(row.greedy != 0 ? top_logit : own_logit), row, peak);
    const f32 log_sum = natural_log(sums[0]);
    const f32 log_prob = fminf(z - log_sum, 0.0f);
    const f32 entropy = fmaxf(log_sum - sums[1] / sums[0], 0.0f);
    f32 confidence = 0.0f;
    if (row.confidence != 0) {
        if (last_key != 0) { // of those at the last place as many as there are places
            most[0] += (f32(row.confidence) - most[1]) * z_of_value(value(logit_of_key(last_key)), row, peak);
            most[1] = f32(row.confidence);
        }
        confidence = log_sum - most[0] / most[1];
    }
    args.sampled[index] =
        u32x4{token, __float_as_uint(log_prob), __float_as_uint(entropy), __float_as_uint(confidence)};
}
