// runtime.cpp: runs the blocks of a launch on the host. Built once; kernels find its sim_* functions when loaded.
//
// Threads   one fiber per thread of the block, one block at a time per host thread, `workers` host threads. A fiber
//           runs until it waits; then a lane of the same warp goes on, then another warp. `seed` shuffles the order of
//           blocks, warps and lanes, `jitter` adds switches where the hardware might have them.
// Warps     a collective gathers the 32 lanes; the last to arrive computes for all of them.
// Memory    shared memory starts as 0xFF (NaN) in every block. An asynchronous copy fills its target with 0xFF, or with odd
//           seeds with 0x7B (large numbers), when issued and lands when it is waited for: a missing wait reads that, a
//           reused buffer loses its rows early. One that arrives at a barrier lands when nobody else can go on, in any
//           order, or with jitter at any time. A warpgroup's products run when they are waited for, on a view of shared
//           memory that follows ordinary writes and copies at fences of the proxy only; their registers hold 0xFF
//           meanwhile.
// Errors    end the launch with a sentence: lanes or threads in different statements, a barrier or collective after
//           some have exited, nobody able to go on, shared addresses out of bounds or misaligned, copies in flight at
//           the exit of a thread or too many of them, a write past the end of shared memory, an access outside of every
//           allocation (memory.cpp).
// Sanitizers  for ASan shared memory is allocated anew, exactly sized, for each block. For TSan every fiber is a
//           thread, and only barriers, __syncwarp, and fences with atomics order memory, as on the hardware: the
//           writer needs write, (barrier,) fence, atomic; the reader atomic, fence, (barrier,) read.
// Not modelled: caches and weak order, rounding inside tensor cores, time. Threads of a block are a multiple of 32.
#include "runtime.h"

#include <sched.h>
#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>

// sim_switch(save, to): keeps what the calling convention says a function keeps, and goes on where `to` was left.
extern "C" void sim_switch(void** save, void* to);
asm(R"(
.text
.globl sim_switch
.hidden sim_switch
.type sim_switch,@function
sim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size sim_switch, .-sim_switch
)");

__thread SimThread* sim_thread = nullptr;

