// attention.cu: attention of a work list: one pass over paged K/V with online softmax gives partial states, and who writes
// the last state of a row merges the row.
// Maths     s = score_scale * dot(q, k) (base 2; with a cap: cap * tanh), per tile of keys: S = Q K^T, m' = max(m, S),
//           P = exp2(S - m'), O = O * exp2(m - m') + P V, l = l * exp2(m - m') + sum P; then O / l and ln sum.
// Shapes    q [row, num_q_heads, head dim]; k, v [page, num_kv_heads, page_size, dim];
//           partials [state, num_q_heads, value dim] f32, lse [state, num_q_heads] f32; outputs as merge.cu; arrivals
//           [row, num_kv_heads * HEAD_PARTS], zero before and after a launch.
// Tables    header [num_items, items, item_rows, runs, pages, shifts, rules, -, header of merge.cu x 4];
//           item     [rows_begin, num_rows, runs_begin, num_runs, pages_begin, first state, 0, 0];
//           item row [row, slot, slot of token 0, first token seen, end of tokens seen, shift + 1 or 0, gap begin,
//           gap end]; run [first token, end token, full, span start, span end, rule, first token that any row sees, end of
//           what the first step sees];
//           rule [birth kind, 3 operands, death kind, operand, 0, 0]. A run lies in one span; its tiles of keys start
//           at multiples of the tile from the span. An item without runs has rows that no item has a state of.
// Selection with HAS_SELECTION a row sees, of the keys of its mask, those whose bits are set (common/chosen.cuh). A key that
//           no row of the item chose is not read; a tile of such keys is neither loaded nor computed, which leaves every
//           number as it was.
// Steps     with HAS_STEPS rows stand as many slots further on as the counter says, and runs go as many tokens further;
//           a tile is full only if it is in every step of the plan's room. A row that has ended sees nothing; an item of
//           such rows is one without runs.
// Grid      one workgroup per (item, KV head, part of its heads, part of the value), see common/share.cuh, with a warp per
//           16 queries. A tile is QUERIES queries (rows x heads of the part) x KEYS keys.
// Warps     a warp has 16 queries, over all keys; warps without queries help to load. A thread has the scores of 2
//           queries and, of each 8 keys, 2; a quad of lanes shares a query. Queries never mix, so that a row's bits do
//           not depend on its neighbours in the tile.
// Pipeline  STAGES = 2: while a tile is computed, the copies of the next are under way and the places of the one behind
//           it are looked up; one barrier per tile. STAGES = 1, where shared memory has no room for two: a second one.
// Numerics  f32 sums, finite sentinels. 16-bit operands of matrix products that are not exact enter in two parts that
//           add up: weights, unless the layer kind lets them be rounded (WEIGHT_PARTS = 1; their sums are not), and
//           queries turned by a shift. A product with 0 adds exactly 0. What V holds at keys that
//           a query does not see: 0 times it is 0 unless it is NaN or infinite. Then the output shows it, and the item
//           is done a second time, with care (unbounded.cuh); so ordinary values cost no look at V. An infinity that a
//           query sees, but whose weight falls below 2^-126 later, gives NaN.
// Limits    head dims are multiples of 8, parts of the value up to 256 lanes; K and V lie on 16 bytes, q on chunks.
//           sm_80 and up, at most 99 KiB of shared memory.
// Constants QUERIES, KEYS, STAGES, GROUP, HEAD_PARTS, HEAD_DIM, VALUE_DIM, VALUE_PARTS, USES_MATRIX_UNITS, QUERY_PARTS,
//           WEIGHT_PARTS, SHARED_BYTES, WRITES_STATES, HAS_SOFT_CAP, HAS_GAP, HAS_SHIFT, HAS_STEPS, HAS_TOKEN_SCALES,
//           HAS_TAIL, HAS_SELECTION, PAIRS_ARE_HALVES, ROPE_FIRST, ROPE_PAIRS, ROTATION (of outputs); storage q, k, v,
//           gate, out.
// #include "common/prelude.cuh"
// #include "common/warp.cuh"
// #include "common/async.cuh"
// #include "common/mma.cuh"
// #include "common/dtype.cuh"
// #include "common/lifetime.cuh"
// #include "common/lse.cuh"
// #include "common/vector.cuh"
// #include "common/norm.cuh"
// #include "common/gate.cuh"
// #include "common/state.cuh"
// #include "common/steps.cuh"
// #include "common/attention_args.cuh"
// #include "common/share.cuh"
// #include "common/fragment.cuh"
// #include "common/cursor.cuh"
// #include "common/query.cuh"
// #include "common/sight.cuh"
// #include "common/chosen.cuh"
// #include "common/unbounded.cuh"
// #include "common/softmax.cuh"
// #include "common/partial.cuh"
// #include "common/arrival.cuh"
// #include "common/token_scales.cuh"
// #include "common/tile.cuh"
// #include "common/tile_mma.cuh"
// #include "common/tile_plain.cuh"

// Puts the item's queries into shared memory, zeros behind the head dim and behind the last query of a warp.
DEVICE void load_queries(Shared& shared, const AttentionArgs& args, u32 rows, u32 num_queries, u32 share) {
    constexpr u32 CHUNKS = PADDED_DIM / 4;
    for (u32 i = threadIdx.x; i < round_up(num_queries, WARP_QUERIES) * CHUNKS; i += THREADS) {
        const u32 query = i / CHUNKS, chunk = i % CHUNKS;
        f32x4 x = {0.0f, 0.0f, 0.0f, 0.0f};
        if (query < num_queries && chunk < HEAD_DIM / 4) {
            x = query_chunk(args, rows, query, chunk, share);
        }
        store_query(shared, query, chunk, x);
    }
}

