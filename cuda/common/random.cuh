// random.cuh: counter-based noise. Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)
// turns (counter, key) into four words without a state, so a draw does not depend on who draws it or when.
// The logarithms are written out so that a draw has the same few ulp on every device; near 1 a Gumbel draw needs the
// relative error of its argument. After prelude.cuh.

DEVICE u32x4 philox4x32(u32x4 counter, u32x2 key) {
    u32x4 c = counter;
    u32x2 k = key;
#pragma unroll
    for (u32 round = 0; round < 10; round++) {
        const u64 p0 = u64(0xd2511f53u) * c.x;
        const u64 p1 = u64(0xcd9e8d57u) * c.z;
        c = u32x4{u32(p1 >> 32) ^ c.y ^ k.x, u32(p1), u32(p0 >> 32) ^ c.w ^ k.y, u32(p0)};
        k = u32x2{k.x + 0x9e3779b9u, k.y + 0xbb67ae85u};
    }
    return c;
}

// 2 atanh(s) for |s| <= 0.172: the first dropped term is below 2^-29 relative.
DEVICE f32 twice_atanh(f32 s) {
    const f32 t = s * s;
    return 2.0f * s * (1.0f + t * (0.33333333f + t * (0.2f + t * (0.14285714f + t * 0.11111111f))));
}

// ln x for normal x > 0.
DEVICE f32 natural_log(f32 x) {
    const u32 bits = __float_as_uint(x);
    f32 exponent = f32(i32(bits >> 23) - 127);
    f32 m = __uint_as_float((bits & 0x7fffffu) | 0x3f800000u); // 1 <= m < 2
    if (m > 1.41421356f) { // centre on 1, so that exponent and fraction never cancel
        m *= 0.5f;
        exponent += 1.0f;
    }
    return exponent * 0.69314718f + twice_atanh((m - 1.0f) / (m + 1.0f));
}

// The largest gumbel() can return is -ln(-ln(1 - 2^-25)) = 17.3287.
constexpr f32 GUMBEL_MOST = 17.5f;

// -ln(-ln u) with u = ((word >> 8) + 0.5) 2^-24, which f32 cannot hold next to 1: there -ln u comes from 1 - u.
DEVICE f32 gumbel(u32 word) {
    const u32 n = word >> 8;
    f32 exponential;
    if (n < 0xc00000u) {
        exponential = -natural_log(f32(2 * n + 1) * 2.98023224e-8f);
    } else {
        const f32 v = f32(2 * (0xffffffu - n) + 1) * 2.98023224e-8f; // 1 - u < 1/4, exact
        exponential = twice_atanh(v / (2.0f - v));
    }
    return -natural_log(exponential);
}

// At least gumbel(word), for a few instructions: -ln(-ln u) <= -ln(1 - u), of which the power of two is taken.
// 1 - u = ((~word >> 7) | 1) 2^-25; 0.008 is left for rounding.
DEVICE f32 gumbel_bound(u32 word) {
    return f32(__clz(i32((~word >> 7) | 1u))) * 0.69314718f - 4.15f; // 6 ln 2 = 4.1589
}
