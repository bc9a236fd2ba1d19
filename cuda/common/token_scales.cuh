// token_scales.cuh: scales of the tokens of a tile, where K and V are codes that have a scale per token and KV head: of keys
// they multiply scores, of values weights. After cursor.cuh, fragment.cuh and unbounded.cuh.
#if HAS_TOKEN_SCALES

// Those of the tile that is computed, the next and, with two stages, the one behind it.
struct TokenScales {
    f32 key_scales[STAGES + 1][KEYS];
    f32 value_scales[STAGES + 1][KEYS];
};

// Of key `threadIdx.x` of tile number `tile`; zeros for keys that nobody sees.
DEVICE void find_scales(TokenScales& scales, u32 tile, Cursor cursor, const AttentionArgs& args, u32 pages, u32 share) {
    const AttentionParams& params = args.params;
    const u32* run = args.tables + cursor.run;
    const u32 token = cursor.token + threadIdx.x;
    f32 key = 0.0f, value = 0.0f;
    if (token >= run[6] && token < end_of_seen(args, run)) {
        const u64 page = args.tables[pages + token / params.page_size], slot = token % params.page_size;
        const u64 place = page * params.scale_page_stride + u64(kv_head_of(share)) * params.scale_head_stride +
                          slot * params.scale_token_stride;
        key = args.k_scales[place];
        value = args.v_scales[place];
    }
    scales.key_scales[tile % (STAGES + 1)][threadIdx.x] = key;
    scales.value_scales[tile % (STAGES + 1)][threadIdx.x] = value;
}

DEVICE void scale_by_key(f32 (&s)[KEY_TILES][4], const f32 (&scales)[KEYS]) {
    const u32 first = thread_of_tile() % 4 * 2;
#pragma unroll
    for (u32 n = 0; n < KEY_TILES; n++) {
#pragma unroll
        for (u32 e = 0; e < 4; e++) {
            s[n][e] = fmaf(s[n][e], scales[n * 8 + first + e % 2], 0.0f);
        }
    }
}

DEVICE void scale_scores(f32 (&s)[KEY_TILES][4], const TokenScales& scales, u32 tile) {
    scale_by_key(s, scales.key_scales[tile % (STAGES + 1)]);
}

DEVICE void scale_weights(f32 (&s)[KEY_TILES][4], const TokenScales& scales, u32 tile) {
    scale_by_key(s, scales.value_scales[tile % (STAGES + 1)]);
}

DEVICE Pair scaled(Pair v, const TokenScales& scales, u32 tile, u32 key) {
    const f32 scale = scales.value_scales[tile % (STAGES + 1)][key];
    return Pair{v.x * scale, v.y * scale};
}

// `threads` threads take part, between barriers.
DEVICE void clear_unbounded_scales(TokenScales& scales, u32 tile, u32 threads) {
    clear_unbounded(scales.value_scales[tile % (STAGES + 1)], KEYS, threadIdx.x, threads);
}

#else

struct TokenScales {};

DEVICE void find_scales(TokenScales&, u32, Cursor, const AttentionArgs&, u32, u32) {}
DEVICE void scale_scores(f32 (&)[KEY_TILES][4], const TokenScales&, u32) {}
DEVICE void scale_weights(f32 (&)[KEY_TILES][4], const TokenScales&, u32) {}
DEVICE Pair scaled(Pair v, const TokenScales&, u32, u32) {
    return v;
}
DEVICE void clear_unbounded_scales(TokenScales&, u32, u32) {}

#endif
