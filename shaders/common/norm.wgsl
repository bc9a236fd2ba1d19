// norm.wgsl: RMS norm over the lanes of one head: x / sqrt(mean(x^2) + eps), then the weights.
// Codes: 0 none, 1 weightless, 2 times weight, 3 times one plus weight. All arithmetic in f32.

const NORM_NONE = 0u;
const NORM_SCALED = 2u;
const NORM_ONE_PLUS = 3u;

// What multiplies every lane of the head; `squares` is the sum of the squares of its `lanes` lanes.
fn norm_factor(code: u32, squares: f32, lanes: u32, eps: f32) -> f32 {
    if code == NORM_NONE {
        return 1.0;
    }
    return inverseSqrt(squares / f32(lanes) + eps); // eps inside the root
}

// Whether the norm reads its weights.
fn norm_is_weighted(code: u32) -> bool {
    return code >= NORM_SCALED;
}

// What multiplies four lanes with these weights.
fn norm_weight(code: u32, weight: vec4<f32>) -> vec4<f32> {
    return select(weight, 1.0 + weight, code == NORM_ONE_PLUS);
}
