// shared.cpp: the shared memory of a block on the simulated device: poisoned, and nothing written behind its end.
#include "runtime.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace sim {

// In builds without ASan a canary behind shared memory stands in for its red zone.
void check_canary(Worker& w, u32 block) {
#ifndef COLATENT_SIM_ASAN
    const u8* end = w.shared + w.launch->shared_bytes;
    for (u64 i = 0; i < CANARY_BYTES; i++) {
        if (end[i] != CANARY && w.error[0] == 0) {
            snprintf(w.error, ERROR_BYTES, "%s: block %u: a write %llu bytes past the end of shared memory (%u bytes)",
                     w.launch->kernel, block, i, w.launch->shared_bytes);
        }
    }
#else
    (void)w, (void)block;
#endif
}

void prepare_shared(Worker& w) {
    const u64 bytes = w.launch->shared_bytes;
#ifdef COLATENT_SIM_ASAN
    void* fresh = nullptr;
    if (posix_memalign(&fresh, 1024, bytes) != 0) {
        abort();
    }
    w.shared = static_cast<u8*>(fresh);
    memset(w.shared, 0xFF, bytes);
#else
    if (w.shared == nullptr || w.shared_capacity < bytes) {
        void* fresh = nullptr;
        free(w.shared);
        if (posix_memalign(&fresh, 1024, bytes + CANARY_BYTES) != 0) {
            abort();
        }
        w.shared = static_cast<u8*>(fresh);
        w.shared_capacity = bytes;
    }
    memset(w.shared, 0xFF, bytes);
    memset(w.shared + bytes, CANARY, CANARY_BYTES);
#endif
}

} // namespace sim
