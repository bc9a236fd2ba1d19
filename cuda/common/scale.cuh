// scale.cuh: the scale of a vector of codes. `most` is the bits of the greatest size of a lane, which order as sizes do, NaN
// and infinities last; 2^-96 at least counts. CODE_MOST, u32, is the greatest code. After prelude.cuh.

struct Scale {
    // most * (1 / CODE_MOST), two roundings.
    f32 scale;
    // CODE_MOST / most, towards zero: what lanes are multiplied by before they are rounded.
    f32 inverse;
};

// Both NaN where a lane is NaN or infinite. The division is done on the bits, as in scale.wgsl: codes are the same on every
// device.
DEVICE Scale scale_of(u32 most) {
    const u32 size = max(most, 0x0f800000u);
    if (size >= 0x7f800000) {
        const f32 nan = __uint_as_float(0x7fc00000);
        return Scale{nan, nan};
    }
    const u32 greatest = __float_as_uint(f32(CODE_MOST));
    const u32 divisor = (size & 0x7fffff) | 0x800000;
    u32 rest = (greatest & 0x7fffff) | 0x800000;
    u32 exponent = 127 + (greatest >> 23) - (size >> 23);
    if (rest < divisor) {
        rest <<= 1;
        exponent -= 1;
    }
    u32 quotient = 0;
#pragma unroll 1
    for (u32 i = 0; i < 24; i++) {
        const bool is_in = rest >= divisor;
        quotient = quotient << 1 | u32(is_in);
        rest = (rest - (is_in ? divisor : 0)) << 1;
    }
    return Scale{__uint_as_float(size) * (1.0f / f32(CODE_MOST)), __uint_as_float(exponent << 23 | (quotient & 0x7fffff))};
}
