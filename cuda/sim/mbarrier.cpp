// mbarrier.cpp: barriers in shared memory on the simulated device, and asynchronous copies that arrive at them. Bulk copies
// are in bulk.cpp.
#include "runtime.h"

using namespace sim;

namespace sim {

// What lies in the 8 bytes of a barrier. Shared memory starts as 0xFF: then nobody has initialised it.
struct State {
    u64 pending : 10, count : 10;
    u64 is_observed : 1; // somebody has waited for the last phase that has ended
    u64 phase : 21; // phases that have ended
    i64 bytes : 22; // of bulk copies, expected and not yet there
};
static_assert(sizeof(State) == 8, "the size of Mbarrier");
constexpr u32 NOT_INITIALISED = 1023, MOST_BYTES = (1u << 20) - 1;

static State& state_of(Fiber& f, void* barrier, u32 line) {
    if (!in_shared(f, barrier, 8) || u64(barrier) % 8 != 0) {
        fail(f, "line %u: a barrier outside of shared memory or misaligned", line);
    }
    State& state = *static_cast<State*>(barrier);
    if (state.count == NOT_INITIALISED) {
        fail(f, "line %u: a barrier that nobody has initialised", line);
    }
    return state;
}

// The phase ends when all have arrived and all bytes are there.
static void end_phase(Fiber& f, State& state, void* barrier, u32 line) {
    if (state.pending != 0 || state.bytes != 0) {
        return;
    }
    // Whoever works on the next phase has waited for this one, or it was not over.
    if (state.phase > 0 && !state.is_observed) {
        fail(f, "line %u: too many arrivals: phase %u of a barrier ends and nobody has waited for the one before", line,
             u32(state.phase));
    }
    Worker& w = *f.worker;
    update_proxy(w);
    state.pending = state.count;
    state.phase++;
    state.is_observed = 0;
    for (u32 t = 0; t < w.launch->threads; t++) {
        Fiber& other = *w.fibers[t];
        if (other.op == Op::MbarrierWait && other.operand == barrier) {
            other.operand = nullptr;
            warp_of(other).ready |= 1u << (lane_of(other) ^ w.flip);
            w.ready_warps |= 1u << t / LANES;
        }
    }
}

static void arrive_at(Fiber& f, void* barrier, u32 line) {
    State& state = state_of(f, barrier, line);
    if (state.pending == 0) {
        fail(f, "line %u: too many arrivals: all of this phase of a barrier were made, and bytes are on their way", line);
    }
    state.pending--;
    end_phase(f, state, barrier, line);
}

static void expect_bytes(Fiber& f, void* barrier, i64 bytes, u32 line) {
    State& state = state_of(f, barrier, line);
    if (state.bytes + bytes > i64(MOST_BYTES) || state.bytes + bytes < -i64(MOST_BYTES)) {
        fail(f, "line %u: a barrier that expects %lld bytes", line, i64(state.bytes) + bytes);
    }
    state.bytes += bytes;
}

bool land_arrival(Worker& w) {
    const u32 num_on_the_way = w.num_arrivals + w.num_boxes;
    if (num_on_the_way == 0) {
        return false;
    }
    const u32 i = w.launch->seed ? next_random(w.random) % num_on_the_way : 0;
    if (i >= w.num_arrivals) {
        const Box box = land_box(w, i - w.num_arrivals);
        expect_bytes(*box.fiber, box.barrier, -i64(bytes_of(box)), box.line);
        end_phase(*box.fiber, state_of(*box.fiber, box.barrier, box.line), box.barrier, box.line);
        return true;
    }
    const Arrival arrival = w.arrivals[i];
    w.arrivals[i] = w.arrivals[--w.num_arrivals];
    Fiber& f = *arrival.fiber;
    update_proxy(w);
    if (arrival.copies > f.num_landed) {
        land_copies(f, u32(arrival.copies - f.num_landed));
    }
    arrive_at(f, arrival.barrier, arrival.line);
    return true;
}

} // namespace sim

void sim_mbarrier_init(void* barrier, u32 count, u32 line) {
    Fiber& f = current();
    if (!in_shared(f, barrier, 8) || u64(barrier) % 8 != 0 || count == 0 || count >= NOT_INITIALISED) {
        fail(f, "line %u: a barrier outside of shared memory, misaligned, or with %u arrivals", line, count);
    }
    *static_cast<State*>(barrier) = State{count, count, 0, 0, 0};
    f.worker->initialiser = &f;
}

void sim_mbarrier_arrive(void* barrier, u32 line) {
    Fiber& f = current();
    TSAN(__tsan_release(barrier);)
    arrive_at(f, barrier, line);
    jitter(f);
}

void sim_mbarrier_arrive_expect(void* barrier, u32 bytes, u32 line) {
    Fiber& f = current();
    TSAN(__tsan_release(barrier);)
    expect_bytes(f, barrier, bytes, line);
    arrive_at(f, barrier, line);
    jitter(f);
}

void sim_mbarrier_wait(void* barrier, u32 parity, u32 line) {
    Fiber& f = current();
    if (parity > 1) {
        fail(f, "line %u: mbarrier_wait for parity %u", line, parity);
    }
    State& state = state_of(f, barrier, line);
    while ((state.phase & 1) == parity) {
        f.op = Op::MbarrierWait;
        f.line = line;
        f.operand = barrier;
        take_out(f);
        give_way(f);
    }
    state.is_observed = 1;
    TSAN(__tsan_acquire(barrier);)
    jitter(f);
}

void sim_copy_async_arrive(void* barrier, u32 line) {
    Fiber& f = current();
    state_of(f, barrier, line);
    // What has landed is there for whoever waits: the order is that of this thread.
    TSAN(__tsan_release(barrier);)
    Worker& w = *f.worker;
    if (w.num_arrivals == MOST_ARRIVALS) {
        fail(f, "line %u: more than %u arrivals of copies in flight", line, MOST_ARRIVALS);
    }
    f.num_announced = f.num_landed + f.num_copies;
    w.arrivals[w.num_arrivals++] = Arrival{&f, barrier, f.num_announced, line};
    jitter(f);
}
