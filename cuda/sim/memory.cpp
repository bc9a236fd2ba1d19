// memory.cpp: the memory of the simulated device. An allocation lies between pages that nobody may touch, its end close to
// the second of them, so that an access outside of it faults; the fault of a kernel's thread ends the launch with a
// sentence. Under the sanitizers allocations are the heap's, whose ends the sanitizers know to the byte.
#include "runtime.h"

#include <signal.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

namespace sim {

#if !defined(COLATENT_SIM_ASAN) && !defined(COLATENT_SIM_TSAN)

constexpr u64 PAGE_BYTES = 4096;
// Address space before and behind each allocation: an index that is off by less is found.
constexpr u64 OUTSIDE_BYTES = 1 << 20;

// The pages of an allocation without what lies around it.
static u64 inside_bytes(u64 bytes) {
    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

static u64 aligned_bytes(u64 bytes) {
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void* allocate(u64 bytes) {
    const u64 inside = inside_bytes(bytes);
    void* memory = mmap(nullptr, inside + 2 * OUTSIDE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        return nullptr;
    }
    u8* first = static_cast<u8*>(memory) + OUTSIDE_BYTES;
    if (mprotect(first, inside, PROT_READ | PROT_WRITE) != 0) {
        munmap(memory, inside + 2 * OUTSIDE_BYTES);
        return nullptr;
    }
    return first + (inside - aligned_bytes(bytes));
}

static void give_back(void* address, u64 bytes) {
    const u64 inside = inside_bytes(bytes);
    munmap(static_cast<u8*>(address) - (inside - aligned_bytes(bytes)) - OUTSIDE_BYTES, inside + 2 * OUTSIDE_BYTES);
}

static struct sigaction before;

static void on_fault(int signal, siginfo_t* info, void*) {
    if (sim_thread) {
        // On the thread's own stack, and not to be returned from: the launch is over.
        fail(current(), "touches memory outside of every allocation, at %p", info->si_addr);
    }
    // Not a kernel's: whoever was there before sees it when the access is repeated.
    sigaction(signal, &before, nullptr);
}

void catch_faults() {
    static const bool once = [] {
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        sigemptyset(&action.sa_mask);
        return sigaction(SIGSEGV, &action, &before) == 0;
    }();
    (void)once;
}

#else

static void* allocate(u64 bytes) {
    void* memory = nullptr;
    return posix_memalign(&memory, ALIGNMENT, bytes) == 0 ? memory : nullptr;
}

static void give_back(void* address, u64) {
    free(address);
}

void catch_faults() {}

#endif

} // namespace sim

void* sim_allocate(u64 bytes) {
    bytes += bytes == 0;
    void* memory = sim::allocate(bytes);
    if (memory) {
        memset(memory, 0xff, bytes);
    }
    return memory;
}

void sim_free(void* address, u64 bytes) {
    sim::give_back(address, bytes + (bytes == 0));
}
