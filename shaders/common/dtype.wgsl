// dtype.wgsl: a chunk is 4 neighbouring elements: vec4<u32> for f32, vec2<u32> for the 16-bit types, u32 for codes.
// WGSL has no bf16 and leaves the rounding of f32 -> f16 open, so both are done on the bits: to nearest, ties to even.

fn unpack_f32_chunk(x: vec4<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(x);
}

fn pack_f32_chunk(x: vec4<f32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(x);
}

fn unpack_f16_chunk(x: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(x.x), unpack2x16float(x.y));
}

// The mantissa of a magnitude's bits, 24 of them, without its last `shift`: to nearest, ties to even.
fn shifted_mantissa(magnitude: u32, shift: u32) -> u32 {
    let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    let kept = mantissa >> shift;
    let rest = mantissa & ((1u << shift) - 1u);
    let half = 1u << (shift - 1u);
    return kept + select(0u, 1u, rest > half || (rest == half && (kept & 1u) == 1u));
}

fn f16_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u { // NaN
        return sign | 0x7e00u;
    }
    if magnitude >= 0x477ff000u { // 65520 and above round to infinity
        return sign | 0x7c00u;
    }
    if magnitude < 0x38800000u { // below 2^-14: subnormal, a multiple of 2^-24
        if magnitude < 0x33000000u { // below 2^-25: zero
            return sign;
        }
        let shift = 126u - (magnitude >> 23u);
        return sign | shifted_mantissa(magnitude, shift);
    }
    let rounded = magnitude + 0xfffu + ((magnitude >> 13u) & 1u);
    return sign | ((rounded - 0x38000000u) >> 13u);
}

fn pack_f16_chunk(x: vec4<f32>) -> vec2<u32> {
    return vec2<u32>(f16_bits(x.x) | (f16_bits(x.y) << 16u), f16_bits(x.z) | (f16_bits(x.w) << 16u));
}

fn unpack_bf16_chunk(x: vec2<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(x.x << 16u, x.x & 0xffff0000u, x.y << 16u, x.y & 0xffff0000u));
}

fn bf16_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    if (bits & 0x7fffffffu) > 0x7f800000u { // NaN stays NaN
        return (bits >> 16u) | 0x40u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

fn pack_bf16_chunk(x: vec4<f32>) -> vec2<u32> {
    return vec2<u32>(bf16_bits(x.x) | (bf16_bits(x.y) << 16u), bf16_bits(x.z) | (bf16_bits(x.w) << 16u));
}

// To nearest, ties to even; above 448 it is 448, and a NaN is 0x7f.
fn e4m3_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = (bits >> 24u) & 0x80u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u { // NaN
        return 0x7fu;
    }
    if magnitude >= 0x43e00000u { // 448
        return sign | 0x7eu;
    }
    if magnitude < 0x3c800000u { // below 2^-6: subnormal, a multiple of 2^-9
        if magnitude < 0x3a800000u { // below 2^-10: zero
            return sign;
        }
        let shift = 141u - (magnitude >> 23u);
        return sign | shifted_mantissa(magnitude, shift);
    }
    let rounded = magnitude + 0x7ffffu + ((magnitude >> 20u) & 1u);
    return sign | ((rounded - 0x3c000000u) >> 20u);
}

fn pack_e4m3_chunk(x: vec4<f32>) -> u32 {
    return e4m3_bits(x.x) | (e4m3_bits(x.y) << 8u) | (e4m3_bits(x.z) << 16u) | (e4m3_bits(x.w) << 24u);
}

fn unpack_e4m3_chunk(x: u32) -> vec4<f32> {
    let bits = vec4<u32>(x, x >> 8u, x >> 16u, x >> 24u);
    let magnitude = bits & vec4<u32>(0x7fu);
    var size = bitcast<vec4<f32>>((magnitude << vec4<u32>(20u)) + vec4<u32>(0x3c000000u));
    size = select(size, vec4<f32>(magnitude) * 0.001953125, magnitude < vec4<u32>(8u)); // 2^-9
    size = select(size, bitcast<vec4<f32>>(magnitude | vec4<u32>(0x7fc00000u)), magnitude == vec4<u32>(0x7fu));
    return select(size, -size, (bits & vec4<u32>(0x80u)) != vec4<u32>(0u));
}

// To nearest, ties to even, from -127 to 127; a NaN is 0.
fn pack_i8_chunk(x: vec4<f32>) -> u32 {
    let is_nan = (bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
    let code = vec4<i32>(round(clamp(select(x, vec4<f32>(0.0), is_nan), vec4<f32>(-127.0), vec4<f32>(127.0))));
    let bits = bitcast<vec4<u32>>(code) & vec4<u32>(0xffu);
    return bits.x | (bits.y << 8u) | (bits.z << 16u) | (bits.w << 24u);
}

fn unpack_i8_chunk(x: u32) -> vec4<f32> {
    // To the top of the word, and back with the sign.
    let high = bitcast<vec4<i32>>(vec4<u32>(x << 24u, x << 16u, x << 8u, x));
    return vec4<f32>(high >> vec4<u32>(24u));
}
