// steps.cuh: the step of a launch, for plans that are repeated with growing lengths. After prelude.cuh.
// Constants HAS_STEPS: plans of one step have no counter.

// Of a counter [steps so far, last step of the room]: past the room the last step repeats.
DEVICE u32 step_of(const u32* steps) {
    return HAS_STEPS ? min(steps[0], steps[1]) : 0;
}
