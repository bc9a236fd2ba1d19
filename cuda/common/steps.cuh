// steps.cuh: the step of a launch, for plans that are repeated with growing lengths, and the rows that have ended. After
// prelude.cuh.
// Counter   [steps so far, last step of the room, rows, the step at which each row ends]; 0 rows: none ends.
// Constants HAS_STEPS: plans of one step have no counter.

// Past the room the last step repeats.
DEVICE u32 step_of(const u32* steps) {
    return HAS_STEPS ? min(steps[0], steps[1]) : 0;
}

// Whether a row takes no part any more.
DEVICE bool has_ended(const u32* steps, u32 row) {
    return HAS_STEPS && row < steps[2] && steps[0] >= steps[3 + row];
}