namespace sim {

static thread_local SimCounts last_counts = {0, 0};

u32 next_random(u32& random) {
    random ^= random << 13;
    random ^= random >> 17;
    random ^= random << 5;
    return random;
}

// -- switching

// Leaves `from` (null: the host thread) for `to` (null: the host thread). `ends`: `from` will not be resumed.
static void switch_to(Worker& w, Fiber* from, Fiber* to, bool ends = false) {
    sim_thread = to;
    ASAN(void* fake = nullptr;)
    ASAN(__sanitizer_start_switch_fiber(ends ? nullptr : &fake, to ? to->stack : w.bottom,
                                        to ? STACK_BYTES : w.bottom_bytes);)
    TSAN(__tsan_switch_to_fiber(to ? to->tsan : w.tsan, 1);) // 1: no order between the two
    sim_switch(from ? &from->stack_pointer : &w.stack_pointer, to ? to->stack_pointer : w.stack_pointer);
    ASAN(__sanitizer_finish_switch_fiber(fake, nullptr, nullptr);)
    (void)ends;
}

void fail(Fiber& f, const char* format, ...) {
    Worker& w = *f.worker;
    const int n = snprintf(w.error, ERROR_BYTES, "%s: block %u, thread %u: ", w.launch->kernel, f.block.x, f.thread.x);
    va_list list;
    va_start(list, format);
    vsnprintf(w.error + n, ERROR_BYTES - u64(n), format, list);
    va_end(list);
    switch_to(w, &f, nullptr, true);
    abort();
}

// Nobody can go on: says who waits where.
[[noreturn]] static void fail_deadlock(Fiber& f) {
    struct Place {
        Op op;
        u32 line, count, first;
    };
    Worker& w = *f.worker;
    Place places[8];
    u32 num_places = 0;
    for (u32 t = 0; t < w.launch->threads; t++) {
        const Fiber& other = *w.fibers[t];
        u32 p = 0;
        while (p < num_places && !(places[p].op == other.op && places[p].line == other.line)) {
            p++;
        }
        if (p < num_places) {
            places[p].count++;
        } else if (p < 8) {
            places[num_places++] = Place{other.op, other.line, 1, t};
        }
    }
    char text[ERROR_BYTES];
    int n = 0;
    for (u32 p = 0; p < num_places && n < int(ERROR_BYTES) - 96; p++) {
        const Place& place = places[p];
        n += snprintf(text + n, ERROR_BYTES - u64(n), "%s%u in %s", p ? ", " : "", place.count, NAMES[u32(place.op)]);
        if (place.op != Op::Exit) {
            n += snprintf(text + n, ERROR_BYTES - u64(n), " of line %u", place.line);
        }
        n += snprintf(text + n, ERROR_BYTES - u64(n), " (first: thread %u)", place.first);
    }
    fail(f, "deadlock, no thread can go on: %s", text);
}

static u32 next_bit(u32 bits, u32 from) {
    const u32 above = from < LANES ? bits & ~0u << from : 0;
    return u32(__builtin_ctz(above ? above : bits));
}

// The next fiber to run: of warp `warp` after position `from`, or of another warp. Null if none is ready.
static Fiber* pick(Worker& w, u32 warp, u32 from) {
    if (w.ready_warps == 0) {
        return nullptr;
    }
    const u32 jitter = w.launch->jitter;
    if (w.warps[warp].ready == 0 || (jitter != 0 && next_random(w.random) % jitter == 0)) {
        const u32 start = w.launch->seed ? next_random(w.random) % LANES : warp + 1;
        warp = next_bit(w.ready_warps, start);
        from = 0;
    }
    return w.fibers[warp * LANES + (next_bit(w.warps[warp].ready, from) ^ w.flip)];
}

void give_way(Fiber& f, bool ends) {
    Worker& w = *f.worker;
    const u32 jitter = w.launch->jitter;
    if ((w.num_arrivals | w.num_boxes) != 0 && jitter != 0 && next_random(w.random) % jitter == 0) {
        land_arrival(w);
    }
    Fiber* next = pick(w, f.thread.x / LANES, (lane_of(f) ^ w.flip) + 1);
    while (!next && land_arrival(w)) {
        next = pick(w, f.thread.x / LANES, (lane_of(f) ^ w.flip) + 1);
    }
    if (!next) {
        fail_deadlock(f);
    }
    if (next != &f) {
        switch_to(w, &f, next, ends);
    }
}

void yield_warp(Fiber& f) {
    Worker& w = *f.worker;
    const u32 own = f.thread.x / LANES, others = w.ready_warps & ~(1u << own);
    if (others != 0 && w.launch->seed != 0) {
        const u32 warp = next_bit(others, next_random(w.random) % LANES);
        switch_to(w, &f, w.fibers[warp * LANES + (next_bit(w.warps[warp].ready, 0) ^ w.flip)]);
    }
}

void take_out(Fiber& f) {
    Warp& warp = warp_of(f);
    warp.ready &= ~(1u << (lane_of(f) ^ f.worker->flip));
    if (warp.ready == 0) {
        f.worker->ready_warps &= ~(1u << f.thread.x / LANES);
    }
}

void jitter(Fiber& f) {
    Worker& w = *f.worker;
    if (w.launch->jitter != 0 && next_random(w.random) % w.launch->jitter == 0) {
        sched_yield(); // blocks of other workers
        give_way(f);
    }
}

bool arrive(Fiber& f, Op op, u32 line) {
    Warp& warp = warp_of(f);
    f.op = op;
    f.line = line;
    if (warp.exited != 0) {
        fail(f, "%s of line %u after %u lanes of the warp have exited", NAMES[u32(op)], line, warp.exited);
    }
    if (warp.arrived == 0) {
        warp.op = op;
        warp.line = line;
    } else if (warp.op != op || warp.line != line) {
        fail(f, "divergence: this lane is in %s of line %u, %u lanes of its warp wait in %s of line %u", NAMES[u32(op)],
             line, warp.arrived, NAMES[u32(warp.op)], warp.line);
    }
    if (++warp.arrived == LANES) {
        return true;
    }
    take_out(f);
    give_way(f);
    return false;
}

void release_warp(Fiber& f) {
    Warp& warp = warp_of(f);
    warp.arrived = 0;
    warp.phase ^= 1;
    warp.ready = ~0u;
    f.worker->ready_warps |= 1u << f.thread.x / LANES;
}

// -- blocks

static void run_fiber() {
    Fiber& f = current();
    Worker& w = *f.worker;
#ifdef COLATENT_SIM_ASAN
    const void* bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    if (!w.bottom) { // the first fiber comes from the host thread
        w.bottom = bottom;
        w.bottom_bytes = bytes;
    }
#endif
    TSAN(__tsan_acquire(&w.start);)
    w.launch->body(w.launch->args);
    TSAN(__tsan_release(&w.end);)
    check_products(f);
    if (f.num_copies != 0) {
        fail(f, "exits with %u asynchronous copies in flight", f.num_copies);
    }
    Warp& warp = warp_of(f);
    if (warp.arrived != 0) {
        fail(f, "divergence: exits while %u lanes of its warp wait in %s of line %u", warp.arrived,
             NAMES[u32(warp.op)], warp.line);
    }
    f.op = Op::Exit;
    f.line = 0;
    warp.exited++;
    w.num_exited++;
    take_out(f);
    if (w.num_exited == w.launch->threads) {
        if (w.num_boxes != 0) {
            fail(f, "exits with %u bulk copies in flight", w.num_boxes);
        }
        switch_to(w, &f, nullptr, true);
    } else {
        give_way(f, true);
    }
    abort();
}

static void run_block(Worker& w, u32 block) {
    Launch& launch = *w.launch;
    prepare_shared(w);
    w.flip = launch.seed ? next_random(w.random) % LANES : 0;
    w.num_exited = w.at_barrier = w.barrier_phase = 0;
    w.barrier_or[0] = w.barrier_or[1] = 0;
    const u32 num_warps = launch.threads / LANES;
    w.ready_warps = num_warps == 32 ? ~0u : (1u << num_warps) - 1;
    for (u32 i = 0; i < num_warps; i++) {
        Warp& warp = w.warps[i];
        warp.ready = ~0u;
        warp.arrived = warp.exited = warp.phase = 0;
    }
    for (u32 t = 0; t < launch.threads; t++) {
        Fiber& f = *w.fibers[t];
        f.thread.x = t;
        f.block.x = block;
        f.threads.x = launch.threads;
        f.blocks.x = launch.groups;
        f.shared = w.shared;
        f.worker = &w;
        f.op = Op::Start;
        f.line = 0;
        f.num_copies = f.num_groups = 0;
        f.num_landed = f.num_announced = 0;
        TSAN(f.fenced = false; f.num_atomics = 0;)
        ASAN(__asan_unpoison_memory_region(f.stack, STACK_BYTES);)
        // Stacks lie a multiple of a page apart; starting at different lines they share the cache.
        const u64 colour = t % 61 * 64;
        // What sim_switch pops: six registers, the address to return to; then the stack as at a function's entry.
        void** sp = reinterpret_cast<void**>(f.stack + STACK_BYTES - 64 - colour);
        *--sp = nullptr;
        *--sp = reinterpret_cast<void*>(run_fiber);
        for (u32 i = 0; i < 6; i++) {
            *--sp = nullptr;
        }
        f.stack_pointer = sp;
    }
    reset_products(w);
    TSAN(__tsan_release(&w.start);)
    switch_to(w, nullptr, pick(w, launch.seed ? next_random(w.random) % num_warps : 0, 0));
#ifdef COLATENT_SIM_TSAN
    for (u32 t = 0; t < launch.threads && w.error[0] != 0; t++) { // threads left in the middle of things
        __tsan_switch_to_fiber(w.fibers[t]->tsan, 1);
        __tsan_release(&w.end);
        __tsan_switch_to_fiber(w.tsan, 1);
    }
    __tsan_acquire(&w.end);
#endif
    check_canary(w, block);
    ASAN(free(w.shared); w.shared = nullptr;)
}

// -- workers

static std::mutex& pool_mutex = *new std::mutex();
// Never destroyed: threads may launch until the process ends.
static std::vector<Worker*>& pool = *new std::vector<Worker*>();

static Fiber* new_fiber(u32 thread) {
    // Pages are touched only as deep as a kernel goes; below the stack is a page that nobody may touch.
    void* memory = mmap(nullptr, STACK_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        return nullptr;
    }
    mprotect(memory, GUARD_BYTES, PROT_NONE);
    Fiber* f = new Fiber();
    f->stack = static_cast<u8*>(memory) + GUARD_BYTES;
#ifdef COLATENT_SIM_TSAN
    char name[32];
    snprintf(name, sizeof(name), "thread %u", thread);
    f->tsan = __tsan_create_fiber(0);
    __tsan_set_fiber_name(f->tsan, name);
#else
    (void)thread;
#endif
    return f;
}

static void delete_worker(Worker* w) {
    for (Fiber* f : w->fibers) {
        TSAN(__tsan_destroy_fiber(f->tsan);)
        munmap(f->stack - GUARD_BYTES, STACK_BYTES + GUARD_BYTES);
        delete f;
    }
    free(w->shared);
    free(w->proxy);
    for (Products* p : w->products) {
        delete p;
    }
    delete w;
}

static Worker* take_worker() {
    const std::lock_guard<std::mutex> guard(pool_mutex);
    if (pool.empty()) {
        return new Worker();
    }
    Worker* w = pool.back();
    pool.pop_back();
    return w;
}

// Blocks until none is left or one has failed.
static void work(Launch& launch, u32 index) {
    Worker* w = take_worker();
    w->launch = &launch;
    w->random = launch.seed * 2654435761u + index * 40503u + 1;
    w->random += w->random == 0;
    w->counts = SimCounts{0, 0};
    w->error[0] = 0;
    TSAN(w->tsan = __tsan_get_current_fiber();)
    ASAN(w->bottom = nullptr; w->bottom_bytes = 0;)
    while (w->fibers.size() < launch.threads) {
        Fiber* f = new_fiber(u32(w->fibers.size()));
        if (!f) {
            snprintf(w->error, ERROR_BYTES, "%s: no memory for the stacks of %u threads", launch.kernel,
                     launch.threads);
            break;
        }
        w->fibers.push_back(f);
    }
    while (w->error[0] == 0) {
        const u32 i = launch.next.fetch_add(1, std::memory_order_relaxed);
        if (i >= launch.groups) {
            break;
        }
        run_block(*w, launch.order.empty() ? i : launch.order[i]);
    }
    sim_thread = nullptr;
    const bool failed = w->error[0] != 0;
    {
        const std::lock_guard<std::mutex> guard(launch.mutex);
        launch.counts.matrix_loads += w->counts.matrix_loads;
        launch.counts.bank_conflicts += w->counts.bank_conflicts;
        if (failed && launch.error[0] == 0) {
            memcpy(launch.error, w->error, ERROR_BYTES);
            launch.next.store(launch.groups, std::memory_order_relaxed);
        }
    }
    if (failed) { // its fibers were left in the middle of things
        delete_worker(w);
    } else {
        const std::lock_guard<std::mutex> guard(pool_mutex);
        pool.push_back(w);
    }
}

} // namespace sim

