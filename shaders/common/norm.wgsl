// norm.wgsl: norms over the lanes of one head. All arithmetic in f32.
//
//   RMS     x / sqrt(mean(x^2) + eps), then the weights
//   layer   the same of x - mean(x), and a bias after the weights
//   clip    x * min(1, most / |x|)
//
// Codes: 0 none, 1 RMS without weights, 2 clip, 3 RMS times weight, 4 RMS times one plus weight, 5 layer, 6 layer with bias.

const NORM_NONE = 0u;
const NORM_CLIP = 2u;
const NORM_SCALED = 3u;
const NORM_ONE_PLUS = 4u;
const NORM_LAYER = 5u;
const NORM_LAYER_BIASED = 6u;

// What multiplies every lane of the head; `squares` is the sum of the squares of its `lanes` lanes, their mean taken off
// for a layer norm.
fn norm_factor(code: u32, squares: f32, lanes: u32, eps: f32) -> f32 {
    if code == NORM_NONE {
        return 1.0;
    }
    return inverseSqrt(squares / f32(lanes) + eps); // eps inside the root
}

// The factor of a clip.
fn clip_factor(squares: f32, most: f32) -> f32 {
    let length = sqrt(squares);
    return select(1.0, most / length, length > most);
}

// Whether the norm reads its weights.
fn norm_is_weighted(code: u32) -> bool {
    return code >= NORM_SCALED;
}

// What multiplies four lanes with these weights.
fn norm_weight(code: u32, weight: vec4<f32>) -> vec4<f32> {
    return select(weight, 1.0 + weight, code == NORM_ONE_PLUS);
}
