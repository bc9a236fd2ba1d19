// attention.cu: partial attention states of a work list: one pass over paged K/V with online softmax.
// Maths     s = score_scale * dot(q, k) (base 2; with a cap: cap * tanh), per tile of keys: S = Q K^T, m' = max(m, S),
//           P = exp2(S - m'), O = O * exp2(m - m') + P V, l = l * exp2(m - m') + sum P; then O / l and ln sum.
// Shapes    q [row, num_q_heads, head dim]; k, v [page, num_kv_heads, page_size, dim];
//           partials [state, num_q_heads, value dim] f32, lse [state, num_q_heads] f32.
// Tables    header [num_items, items, item_rows, runs, pages, shifts, rules, -, merge header x 4];
//           item     [rows_begin, num_rows, runs_begin, num_runs, pages_begin, first state, 0, 0];
//           item row [row, slot, slot of token 0, first token seen, end of tokens seen, shift + 1 or 0, gap begin,
//           gap end]; run [first token, end token, full, span start, span end, rule, first token that any row sees, 0];
//           rule [birth kind, 3 operands, death kind, operand, 0, 0]. A run lies in one span; its tiles of keys start
//           at multiples of the tile from the span.
// Grid      one workgroup of 4 warps per (item, KV head). A tile is 64 queries (rows x heads of the group) x KEYS keys.
// Warps     a warp has 16 queries, over all keys; warps without queries help to load. A thread has the scores of 2
//           queries and, of each 8 keys, 2; a quad of lanes shares a query. Queries never mix, so that a row's bits do
//           not depend on its neighbours in the tile.
// Pipeline  STAGES = 2: while a tile is computed, the copies of the next are under way and the places of the one behind
//           it are looked up; one barrier per tile. STAGES = 1, where shared memory has no room for two: a second one.
// Numerics  f32 sums, finite sentinels. 16-bit operands of matrix products that are not exact enter in two parts that
//           add up: weights, and queries turned by a shift. A product with 0 adds exactly 0. What V holds at keys that
//           a query does not see: 0 times it is 0 unless it is NaN or infinite. Then the output shows it, and the item
//           is done a second time, with care (tile.cuh); so ordinary values cost no look at V. An infinity that a
//           query sees, but whose weight falls below 2^-126 later, gives NaN.
// Limits    head dims are multiples of 8 up to 256; K and V lie on 16 bytes, q on chunks. sm_80 and up, at most
//           99 KiB of shared memory.
// Constants KEYS, STAGES, GROUP, HEAD_DIM, VALUE_DIM, USES_MATRIX_UNITS, QUERY_PARTS, WEIGHT_PARTS, SHARED_BYTES,
//           HAS_SOFT_CAP, HAS_GAP, HAS_SHIFT, PAIRS_ARE_HALVES, ROPE_FIRST, ROPE_PAIRS; storage q, k, v.
// #include "common/prelude.cuh"
// #include "common/warp.cuh"
// #include "common/async.cuh"
// #include "common/mma.cuh"
// #include "common/dtype.cuh"
// #include "common/lifetime.cuh"
// #include "common/tile.cuh"
// #include "common/tile_mma.cuh"
// #include "common/tile_plain.cuh"

struct AttentionParams {
    u32 num_q_heads;
    u32 num_kv_heads;
    u32 q_offset;
    u32 q_row_stride;
    u32 q_head_stride;
    u32 k_offset;
    u32 k_page_stride;
    u32 k_head_stride;
    u32 k_token_stride;
    u32 v_offset;
    u32 v_page_stride;
    u32 v_head_stride;
    u32 v_token_stride;
    f32 score_scale;
    f32 cap_scale;
    u32 page_size;
};

struct AttentionArgs {
    AttentionParams params;
    const u32* tables;
    const q_t* q;
    const k_t* k;
    const v_t* v;
    f32* partials;
    f32* lse;
};

constexpr f32 LN_2 = 0.6931471805599453f;
// Below every score.
constexpr f32 NOTHING = -1e30f;

// tanh without overflow: beyond 15 it is 1 to f32. A NaN stays one.
DEVICE f32 capped(f32 x) {
    const f32 near = x > 15.0f ? 15.0f : x < -15.0f ? -15.0f : x;
    return fmaf(-2.0f, reciprocal_approx(exp2_approx(near * 2.8853900817779268f) + 1.0f), 1.0f);
}

