// select.cu: per query row, scores of an indexer over the keys that the row sees, and a bit for each chosen one.
//
//   score = sum over heads of weight * max(0, dot(q, k));  a unit is `block` slots, its score the mean over its seen keys
//   chosen = the `count` units of the greatest scores; of equal ones those of the lowest slots
//
// Shapes    q [row, head, 4 CHUNKS], k [page, page_size, 4 CHUNKS]: views with strides, in chunks of 4 elements;
//           weights [row, head] f32; scores [row, 32 words] scratch; selection [row, words], bit s % 32 of word s / 32.
// Tables    header [indptr, runs, pages, -]; indptr [rows + 1]; run [first token, tokens, slot of the first, first page];
//           arrivals [row], zero before and after a launch.
// Grid      blocks of LANES threads, one per row and SLOTS_OF_BLOCK slots, which it scores; the last one of a row chooses.
//           A thread takes every LANES-th key of a run.
// Passes    1 for the scores, as keys that ascend with them (0: not seen); 4 for the least key that is chosen, 8 bits at a
//           time; 1 over the units for where equal ones end, a stretch of them per thread; 1 for the bits.
// Numerics  f32: chunks in order, then heads in order. Equal means equal as f32; a NaN is below every number. A score is one
//           thread's, so that no bit depends on the blocks.
// Memory    a thread has a key in registers for all heads, up to 128 lanes; queries are the same for all threads. No matrix
//           units. The scores of a row are written once and read 6 times.
// Header    LANES (256), SLOTS_OF_BLOCK, CHUNKS; storage q, k.

// #include "common/prelude.cuh"
// #include "common/dtype.cuh"
// #include "common/vector.cuh"

struct SelectParams {
    u32 rows;
    u32 heads;
    u32 words;
    u32 count;
    u32 block;
    u32 page_size;
    u32 q_offset; // 0, like the other offsets: pointers begin at the first element
    u32 q_row_stride;
    u32 q_head_stride;
    u32 k_offset;
    u32 k_page_stride;
    u32 k_token_stride;
    u32 weights_offset;
    u32 weights_row_stride;
    u32 pad[2];
};

struct SelectArgs {
    SelectParams params;
    const q_t* q;
    const k_t* k;
    const f32* weights;
    const u32* tables;
    u32* scores;
    u32* selection;
    u32* arrivals;
};

struct Shared {
    u32 bins[256];
    // Units of the least chosen key in each thread's stretch.
    u32 equal[LANES];
    // The least chosen key so far, how many of those that share its known bits are chosen, whether all units are.
    u32 least, wanted, is_all;
    // The unit in front of which units of the least key are chosen.
    u32 cut;
};

// A key that ascends with the score, above 0.
DEVICE u32 key_of(f32 score) {
    u32 bits = __float_as_uint(score);
    const u32 magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return 1;
    }
    bits = magnitude == 0 ? 0 : bits; // -0 is 0
    return bits >> 31 == 1 ? ~bits : bits | 0x80000000u;
}

DEVICE f32 score_of(u32 key) {
    return __uint_as_float(key >> 31 == 1 ? key & 0x7fffffffu : ~key);
}

// The key of a unit of the row with these scores; 0 if none of it is seen.
DEVICE u32 unit_key(const SelectParams& params, const u32* scores, u32 unit) {
    if (params.block == 1) {
        return scores[unit];
    }
    f32 sum = 0.0f;
    u32 seen = 0;
    const u32 end = (unit + 1) * params.block, slots = params.words * 32;
    for (u32 slot = unit * params.block; slot < (end < slots ? end : slots); slot++) {
        const u32 key = scores[slot];
        if (key != 0) {
            sum += score_of(key);
            seen++;
        }
    }
    return seen == 0 ? 0 : key_of(sum / f32(seen));
}

DEVICE f32 score(const SelectArgs& args, u32 row, u64 key) {
    const SelectParams& params = args.params;
    const u64 query = u64(row) * params.q_row_stride;
    constexpr bool IS_KEPT = CHUNKS <= 32;
    f32x4 kept[IS_KEPT ? CHUNKS : 1];
    if constexpr (IS_KEPT) {
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++) {
            kept[c] = load_chunk(args.k, key + c);
        }
    }
    f32 score = 0.0f;
    for (u32 h = 0; h < params.heads; h++) {
        const u64 head = query + u64(h) * params.q_head_stride;
        f32 product = 0.0f;
        if constexpr (IS_KEPT) {
#pragma unroll
            for (u32 c = 0; c < CHUNKS; c++) {
                product += sum(load_chunk(args.q, head + c) * kept[c]);
            }
        } else {
#pragma unroll 4
            for (u32 c = 0; c < CHUNKS; c++) {
                product += sum(load_chunk(args.q, head + c) * load_chunk(args.k, key + c));
            }
        }
        score = fmaf(args.weights[u64(row) * params.weights_row_stride + h], fmaxf(product, 0.0f), score);
    }
    return score;
}

