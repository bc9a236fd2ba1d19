// rope.cuh: cos and sin of position * inv_freq, right at every position. After prelude.cuh.
//
// An angle in f32 radians is off by 2^-24 of itself: at position 1 000 000 that is 0.06 rad. So angles are kept as
// fractions of a turn in integers, where a whole turn overflows away without loss:
//   turns = inv_freq / 2 pi mod 1, a 64-bit fraction (hi * 2^-32 + lo * 2^-64), made once per layer kind on the host;
//   |position| * turns mod 1 = a wrapping 64-bit product, of which the high word is kept: units of 2^-32 turn.
// The product is short by less than 2 units (3e-9 rad), the host's f64 adds |position| * 2^-55 turns at most.
// A negative position turns the other way: the fraction is negated, which wraps like everything else.
//
// cos and sin of the fraction: the nearest quarter turn is taken off exactly, what is left (at most 1/8 turn, pi/4) goes
// through the Taylor polynomials of degree 9 (sin, next term 1.8e-9) and 8 (cos, next term 2.5e-8), and the quarter
// turns are put back by swapping and signs. Absolute error at most 2e-7.

struct CosSin {
    f32 cos, sin;
};

// position * turns modulo one turn, in units of 2^-32 turn.
DEVICE u32 rope_turns(i32 position, u32 hi, u32 lo) {
    const u32 bits = u32(position);
    const u32 distance = position < 0 ? 0u - bits : bits;
    const u32 fraction = u32(distance * (u64(hi) << 32 | lo) >> 32);
    return position < 0 ? 0u - fraction : fraction;
}

// (cos, sin) of a fraction of a turn.
DEVICE CosSin cos_sin_of_turns(u32 fraction) {
    const u32 quarter = (fraction + 0x20000000u) >> 30; // the nearest one; half a turn up rounds to the next
    const i32 rest = i32(fraction - (quarter << 30)); // -2^29 .. 2^29
    const f32 x = f32(rest) * 1.4629180792671596e-9f; // 2 pi / 2^32: radians, at most pi/4
    const f32 z = x * x;
    const f32 s = x + x * z * (-0.16666667f + z * (0.008333334f + z * (-0.0001984127f + z * 2.7557319e-6f)));
    const f32 c = 1.0f + z * (-0.5f + z * (0.041666668f + z * (-0.0013888889f + z * 2.4801587e-5f)));
    const bool is_swapped = (quarter & 1) != 0;
    const f32 cos = is_swapped ? s : c;
    const f32 sin = is_swapped ? c : s;
    // quarter: 0 (c, s), 1 (-s, c), 2 (-c, -s), 3 (s, -c)
    return CosSin{quarter == 1 || quarter == 2 ? -cos : cos, quarter >= 2 ? -sin : sin};
}

// (cos, sin) of position * inv_freq.
DEVICE CosSin rope_cos_sin(i32 position, u32 hi, u32 lo) {
    return cos_sin_of_turns(rope_turns(position, hi, lo));
}
