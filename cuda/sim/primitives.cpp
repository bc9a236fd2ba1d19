// primitives.cpp: what barriers, warp collectives, asynchronous copies, fences and a warp's matrix products do on the
// simulated device, and what they refuse. Scheduling is in runtime.cpp; the rules of memory are in its header comment.
#include "runtime.h"

using namespace sim;

namespace sim {

bool in_shared(const Fiber& f, const void* address, u64 bytes) {
    const u8* p = static_cast<const u8*>(address);
    return p >= f.shared && p + bytes <= f.shared + f.worker->launch->shared_bytes;
}

void note_access(const void* address, u64 bytes, bool is_write, const void* caller) {
#ifdef COLATENT_SIM_TSAN
    __tsan_func_entry(const_cast<void*>(caller));
    (is_write ? __tsan_write_range : __tsan_read_range)(const_cast<void*>(address), bytes);
    __tsan_func_exit();
#else
    (void)address, (void)bytes, (void)is_write, (void)caller;
#endif
}

void land_copies(Fiber& f, u32 count) {
    for (u32 i = 0; i < count; i++) {
        const Copy& copy = f.copies[i];
        for (u32 k = 0; k < 16; k++) {
            copy.shared[k] = copy.valid ? copy.global[k] : 0;
        }
    }
    for (u32 i = count; i < f.num_copies; i++) {
        f.copies[i - count] = f.copies[i];
    }
    u32 groups = 0;
    for (u32 i = 0; i < f.num_groups; i++) {
        if (f.group_end[i] > count) {
            f.group_end[groups++] = f.group_end[i] - count;
        }
    }
    f.num_copies -= count;
    f.num_landed += count;
    f.num_groups = groups;
}

} // namespace sim

// -- blocks

void sim_shared_memory(u64 bytes, u32 line) {
    Fiber& f = current();
    if (bytes > f.worker->launch->shared_bytes) {
        fail(f, "line %u takes %llu bytes of shared memory, the launch gives %u", line, bytes,
             f.worker->launch->shared_bytes);
    }
}

int sim_barrier(int is_or, int value, u32 line) {
    Fiber& f = current();
    Worker& w = *f.worker;
    const Op op = is_or ? Op::BarrierOr : Op::Barrier;
    // Two phases: a thread may reach the next barrier before another has left this one, but not the one after.
    const u32 phase = w.barrier_phase;
    TSAN(__tsan_release(&w.barrier[phase]);)
    f.op = op;
    f.line = line;
    if (w.num_exited != 0) {
        fail(f, "%s of line %u after %u threads have exited", NAMES[u32(op)], line, w.num_exited);
    }
    if (w.at_barrier == 0) {
        w.barrier_op = op;
        w.barrier_line = line;
    } else if (w.barrier_op != op || w.barrier_line != line) {
        fail(f, "divergence: this thread is in %s of line %u, %u others wait in %s of line %u", NAMES[u32(op)], line,
             w.at_barrier, NAMES[u32(w.barrier_op)], w.barrier_line);
    }
    w.barrier_or[phase] |= value != 0;
    if (++w.at_barrier < w.launch->threads) {
        take_out(f);
        give_way(f);
    } else {
        w.at_barrier = 0;
        w.barrier_phase ^= 1;
        w.barrier_or[phase ^ 1] = 0;
        for (u32 i = 0; i < w.launch->threads / LANES; i++) {
            w.warps[i].ready = ~0u;
            w.ready_warps |= 1u << i;
        }
        jitter(f);
    }
    TSAN(__tsan_acquire(&w.barrier[phase]);)
    return w.barrier_or[phase];
}

// -- memory between blocks

void sim_fence() {
    Fiber& f = current();
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#ifdef COLATENT_SIM_TSAN
    // What the atomics before this fence have read is now seen; what precedes the fence is published by the next one.
    for (u32 i = 0; i < f.num_atomics; i++) {
        __tsan_acquire(f.atomics[i]);
    }
    f.num_atomics = 0;
    f.fenced = true;
#endif
    jitter(f);
}

void sim_atomic_begin(const void* address, u64 bytes, u32 line) {
    Fiber& f = current();
    if (u64(address) % bytes != 0) {
        fail(f, "line %u: atomic at an address that is no multiple of %llu", line, bytes);
    }
    jitter(f);
#ifdef COLATENT_SIM_TSAN
    if (f.fenced) {
        __tsan_release(const_cast<void*>(address));
        f.fenced = false;
    }
#endif
}

