// norm.cuh: RMS norm over the lanes of one head: x / sqrt(mean(x^2) + eps), then the weights. After vector.cuh.
// Codes: 0 none, 1 weightless, 2 times weight, 3 times one plus weight. All arithmetic in f32.

constexpr u32 NORM_NONE = 0;
constexpr u32 NORM_SCALED = 2;
constexpr u32 NORM_ONE_PLUS = 3;

// What multiplies every lane of the head; `squares` is the sum of the squares of its `lanes` lanes.
DEVICE f32 norm_factor(u32 code, f32 squares, u32 lanes, f32 eps) {
    if (code == NORM_NONE) {
        return 1.0f;
    }
    return 1.0f / sqrtf(squares / f32(lanes) + eps); // eps inside the root
}

// Whether the norm reads its weights.
DEVICE bool norm_is_weighted(u32 code) {
    return code >= NORM_SCALED;
}

// What multiplies four lanes with these weights.
DEVICE f32x4 norm_weight(u32 code, f32x4 weight) {
    return code == NORM_ONE_PLUS ? weight + splat(1.0f) : weight;
}
