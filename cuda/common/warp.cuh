// warp.cuh: exchange between the 32 lanes of a warp. All lanes take part, from the same statement. After prelude.cuh.
// None of them orders memory: lanes that speak through shared memory need __syncwarp().

#ifndef COLATENT_SIM

// v of lane `own ^ mask`. T is a 32- or 64-bit number.
template <class T> DEVICE T shuffle_xor(T v, u32 mask) {
    return __shfl_xor_sync(0xffffffffu, v, mask);
}

// v of lane `lane % 32`.
template <class T> DEVICE T shuffle(T v, u32 lane) {
    return __shfl_sync(0xffffffffu, v, lane);
}

// v of the lane n below; the lanes that have none keep their own.
template <class T> DEVICE T shuffle_up(T v, u32 n) {
    return __shfl_up_sync(0xffffffffu, v, n);
}

// v of the lane n above; the lanes that have none keep their own.
template <class T> DEVICE T shuffle_down(T v, u32 n) {
    return __shfl_down_sync(0xffffffffu, v, n);
}

// Bit l is the predicate of lane l.
DEVICE u32 ballot(bool predicate) {
    return __ballot_sync(0xffffffffu, predicate);
}

#endif

DEVICE bool warp_any(bool predicate) {
    return ballot(predicate) != 0;
}

// Sum of the lanes, the same bits in each: both partners of a step add the same two numbers.
DEVICE f32 warp_sum(f32 v) {
    for (u32 mask = 16; mask > 0; mask >>= 1) {
        v += shuffle_xor(v, mask);
    }
    return v;
}

// Largest of the lanes; a NaN is ignored unless all are.
DEVICE f32 warp_max(f32 v) {
    for (u32 mask = 16; mask > 0; mask >>= 1) {
        v = fmaxf(v, shuffle_xor(v, mask));
    }
    return v;
}
