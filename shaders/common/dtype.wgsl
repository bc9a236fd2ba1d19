// dtype.wgsl: a chunk is 4 neighbouring elements: vec4<u32> for f32, vec2<u32> for the 16-bit types.
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
        let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
        let kept = mantissa >> shift;
        let rest = mantissa & ((1u << shift) - 1u);
        let half = 1u << (shift - 1u);
        return sign | (kept + select(0u, 1u, rest > half || (rest == half && (kept & 1u) == 1u)));
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
