// sight.cuh: what the two queries of a thread see of a run of keys. After lifetime.cuh,
// fragment.cuh and attention_args.cuh.

// What the two queries of a thread see of a run: `count` tokens from `first`.
struct Sight {
    u32 first[2], count[2];
};

// What they do not see all the same: `count` tokens from `first`.
struct Gap {
    u32 first[2], count[2];
};

// Whether all rows of an item have ended: nobody sees its keys. `rows` is a word of the tables.
DEVICE bool have_ended(const AttentionArgs& args, u32 rows, u32 num_rows) {
    u32 ended = 0;
    while (HAS_STEPS && ended < num_rows && has_ended(args.steps, args.tables[rows + ended * 8])) {
        ended++;
    }
    return HAS_STEPS && ended == num_rows;
}

DEVICE bool sees(const Sight& sight, const Gap& gap, u32 query, u32 token) {
    const bool is_in_run = token - sight.first[query] < sight.count[query];
    return is_in_run && !(HAS_GAP && token - gap.first[query] < gap.count[query]);
}

// What queries `query` and `query + 8` see of a run.
DEVICE Sight sight_of(const AttentionArgs& args, u32 rows, u32 num_queries, u32 query, const u32* run) {
    const u32* tables = args.tables;
    Sight sight = {};
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        if (query + i * 8 >= num_queries) {
            continue;
        }
        const u32* row = tables + rows + (query + i * 8) / GROUP * 8;
        u32 begin = 0, end = run[1];
        if (run[2] == 0) {
            const i32 base = i32(row[2]);
            const Slots span = {base + i32(run[3]), base + i32(min(run[4], row[4]))};
            const Slots slots = seen_slots(tables + tables[6] + run[5] * 8, i32(row[1] + step_of(args.steps)), span);
            begin = max(u32(max(slots.begin - base, 0)), row[3]);
            end = min(min(u32(max(slots.end - base, 0)), row[4]), end);
        }
        sight.first[i] = begin;
        sight.count[i] = begin < end ? end - begin : 0;
    }
    return sight;
}

// What queries `query` and `query + 8` do not see of the segment. Not kept with the sight: registers are scarce, and
// gaps rare.
DEVICE Gap gap_of(const u32* tables, u32 rows, u32 num_queries, u32 query) {
    Gap gap = {};
#pragma unroll
    for (u32 i = 0; HAS_GAP && i < 2; i++) {
        if (query + i * 8 < num_queries) {
            // Slots may be anything; tokens count modulo 2^32.
            const u32* row = tables + rows + (query + i * 8) / GROUP * 8;
            gap.first[i] = row[6] - row[2];
            gap.count[i] = row[7] - row[6];
        }
    }
    return gap;
}
