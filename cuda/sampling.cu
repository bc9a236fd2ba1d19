// sampling.cu: one token per row of logits, with its log-probability and the entropy of its row.
//
//   x = l * output_multiplier; x = cap * tanh(x / cap) if SOFT_CAP; x /= temperature;  z = x - max x
//   log_prob = z[token] - ln sum e^z;  entropy = ln sum e^z - (sum z e^z) / (sum e^z), both before truncation
//   confidence = ln sum e^z - mean of the `confidence` largest z, all finite ones if there are fewer
//   kept     = {i : fewer than top_k logits are larger}
//              and {i : mass of the larger among them < top_p of their mass} and {i : z_i >= ln min_p}
//   token    = argmax over kept of z_i + gumbel(seed, agent, step, i), lowest i on ties; greedy rows: argmax l
//
// Shapes   logits [rows, vocab], any row stride in elements, unit element stride, any alignment; sampled [rows] of
//          (token, log_prob, entropy, confidence); rows [rows].
// Grid     one block of THREADS per row. A thread takes every THREADS-th group of logits (16 bytes).
// Passes   1 for the largest logit, 1 for sums and draw, and between them for each truncation that is on:
//          a radix select that walks the keys of the logits 8 bits at a time, ROUNDS passes over the row.
//          A top_k up to THREADS takes one pass instead: the k-th largest of the threads' own largest logits is at most
//          the k-th largest of all, so a list of the few logits above it is gathered in shared memory, and both
//          truncations select from the list. If the list overflows, from the row. The confidence finds its last
//          token in the same way.
// Memory   16 bytes a load, the next group's load under way while this one is used; a row that starts inside 16 bytes
//          is put together from two loads. The floor is one read of the row.
// Counting 256 bins by 32 columns: lane l counts in column l, so that no two lanes of a warp meet in a bin or a bank.
// Numerics f32. Comparisons of logits use their stored value, so rounding of the transform neither makes nor breaks a
//          tie. Sums of e^z for log_prob and entropy are f32, thread by thread, then a fixed tree. Masses for top_p are
//          64-bit integers in units of 2^-31 of the largest, so that atomics give one sum in any order.
//          Error of z: 2^-22 relative, plus with SOFT_CAP 3e-7 cap / temperature absolute; of the noise: 2^-21 of it.
//          z is clamped at -512, where e^z is 0 in f32 and no noise (at most 17.4) can win.
// Limits   vocab below 2^31; 43 KiB of shared memory.
// A row with NaN or +inf, or with no finite logit, has no distribution: token 0xffffffff, log_prob and entropy NaN.
//
// Header: HAS_STEPS, THREADS (whole warps, at most 1024), ROUNDS (bytes of the key that can differ for this dtype), SOFT_CAP;
//         storage of logits.

// #include "common/prelude.cuh"
// #include "common/warp.cuh"
// #include "common/random.cuh"
// #include "common/draw.cuh"
// #include "common/steps.cuh"

struct SamplingParams {
    u32 rows;
    u32 vocab;
    u32 logits_offset; // 0: the pointer begins at the first logit
    u32 logits_row_stride; // elements
    u32 seed_low;
    u32 seed_high;
    f32 cap_scale; // output_multiplier / cap
    f32 cap_limit; // |l| beyond which tanh is 1
};

struct SamplingArgs {
    SamplingParams params;
    const SamplingRow* rows;
    const logits_t* logits;
    u32x4* sampled;
    const u32* steps; // see steps.cuh; added to the rows' own
};

constexpr u32 WARPS = THREADS / 32;
constexpr u32 GROUP = 16 / sizeof(logits_t); // logits of one load: one or two quads of noise
constexpr u32 BINS = 256;
constexpr u32 LIST = 2048;

struct Shared {
    u32 weight_low[BINS][32];
    u32 weight_high[BINS];
    u64 weights[BINS];
    u64 best[WARPS];
    f32 sums[4][WARPS];
    f32 list[LIST];
    u64 above; // the weight above the chosen bin
    u32 chosen;
    u32 listed;
};

// One row of the launch.
struct Row {
    const logits_t* logits;
    u32 vocab;
    SamplingRow how;
    f32 peak; // value() of the largest logit
};

// -- groups

