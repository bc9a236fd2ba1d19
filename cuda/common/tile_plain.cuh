// tile_plain.cuh: scores and outputs of a tile by f32 multiply-adds, for f32 storage and mixed types, in the layout of
// tile_mma.cuh: warp w has queries 16 w .. 16 w + 15. After tile.cuh, warp.cuh and dtype.cuh.
#if !USES_MATRIX_UNITS

// Lanes 4 chunk .. 4 chunk + 3 of a query.
DEVICE void store_query(Shared& shared, u32 query, u32 chunk, f32x4 x) {
    *reinterpret_cast<f32x4*>(chunk_at<QUERY_ROW>(shared.queries, 0, query, chunk / 8, chunk % 8)) = x;
}

// Nothing here reads behind the head dim.
DEVICE void clear_padding(Shared&) {}

// s += Q K^T over chunks FIRST .. END - 1 of a head, its lanes in order. In a key they are elements of type T, from byte
// 16 * PLACE on.
template <class T, u32 FIRST, u32 END, u32 PLACE>
DEVICE void add_scores(f32 (&s)[KEY_TILES][4], const Shared& shared, u32 stage) {
    // Chunks of 4 elements in 16 bytes.
    constexpr u32 IN_16 = 4 / sizeof(T);
    const u32 thread = thread_of_tile(), lane = thread % 32, query = query_of(thread);
    const u8* keys = shared.keys[stage];
#pragma unroll 2
    for (u32 chunk = FIRST; chunk < END; chunk++) {
        const u32 in_key = chunk - FIRST, at = PLACE + in_key / IN_16;
        f32x4 q[2];
        for (u32 i = 0; i < 2; i++) {
            const u8* place = chunk_at<QUERY_ROW>(shared.queries, i, query, chunk / 8, chunk % 8);
            q[i] = *reinterpret_cast<const f32x4*>(place);
        }
#pragma unroll
        for (u32 n = 0; n < KEY_TILES; n++) {
#pragma unroll
            for (u32 e = 0; e < 2; e++) {
                const u32 row = lane % 4 * 2 + e;
                const u8* place = chunk_at<KEY_ROW>(keys, n, row, at / 8, at % 8);
                const f32x4 k = load_chunk(reinterpret_cast<const T*>(place), in_key % IN_16);
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    f32& sum = s[n][i * 2 + e];
                    sum = fmaf(q[i].w, k.w, fmaf(q[i].z, k.z, fmaf(q[i].y, k.y, fmaf(q[i].x, k.x, sum))));
                }
            }
        }
    }
}

// s = Q K^T, but for the lanes of a tail. Queries are exact.
DEVICE void scores(f32 (&s)[KEY_TILES][4], const Shared& shared, u32 stage, bool) {
#pragma unroll
    for (u32 n = 0; n < KEY_TILES; n++) {
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
    }
    add_scores<k_t, 0, (HEAD_DIM - TAIL_DIM) / 4, 0>(s, shared, stage);
}

#if HAS_TAIL
// The lanes of the tail: values, added to codes times their scale. That of all of K is V's; those of tokens are in s.
DEVICE void add_tail_scores(f32 (&s)[KEY_TILES][4], const Shared& shared, u32 stage, f32 scale) {
#pragma unroll
    for (u32 n = 0; n < KEY_TILES; n++) {
#pragma unroll
        for (u32 e = 0; e < 4; e++) {
            s[n][e] *= scale;
        }
    }
    add_scores<bf16, VALUE_DIM / 4, HEAD_DIM / 4, VALUE_DIM * sizeof(k_t) / 16>(s, shared, stage);
}
#endif

// o += P V, the keys in order.
DEVICE void accumulate(f32 (&o)[VALUE_TILES][4], const f32 (&p)[KEY_TILES][4], const Shared& shared, u32 stage) {
    const u32 lane = thread_of_tile() % 32;
    const u8* values = shared.values[stage];
#pragma unroll
    for (u32 n = 0; n < KEY_TILES; n++) {
#pragma unroll 1
        for (u32 pair = 0; pair < 4; pair++) {
#pragma unroll
            for (u32 e = 0; e < 2; e++) {
                const f32 weight = shuffle(p[n][e], lane / 4 * 4 + pair);
                const f32 other = shuffle(p[n][2 + e], lane / 4 * 4 + pair);
#pragma unroll
                for (u32 m = 0; m < VALUE_TILES; m++) {
                    const Pair v = value_pair(values, n, pair * 2 + e, m, lane);
                    o[m][0] = fmaf(weight, v.x, o[m][0]);
                    o[m][1] = fmaf(weight, v.y, o[m][1]);
                    o[m][2] = fmaf(other, v.x, o[m][2]);
                    o[m][3] = fmaf(other, v.y, o[m][3]);
                }
            }
        }
    }
}

#endif
