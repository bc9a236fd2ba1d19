// chosen.cuh: which keys a row chose. After sight.cuh.
// selection [row, selection_words]: bit s % 32 of word s / 32 of a row for slot s of its view. A bit has a number, counted
// from the first row on and modulo 2^32: what a row says of token t of a segment is bit first_bit(row) + t. Tokens that the
// row's view does not see have numbers too, which mean nothing; they are masked by what the row sees.
// Constants HAS_SELECTION: layer kinds that see all keys have none.

// The number of the bit of token 0; `row` is a word of the tables.
DEVICE u32 first_bit(const AttentionArgs& args, u32 row) {
    return args.tables[row] * args.params.selection_words * 32 + args.tables[row + 2];
}

// 32 bits from number `bit` on. What lies outside of the selection is 0.
DEVICE u32 bits_from(const AttentionArgs& args, u32 bit) {
    const u32 word = bit / 32, size = args.params.selection_size;
    const u32 low = word < size ? args.selection[word] : 0;
    const u32 high = word + 1 < size ? args.selection[word + 1] : 0;
    return u32((u64(high) << 32 | low) >> bit % 32);
}

// Whether one of the item's rows chose the token; `rows` is a word of the tables.
DEVICE bool is_chosen(const AttentionArgs& args, u32 rows, u32 num_rows, u32 token) {
    for (u32 row = rows; row < rows + num_rows * 8; row += 8) {
        const u32 begin = args.tables[row + 3], end = args.tables[row + 4];
        if (token - begin < end - begin && (bits_from(args, first_bit(args, row) + token) & 1) != 0) {
            return true;
        }
    }
    return false;
}

// Whether query `query` of the item chose the token, which it sees.
DEVICE bool chose(const AttentionArgs& args, u32 rows, u32 query, u32 token) {
    return !HAS_SELECTION || (bits_from(args, first_bit(args, rows + query / GROUP * 8) + token) & 1) != 0;
}

// Marks what queries `query` and `query + 8` did not choose.
DEVICE void mask_unchosen(f32 (&s)[KEY_TILES][4], const AttentionArgs& args, u32 rows, u32 num_queries, u32 query,
                          u32 token) {
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        if (query + i * 8 >= num_queries) {
            continue;
        }
        const u32 first = first_bit(args, rows + (query + i * 8) / GROUP * 8) + token + threadIdx.x % 4 * 2;
#pragma unroll
        for (u32 n = 0; n < KEY_TILES; n++) {
            const u32 bits = bits_from(args, first + n * 8);
#pragma unroll
            for (u32 e = 0; e < 2; e++) {
                f32& score = s[n][i * 2 + e];
                score = (bits >> e & 1) != 0 ? score : NOTHING;
            }
        }
    }
}
