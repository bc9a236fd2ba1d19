// mbarrier.cuh: barriers in shared memory that threads arrive at and wait for apart, and asynchronous copies that arrive
// when they have landed. After prelude.cuh and async.cuh. sm_80 and up (waiting: sm_90).
// A barrier counts arrivals: `count` of them end its phase, and the next begins. Phases are numbered from 0;
// mbarrier_wait(b, p) waits for the end of the latest phase whose number is p modulo 2. So the first wait with p = 1
// returns at once. What a thread wrote before it arrived is seen by those who have waited.

struct Mbarrier {
    u64 bits;
};

#ifndef COLATENT_SIM

// One thread, before a barrier of the block.
DEVICE void mbarrier_init(Mbarrier& barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(u32(__cvta_generic_to_shared(&barrier))), "r"(count)
                 : "memory");
}

DEVICE void mbarrier_arrive(Mbarrier& barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(u32(__cvta_generic_to_shared(&barrier))) : "memory");
}

DEVICE void mbarrier_wait(Mbarrier& barrier, u32 parity) {
    const u32 address = u32(__cvta_generic_to_shared(&barrier));
    u32 has_ended;
    do {
        asm volatile("{\n.reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(has_ended)
                     : "r"(address), "r"(parity)
                     : "memory");
    } while (has_ended == 0);
}

// One arrival, made when all copies that this thread has started so far have landed.
DEVICE void copy_async_arrive(Mbarrier& barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(u32(__cvta_generic_to_shared(&barrier)))
                 : "memory");
}

#endif
