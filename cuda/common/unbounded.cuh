// unbounded.cuh: NaN and infinities of V reach the queries that see their key, and no others. A weight of 0 does not hide
// them in a product, so where an output shows any, the item is done again with care: they are added to the outputs of those
// who see them, and 0 takes their place. After sight.cuh.

// Two neighbouring lanes of a value.
struct Pair {
    f32 x, y;
};

DEVICE Pair load_pair(const f32* base) {
    const u32x2 words = *reinterpret_cast<const u32x2*>(base);
    return Pair{__uint_as_float(words.x), __uint_as_float(words.y)};
}

template <class T> DEVICE Pair load_pair(const T* base) {
    const u32 word = *reinterpret_cast<const u32*>(base);
    return Pair{to_f32(T{u16(word)}), to_f32(T{u16(word >> 16)})};
}

template <class T> DEVICE Pair load_codes_pair(const T* base) {
    const u32 word = *reinterpret_cast<const u16*>(base);
    return Pair{to_f32(T{u8(word)}), to_f32(T{u8(word >> 8)})};
}

DEVICE Pair load_pair(const e4m3* base) {
    return load_codes_pair(base);
}

DEVICE Pair load_pair(const i8* base) {
    return load_codes_pair(base);
}

DEVICE bool is_unbounded(f32 x) {
    return (__float_as_uint(x) & 0x7f800000) == 0x7f800000;
}

// Of queries that see all keys of their mask.
struct ChoseAll {
    __device__ bool operator()(u32, u32) const {
        return true;
    }
};

// Adds what is NaN or infinite in a tile of values, and nothing else, to the outputs of the queries that see it.
// value_pair(key, n): this thread's lanes in group n of 8 lanes of the value; chose(i, token): whether query i of the
// thread's chose a token of its mask.
template <class ValuePair, class Chose = ChoseAll>
DEVICE void add_unbounded(f32 (&o)[VALUE_TILES][4], const Sight& sight, const Gap& gap, u32 token, ValuePair value_pair,
                          Chose chose = {}) {
#pragma unroll 1
    for (u32 key = 0; key < KEYS; key++) {
        const bool is_seen[2] = {sees(sight, gap, 0, token + key) && chose(0, token + key),
                                 sees(sight, gap, 1, token + key) && chose(1, token + key)};
#pragma unroll
        for (u32 n = 0; n < VALUE_TILES; n++) {
            const Pair v = value_pair(key, n);
#pragma unroll
            for (u32 e = 0; e < 4; e++) {
                const f32 x = e % 2 == 0 ? v.x : v.y;
                o[n][e] = is_unbounded(x) && is_seen[e / 2] ? o[n][e] + x : o[n][e];
            }
        }
    }
}

// Puts 0 in its place. `threads` threads, of which this is number `thread`, take part, between barriers.
template <class T> DEVICE void clear_unbounded(T* values, u32 count, u32 thread, u32 threads) {
    for (u32 i = thread; i < count; i += threads) {
        if (is_unbounded(to_f32(values[i]))) {
            values[i] = T{};
        }
    }
}

// Whether the outputs of a query, added up, show any.
DEVICE bool shows_unbounded(const f32 (&o)[VALUE_TILES][4], u32 query) {
    f32 probe = 0.0f;
#pragma unroll
    for (u32 n = 0; n < VALUE_TILES; n++) {
        probe = fmaf(o[n][query * 2], 0.0f, fmaf(o[n][query * 2 + 1], 0.0f, probe));
    }
    return probe != 0.0f;
}
