// rope.wgsl: cos and sin of position * inv_freq, right at every position.
//
// An angle in f32 radians is off by 2^-24 of itself: at position 1 000 000 that is 0.06 rad. So angles are kept as
// fractions of a turn in integers, where a whole turn overflows away without loss:
//   turns = inv_freq / 2 pi mod 1, a 64-bit fraction (hi * 2^-32 + lo * 2^-64), made once per layer kind on the host;
//   |position| * turns mod 1 = |position| * hi (wrapping) + high word of |position| * lo, in units of 2^-32 turn.
// The sum is short by less than 2 units (3e-9 rad), the host's f64 adds |position| * 2^-55 turns at most.
// A negative position turns the other way: the fraction is negated, which wraps like everything else.
//
// cos and sin of the fraction: the nearest quarter turn is taken off exactly, what is left (at most 1/8 turn, pi/4) goes
// through the Taylor polynomials of degree 9 (sin, next term 1.8e-9) and 8 (cos, next term 2.5e-8), and the quarter
// turns are put back by swapping and signs. Absolute error at most 2e-7. The built-in sin and cos are not used: Vulkan
// promises 2^-11.

// High word of the 64-bit product, from 16-bit parts: WGSL has no 64-bit integers.
fn mul_high(a: u32, b: u32) -> u32 {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let first = a_high * b_low + ((a_low * b_low) >> 16u);
    let second = a_low * b_high + (first & 0xffffu);
    return a_high * b_high + (first >> 16u) + (second >> 16u);
}

// position * turns modulo one turn, in units of 2^-32 turn.
fn rope_turns(position: i32, hi: u32, lo: u32) -> u32 {
    let bits = bitcast<u32>(position);
    let distance = select(bits, 0u - bits, position < 0);
    let fraction = distance * hi + mul_high(distance, lo);
    return select(fraction, 0u - fraction, position < 0);
}

// (cos, sin) of a fraction of a turn.
fn cos_sin_of_turns(fraction: u32) -> vec2<f32> {
    let quarter = (fraction + 0x20000000u) >> 30u; // the nearest one; half a turn up rounds to the next
    let rest = bitcast<i32>(fraction - (quarter << 30u)); // -2^29 .. 2^29
    let x = f32(rest) * 1.4629180792671596e-9; // 2 pi / 2^32: radians, at most pi/4
    let z = x * x;
    let s = x + x * z * (-0.16666667 + z * (0.008333334 + z * (-0.0001984127 + z * 2.7557319e-6)));
    let c = 1.0 + z * (-0.5 + z * (0.041666668 + z * (-0.0013888889 + z * 2.4801587e-5)));
    let swapped = select(vec2<f32>(c, s), vec2<f32>(s, c), (quarter & 1u) == 1u);
    // quarter: 0 (c, s), 1 (-s, c), 2 (-c, -s), 3 (s, -c)
    let negative = vec2<bool>(quarter == 1u || quarter == 2u, quarter >= 2u);
    return select(swapped, -swapped, negative);
}

// (cos, sin) of position * inv_freq.
fn rope_cos_sin(position: i32, hi: u32, lo: u32) -> vec2<f32> {
    return cos_sin_of_turns(rope_turns(position, hi, lo));
}
