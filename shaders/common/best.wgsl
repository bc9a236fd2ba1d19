// best.wgsl: the best of a workgroup's lanes. The kernel names `Best`, a vec2 or vec3 of u32: key, id, and what comes with
// them; LANES; and the memory `pairs: array<Best, LANES>`, which it may use itself between two calls.

// The largest key of all lanes with the lowest id that has it. Uniform control flow.
fn reduce_best(lane: u32, own: Best) -> Best {
    workgroupBarrier(); // `pairs` may still be read
    pairs[lane] = own;
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        if lane < width {
            let a = pairs[lane];
            let b = pairs[lane + width];
            if b.x > a.x || (b.x == a.x && b.y < a.y) {
                pairs[lane] = b;
            }
        }
        workgroupBarrier();
    }
    return pairs[0];
}
