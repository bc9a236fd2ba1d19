// draw.cuh: how a row of logits is drawn from: keys that keep their order, the transform, and what the plan says of a row.
// After prelude.cuh. Constant SOFT_CAP. A draw is the argmax of z + gumbel, z = x - max x; see sampling.cu for x.

struct SamplingRow {
    f32 gap_scale; // from differences of value() to z
    f32 gap_limit; // difference at which z is -512
    u32 top_k; // 0: off
    u32 top_p; // in units of 2^-32, 0: off
    f32 min_z; // ln min_p
    u32 agent;
    u32 step;
    u32 greedy;
    u32 confidence; // tokens that it speaks of, 0: off
    u32 pad_0;
    u32 pad_1;
    u32 pad_2;
};

constexpr u32 NEGATIVE_INFINITY = 0xff800000u;
constexpr u32 INFINITY_BITS = 0x7f800000u;
constexpr u32 NAN = 0x7fc00000u;
constexpr u32 NO_TOKEN = 0xffffffffu;
constexpr u32 LOWEST_KEY = 0x00800000u; // of finite logits
constexpr f32 LOG2_E = 1.44269504f;

// What a row without a distribution says, or one that has ended.
DEVICE u32x4 nothing_drawn(const SamplingRow& how) {
    return u32x4{NO_TOKEN, NAN, NAN, how.confidence == 0 ? 0 : NAN};
}

// Order-preserving: larger float, larger key; -0 is 0; -inf is below LOWEST_KEY.
DEVICE u32 key_of(f32 x) {
    const u32 b = __float_as_uint(x + 0.0f);
    return b ^ (u32(i32(b) >> 31) | 0x80000000u);
}

// tanh to 2 ulp below 0.625 (Cephes' polynomial), then 3e-7 absolute.
DEVICE f32 tanh_of(f32 y) {
    const f32 t = y * y;
    const f32 tail = 0.133314422f + t * (-0.0537397155f + t * (0.0206390888f - t * 0.00570498873f));
    const f32 near = y + y * t * (-0.333332819f + t * tail);
    const f32 far = 1.0f - 2.0f / (exp2_approx(2.0f * LOG2_E * fabsf(y)) + 1.0f);
    return fabsf(y) < 0.625f ? near : y < 0.0f ? -far : far;
}

// A monotone image of logits whose differences are z / gap_scale; halved, so that no difference overflows.
// cap_scale = output_multiplier / cap; beyond |l| = cap_limit tanh is 1.
DEVICE f32 value_of(f32 l, f32 cap_scale, f32 cap_limit) {
    if (SOFT_CAP) {
        return tanh_of(fminf(fmaxf(l, -cap_limit), cap_limit) * cap_scale);
    }
    return 0.5f * l;
}

// z of what has this value_of(), the largest of the row having `peak`.
DEVICE f32 z_of_value(f32 value, const SamplingRow& how, f32 peak) {
    const f32 gap = fminf(fmaxf(peak - value, 0.0f), how.gap_limit);
    return -gap * how.gap_scale;
}

// The logit with this key.
DEVICE f32 logit_of_key(u32 key) {
    return __uint_as_float(key >= 0x80000000u ? key ^ 0x80000000u : ~key);
}

DEVICE bool is_finite(f32 l) {
    return l > __uint_as_float(NEGATIVE_INFINITY); // NaN and +inf end a row before it is asked
}