// The 16 bytes of a group, -inf past the vocabulary.
struct Group {
    u32 words[4];
};

DEVICE u32 bits_of(f32 x) {
    return __float_as_uint(x);
}

template <class T> DEVICE u32 bits_of(T x) {
    return x.bits;
}

// The first argument is a tag.
DEVICE f32 logit_of(f32, u32 bits) {
    return __uint_as_float(bits);
}

template <class T> DEVICE f32 logit_of(T, u32 bits) {
    return to_f32(T{u16(bits)});
}

DEVICE f32 logit(const Group& group, u32 i) {
    if (GROUP == 4) {
        return logit_of(logits_t{}, group.words[i % 4]);
    }
    return logit_of(logits_t{}, group.words[i / 2 % 4] >> 16 * (i % 2) & 0xffffu);
}

DEVICE Group load(const Row& row, u32 group) {
    const u32 first = group * GROUP;
    // Logits between the 16-byte boundary and the row's start: the same for all its groups.
    const u32 skew = u32(reinterpret_cast<u64>(row.logits) % 16 / sizeof(logits_t));
    const u32x4* at = reinterpret_cast<const u32x4*>(row.logits + first - skew);
    Group loaded;
    if (skew == 0 && first + GROUP <= row.vocab) {
        const u32x4 a = at[0];
        loaded = Group{a.x, a.y, a.z, a.w};
    } else if (first >= skew && first + 2 * GROUP <= row.vocab + skew) {
        const u32x4 a = at[0], b = at[1];
        u32 words[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
        const u32 bytes = skew * sizeof(logits_t);
#pragma unroll
        for (u32 i = 0; i < 6; i++) {
            words[i] = (bytes & 8) != 0 ? words[i + 2] : words[i];
        }
#pragma unroll
        for (u32 i = 0; i < 5; i++) {
            words[i] = (bytes & 4) != 0 ? words[i + 1] : words[i];
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            loaded.words[i] = (bytes & 2) != 0 ? words[i] >> 16 | words[i + 1] << 16 : words[i];
        }
    } else { // at the row's ends nothing outside it is touched
        constexpr u32 PER_WORD = GROUP / 4;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            loaded.words[i] = 0;
#pragma unroll
            for (u32 j = 0; j < PER_WORD; j++) {
                const u32 token = first + i * PER_WORD + j;
                const logits_t x = token < row.vocab ? row.logits[token]
                                                     : from_f32<logits_t>(__uint_as_float(NEGATIVE_INFINITY));
                loaded.words[i] |= bits_of(x) << 16 * j;
            }
        }
    }
    return loaded;
}

// Calls visit(first token, group) for each of the thread's groups, in ascending order. A warp goes round together: past
// the row its lanes get groups of -inf.
template <class Visit> DEVICE void for_each_group(const Row& row, Visit visit) {
    const u32 groups = (row.vocab + GROUP - 1) / GROUP;
    const u32 lane = threadIdx.x % 32;
    Group next = load(row, threadIdx.x);
    for (u32 base = threadIdx.x - lane; base < groups; base += THREADS) {
        const Group group = next;
        if (base + THREADS < groups) {
            next = load(row, base + THREADS + lane);
        }
        visit((base + lane) * GROUP, group);
    }
}

// Calls visit(logit) for each of the thread's logits.
template <class Visit> DEVICE void for_each_logit(const Row& row, Visit visit) {
    for_each_group(row, [&](u32, const Group& group) {
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) {
            visit(logit(group, i));
        }
    });
}

// -- keys and values

DEVICE f32 value(const SamplingParams& params, f32 l) {
    return value_of(l, params.cap_scale, params.cap_limit);
}

DEVICE f32 z_of(const SamplingParams& params, const Row& row, f32 l) {
    return z_of_value(value(params, l), row.how, row.peak);
}

// ceil(a * share / 2^32)
DEVICE u64 share_of(u64 a, u32 share) {
    const u64 low = u64(u32(a)) * share;
    return (a >> 32) * share + (low >> 32) + (u32(low) != 0 ? 1 : 0);
}

// -- block-wide steps: all threads call them