// Lane `lane` of q turned back by the entry's position shift: R(-shift) q. `turns`: cosine and sine per pair of lanes.
DEVICE f32 shifted_lane(const q_t* query, u32 lane, f32 x, const u32* turns) {
    const u32 r = lane - ROPE_FIRST; // large in front of the first
    if (r >= 2 * ROPE_PAIRS) {
        return x;
    }
    const bool is_second = PAIRS_ARE_HALVES ? r >= ROPE_PAIRS : r % 2 == 1;
    const u32 pair = PAIRS_ARE_HALVES ? r % ROPE_PAIRS : r / 2;
    const u32 other = PAIRS_ARE_HALVES ? (is_second ? lane - ROPE_PAIRS : lane + ROPE_PAIRS) : ROPE_FIRST + (r ^ 1);
    const f32 cosine = __uint_as_float(turns[pair * 2]), sine = __uint_as_float(turns[pair * 2 + 1]);
    const f32 y = to_f32(query[other]);
    return fmaf(x, cosine, (is_second ? -y : y) * sine);
}

// Puts the item's queries into shared memory, zeros behind the head dim and behind the last query of a warp.
DEVICE void load_queries(Shared& shared, const AttentionArgs& args, u32 rows, u32 num_queries, u32 kv_head) {
    constexpr u32 CHUNKS = PADDED_DIM / 4;
    const u32* turns = args.tables + args.tables[5];
    for (u32 i = threadIdx.x; i < round_up(num_queries, WARP_QUERIES) * CHUNKS; i += THREADS) {
        const u32 query = i / CHUNKS, chunk = i % CHUNKS;
        f32x4 x = {0.0f, 0.0f, 0.0f, 0.0f};
        if (query < num_queries && chunk < HEAD_DIM / 4) {
            const u32* row = args.tables + rows + query / GROUP * 8;
            const q_t* base = args.q + 4 * (u64(row[0]) * args.params.q_row_stride +
                                            u64(kv_head * GROUP + query % GROUP) * args.params.q_head_stride);
            x = load_chunk(base, chunk);
            if (HAS_SHIFT && row[5] != 0) {
                const u32* turn = turns + (row[5] - 1) * ROPE_PAIRS * 2;
                const u32 lane = chunk * 4;
                x = f32x4{shifted_lane(base, lane, x.x, turn), shifted_lane(base, lane + 1, x.y, turn),
                          shifted_lane(base, lane + 2, x.z, turn), shifted_lane(base, lane + 3, x.w, turn)};
            }
        }
        store_query(shared, query, chunk, x);
    }
}

// What queries `query` and `query + 8` see of a run.
DEVICE Sight sight_of(const u32* tables, u32 rows, u32 num_queries, u32 query, const u32* run) {
    Sight sight = {};
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        if (query + i * 8 >= num_queries) {
            continue;
        }
        const u32* row = tables + rows + (query + i * 8) / GROUP * 8;
        u32 begin = 0, end = run[1];
        if (run[2] == 0) {
            const i32 base = i32(row[2]);
            const Slots span = {base + i32(run[3]), base + i32(min(run[4], row[4]))};
            const Slots slots = seen_slots(tables + tables[6] + run[5] * 8, i32(row[1]), span);
            begin = max(u32(max(slots.begin - base, 0)), row[3]);
            end = min(min(u32(max(slots.end - base, 0)), row[4]), end);
        }
        sight.first[i] = begin;
        sight.count[i] = begin < end ? end - begin : 0;
    }
    return sight;
}

// What queries `query` and `query + 8` do not see of the segment. Not kept with the sight: registers are scarce, and
// gaps rare.
DEVICE Gap gap_of(const u32* tables, u32 rows, u32 num_queries, u32 query) {
    Gap gap = {};
#pragma unroll
    for (u32 i = 0; HAS_GAP && i < 2; i++) {
        if (query + i * 8 < num_queries) {
            // Slots may be anything; tokens count modulo 2^32.
            const u32* row = tables + rows + (query + i * 8) / GROUP * 8;
            gap.first[i] = row[6] - row[2];
            gap.count[i] = row[7] - row[6];
        }
    }
    return gap;
}

