// arrival.cuh: the workgroup that writes the last state of a row merges the row. After state.cuh,
// attention_args.cuh and fragment.cuh.
//
//   states | barrier | count an arrival at (row, part of the heads), ordered | who is last | barrier | merge, epilogue
//
// The last one takes all states in the order of the row's list, so that no bit depends on who it is. A row of one state has
// nobody to wait for.

// Merges the `count` states that the tables list from word `list` on. Whole warps.
DEVICE void merge_row(const AttentionArgs& args, u32 row, u32 head, u32 list, u32 count) {
    const MergeMemory memory{args.partials, args.lse, args.constants, args.gate, args.out, args.out_lse};
    const u32* position = args.tables; // used with ROTATION only
    if (ROTATION != ROTATE_NONE) {
        position = position_of(args.tables, args.tables + args.merge.header, row, step_of(args.steps));
    }
    merge_head<VALUE_DIM / 4>(args.merge, memory, args.tables + list, count, row, head, thread_of_tile(), position);
}

// States of a row: none if it has ended. Its workgroups do not wait for each other then: all write the same.
DEVICE u32 num_states(const AttentionArgs& args, u32 row) {
    const u32 indptr = args.tables[args.merge.header + 1] + row;
    return has_ended(args.steps, row) ? 0 : args.tables[indptr + 1] - args.tables[indptr];
}

// The rows of an item without runs, or of rows that have ended. All `warps` of the workgroup.
DEVICE void merge_nothing(const AttentionArgs& args, u32 rows, u32 num_rows, u32 share, u32 warps) {
    for (u32 i = threadIdx.x / 32; first_lane_of(share) == 0 && i < num_rows * GROUP; i += warps) {
        merge_row(args, args.tables[rows + i / GROUP * 8], first_head_of(share) + i % GROUP, 0, 0);
    }
}

// Called by the first `warps` warps, behind their stores of the item's states. `rows` is a word of the tables; `is_last`
// is shared memory of `num_rows` words that is no longer needed; `barrier(i)` is the i-th barrier of these warps.
template <class Barrier>
DEVICE void merge_arrived(const AttentionArgs& args, u32 rows, u32 num_rows, u32 share, u32 warps, u32* is_last,
                          Barrier barrier) {
    barrier(0);
    // Words of the tables, as merge.cu names them.
    const u32 indptr = args.tables[args.merge.header + 1], index = args.tables[args.merge.header + 2];
    // So that nothing of this is computed ahead of the tile loop and kept: registers are scarce there.
    const u32 thread = thread_of_tile();
    for (u32 i = thread; i < num_rows; i += warps * 32) {
        const u32 row = args.tables[rows + i * 8];
        const u32 count = num_states(args, row) * VALUE_PARTS;
        if (count <= 1) {
            is_last[i] = 1;
            continue;
        }
        u32* arrivals = args.arrivals + u64(row) * (args.params.num_kv_heads * HEAD_PARTS) + head_part_of(share);
        is_last[i] = arrives_last(arrivals, count);
    }
    barrier(1);
    for (u32 i = thread_of_tile() / 32; i < num_rows * GROUP; i += warps) {
        if (is_last[i / GROUP] != 0) {
            const u32 row = args.tables[rows + i / GROUP * 8], first = args.tables[indptr + row];
            merge_row(args, row, first_head_of(share) + i % GROUP, index + first, num_states(args, row));
        }
    }
}