void sim_atomic_end(const void* address) {
    Fiber& f = current();
#ifdef COLATENT_SIM_TSAN
    const u32 most = sizeof(f.atomics) / sizeof(f.atomics[0]);
    if (f.num_atomics == most) {
        for (u32 i = 1; i < most; i++) {
            f.atomics[i - 1] = f.atomics[i];
        }
        f.num_atomics--;
    }
    f.atomics[f.num_atomics++] = const_cast<void*>(address);
#else
    (void)address;
#endif
    jitter(f);
}

// -- warps

void sim_warp_barrier(u32 line) {
    Fiber& f = current();
    Warp& warp = warp_of(f);
    const u32 phase = warp.phase;
    TSAN(__tsan_release(&warp.order[phase]);)
    if (arrive(f, Op::WarpBarrier, line)) {
        release_warp(f);
    }
    TSAN(__tsan_acquire(&warp.order[phase]);)
    (void)phase;
}

u64 sim_shuffle(u64 value, SimShuffle how, u32 argument, u32 line) {
    Fiber& f = current();
    Warp& warp = warp_of(f);
    const u32 lane = lane_of(f), phase = warp.phase;
    warp.value[phase][lane] = value;
    if (arrive(f, Op::Shuffle, line)) {
        release_warp(f);
    }
    u32 source = lane;
    switch (how) {
    case SIM_SHUFFLE_XOR:
        source = (lane ^ argument) % LANES;
        break;
    case SIM_SHUFFLE_INDEX:
        source = argument % LANES;
        break;
    case SIM_SHUFFLE_UP:
        source = argument <= lane ? lane - argument : lane;
        break;
    case SIM_SHUFFLE_DOWN:
        source = argument < LANES - lane ? lane + argument : lane;
        break;
    }
    return warp.value[phase][source];
}

u32 sim_ballot(bool predicate, u32 line) {
    Fiber& f = current();
    Warp& warp = warp_of(f);
    const u32 phase = warp.phase;
    warp.value[phase][lane_of(f)] = predicate;
    if (arrive(f, Op::Ballot, line)) {
        u32 bits = 0;
        for (u32 l = 0; l < LANES; l++) {
            bits |= u32(warp.value[phase][l]) << l;
        }
        warp.ballot[phase] = bits;
        release_warp(f);
    }
    return warp.ballot[phase];
}

// -- asynchronous copies

void sim_copy_async(void* shared, const void* global, bool valid, u32 line) {
    Fiber& f = current();
    u8* target = static_cast<u8*>(shared);
    if (!in_shared(f, target, 16)) {
        fail(f, "line %u: copy_async_16 to %lld of %u bytes of shared memory", line, i64(target - f.shared),
             f.worker->launch->shared_bytes);
    }
    if (u64(target) % 16 != 0 || u64(global) % 16 != 0) {
        fail(f, "line %u: copy_async_16 with a misaligned %s", line, u64(target) % 16 ? "target" : "source");
    }
    if (f.num_copies == MOST_COPIES) {
        fail(f, "line %u: more than %u asynchronous copies in flight", line, MOST_COPIES);
    }
    ASAN(if (valid && __asan_region_is_poisoned(const_cast<void*>(global), 16)) {
        fail(f, "line %u: copy_async_16 reads outside of its buffer", line);
    })
    note_access(target, 16, true, __builtin_return_address(0));
    if (valid) {
        note_access(global, 16, false, __builtin_return_address(0));
    }
    for (u32 i = 0; i < 16; i++) {
        target[i] = f.worker->launch->in_flight;
    }
    poison_proxy(*f.worker, target, 16);
    f.copies[f.num_copies++] = Copy{target, static_cast<const u8*>(global), valid};
}

void sim_copy_async_commit(u32 line) {
    Fiber& f = current();
    if (f.num_groups == MOST_GROUPS) {
        fail(f, "line %u: more than %u groups of asynchronous copies in flight", line, MOST_GROUPS);
    }
    f.group_end[f.num_groups++] = f.num_copies;
}

void sim_copy_async_wait(u32 groups) {
    Fiber& f = current();
    if (f.num_groups <= groups) {
        return;
    }
    // Groups that have landed with an arrival at a barrier are no longer among them: others count from the latest.
    const u32 landed = f.num_groups - groups, copies = f.group_end[landed - 1];
    // With an arrival their order is that of the barrier.
    for (u32 i = f.num_announced > f.num_landed ? u32(f.num_announced - f.num_landed) : 0; i < copies; i++) {
        note_access(f.copies[i].shared, 16, true, __builtin_return_address(0));
    }
    update_proxy(*f.worker);
    land_copies(f, copies);
}

