// softmax.cuh: scores of a tile become weights under a running maximum, in the layout of fragment.cuh. After warp.cuh,
// lse.cuh, fragment.cuh and attention_args.cuh.

// tanh: 1 where exp2 overflows, since the reciprocal of infinity is 0. A NaN stays one.
DEVICE f32 capped(f32 x) {
    return fmaf(-2.0f, reciprocal_approx(exp2_approx(x * 2.8853900817779268f) + 1.0f), 1.0f);
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
    const u32 own = token + threadIdx.x % 4 * 2;
#pragma unroll
    for (u32 n = 0; n < KEY_TILES; n++) {
#pragma unroll
        for (u32 e = 0; e < 4; e++) {
            const u32 key = own + n * 8 + e % 2;
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

// Earlier sums under the new maximum. Nothing to do for a warp whose maxima stand.
DEVICE void rescale(f32 (&out)[VALUE_TILES][4], const f32 (&shrink)[2]) {
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
