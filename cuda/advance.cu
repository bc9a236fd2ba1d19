// advance.cu: one step on: the counter that launches of moving plans read (common/steps.cuh).
// Maths     steps[0] += 1.
// Shapes    steps: steps so far, and what follows.
// Grid      one warp, of which one thread counts.
// #include "common/prelude.cuh"

struct AdvanceArgs {
    u32* steps;
};

KERNEL(advance, AdvanceArgs, 32, 1) {
    if (threadIdx.x == 0) {
        args.steps[0] += 1;
    }
}
