// async.cuh: copies of 16 bytes from global to shared memory that do not wait. After prelude.cuh.
// A thread's copies since its last commit are a group; groups land in order. copy_async_wait<N> waits until at most the
// N latest groups of this thread are in flight; other threads see the bytes after a barrier that follows the wait.

#ifndef COLATENT_SIM

// Both addresses are multiples of 16. Without `valid`, 16 zero bytes are written and `global` is not read.
DEVICE void copy_async_16(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(u32(__cvta_generic_to_shared(shared))),
                 "l"(global), "r"(valid ? 16u : 0u)
                 : "memory");
}

DEVICE void copy_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <u32 N> DEVICE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#endif