// The largest key of all threads with the lowest id that has it.
DEVICE u64 reduce_best(Shared& shared, u32 key, u32 id) {
    const u32 lane = threadIdx.x % 32;
    u64 best = u64(key) << 32 | u32(~id);
    for (u32 mask = 16; mask > 0; mask /= 2) {
        best = max(best, shuffle_xor(best, mask));
    }
    __syncthreads(); // `best` may still be read
    if (lane == 0) {
        shared.best[threadIdx.x / 32] = best;
    }
    __syncthreads();
    best = lane < WARPS ? shared.best[lane] : 0;
    for (u32 mask = 16; mask > 0; mask /= 2) {
        best = max(best, shuffle_xor(best, mask));
    }
    return best;
}

DEVICE u32 id_of(u64 best) {
    return ~u32(best);
}

// Keeps the bin that holds the threshold, and the weight above it. By the first warp: a lane has 8 bins.
DEVICE void choose_bin(Shared& shared, u64 above, bool is_first_by_mass, u32 top_p, u64& need) {
    constexpr u32 OWN = BINS / 32;
    const u32 lane = threadIdx.x;
    u64 own = 0;
    for (u32 i = 0; i < OWN; i++) {
        own += shared.weights[OWN * lane + i];
    }
    u64 reach = own; // weight of this lane's bins and those of the lanes above
    for (u32 n = 1; n < 32; n *= 2) {
        const u64 more = shuffle_down(reach, n);
        reach += lane + n < 32 ? more : 0;
    }
    const u64 total = shuffle(reach, 0);
    if (is_first_by_mass) {
        need = share_of(total, top_p);
    }
    u64 larger = above + reach - own;
#pragma unroll 1
    for (u32 i = OWN; i-- > 0;) {
        const u64 with = larger + shared.weights[OWN * lane + i];
        if (larger < need && with >= need) { // at most one bin of one lane
            shared.chosen = OWN * lane + i;
            shared.above = larger;
        }
        larger = with;
    }
}

// The lowest key t such that the weight of all keys above t is less than what is needed, among keys >= lowest:
// weight 1 each and `need` needed, or e^z and top_p of the total. 0 if all together weigh less.
// The logits are those of the list or those of the row.
template <bool BY_MASS>
DEVICE u32 threshold(const SamplingParams& params, const Row& row, Shared& shared, u64 need, u32 lowest, bool is_listed) {
    const u32 lane = threadIdx.x % 32;
    u32 prefix = 0;
    u32 known = 0; // the bits of prefix that are settled
    u64 above = 0;
#pragma unroll 1
    for (u32 round = 0; round < ROUNDS; round++) {
        const u32 shift = 24 - 8 * round;
        __syncthreads(); // the last round's numbers may still be read
        for (u32 i = threadIdx.x; i < BINS * 8; i += THREADS) {
            reinterpret_cast<u32x4*>(shared.weight_low)[i] = u32x4{0, 0, 0, 0};
        }
        for (u32 bin = threadIdx.x; bin < BINS; bin += THREADS) {
            shared.weight_high[bin] = 0;
        }
        if (threadIdx.x == 0) {
            shared.chosen = 0;
            shared.above = 0;
        }
        __syncthreads();
        const auto count = [&](f32 x) {
            const u32 key = key_of(x);
            if (key >= lowest && (key & known) == prefix) {
                const u32 weight =
                    BY_MASS ? u32(exp2_approx(z_of(params, row, x) * LOG2_E) * 2147483648.0f + 0.5f) : 1;
                if (weight != 0) {
                    const u32 bin = key >> shift & 255;
                    const u32 before = atomicAdd(&shared.weight_low[bin][lane], weight);
                    if (before + weight < before) {
                        atomicAdd(&shared.weight_high[bin], 1u);
                    }
                }
            }
        };
        if (is_listed) {
            for (u32 i = threadIdx.x; i < shared.listed; i += THREADS) {
                count(shared.list[i]);
            }
        } else {
            for_each_logit(row, count);
        }
        __syncthreads();
        for (u32 bin = threadIdx.x; bin < BINS; bin += THREADS) {
            u64 weight = u64(shared.weight_high[bin]) << 32;
#pragma unroll 4
            for (u32 i = 0; i < 32; i++) {
                weight += shared.weight_low[bin][(bin + i) % 32]; // each thread another bank
            }
            shared.weights[bin] = weight;
        }
        __syncthreads();
        if (threadIdx.x < 32) {
            choose_bin(shared, above, BY_MASS && round == 0, row.how.top_p, need);
        }
        __syncthreads();
        prefix |= shared.chosen << shift;
        above = shared.above;
        known |= 255u << shift;
    }
    return prefix;
}

