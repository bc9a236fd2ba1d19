// item.cuh: the item and share of a workgroup, out of the tables of attention.cu. After share.cuh.

// What all threads of a workgroup know. Places in the tables are words.
struct Item {
    u32 share;
    // Words.
    u32 rows, first_run, last_run, pages;
    u32 num_queries, first_state;
};

DEVICE Item item_of(const AttentionArgs& args) {
    const u32* tables = args.tables;
    const u32* item = tables + tables[1] + blockIdx.x / num_shares(args.params) * 8;
    const u32 first_run = tables[3] + item[2] * 8;
    return Item{
        blockIdx.x % num_shares(args.params),
        tables[2] + item[0] * 8,
        first_run,
        first_run + item[3] * 8,
        tables[4] + item[4],
        item[1] * GROUP,
        item[5],
    };
}
