// scale.wgsl: the scale of a vector of codes. `most` is the bits of the greatest size of a lane, which order as sizes do, NaN
// and infinities last; 2^-96 at least counts. CODE_MOST, u32, is the greatest code.
//   x  most * (1 / CODE_MOST), two roundings: the scale
//   y  CODE_MOST / most, towards zero: what lanes are multiplied by before they are rounded
// Both NaN where a lane is NaN or infinite. WGSL leaves the last bits of a division open, so it is done on the bits: codes
// are the same on every device.

fn scale_of(most: u32) -> vec2<f32> {
    let size = max(most, 0x0f800000u);
    if size >= 0x7f800000u {
        return bitcast<vec2<f32>>(vec2<u32>(size | 0x7fc00000u));
    }
    let greatest = bitcast<u32>(f32(CODE_MOST));
    let divisor = (size & 0x7fffffu) | 0x800000u;
    var rest = (greatest & 0x7fffffu) | 0x800000u;
    var exponent = 127u + (greatest >> 23u) - (size >> 23u);
    if rest < divisor {
        rest <<= 1u;
        exponent -= 1u;
    }
    var quotient = 0u;
    for (var i = 0u; i < 24u; i++) {
        let is_in = rest >= divisor;
        quotient = (quotient << 1u) | select(0u, 1u, is_in);
        rest = (rest - select(0u, divisor, is_in)) << 1u;
    }
    let inverse = bitcast<f32>((exponent << 23u) | (quotient & 0x7fffffu));
    return vec2<f32>(bitcast<f32>(size) * (1.0 / f32(CODE_MOST)), inverse);
}
