// partial.cuh: the partial state of a thread's two queries, when all keys are done. After softmax.cuh.

// `first_state` is that of the item's first row. Whole warps.
DEVICE void write_partial(const f32 (&out)[VALUE_TILES][4], const f32 (&most)[2], const f32 (&total)[2], u32 query,
                          u32 num_queries, u32 first_state, u32 share, const AttentionArgs& args) {
    const u32 lane = threadIdx.x % 32;
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