using namespace sim;

int sim_launch(const char* kernel, u32 threads, u64 args_bytes, void (*body)(const void*), const SimLaunch* asked,
               char* error) {
    error[0] = 0;
    catch_faults();
    if (asked->threads != threads || threads == 0 || threads % LANES != 0 || threads > MOST_THREADS) {
        snprintf(error, ERROR_BYTES, "%s: launched with %u threads, built for %u; %u to %u in whole warps can run",
                 kernel, asked->threads, threads, LANES, MOST_THREADS);
        return 1;
    }
    void* args = nullptr; // the caller's bytes may lie anywhere
    if (posix_memalign(&args, 128, args_bytes) != 0) {
        snprintf(error, ERROR_BYTES, "%s: no memory for the arguments", kernel);
        return 1;
    }
    memcpy(args, asked->args, args_bytes);
    Launch launch;
    launch.kernel = kernel;
    launch.body = body;
    launch.args = args;
    launch.groups = asked->groups;
    launch.threads = threads;
    launch.shared_bytes = asked->shared_bytes;
    launch.jitter = asked->jitter;
    launch.seed = asked->seed;
    launch.in_flight = asked->seed % 2 ? 0x7B : 0xFF;
    if (launch.seed != 0) {
        u32 dice = launch.seed;
        launch.order.resize(launch.groups);
        for (u32 i = 0; i < launch.groups; i++) { // a shuffle from the inside out
            const u32 j = next_random(dice) % (i + 1);
            launch.order[i] = launch.order[j];
            launch.order[j] = i;
        }
    }
    u32 workers = asked->workers < launch.groups ? asked->workers : launch.groups;
    if (workers <= 1) {
        work(launch, 0);
    } else {
        std::vector<std::thread> hosts;
        for (u32 i = 0; i < workers; i++) {
            hosts.emplace_back(work, std::ref(launch), i);
        }
        for (std::thread& host : hosts) {
            host.join();
        }
    }
    free(args);
    last_counts = launch.counts;
    memcpy(error, launch.error, ERROR_BYTES);
    return error[0] != 0;
}

void sim_counts(SimCounts* counts) {
    *counts = last_counts;
}