// Gathers the logits whose keys are at least `lowest`. False if they are more than the list holds.
DEVICE bool gather(const Row& row, Shared& shared, u32 lowest) {
    __syncthreads(); // the list may still be read
    if (threadIdx.x == 0) {
        shared.listed = 0;
    }
    __syncthreads();
    for_each_logit(row, [&](f32 x) {
        if (key_of(x) >= lowest) {
            const u32 at = atomicAdd(&shared.listed, 1u);
            if (at < LIST) {
                shared.list[at] = x;
            }
        }
    });
    __syncthreads();
    return shared.listed <= LIST;
}

// The key of the count-th largest logit; 0, or below LOWEST_KEY, if there are fewer. `own` is the thread's largest logit.
// Afterwards `is_listed` says whether the list holds every logit that is at least as large.
DEVICE u32 key_of_rank(const SamplingParams& params, const Row& row, Shared& shared, f32 own, u32 count,
                       bool& is_listed) {
    u32 lowest = LOWEST_KEY;
    is_listed = false;
    if (count <= THREADS) {
        shared.list[threadIdx.x] = own;
        if (threadIdx.x == 0) {
            shared.listed = THREADS;
        }
        lowest = max(lowest, threshold<false>(params, row, shared, count, lowest, true));
        is_listed = gather(row, shared, lowest);
    }
    return threshold<false>(params, row, shared, count, lowest, is_listed);
}

// The lowest key that the row's truncations keep.
DEVICE u32 lowest_kept(const SamplingParams& params, const Row& row, Shared& shared, f32 own) {
    u32 lowest = LOWEST_KEY;
    bool is_listed = false;
    if (row.how.top_k != 0) {
        lowest = max(lowest, key_of_rank(params, row, shared, own, row.how.top_k, is_listed));
    }
    if (row.how.top_p != 0) {
        lowest = max(lowest, threshold<true>(params, row, shared, 0, lowest, is_listed));
    }
    return lowest;
}

