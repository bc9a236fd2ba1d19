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

// The place of a key that nobody sees: zeros in shared memory, not read.
constexpr u64 NOWHERE = ~0ull;

// Where K and V of a key lie, in chunks of 4 elements.
struct Place {
    u64 key, value;
};

// Of key `key` of a tile; `pages` is a word of the tables.
DEVICE Place place_of(Cursor cursor, u32 key, const AttentionArgs& args, u32 pages, u32 share) {
    const auto& params = args.params;
    const u32* run = args.tables + cursor.run;
    const u32 token = cursor.token + key;
    // From the first token that any row sees.
    if (token < run[6] || token >= end_of_seen(args, run)) {
        return Place{NOWHERE, NOWHERE};
    }
    const u64 page = args.tables[pages + token / params.page_size], slot = token % params.page_size;
    return Place{
        page * params.k_page_stride + slot * params.k_token_stride + u64(kv_head_of(share)) * params.k_head_stride,
        page * params.v_page_stride + slot * params.v_token_stride + u64(kv_head_of(share)) * params.v_head_stride +
            first_lane_of(share) / 4,
    };
}
