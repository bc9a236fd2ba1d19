// norm.cuh: norms over the lanes of one head. After vector.cuh. All arithmetic in f32.
//
//   RMS     x / sqrt(mean(x^2) + eps), then the weights
//   layer   the same of x - mean(x), and a bias after the weights
//   clip    x * min(1, most / |x|)
//
// Codes: 0 none, 1 RMS without weights, 2 clip, 3 RMS times weight, 4 RMS times one plus weight, 5 layer, 6 layer with bias.

constexpr u32 NORM_NONE = 0;
constexpr u32 NORM_CLIP = 2;
constexpr u32 NORM_SCALED = 3;
constexpr u32 NORM_ONE_PLUS = 4;
constexpr u32 NORM_LAYER = 5;
constexpr u32 NORM_LAYER_BIASED = 6;

// What multiplies every lane of the head; `squares` is the sum of the squares of its `lanes` lanes, their mean taken off
// for a layer norm.
DEVICE f32 norm_factor(u32 code, f32 squares, u32 lanes, f32 eps) {
    if (code == NORM_NONE) {
        return 1.0f;
    }
    return 1.0f / sqrtf(squares / f32(lanes) + eps); // eps inside the root
}

// The factor of a clip.
DEVICE f32 clip_factor(f32 squares, f32 most) {
    const f32 length = sqrtf(squares);
    return length > most ? most / length : 1.0f;
}

// Whether the norm reads its weights.
DEVICE bool norm_is_weighted(u32 code) {
    return code >= NORM_SCALED;
}

// What multiplies four lanes with these weights.
DEVICE f32x4 norm_weight(u32 code, f32x4 weight) {
    return code == NORM_ONE_PLUS ? weight + splat(1.0f) : weight;
}
