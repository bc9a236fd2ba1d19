// bulk.cuh: copies of boxes of a tensor from global to shared memory, which one thread starts and a barrier waits for.
// After mbarrier.cuh. sm_90 and up.
// A tensor map (TensorMap on the host) has the address, 4 dimensions, the strides of a tensor of 16-bit elements, and the
// size of a box: BYTES of the first dimension by some of the second. Rows of the box lie behind each other in shared memory,
// in atoms turned as those of wgmma.cuh, the first on a whole atom; elements outside of the tensor are zeros.
//   mbarrier_arrive_expect(b, n)   one arrival; the phase ends when n more bytes have landed too
//   copy_box(shared, map, c, b)    the box from coordinates c on; its bytes count at b, those of zeros too
// `map` is the address of one that lies in the kernel's argument.
// What a bulk copy brings is read after mbarrier_wait, by products without a fence. It begins after those that had its place
// in shared memory have arrived somewhere: products need nothing more, who wrote there by stores or copy_async_16 a fence of
// the proxy. So does the barrier itself, after mbarrier_init.

// On the host: sim/shim.h has its fields.
struct alignas(128) TensorMap {
    u64 words[16];
};

#ifndef COLATENT_SIM

DEVICE void prefetch_map(u64 map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

DEVICE void mbarrier_arrive_expect(Mbarrier& barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(u32(__cvta_generic_to_shared(&barrier))),
                 "r"(bytes)
                 : "memory");
}

DEVICE void copy_box(u8* shared, u64 map, u32 c0, u32 c1, u32 c2, u32 c3, Mbarrier& barrier) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(u32(__cvta_generic_to_shared(shared))),
                 "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(u32(__cvta_generic_to_shared(&barrier)))
                 : "memory");
}

#endif
