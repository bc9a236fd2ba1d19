// runtime.h: fibers, warps and workers of the simulated device; what runtime.cpp (who runs when) and the files of
// primitives (what they do) share. All are compiled without instrumentation, with COLATENT_SIM_ASAN or
// COLATENT_SIM_TSAN where the kernels are instrumented.
#pragma once
#define COLATENT_SIM_RUNTIME
#include "shim.h"

#include <atomic>
#include <cstddef>
#include <mutex>
#include <vector>

#ifdef COLATENT_SIM_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define ASAN(x) x
#else
#define ASAN(x)
#endif

#ifdef COLATENT_SIM_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_set_fiber_name(void* fiber, const char* name);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void __tsan_func_entry(void* caller);
void __tsan_func_exit();
void __tsan_read_range(void* address, unsigned long bytes);
void __tsan_write_range(void* address, unsigned long bytes);
}
#define TSAN(x) x
#else
#define TSAN(x)
#endif

namespace sim {

constexpr u32 LANES = 32, MOST_THREADS = 1024, MOST_COPIES = 256, MOST_GROUPS = 32, ERROR_BYTES = 512;
constexpr u64 STACK_BYTES = 256 * 1024, GUARD_BYTES = 4096, CANARY_BYTES = 1024;
constexpr u8 CANARY = 0xA5;
// Of the device's allocations.
constexpr u64 ALIGNMENT = 256;

enum class Op : u8 {
    Start, Exit, Barrier, BarrierOr, WarpBarrier, Shuffle, Ballot, LoadMatrix, LoadMatrixTransposed, MmaF16, MmaBf16,
    MbarrierWait, WgmmaFence, WgmmaCommit, WgmmaWait, WgmmaF16, WgmmaBf16, COUNT
};
inline constexpr const char* NAMES[u32(Op::COUNT)] = {
    "(not started)", "(exited)", "__syncthreads", "__syncthreads_or", "__syncwarp", "shuffle", "ballot",
    "load_matrix_x4", "load_matrix_x4_transposed", "mma_16x8x16 of f16", "mma_16x8x16 of bf16",
    "mbarrier_wait", "wgmma_fence", "wgmma_commit", "wgmma_wait", "wgmma of f16", "wgmma of bf16",
};

struct Copy {
    u8* shared;
    const u8* global;
    bool valid;
};

struct Worker;

struct Fiber : SimThread {
    Worker* worker;
    void* stack_pointer;
    u8* stack;
    // Where the thread waits, or waited last.
    Op op;
    u32 line;
    // Operands of the collective it waits in.
    const void* operand;
    u32 b[2];
    union {
        u32* words;
        f32* floats;
    } result;
    u32 num_copies, num_groups;
    u32 group_end[MOST_GROUPS];
    Copy copies[MOST_COPIES];
    // Copies that have landed, over all, which is what arrivals at barriers count in; and those with such an arrival.
    u64 num_landed, num_announced;
#ifdef COLATENT_SIM_TSAN
    void* tsan;
    bool fenced;
    u32 num_atomics;
    void* atomics[8];
#endif
};

// An arrival at a barrier in shared memory that waits for the first `copies` copies of its thread.
struct Arrival {
    Fiber* fiber;
    void* barrier;
    u64 copies;
    u32 line;
};

constexpr u32 MOST_ARRIVALS = 8192;

// A bulk copy on its way: a box of a tensor.
struct Box {
    Fiber* fiber;
    void* barrier;
    u8* shared;
    SimTensorMap map;
    u32 at[4];
    u32 line;
};

constexpr u32 MOST_BOXES = 256;

// A product of one warp's rows, issued and not yet done.
struct Product {
    bool is_bf16, accumulate;
    u32 n, line;
    u64 a, b;
    const u32* a_words[LANES]; // or null
    u32 a_copy[LANES][4];
    u32 sums;
};

// The sums of products in flight: taken out of the registers, which hold 0xFF meanwhile.
struct Sums {
    f32* c[LANES];
    f32 value[16][256];
    u32 n, num_products;
};

constexpr u32 MOST_PRODUCTS = 96, MOST_PRODUCT_GROUPS = 8, MOST_SUMS = 2;

struct Products {
    u32 num_products, num_groups, num_issued;
    u32 group_end[MOST_PRODUCT_GROUPS];
    bool is_fenced;
    Product product[MOST_PRODUCTS];
    Sums sums[MOST_SUMS];
};

// Ready lanes are bits of positions: position p is lane p ^ worker.flip.
struct Warp {
    u32 ready, arrived, exited, phase, line, ballot[2];
    Op op;
    u64 value[2][LANES];
    char order[2];
};

struct Launch {
    const char* kernel;
    void (*body)(const void*);
    const void* args;
    u32 groups, threads, shared_bytes, jitter, seed;
    // What the bytes of copies in flight are: NaN, or with odd seeds numbers (6e4, 1e36) that no care for NaN hides.
    u8 in_flight;
    std::vector<u32> order;
    std::atomic<u32> next{0};
    std::mutex mutex;
    char error[ERROR_BYTES] = {0};
    SimCounts counts = {0, 0};
};

// What one host thread needs to run blocks; kept between launches.
struct Worker {
    Launch* launch;
    std::vector<Fiber*> fibers;
    Warp warps[MOST_THREADS / LANES];
    u32 ready_warps, num_exited, at_barrier, barrier_phase, barrier_line, flip, random;
    int barrier_or[2];
    Op barrier_op;
    u8* shared;
    u64 shared_capacity;
    void* stack_pointer;
    SimCounts counts;
    char error[ERROR_BYTES];
    char start, end, barrier[2];
    u32 num_arrivals;
    Arrival arrivals[MOST_ARRIVALS];
    u32 num_boxes;
    Box boxes[MOST_BOXES];
    // Who has initialised barriers and not yet made a fence of the proxy.
    Fiber* initialiser;
    Products* products[MOST_THREADS / LANES];
    // What the warps of a warpgroup have issued, so that each can be compared with the first.
    u64 issued[MOST_THREADS / LANES / 4][256];
    u32 num_issued[MOST_THREADS / LANES / 4];
    // Shared memory as wgmma sees it; it follows what others write at fences only.
    u8* proxy;
    u64 proxy_capacity;
    bool has_proxy, is_proxy_fenced;
    TSAN(void* tsan;)
    ASAN(const void* bottom; size_t bottom_bytes;)
};


inline f32 bf16_to_f32(u16 bits) {
    return __uint_as_float(u32(bits) << 16);
}

inline Fiber& current() {
    return *static_cast<Fiber*>(sim_thread);
}

inline Warp& warp_of(const Fiber& f) {
    return f.worker->warps[f.thread.x / LANES];
}

inline u32 lane_of(const Fiber& f) {
    return f.thread.x % LANES;
}

// Ends the block: the launch reports the first error.
[[noreturn]] __attribute__((format(printf, 2, 3))) void fail(Fiber& f, const char* format, ...);

// Lets others run; returns when this fiber is picked again. It is ready, or has been taken out of the ready lanes.
void give_way(Fiber& f, bool ends = false);

// Lets another warp run first, if one can and the launch has a seed.
void yield_warp(Fiber& f);

// No longer ready.
void take_out(Fiber& f);

u32 next_random(u32& random);

// With probability 1 / jitter, lets others run.
void jitter(Fiber& f);

// Gathers the lanes of a warp. True in the last to arrive, which computes, then calls release_warp.
bool arrive(Fiber& f, Op op, u32 line);
void release_warp(Fiber& f);

// Shared memory of a block, before and after it runs.
void prepare_shared(Worker& w);
void check_canary(Worker& w, u32 block);

// From the first launch on: a thread that touches what lies in no allocation fails.
void catch_faults();

bool in_shared(const Fiber& f, const void* address, u64 bytes);

// For TSan: bytes read or written by the running thread in the statement that `caller` returns to.
void note_access(const void* address, u64 bytes, bool is_write, const void* caller);

// The first `count` copies of a thread land.
void land_copies(Fiber& f, u32 count);

// One asynchronous arrival is made, or one bulk copy lands, if there is any. True if one was.
bool land_arrival(Worker& w);

// Bulk copy number `i` lands; its bytes are still to be counted.
Box land_box(Worker& w, u32 i);
u32 bytes_of(const Box& box);

// wgmma's view of shared memory: what a fence has promised becomes visible; bytes on their way are not those before.
void reserve_proxy(Worker& w);
void update_proxy(Worker& w);
void poison_proxy(Worker& w, const u8* place, u64 bytes);

// New for every block.
void reset_products(Worker& w);
void check_products(Fiber& f);

} // namespace sim
