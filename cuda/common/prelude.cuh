// prelude.cuh: integer, float and vector types, the kernel macro, shared memory and 16-bit conversions.
// Every kernel includes it first. Device code needs no toolkit header; with COLATENT_SIM defined the host shim
// (cuda/sim/shim.h, put before the kernel) has the other half of each `#ifndef`.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef long long i64;
typedef float f32;

// Storage types: arithmetic is done in f32.
struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};
// Codes: what a scale divides. See dtype.cuh.
struct e4m3 {
    u8 bits;
};
struct i8 {
    u8 bits;
};

// One 8- or 16-byte load or store.
struct alignas(8) u32x2 {
    u32 x, y;
};
struct alignas(16) u32x4 {
    u32 x, y, z, w;
};
struct alignas(16) f32x4 {
    f32 x, y, z, w;
};

#define DEVICE static __device__ __forceinline__

#ifndef COLATENT_SIM

// A kernel uses some of the functions of a header, not all.
#pragma nv_diag_suppress 177

// KERNEL(name, Args, threads, min_blocks) { ... args ... }: the entry point `name`. `min_blocks` per multiprocessor
// bounds the registers of a thread.
#define KERNEL(name, Args, threads, min_blocks)                                                                        \
    extern "C" __global__ void __launch_bounds__(threads, min_blocks) name(const __grid_constant__ Args args)

extern __shared__ __align__(1024) u8 dynamic_shared_memory[];

// The block's dynamic shared memory, 1024-byte aligned (the largest atom of wgmma.cuh) and not initialised.
template <class T> DEVICE T& shared_memory() {
    return *reinterpret_cast<T*>(dynamic_shared_memory);
}

// 2^x to 2 ulp; subnormal x counts as 0, results below 2^-126 are 0; 2^-inf = 0.
DEVICE f32 exp2_approx(f32 x) {
    f32 y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x to 1 ulp, without the call that a division is; subnormal numbers count as 0.
DEVICE f32 reciprocal_approx(f32 x) {
    f32 y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// As atomicAdd on global memory. What this thread and those it met at a barrier wrote before is seen by who adds later and by
// those who meet it. One order instead of a fence on either side, each of which would empty the level-1 cache.
DEVICE u32 atomic_add_ordered(u32* address, u32 value) {
    u32 old;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(address), "r"(value) : "memory");
    return old;
}

// Conversions of bits round to nearest, ties to even; a NaN becomes 0x7fff; above the largest is infinity.
DEVICE f32 f16_to_f32(u16 bits) {
    f32 x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

DEVICE u16 f32_to_f16(f32 x) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

DEVICE u16 f32_to_bf16(f32 x) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

DEVICE u32 pack_bits(f16, f32 low, f32 high) {
    u32 word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

DEVICE u32 pack_bits(bf16, f32 low, f32 high) {
    u32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

#else

DEVICE u32 pack_bits(f16, f32 low, f32 high) {
    return f32_to_f16(low) | u32(f32_to_f16(high)) << 16;
}

DEVICE u32 pack_bits(bf16, f32 low, f32 high) {
    return f32_to_bf16(low) | u32(f32_to_bf16(high)) << 16;
}

#endif

DEVICE f32 to_f32(f32 x) {
    return x;
}

DEVICE f32 to_f32(f16 x) {
    return f16_to_f32(x.bits);
}

DEVICE f32 to_f32(bf16 x) {
    return __uint_as_float(u32(x.bits) << 16);
}

DEVICE void round_to(f32& y, f32 x) {
    y = x;
}

DEVICE void round_to(f16& y, f32 x) {
    y.bits = f32_to_f16(x);
}

DEVICE void round_to(bf16& y, f32 x) {
    y.bits = f32_to_bf16(x);
}

// from_f32<f16>(x): rounded to nearest, ties to even.
template <class T> DEVICE T from_f32(f32 x) {
    T y;
    round_to(y, x);
    return y;
}

// pack<f16>(low, high): two elements in a word, rounded as from_f32 rounds; `low` is the first in memory.
template <class T> DEVICE u32 pack(f32 low, f32 high) {
    return pack_bits(T{}, low, high);
}

// Counts an arrival; whether it is the last of `count`, which puts the counter back to 0, so that the next launch finds what
// this one found.
DEVICE bool arrives_last(u32* arrivals, u32 count) {
    const bool is_last = atomic_add_ordered(arrivals, 1u) + 1 == count;
    if (is_last) {
        atomicExch(arrivals, 0u);
    }
    return is_last;
}
