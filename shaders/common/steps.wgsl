// steps.wgsl: the step of a launch, for plans that are repeated with growing lengths.
// Constants HAS_STEPS: plans of one step have no counter. Needs the binding `steps`: [steps so far, last step of the room].

// Past the room the last step repeats.
fn step_now() -> u32 {
    if HAS_STEPS {
        return min(steps[0], steps[1]);
    }
    return 0u;
}