// -- matrix products

void sim_load_matrix_x4(u32* r, const void* row, bool transposed, u32 line) {
    Fiber& f = current();
    const Op op = transposed ? Op::LoadMatrixTransposed : Op::LoadMatrix;
    if (!in_shared(f, row, 16)) {
        fail(f, "line %u: %s of a row at %lld of %u bytes of shared memory", line, NAMES[u32(op)],
             i64(static_cast<const u8*>(row) - f.shared), f.worker->launch->shared_bytes);
    }
    if (u64(row) % 16 != 0) {
        fail(f, "line %u: %s of a misaligned row", line, NAMES[u32(op)]);
    }
    note_access(row, 16, false, __builtin_return_address(0));
    f.result.words = r;
    f.operand = row;
    if (!arrive(f, op, line)) {
        return;
    }
    SimCounts& counts = f.worker->counts;
    counts.matrix_loads++;
    Fiber* const* lanes = &f.worker->fibers[f.thread.x - lane_of(f)];
    for (u32 q = 0; q < 4; q++) {
        const u16* rows[8];
        u32 banks = 0;
        for (u32 i = 0; i < 8; i++) {
            rows[i] = static_cast<const u16*>(lanes[q * 8 + i]->operand);
            const u32 bank = 1u << (u64(rows[i]) / 16 % 8);
            counts.bank_conflicts += (banks & bank) != 0;
            banks |= bank;
        }
        for (u32 l = 0; l < LANES; l++) {
            const u32 g = l / 4, t = l % 4 * 2;
            const u32 low = transposed ? rows[t][g] : rows[g][t];
            const u32 high = transposed ? rows[t + 1][g] : rows[g][t + 1];
            lanes[l]->result.words[q] = low | high << 16;
        }
    }
    release_warp(f);
}

// The lanes' fragments as matrices, multiplied, and back. Loops over whole rows, for the host's vector units.
template <f32 (*to_f32)(u16)> static void multiply(Fiber* const* lanes) {
    // A word holds elements k = 2j and 2j + 1 of a row of a, or of a column of b.
    u32 a[16][8], b[8][8];
    f32 c[16][8];
    for (u32 l = 0; l < LANES; l++) {
        const u32 g = l / 4, t = l % 4;
        const Fiber& lane = *lanes[l];
        const u32* words = static_cast<const u32*>(lane.operand);
        for (u32 q = 0; q < 4; q++) {
            a[g + q % 2 * 8][t + q / 2 * 4] = words[q];
            c[g + q / 2 * 8][2 * t + q % 2] = lane.result.floats[q];
        }
        b[t][g] = lane.b[0];
        b[t + 4][g] = lane.b[1];
    }
    f32 a_low[16][8], a_high[16][8], b_low[8][8], b_high[8][8];
    for (u32 i = 0; i < 16 * 8; i++) {
        a_low[i / 8][i % 8] = to_f32(u16(a[i / 8][i % 8]));
        a_high[i / 8][i % 8] = to_f32(u16(a[i / 8][i % 8] >> 16));
    }
    for (u32 i = 0; i < 8 * 8; i++) {
        b_low[i / 8][i % 8] = to_f32(u16(b[i / 8][i % 8]));
        b_high[i / 8][i % 8] = to_f32(u16(b[i / 8][i % 8] >> 16));
    }
    for (u32 i = 0; i < 16; i++) {
        for (u32 j = 0; j < 8; j++) {
            for (u32 n = 0; n < 8; n++) {
                c[i][n] += a_low[i][j] * b_low[j][n];
                c[i][n] += a_high[i][j] * b_high[j][n];
            }
        }
    }
    for (u32 l = 0; l < LANES; l++) {
        const u32 g = l / 4, t = l % 4;
        for (u32 q = 0; q < 4; q++) {
            lanes[l]->result.floats[q] = c[g + q / 2 * 8][2 * t + q % 2];
        }
    }
}

void sim_mma_16x8x16(bool is_bf16, f32* c, const u32* a, u32 b0, u32 b1, u32 line) {
    Fiber& f = current();
    f.result.floats = c;
    f.operand = a;
    f.b[0] = b0;
    f.b[1] = b1;
    if (!arrive(f, is_bf16 ? Op::MmaBf16 : Op::MmaF16, line)) {
        return;
    }
    Fiber* const* lanes = &f.worker->fibers[f.thread.x - lane_of(f)];
    if (is_bf16) {
        multiply<bf16_to_f32>(lanes);
    } else {
        multiply<f16_to_f32>(lanes);
    }
    release_warp(f);
}
