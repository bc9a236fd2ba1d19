// vector.cuh: arithmetic on the 4 elements of a chunk. After prelude.cuh.

DEVICE f32x4 splat(f32 x) {
    return f32x4{x, x, x, x};
}

DEVICE f32x4 operator+(f32x4 a, f32x4 b) {
    return f32x4{a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}

DEVICE f32x4 operator*(f32x4 a, f32x4 b) {
    return f32x4{a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w};
}

DEVICE f32x4 operator*(f32x4 a, f32 b) {
    return a * splat(b);
}

// a * b + c, rounded once.
DEVICE f32x4 fma(f32x4 a, f32x4 b, f32x4 c) {
    return f32x4{fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y), fmaf(a.z, b.z, c.z), fmaf(a.w, b.w, c.w)};
}

// Sum of the elements, neighbours first.
DEVICE f32 sum(f32x4 a) {
    return (a.x + a.y) + (a.z + a.w);
}
