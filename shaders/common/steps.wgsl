// steps.wgsl: the step of a launch, for plans that are repeated with growing lengths, and the rows that have ended.
// Counter   the binding `steps`: [steps so far, last step of the room, rows, the step at which each row ends]; 0 rows: none
//           ends.
// Constants HAS_STEPS: plans of one step have no counter.

// Past the room the last step repeats.
fn step_now() -> u32 {
    if HAS_STEPS {
        return min(steps[0], steps[1]);
    }
    return 0u;
}

// Whether a row takes no part any more.
fn has_ended(row: u32) -> bool {
    if HAS_STEPS {
        if row < steps[2] {
            return steps[0] >= steps[3u + row];
        }
    }
    return false;
}
