// query.cuh: queries of an item, turned back by the position shift of the entry whose keys they meet. After dtype.cuh and
// share.cuh.

// Lane `lane` of q turned back by the entry's position shift: R(-shift) q. `turns`: cosine and sine per pair of lanes.
DEVICE f32 shifted_lane(const q_t* query, u32 lane, f32 x, const u32* turns) {
    const u32 r = lane - ROPE_FIRST; // large in front of the first
    if (r >= 2 * ROPE_PAIRS) {
        return x;
    }
    const bool is_second = PAIRS_ARE_HALVES ? r >= ROPE_PAIRS : r % 2 == 1;
    const u32 pair = PAIRS_ARE_HALVES ? r % ROPE_PAIRS : r / 2;
    const u32 other = PAIRS_ARE_HALVES ? (is_second ? lane - ROPE_PAIRS : lane + ROPE_PAIRS) : ROPE_FIRST + (r ^ 1);
    const f32 cosine = __uint_as_float(turns[pair * 2]), sine = __uint_as_float(turns[pair * 2 + 1]);
    const f32 y = to_f32(query[other]);
    return fmaf(x, cosine, (is_second ? -y : y) * sine);
}

// Lanes 4 chunk .. 4 chunk + 3 of query `query` of the item; `rows` is the word of its first row.
DEVICE f32x4 query_chunk(const AttentionArgs& args, u32 rows, u32 query, u32 chunk, u32 share) {
    const u32* row = args.tables + rows + query / GROUP * 8;
    const q_t* base = args.q + 4 * (u64(row[0]) * args.params.q_row_stride +
                                    u64(first_head_of(share) + query % GROUP) * args.params.q_head_stride);
    f32x4 x = load_chunk(base, chunk);
    if (HAS_SHIFT && row[5] != 0) {
        const u32* turns = args.tables + args.tables[5] + (row[5] - 1) * ROPE_PAIRS * 2;
        const u32 lane = chunk * 4;
        x = f32x4{shifted_lane(base, lane, x.x, turns), shifted_lane(base, lane + 1, x.y, turns),
                  shifted_lane(base, lane + 2, x.z, turns), shifted_lane(base, lane + 3, x.w, turns)};
    }
    return x;
}

// What is left of x and y when they are rounded to `word`, the 16 bits of each: rounded too. From the word, since the
// compiler would convert one by one what it does not find there.
template <class T> DEVICE u32 pack_rest(u32 word, f32 x, f32 y) {
    return pack<T>(x - to_f32(T{u16(word)}), y - to_f32(T{u16(word >> 16)}));
}
