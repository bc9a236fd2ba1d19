// item.cuh: an item and a share of it, out of the tables of attention.cu. After fragment.cuh.

// What all threads of a workgroup know. Places in the tables are words.
struct Item {
    u32 share;
    // Words.
    u32 rows, first_run, last_run, pages;
    u32 num_queries, first_state;
};

// `number` counts the shares of the first item, then those of the second.
DEVICE Item item_of(const AttentionArgs& args, u32 number) {
    const u32* tables = args.tables;
    const u32 shares = of_tile(num_shares(args.params));
    const u32* item = tables + tables[1] + number / shares * 8;
    const u32 first_run = tables[3] + item[2] * 8;
    return Item{
        number % shares,
        tables[2] + item[0] * 8,
        first_run,
        first_run + item[3] * 8,
        tables[4] + item[4],
        item[1] * GROUP,
        item[5],
    };
}
