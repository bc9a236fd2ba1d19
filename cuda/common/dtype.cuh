// dtype.cuh: a chunk is 4 neighbouring elements: one 16-byte access for f32, one 8-byte access for the 16-bit types, one
// 4-byte access for codes, whose conversions are done on the bits: before sm_89 there is no instruction for them.
// Strides and places of tensors count chunks. After prelude.cuh.

DEVICE f32x4 load_chunk(const f32* base, u64 chunk) {
    return reinterpret_cast<const f32x4*>(base)[chunk];
}

// To nearest, ties to even; above 448 it is 448, and a NaN is 0x7f.
DEVICE void round_to(e4m3& y, f32 x) {
    const u32 bits = __float_as_uint(x), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) { // NaN
        y.bits = 0x7f;
    } else if (magnitude >= 0x43e00000) { // 448
        y.bits = u8(sign | 0x7e);
    } else if (magnitude < 0x3c800000) { // below 2^-6: subnormal, a multiple of 2^-9, the last place of 2^14
        y.bits = u8(sign | (__float_as_uint(__uint_as_float(magnitude) + 16384.0f) - 0x46800000));
    } else {
        y.bits = u8(sign | ((magnitude + 0x7ffff + (magnitude >> 20 & 1) - 0x3c000000) >> 20));
    }
}

DEVICE f32 to_f32(e4m3 x) {
    const u32 magnitude = x.bits & 0x7f;
    // Exponents of f16, which has subnormals here too, go 256 times as deep.
    const f32 size = f16_to_f32(u16((x.bits & 0x80) << 8 | magnitude << 7)) * 256.0f;
    return magnitude == 0x7f ? __uint_as_float(0x7fc00000) : size;
}

// To nearest, ties to even, from -127 to 127; a NaN is 0.
DEVICE void round_to(i8& y, f32 x) {
    const f32 near = x >= 127.0f ? 127.0f : x <= -127.0f ? -127.0f : x == x ? x : 0.0f;
    y.bits = u8(__float2int_rn(near));
}

DEVICE f32 to_f32(i8 x) {
    return f32(i32(u32(x.bits) << 24) >> 24);
}

template <class T> DEVICE f32x4 load_codes(u32 word) {
    return f32x4{to_f32(T{u8(word)}), to_f32(T{u8(word >> 8)}), to_f32(T{u8(word >> 16)}), to_f32(T{u8(word >> 24)})};
}

DEVICE f32x4 load_chunk(const e4m3* base, u64 chunk) {
    return load_codes<e4m3>(reinterpret_cast<const u32*>(base)[chunk]);
}

DEVICE f32x4 load_chunk(const i8* base, u64 chunk) {
    return load_codes<i8>(reinterpret_cast<const u32*>(base)[chunk]);
}

template <class T> DEVICE u32 pack_codes(f32x4 x) {
    return u32(from_f32<T>(x.x).bits) | u32(from_f32<T>(x.y).bits) << 8 | u32(from_f32<T>(x.z).bits) << 16 |
           u32(from_f32<T>(x.w).bits) << 24;
}

DEVICE void store_chunk(e4m3* base, u64 chunk, f32x4 x) {
    reinterpret_cast<u32*>(base)[chunk] = pack_codes<e4m3>(x);
}

DEVICE void store_chunk(i8* base, u64 chunk, f32x4 x) {
    reinterpret_cast<u32*>(base)[chunk] = pack_codes<i8>(x);
}

// T is f16 or bf16.
template <class T> DEVICE f32x4 load_chunk(const T* base, u64 chunk) {
    const u32x2 words = reinterpret_cast<const u32x2*>(base)[chunk];
    return f32x4{to_f32(T{u16(words.x)}), to_f32(T{u16(words.x >> 16)}), to_f32(T{u16(words.y)}),
                 to_f32(T{u16(words.y >> 16)})};
}

DEVICE void store_chunk(f32* base, u64 chunk, f32x4 x) {
    reinterpret_cast<f32x4*>(base)[chunk] = x;
}

template <class T> DEVICE void store_chunk(T* base, u64 chunk, f32x4 x) {
    reinterpret_cast<u32x2*>(base)[chunk] = u32x2{pack<T>(x.x, x.y), pack<T>(x.z, x.w)};
}
