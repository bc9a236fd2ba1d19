// tile_mma.cuh: scores and outputs of a tile by matrix products of 16-bit operands with f32 sums; warp w has queries
// 16 w .. 16 w + 15. What is not exact in 16 bits enters in two parts that add up: weights, unless they are rounded, and
// queries turned by a shift. After tile.cuh, query.cuh and mma.cuh. Its twin is tile_plain.cuh.
#if USES_MATRIX_UNITS

static_assert(KEYS % 16 == 0, "a product with values takes 16 keys");

// Lanes 4 chunk .. 4 chunk + 3 of a query.
DEVICE void store_query(Shared& shared, u32 query, u32 chunk, f32x4 x) {
    u8* place = chunk_at<QUERY_ROW>(shared.queries, 0, query, chunk / 16, chunk / 2 % 8) + chunk % 2 * 8;
    const u32x2 word = {pack<q_t>(x.x, x.y), pack<q_t>(x.z, x.w)};
    *reinterpret_cast<u32x2*>(place) = word;
    if constexpr (QUERY_PARTS == 2) {
        *reinterpret_cast<u32x2*>(place + QUERY_PART) =
            u32x2{pack_rest<q_t>(word.x, x.x, x.y), pack_rest<q_t>(word.y, x.z, x.w)};
    }
}

// Zeros behind the head dim of every key, in all stages: copies leave them alone.
DEVICE void clear_padding(Shared& shared) {
    if constexpr (KEY_CHUNKS != KEY_ROW) {
        for (u32 i = threadIdx.x; i < STAGES * KEYS; i += THREADS) {
            u8* place = chunk_at<KEY_ROW>(shared.keys[i / KEYS], 0, i % KEYS, KEY_CHUNKS / 8, KEY_CHUNKS % 8);
            *reinterpret_cast<u32x4*>(place) = u32x4{0, 0, 0, 0};
        }
    }
}

// s = Q K^T. `is_exact`: the second part of the warp's queries is zero.
DEVICE void scores(f32 (&s)[KEY_TILES][4], const Shared& shared, u32 stage, bool is_exact) {
    const u32 thread = thread_of_tile(), lane = thread % 32, query = thread / 32 * WARP_QUERIES + lane % 16;
    const u8* keys = shared.keys[stage];
#pragma unroll
    for (u32 n = 0; n < KEY_TILES; n++) {
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
    }
#pragma unroll 1
    for (u32 part = 0; part < (is_exact ? 1 : QUERY_PARTS); part++) {
        const u8* queries = shared.queries + part * QUERY_PART;
#pragma unroll
        for (u32 step = 0; step < PADDED_DIM / 16; step++) {
            // 8 chunks are 4 steps.
            const u32 chunks = step / 4, chunk = step % 4 * 2;
            u32 q[4];
            load_matrix_x4(q, chunk_at<QUERY_ROW>(queries, 0, query, chunks, chunk + lane / 16));
#pragma unroll
            for (u32 n = 0; n < KEY_TILES; n += 2) {
                u32 k[4];
                load_matrix_x4(k, chunk_at<KEY_ROW>(keys, n, lane % 8 + lane / 16 * 8, chunks, chunk + lane / 8 % 2));
                mma_16x8x16(q_t{}, s[n], q, k[0], k[1]);
                mma_16x8x16(q_t{}, s[n + 1], q, k[2], k[3]);
            }
        }
    }
}

// o += P V.
DEVICE void accumulate(f32 (&o)[VALUE_TILES][4], const f32 (&p)[KEY_TILES][4], const Shared& shared, u32 stage) {
    const u32 lane = thread_of_tile() % 32;
    const u8* values = shared.values[stage];
#pragma unroll
    for (u32 j = 0; j < KEYS / 16; j++) {
        // The layout of scores is that of the left operand.
        u32 weights[WEIGHT_PARTS][4];
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const f32 x = p[j * 2 + i / 2][i % 2 * 2], y = p[j * 2 + i / 2][i % 2 * 2 + 1];
            weights[0][i] = pack<v_t>(x, y);
            if constexpr (WEIGHT_PARTS == 2) {
                weights[1][i] = pack_rest<v_t>(weights[0][i], x, y);
            }
        }
#pragma unroll
        for (u32 n = 0; n < VALUE_TILES; n += 2) {
            u32 v[4];
            load_matrix_x4_transposed(v, chunk_at<VALUE_ROW>(values, j * 2, lane % 16, n / 8, n % 8 + lane / 16));
#pragma unroll
            for (u32 half = 0; half < 2 && n + half < VALUE_TILES; half++) {
#pragma unroll
                for (u32 part = 0; part < WEIGHT_PARTS; part++) {
                    mma_16x8x16(v_t{}, o[n + half], weights[part], v[half * 2], v[half * 2 + 1]);
                }
            }
        }
    }
}

#endif
