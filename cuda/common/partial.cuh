// partial.cuh: what a thread's two queries come to when all keys are done: a partial state each, or with WRITES_STATES
// false, where a row has one state and nothing is done to it, the row itself. After softmax.cuh, state.cuh and steps.cuh.

// Of the quad of lanes that has a query.
DEVICE f32 quad_sum(f32 x) {
    x += shuffle_xor(x, 1);
    return x + shuffle_xor(x, 2);
}

// `first_state` is that of the item's first row. Whole warps.
DEVICE void write_partial(const f32 (&out)[VALUE_TILES][4], const f32 (&most)[2], const f32 (&total)[2], u32 query,
                          u32 num_queries, u32 first_state, u32 share, const AttentionArgs& args) {
    const u32 lane = thread_of_tile() % 32;
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        const f32 sum = quad_sum(total[i]);
        const u32 mine = query + i * 8;
        if (mine >= num_queries) {
            continue;
        }
        // A key that is seen weighs 1 when it is the greatest.
        const bool is_empty = sum == 0.0f;
        const f32 inverse = is_empty ? 0.0f : args.params.value_scale / sum;
        const u64 state = u64(first_state + mine / GROUP) * args.params.num_q_heads + first_head_of(share) + mine % GROUP;
        if (lane % 4 == 0 && first_lane_of(share) == 0) {
            args.lse[state] = is_empty ? NOTHING : (most[i] + log2f(sum)) * LN_2;
        }
        f32* place = args.partials + state * VALUE_DIM + first_lane_of(share) + lane % 4 * 2;
#pragma unroll
        for (u32 n = 0; n < VALUE_TILES; n++) {
            const f32 x = out[n][i * 2] * inverse, y = out[n][i * 2 + 1] * inverse;
            *reinterpret_cast<u32x2*>(place + n * 8) = u32x2{__float_as_uint(x), __float_as_uint(y)};
        }
    }
}

// The same, of the rows themselves, with the bits that a merge of one state gives. `rows` is the word of the item's first.
// Neighbouring lanes exchange pairs of values, so that each stores whole chunks.
DEVICE void write_rows(const f32 (&out)[VALUE_TILES][4], const f32 (&most)[2], const f32 (&total)[2], u32 query,
                       u32 num_queries, u32 rows, u32 share, const AttentionArgs& args) {
    const u32 lane = thread_of_tile() % 32, odd = lane % 2;
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        const f32 sum = quad_sum(total[i]);
        const bool is_mine = query + i * 8 < num_queries;
        const u32 mine = is_mine ? query + i * 8 : 0;
        const u32 row = args.tables[rows + mine / GROUP * 8], head = first_head_of(share) + mine % GROUP;
        const f32 lse = (most[i] + log2f(sum)) * LN_2;
        const bool is_empty = sum == 0.0f || lse <= EMPTY || has_ended(args.steps, row);
        const f32 inverse = is_empty ? 0.0f : args.params.value_scale / sum;
        if (args.merge.has_lse != 0 && lane % 4 == 0 && is_mine) {
            const u64 place = u64(row) * args.merge.lse_row_stride + u64(head) * args.merge.lse_head_stride;
            args.out_lse[place] = is_empty ? __uint_as_float(0xff800000u) : lse;
        }
        const u64 place = u64(row) * args.merge.out_row_stride + u64(head) * args.merge.out_head_stride + lane % 4 / 2;
#pragma unroll
        for (u32 n = 0; n < VALUE_TILES; n += 2) {
            // Of group n for even lanes, of group n + 1 for odd ones.
            f32 keep[2], give[2];
#pragma unroll
            for (u32 e = 0; e < 2; e++) {
                const f32 x = is_empty ? 0.0f : fmaf(out[n][i * 2 + e], inverse, 0.0f);
                const bool has_both = n + 1 < VALUE_TILES;
                const f32 y = is_empty || !has_both ? 0.0f : fmaf(out[has_both ? n + 1 : n][i * 2 + e], inverse, 0.0f);
                keep[e] = odd != 0 ? y : x;
                give[e] = odd != 0 ? x : y;
            }
            const f32 x = shuffle_xor(give[0], 1), y = shuffle_xor(give[1], 1);
            const f32x4 chunk = odd != 0 ? f32x4{x, y, keep[0], keep[1]} : f32x4{keep[0], keep[1], x, y};
            if (is_mine && n + odd < VALUE_TILES) {
                store_chunk(args.out, place + (n + odd) * 2, chunk * args.merge.out_factor);
            }
        }
    }
}
