// runtime.h: fibers, warps and workers of the simulated device; what runtime.cpp (who runs when) and primitives.cpp
// (what the primitives do) share. Both are compiled without instrumentation, with COLATENT_SIM_ASAN or
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

enum class Op : u8 {
    Start, Exit, Barrier, BarrierOr, WarpBarrier, Shuffle, Ballot, LoadMatrix, LoadMatrixTransposed, MmaF16, MmaBf16,
    COUNT
};
inline constexpr const char* NAMES[u32(Op::COUNT)] = {
    "(not started)", "(exited)", "__syncthreads", "__syncthreads_or", "__syncwarp", "shuffle", "ballot",
    "load_matrix_x4", "load_matrix_x4_transposed", "mma_16x8x16 of f16", "mma_16x8x16 of bf16",
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
#ifdef COLATENT_SIM_TSAN
    void* tsan;
    bool fenced;
    u32 num_atomics;
    void* atomics[8];
#endif
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
    TSAN(void* tsan;)
    ASAN(const void* bottom; size_t bottom_bytes;)
};


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

// No longer ready.
void take_out(Fiber& f);

// With probability 1 / jitter, lets others run.
void jitter(Fiber& f);

// Gathers the lanes of a warp. True in the last to arrive, which computes, then calls release_warp.
bool arrive(Fiber& f, Op op, u32 line);
void release_warp(Fiber& f);

} // namespace sim
