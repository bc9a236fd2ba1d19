// item.cuh: the item and KV head of a workgroup, out of the tables of attention.cu. After attention_args.cuh.

// What all threads of a workgroup know. Places in the tables are words.
struct Item {
    u32 kv_head;
    // Words.
    u32 rows, first_run, last_run, pages;
    u32 num_queries, first_state;
};

DEVICE Item item_of(const AttentionArgs& args) {
    const u32* tables = args.tables;
    const u32* item = tables + tables[1] + blockIdx.x / args.params.num_kv_heads * 8;
    const u32 first_run = tables[3] + item[2] * 8;
    return Item{
        blockIdx.x % args.params.num_kv_heads,
        tables[2] + item[0] * 8,
        first_run,
        first_run + item[3] * 8,
        tables[4] + item[4],
        item[1] * GROUP,
        item[5],
    };
}