// Scores to base 2, capped. Rounded by an instruction of its own: a product that one path fuses with what follows and
// another does not would make bits depend on whether a tile is full for the neighbours too.
DEVICE void scale(f32 (&s)[KEY_TILES][4], const AttentionParams& params) {
#pragma unroll
    for (u32 n = 0; n < KEY_TILES; n++) {
#pragma unroll
        for (u32 e = 0; e < 4; e++) {
            s[n][e] = fmaf(s[n][e], params.score_scale, 0.0f);
            if (HAS_SOFT_CAP) {
                s[n][e] = fmaf(params.cap_scale, capped(s[n][e]), 0.0f);
            }
        }
    }
}

// Marks what the thread's queries do not see.
DEVICE void mask(f32 (&s)[KEY_TILES][4], u32 token, const u32 (&first)[2], const u32 (&count)[2], bool is_seen) {
#pragma unroll
    for (u32 n = 0; n < KEY_TILES; n++) {
#pragma unroll
        for (u32 e = 0; e < 4; e++) {
            const u32 key = token + n * 8 + threadIdx.x % 4 * 2 + e % 2;
            const bool is_in = key - first[e / 2] < count[e / 2];
            s[n][e] = is_in == is_seen ? s[n][e] : NOTHING;
        }
    }
}

// Scores become weights under the running maximum, which they may raise; `shrink` is what that makes of earlier sums.
// `total` is the sum of this thread's keys.
DEVICE void weigh(f32 (&s)[KEY_TILES][4], f32 (&most)[2], f32 (&total)[2], f32 (&shrink)[2]) {
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        f32 grown = most[i];
#pragma unroll
        for (u32 n = 0; n < KEY_TILES; n++) {
            grown = fmaxf(grown, fmaxf(s[n][i * 2], s[n][i * 2 + 1]));
        }
        grown = fmaxf(grown, shuffle_xor(grown, 1));
        grown = fmaxf(grown, shuffle_xor(grown, 2));
        // Exactly 1 when nothing changes, whatever exp2(0) is.
        shrink[i] = most[i] == grown ? 1.0f : exp2_approx(most[i] - grown);
        // Before the first key that is seen, 0 in place of the maximum makes exp2(NOTHING) exactly 0 as well.
        const f32 base = grown == NOTHING ? 0.0f : grown;
        f32 sum = 0.0f;
#pragma unroll
        for (u32 n = 0; n < KEY_TILES; n++) {
#pragma unroll
            for (u32 e = 0; e < 2; e++) {
                f32& weight = s[n][i * 2 + e];
                weight = exp2_approx(weight - base);
                sum += weight;
            }
        }
        total[i] = fmaf(total[i], shrink[i], sum);
        most[i] = grown;
    }
}