KERNEL(sampling, SamplingArgs, THREADS, 1) {
    const SamplingParams& params = args.params;
    Shared& shared = shared_memory<Shared>();
    const u32 lane = threadIdx.x % 32;
    const u32 index = blockIdx.x;
    Row row{args.logits + u64(index) * params.logits_row_stride, params.vocab, args.rows[index], 0.0f};

    if (has_ended(args.steps, index)) {
        if (threadIdx.x == 0) {
            args.sampled[index] = nothing_drawn(row.how);
        }
        return;
    }

    // Pass 1: the largest logit and its lowest id; is there NaN or +inf. Ids of a thread ascend, so > keeps the lowest.
    f32 own = __uint_as_float(NEGATIVE_INFINITY);
    u32 own_id = NO_TOKEN;
    bool is_undefined = false;
    for_each_group(row, [&](u32 first, const Group& group) {
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) {
            const f32 x = logit(group, i);
            is_undefined |= !(x < __uint_as_float(INFINITY_BITS));
            if (x > own) {
                own = x;
                own_id = first + i;
            }
        }
    });
    const u32 top_id = id_of(reduce_best(shared, key_of(own), own_id));
    if (__syncthreads_or(is_undefined) != 0 || top_id == NO_TOKEN) {
        if (threadIdx.x == 0) {
            args.sampled[index] = nothing_drawn(row.how);
        }
        return;
    }
    row.peak = value(params, to_f32(row.logits[top_id]));

    // The key of the last of the most probable tokens; below LOWEST_KEY if there are fewer.
    u32 last_key = 0;
    if (row.how.confidence != 0) {
        bool is_listed;
        last_key = key_of_rank(params, row, shared, own, row.how.confidence, is_listed);
        // What no round settles are zeros in a logit of 16 bits, and so ones in the key of a negative one.
        if (last_key != 0 && last_key < 0x80000000u) {
            last_key |= (1u << (32 - 8 * ROUNDS)) - 1;
        }
    }

    // Thresholds.
    const u32 lowest = lowest_kept(params, row, shared, own);

    // Last pass: sums over all tokens, draw over the kept ones.
    f32 exp_sum = 0.0f;
    f32 exp_z_sum = 0.0f;
    f32 most_sum = 0.0f; // of z above last_key
    f32 most_count = 0.0f;
    f32 best = -1e30f;
    u32 best_id = NO_TOKEN;
    for_each_group(row, [&](u32 first, const Group& group) {
        // Whoever cannot reach the best of the warp is spared the noise, or the logarithms of it. Ties are not spared.
        const f32 bound = row.how.greedy == 0 ? warp_max(best) : 0.0f;
#pragma unroll
        for (u32 quad = 0; quad < GROUP / 4; quad++) {
            f32 z[4];
            u32 able = 0;
#pragma unroll
            for (u32 c = 0; c < 4; c++) {
                const f32 x = logit(group, 4 * quad + c);
                z[c] = z_of(params, row, x);
                if (is_finite(x)) {
                    const f32 e = exp2_approx(z[c] * LOG2_E);
                    exp_sum += e;
                    exp_z_sum += e * z[c];
                    if (key_of(x) > last_key && row.how.confidence != 0) {
                        most_sum += z[c];
                        most_count += 1.0f;
                    }
                }
                const bool is_kept = key_of(x) >= lowest && z[c] >= row.how.min_z;
                able |= is_kept && z[c] + GUMBEL_MOST >= bound ? 1u << c : 0u;
            }
            if (row.how.greedy == 0 && able != 0) {
                const u32x4 counter{first / 4 + quad, row.how.agent, row.how.step + step_of(args.steps), 0};
                const u32x4 noise = philox4x32(counter, u32x2{params.seed_low, params.seed_high});
                const u32 words[4] = {noise.x, noise.y, noise.z, noise.w};
#pragma unroll
                for (u32 c = 0; c < 4; c++) {
                    if ((able >> c & 1) != 0 && z[c] + gumbel_bound(words[c]) >= bound) {
                        const f32 score = z[c] + gumbel(words[c]);
                        if (score > best) {
                            best = score;
                            best_id = first + 4 * quad + c;
                        }
                    }
                }
            }
        }
    });
    exp_sum = warp_sum(exp_sum);
    exp_z_sum = warp_sum(exp_z_sum);
    most_sum = warp_sum(most_sum);
    most_count = warp_sum(most_count);
    if (lane == 0) {
        shared.sums[0][threadIdx.x / 32] = exp_sum;
        shared.sums[1][threadIdx.x / 32] = exp_z_sum;
        shared.sums[2][threadIdx.x / 32] = most_sum;
        shared.sums[3][threadIdx.x / 32] = most_count;
    }
    const u32 drawn_id = id_of(reduce_best(shared, key_of(best), best_id)); // its barriers order the sums, too
    if (threadIdx.x >= 32) {
        return;
    }
    exp_sum = warp_sum(lane < WARPS ? shared.sums[0][lane] : 0.0f);
    exp_z_sum = warp_sum(lane < WARPS ? shared.sums[1][lane] : 0.0f);
    most_sum = warp_sum(lane < WARPS ? shared.sums[2][lane] : 0.0f);
    most_count = warp_sum(lane < WARPS ? shared.sums[3][lane] : 0.0f);
    if (lane == 0) {
        const u32 token = min(row.how.greedy != 0 ? top_id : drawn_id, params.vocab - 1); // never past the row
        const f32 z = z_of(params, row, to_f32(row.logits[token]));
        const f32 log_sum = natural_log(exp_sum);
        const f32 log_prob = fminf(z - log_sum, 0.0f);
        const f32 entropy = fmaxf(log_sum - exp_z_sum / exp_sum, 0.0f);
        f32 confidence = 0.0f;
        if (row.how.confidence != 0) {
            if (last_key >= LOWEST_KEY) { // of those at the last place as many as there are places
                const f32 places = f32(row.how.confidence);
                most_sum += (places - most_count) * z_of(params, row, logit_of_key(last_key));
                most_count = places;
            }
            confidence = log_sum - most_sum / most_count;
        }
        args.sampled[index] =
            u32x4{token, __float_as_uint(log_prob), __float_as_uint(entropy), __float_as_uint(confidence)};
    }
}
