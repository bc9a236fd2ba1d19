// cursor.cuh: the tiles of keys of an item, one after the other, and where their keys lie. After share.cuh.

// A tile of keys among an item's: its run, a word of the tables, and its first token.
struct Cursor {
    u32 run, token;
};

// The tile behind it, or the item's last run.
DEVICE void advance(Cursor& cursor, u32 last_run, const AttentionArgs& args) {
    cursor.token += KEYS;
    if (cursor.run != last_run && cursor.token >= end_of_seen(args, args.tables + cursor.run)) {
        cursor.run += 8;
        cursor.token = cursor.run == last_run ? 0 : args.tables[cursor.run];
    }
}

// Where a key lies: its page and its slot there.
struct Place {
    u32 page, slot;
};

// The page of a key that nobody sees: zeros in shared memory, not read.
constexpr u32 NO_PAGE = ~0u;

// Of key `key` of a tile; `pages` is a word of the tables.
DEVICE Place place_of(Cursor cursor, u32 key, const AttentionArgs& args, u32 pages) {
    const u32* run = args.tables + cursor.run;
    const u32 token = cursor.token + key, page_size = args.params.page_size;
    // From the first token that any row sees.
    if (token < run[6] || token >= end_of_seen(args, run)) {
        return Place{NO_PAGE, 0};
    }
    return Place{args.tables[pages + token / page_size], token % page_size};
}

// What the elements of a place are counted from, in chunks of 4: of K, and of the share's part of V.
DEVICE u64 key_chunk(Place place, const AttentionParams& params, u32 share) {
    return u64(place.page) * params.k_page_stride + u64(place.slot) * params.k_token_stride +
           u64(kv_head_of(share)) * params.k_head_stride;
}

DEVICE u64 value_chunk(Place place, const AttentionParams& params, u32 share) {
    return u64(place.page) * params.v_page_stride + u64(place.slot) * params.v_token_stride +
           u64(kv_head_of(share)) * params.v_head_stride + first_lane_of(share) / 4;
}
