// dtype.cuh: a chunk is 4 neighbouring elements: one 16-byte access for f32, one 8-byte access for the 16-bit types.
// Strides and places of tensors count chunks. After prelude.cuh.

DEVICE f32x4 load_chunk(const f32* base, u64 chunk) {
    return reinterpret_cast<const f32x4*>(base)[chunk];
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