KERNEL(select, SelectArgs, LANES, 1) {
    Shared& shared = shared_memory<Shared>();
    const SelectParams& params = args.params;
    const u32* tables = args.tables;
    const u32 slots = params.words * 32, units = (slots + params.block - 1) / params.block;
    const u32 blocks = gridDim.x / params.rows, row = blockIdx.x / blocks, lane = threadIdx.x;
    u32* scores = args.scores + u64(row) * slots;

    // -- scores of my slots
    const u32 my_first = blockIdx.x % blocks * SLOTS_OF_BLOCK, my_end = min(my_first + SLOTS_OF_BLOCK, slots);
    for (u32 slot = my_first + lane; slot < my_end; slot += LANES) {
        scores[slot] = 0;
    }
    __syncthreads();
    for (u32 r = tables[tables[0] + row]; r < tables[tables[0] + row + 1]; r++) {
        const u32* run = tables + tables[1] + r * 4;
        const u32 run_first = run[2], run_end = run_first + run[1];
        for (u32 slot = max(my_first, run_first) + lane; slot < min(my_end, run_end); slot += LANES) {
            const u32 token = run[0] + (slot - run_first), page = tables[tables[2] + run[3] + token / params.page_size];
            const u64 key = u64(page) * params.k_page_stride + u64(token % params.page_size) * params.k_token_stride;
            scores[slot] = key_of(score(args, row, key));
        }
    }

    // -- who is last has all scores of the row
    __syncthreads();
    if (__syncthreads_or(lane == 0 && arrives_last(&args.arrivals[row], blocks)) == 0) {
        return;
    }

    // -- the least key that is chosen, from its highest byte on
    if (lane == 0) {
        shared.least = 0;
        shared.wanted = params.count;
        shared.is_all = 0;
        shared.cut = 0;
    }
    for (u32 round = 0; round < 4; round++) {
        const u32 shift = 24 - 8 * round;
        const u32 known = round == 0 ? 0 : ~((0x100u << shift) - 1);
        for (u32 bin = lane; bin < 256; bin += LANES) {
            shared.bins[bin] = 0;
        }
        __syncthreads();
        for (u32 unit = lane; unit < units; unit += LANES) {
            const u32 key = unit_key(params, scores, unit);
            if (key != 0 && (key & known) == shared.least) {
                atomicAdd(&shared.bins[key >> shift & 255], 1u);
            }
        }
        __syncthreads();
        if (lane == 0 && shared.is_all == 0) {
            u32 bin = 256, above = 0;
            while (bin > 0 && above < shared.wanted) {
                bin--;
                above += shared.bins[bin];
            }
            if (above < shared.wanted) {
                shared.is_all = 1;
            } else {
                shared.wanted -= above - shared.bins[bin];
                shared.least |= bin << shift;
            }
        }
        __syncthreads();
    }

    // -- where units of the least key end
    const u32 stretch = (units + LANES - 1) / LANES;
    const u32 first = lane * stretch < units ? lane * stretch : units;
    const u32 last = first + stretch < units ? first + stretch : units;
    u32 mine = 0;
    for (u32 unit = first; unit < last; unit++) {
        mine += unit_key(params, scores, unit) == shared.least;
    }
    shared.equal[lane] = mine;
    __syncthreads();
    u32 before = 0;
    for (u32 l = 0; l < lane; l++) {
        before += shared.equal[l];
    }
    if (shared.is_all == 0 && before < shared.wanted && before + mine >= shared.wanted) {
        u32 unit = first;
        for (; before < shared.wanted; unit++) {
            before += unit_key(params, scores, unit) == shared.least;
        }
        shared.cut = unit;
    }
    __syncthreads();

    // -- bits
    for (u32 word = lane; word < params.words; word += LANES) {
        u32 bits = 0;
        for (u32 bit = 0; bit < 32; bit++) {
            const u32 slot = word * 32 + bit;
            if (scores[slot] == 0) {
                continue;
            }
            const u32 unit = slot / params.block, key = unit_key(params, scores, unit);
            if (shared.is_all == 1 || key > shared.least || (key == shared.least && unit < shared.cut)) {
                bits |= 1u << bit;
            }
        }
        args.selection[u64(row) * params.words + word] = bits;
    }
}