KERNEL(attention, AttentionArgs, THREADS, 2) {
    Shared& shared = shared_memory<Shared>();
    const AttentionParams& params = args.params;
    const u32* tables = args.tables;

    // -- which item and head are mine; places in the tables are words, not addresses: they take less registers
    const u32 kv_head = blockIdx.x % params.num_kv_heads;
    const u32* item = tables + tables[1] + blockIdx.x / params.num_kv_heads * 8;
    const u32 rows = tables[2] + item[0] * 8;
    const u32 num_queries = item[1] * GROUP;
    const u32 first_run = tables[3] + item[2] * 8;
    const u32 last_run = first_run + item[3] * 8;
    const u32 pages = tables[4] + item[4];
    const u32 lane = threadIdx.x % 32, query = query_of(threadIdx.x);
    const bool is_busy = threadIdx.x / 32 * WARP_QUERIES < num_queries;

    // -- queries
    load_queries(shared, args, rows, num_queries, kv_head);
    clear_padding(shared);
    bool is_shifted = false;
    for (u32 i = query; HAS_SHIFT && i < min(query + 9, num_queries); i += 8) {
        is_shifted |= tables[rows + i / GROUP * 8 + 5] != 0;
    }
    const bool is_exact = !warp_any(is_shifted);

    f32 out[VALUE_TILES][4], most[2], total[2];
#pragma unroll 1
    for (bool is_careful = false;; is_careful = true) {
        // -- empty states
        most[0] = most[1] = NOTHING;
        total[0] = total[1] = 0.0f;
#pragma unroll
        for (u32 n = 0; n < VALUE_TILES; n++) {
            out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0.0f;
        }

        // -- the first tile is on its way
        Cursor cursor = {first_run, tables[first_run]};
        find_places(shared, 0, cursor, last_run, args, pages, kv_head);
        if (STAGES == 2) {
            __syncthreads();
            load_tile(shared, 0, args);
            advance(cursor, last_run, args);
            find_places(shared, 1, cursor, last_run, args, pages, kv_head);
        }

        u32 tile = 0;
        for (u32 run = first_run; run != last_run; run += 8) {
            const u32 run_end = tables[run + 1];
            const bool is_full = tables[run + 2] != 0;
            const Sight sight = sight_of(tables, rows, num_queries, query_of(thread_of_tile()), tables + run);
            for (u32 token = tables[run]; token < run_end; token += KEYS, tile++) {
                // -- load: behind the barrier the tile is there, and nobody reads the one before it
                if (STAGES == 1) {
                    __syncthreads();
                    load_tile(shared, tile, args);
                }
                copy_async_wait<0>();
                __syncthreads();
                Cursor next = {run, token};
                advance(next, last_run, args);
                if (STAGES == 2) {
                    if (next.run != last_run) {
                        load_tile(shared, tile + 1, args);
                    }
                    advance(next, last_run, args);
                }
                find_places(shared, tile + STAGES, next, last_run, args, pages, kv_head);

                // -- score, mask, softmax, rescale
                f32 s[KEY_TILES][4];
                if (is_busy) {
                    scores(s, shared, tile % STAGES, is_exact);
                    scale(s, params);
                    if (!is_full || token + KEYS > run_end) {
                        mask(s, token, sight.first, sight.count, true);
                        if (HAS_GAP) {
                            const Gap gap = gap_of(tables, rows, num_queries, query_of(thread_of_tile()));
                            mask(s, token, gap.first, gap.count, false);
                        }
                    }
                    f32 shrink[2];
                    weigh(s, most, total, shrink);
                    if (warp_any(shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
                        for (u32 n = 0; n < VALUE_TILES; n++) {
#pragma unroll
                            for (u32 e = 0; e < 4; e++) {
                                out[n][e] *= shrink[e / 2];
                            }
                        }
                    }
                }

                // -- accumulate
                if (is_careful) {
                    if (is_busy) {
                        const Gap gap = gap_of(tables, rows, num_queries, query);
                        add_unbounded(out, sight, gap, token, shared, tile % STAGES);
                    }
                    __syncthreads();
                    clear_unbounded(shared, tile % STAGES);
                    __syncthreads();
                }
                if (is_busy) {
                    accumulate(out, s, shared, tile % STAGES);
                }
            }
        }

        // -- NaN and infinities: again, with care
        f32 probe[2] = {0.0f, 0.0f};
#pragma unroll
        for (u32 n = 0; n < VALUE_TILES; n++) {
#pragma unroll
            for (u32 e = 0; e < 4; e++) {
                probe[e / 2] = fmaf(out[n][e], 0.0f, probe[e / 2]);
            }
        }
        const bool is_bounded =
            (query >= num_queries || probe[0] == 0.0f) && (query + 8 >= num_queries || probe[1] == 0.0f);
        if (!__syncthreads_or(!is_careful && !is_bounded)) {
            break;
        }
    }

    // -- write the partial state
    if (!is_busy) {
        return;
    }
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        f32 sum = total[i] + shuffle_xor(total[i], 1);
        sum += shuffle_xor(sum, 2);
        const u32 mine = query + i * 8;
        if (mine >= num_queries) {
            continue;
        }
        // A key that is seen weighs 1 when it is the greatest.
        const bool is_empty = sum == 0.0f;
        const f32 inverse = is_empty ? 0.0f : 1.0f / sum;
        const u64 state = u64(item[5] + mine / GROUP) * params.num_q_heads + kv_head * GROUP + mine % GROUP;
        if (lane % 4 == 0) {
            args.lse[state] = is_empty ? NOTHING : (most[i] + log2f(sum)) * LN_2;
        }
        f32* place = args.partials + state * VALUE_DIM + lane % 4 * 2;
#pragma unroll
        for (u32 n = 0; n < VALUE_TILES; n++) {
            const f32 x = out[n][i * 2] * inverse, y = out[n][i * 2 + 1] * inverse;
            *reinterpret_cast<u32x2*>(place + n * 8) = u32x2{__float_as_uint(x), __float_as_uint(y)};
        }
    }
}
