// advance.wgsl: one step on: the counter that launches of moving plans read (common/steps.wgsl).
// Maths     steps[0] += 1.
// Shapes    steps: steps so far, and what follows.
// Grid      one invocation.

@group(0) @binding(1) var<storage, read_write> steps: array<u32>;

@compute @workgroup_size(1)
fn advance() {
    steps[0] += 1u;
}
