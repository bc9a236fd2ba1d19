// share.cuh: what a workgroup has of an item. An item is launched once per KV head, part of its query heads and part of
// the value: share = (KV head * HEAD_PARTS + part of the heads) * VALUE_PARTS + part of the value. GROUP is the query
// heads of one part. Parts of the value have the same scores, each computed again; the first of them writes what they
// share. After attention_args.cuh.

constexpr u32 PART_DIM = VALUE_DIM / VALUE_PARTS;
static_assert(PART_DIM % 8 == 0 && PART_DIM * VALUE_PARTS == VALUE_DIM, "parts of whole groups of 8 lanes");

DEVICE u32 num_shares(const AttentionParams& params) {
    return params.num_kv_heads * (HEAD_PARTS * VALUE_PARTS);
}

DEVICE u32 kv_head_of(u32 share) {
    return share / (HEAD_PARTS * VALUE_PARTS);
}

// The part of the query heads, counted over all KV heads.
DEVICE u32 head_part_of(u32 share) {
    return share / VALUE_PARTS;
}

DEVICE u32 first_head_of(u32 share) {
    return head_part_of(share) * GROUP;
}

// The first lane of the value.
DEVICE u32 first_lane_of(u32 share) {
    return share % VALUE_PARTS * PART_DIM;
}
