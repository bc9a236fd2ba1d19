// fragment.cuh: which scores and outputs of a tile a thread has, on all matrix units and without them. After share.cuh.

// Queries of a warp: the rows of one matrix product.
constexpr u32 WARP_QUERIES = 16;
// A thread has scores of 2 queries (lane / 4 and 8 more) and 2 neighbouring keys in each group of 8 keys; of outputs,
// likewise 2 x 2 in each group of 8 lanes of the value.
constexpr u32 KEY_TILES = KEYS / 8;
constexpr u32 VALUE_TILES = PART_DIM / 8;

// A number that the compiler does not know to be the same in every tile: what is computed from it stays where it is used,
// instead of being kept in registers over the whole loop, a hundred addresses and more.
DEVICE u32 of_tile(u32 x) {
#ifndef COLATENT_SIM
    asm volatile("" : "+r"(x));
#endif
    return x;
}

// The thread's number.
DEVICE u32 thread_of_tile() {
    return of_tile(threadIdx.x);
}

// The first query of the thread; the other is 8 behind it.
DEVICE u32 query_of(u32 thread) {
    return thread / 32 * WARP_QUERIES + thread % 32 / 4;
}