KERNEL(attention, AttentionArgs, THREADS, 2) {
    Shared& shared = shared_memory<Shared>();
    const AttentionParams& params = args.params;
    const u32* tables = args.tables;

    // -- which item and share of it are mine; places in the tables are words, not addresses: they take less registers
    const u32 share = blockIdx.x % num_shares(params);
    const u32* item = tables + tables[1] + blockIdx.x / num_shares(params) * 8;
    const u32 rows = tables[2] + item[0] * 8;
    const u32 num_queries = item[1] * GROUP;
    const u32 first_run = tables[3] + item[2] * 8;
    const u32 last_run = first_run + item[3] * 8;
    const u32 pages = tables[4] + item[4];
    const u32 query = query_of(threadIdx.x);
    const bool is_busy = threadIdx.x / 32 * WARP_QUERIES < num_queries;
    if (first_run == last_run || have_ended(args, rows, item[1])) {
        merge_nothing(args, rows, item[1], share, THREADS / 32);
        return;
    }

    // -- queries
    load_queries(shared, args, rows, num_queries, share);
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
        bool is_found = find_places(shared, 0, cursor, last_run, args, rows, item[1], pages, share);
        // Whether the tile that comes next is wanted: a tile of keys that nobody chose is neither loaded nor computed.
        bool is_wanted = true;
        if (STAGES == 2) {
            is_wanted = barrier_of_tile(is_found);
            if (is_wanted) {
                load_tile(shared, 0, args, share);
            }
            advance(cursor, last_run, args);
            is_found = find_places(shared, 1, cursor, last_run, args, rows, item[1], pages, share);
        }

        u32 tile = 0;
        for (u32 run = first_run; run != last_run; run += 8) {
            // A run that is not reached yet has a tile too, as the cursor has it.
            const u32 run_end = HAS_STEPS ? max(end_of_seen(args, tables + run), tables[run] + 1) : tables[run + 1];
            const bool is_full = tables[run + 2] != 0;
            const Sight sight = sight_of(args, rows, num_queries, query_of(thread_of_tile()), tables + run);
            for (u32 token = tables[run]; token < run_end; token += KEYS, tile++) {
                // -- load: behind the barrier the tile is there, and nobody reads the one before it
                if (STAGES == 1) {
                    is_wanted = barrier_of_tile(is_found);
                    if (is_wanted) {
                        load_tile(shared, tile, args, share);
                    }
                }
                copy_async_wait<0>();
                const bool is_next_wanted = barrier_of_tile(is_found);
                Cursor next = {run, token};
                advance(next, last_run, args);
                if (STAGES == 2) {
                    if (next.run != last_run && is_next_wanted) {
                        load_tile(shared, tile + 1, args, share);
                    }
                    advance(next, last_run, args);
                }
                is_found = find_places(shared, tile + STAGES, next, last_run, args, rows, item[1], pages, share);
                const bool is_skipped = !is_wanted;
                is_wanted = is_next_wanted;
                if (is_skipped) {
                    continue;
                }

                // -- score, mask, softmax, rescale
                f32 s[KEY_TILES][4];
                if (is_busy) {
                    scores(s, shared, tile % STAGES, is_exact);
                    scale_scores(s, shared, tile);
#if HAS_TAIL
                    add_tail_scores(s, shared, tile % STAGES, params.value_scale);
#endif
                    scale(s, params);
                    if (!is_full || token + KEYS > run_end) {
                        mask(s, token, sight.first, sight.count, true);
                        if (HAS_GAP) {
                            const Gap gap = gap_of(tables, rows, num_queries, query_of(thread_of_tile()));
                            mask(s, token, gap.first, gap.count, false);
                        }
                    }
                    if (HAS_SELECTION) {
                        mask_unchosen(s, args, rows, num_queries, query_of(thread_of_tile()), token);
                    }
                    f32 shrink[2];
                    weigh(s, most, total, shrink);
                    rescale(out, shrink);
                }

                // -- accumulate
                if (is_careful) {
                    if (is_busy) {
                        const Gap gap = gap_of(tables, rows, num_queries, query);
                        const u32 mine = thread_of_tile() % 32;
                        add_unbounded(out, sight, gap, token, [&](u32 key, u32 n) {
                            return scaled(value_pair(shared.values[tile % STAGES], 0, key, n, mine), shared, tile, key);
                        }, [&](u32 i, u32 key) { return chose(args, rows, query + i * 8, key); });
                    }
                    __syncthreads();
                    clear_unbounded(reinterpret_cast<v_t*>(shared.values[tile % STAGES]),
                                    KEYS * VALUE_ROW * (16 / sizeof(v_t)), threadIdx.x, THREADS);
                    clear_unbounded_scales(shared, tile, THREADS);
                    __syncthreads();
                }
                if (is_busy) {
                    scale_weights(s, shared, tile);
                    accumulate(out, s, shared, tile % STAGES);
                }
            }
        }

        // -- NaN and infinities: again, with care
        const bool is_bounded = (query >= num_queries || !shows_unbounded(out, 0)) &&
                                (query + 8 >= num_queries || !shows_unbounded(out, 1));
        if (!__syncthreads_or(!is_careful && !is_bounded)) {
            break;
        }
    }

    // -- write the rows, or partial states, the last one of a row merges
    if (!WRITES_STATES) {
        if (is_busy) {
            write_rows(out, most, total, query, num_queries, rows, share, args);
        }
        return;
    }
    if (is_busy) {
        write_partial(out, most, total, query, num_queries, item[5], share, args);
    }
    merge_arrived(args, rows, item[1], share, THREADS / 32, reinterpret_cast<u32*>(shared.queries),
                  [](u32) { __syncthreads(); });
}
