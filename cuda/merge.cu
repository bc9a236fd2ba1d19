// merge.cu: out[row, head] = epilogue(merge of the row's states), lse[row, head].
// Maths     m = max lse_i, w_i = exp(lse_i - m), out = sum w_i out_i / sum w_i, lse = m + ln(sum w_i); a sink is one more
//           state with out = 0; epilogue: the rotation by the row's position undone (ROTATION), per-head RMS norm,
//           gate, scale of codes.
// Shapes    states [state, num_q_heads, value dim] f32; state_lse [state, num_q_heads] f32;
//           tables: header [rows, indptr_base, index_base, -], indptr [rows + 1], index [nnz], positions [rows][4]
//           with ROTATION;
//           out [row, num_q_heads, value dim]; gate the same, or one per head; lse [row, num_q_heads] f32.
// Grid      one warp per (row, head), heads fastest; blocks of THREADS.
// Numerics  f32, one rounding at the store. States are added in the order of index; an empty state is skipped.
// Memory    every state is read once: 16 bytes a lane, a head's chunks side by side, some states in flight. No shared
//           memory. The floor is 4 bytes per value and state plus the stores; see common/state.cuh.
// Limits    value dims are multiples of 4 up to 512; rows * num_q_heads below 2^32.
// Header    THREADS, VALUE_CHUNKS (value dim / 4), ROTATION; storage gate, out.

// #include "common/prelude.cuh"
// #include "common/dtype.cuh"
// #include "common/warp.cuh"
// #include "common/lse.cuh"
// #include "common/vector.cuh"
// #include "common/norm.cuh"
// #include "common/gate.cuh"
// #include "common/state.cuh"

struct MergeArgs {
    MergeParams params;
    const f32* states;
    const f32* state_lse;
    const u32* tables;
    const f32* constants;
    const gate_t* gate;
    out_t* out;
    f32* lse;
};

KERNEL(merge, MergeArgs, THREADS, 1) {
    // -- which row and head are mine
    const u32 place = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    const u32* header = args.tables + args.params.header;
    const u32 row = place / args.params.num_q_heads;
    const u32 head = place % args.params.num_q_heads;
    if (row >= header[0]) {
        return;
    }
    const u32* indptr = args.tables + header[1] + row;
    const u32 first = indptr[0];
    const MergeMemory memory{args.states, args.state_lse, args.constants, args.gate, args.out, args.lse};
    merge_head<VALUE_CHUNKS>(args.params, memory, args.tables + header[2] + first, indptr[1] - first, row, head, threadIdx.x,
                             position_of(args.tables, header, row, 0));
}
