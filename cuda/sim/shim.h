// shim.h: what a kernel sees when the host compiler builds it: CUDA's words and the primitives of cuda/common, without
// any other header, so that a kernel compiles in a fraction of a second. The work is done by runtime.cpp.
//
// Build     g++ -std=c++17 -O2 -march=x86-64-v3 -fno-strict-aliasing -fPIC -shared -fvisibility=hidden
//               -DCOLATENT_SIM -include shim.h kernel.cpp -o kernel.so
//           g++ (the same, without -fvisibility, -DCOLATENT_SIM, -include) runtime.cpp -o runtime.so -pthread
// Load      runtime.so once with RTLD_NOW | RTLD_GLOBAL, then every kernel with RTLD_NOW | RTLD_LOCAL: the sim_*
//           symbols of a kernel resolve to the runtime.
// Call      colatent_launch(launch, error): 0, or nonzero with a sentence in error[512].
//           colatent_args_bytes: the size of the argument struct as the kernel sees it; colatent_name: the kernel's.
//
// Every primitive takes the line it is written on: lanes that meet in different statements have diverged, as for the
// .aligned instructions of the hardware. Lines count in the expanded source.
#pragma once
#if !defined(__x86_64__) || !defined(__ELF__)
#error "the simulated device needs an x86-64 host with the System V calling convention"
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef long long i64;
typedef float f32;

// One launch. workers: threads of the host that run blocks. seed: order of blocks, warps and lanes; 0 is ascending.
// jitter: 0, or switch threads with probability 1 / jitter at barriers, atomics and fences.
struct SimLaunch {
    u32 groups, threads, shared_bytes, workers, seed, jitter;
    const void* args;
};

struct SimIndex {
    u32 x;
};

// What a thread of the simulated device knows about itself.
struct SimThread {
    SimIndex thread, block, threads, blocks;
    u8* shared;
};

// Matrix loads, and how often two of the 8 rows of a matrix met in the same 16 bytes of the 128 that shared memory
// serves at once.
struct SimCounts {
    u64 matrix_loads, bank_conflicts;
};

// What the host puts into the 128 bytes of a tensor map (src/backend/cuda/tensor_map.rs) for this device: a tensor of
// 16-bit elements, its dimension 0 contiguous, the strides of the others in bytes, a box of dimensions 0 and 1.
struct SimTensorMap {
    u64 address, strides[3];
    u32 dims[4], box[2], swizzle, is_map;
    u64 rest[8];
};
constexpr u32 SIM_IS_MAP = 0x70616D54;
static_assert(sizeof(SimTensorMap) == 128, "as TensorMap in common/bulk.cuh");

enum SimShuffle : u32 { SIM_SHUFFLE_XOR, SIM_SHUFFLE_INDEX, SIM_SHUFFLE_UP, SIM_SHUFFLE_DOWN };

extern "C" {
// The running thread of the simulated device. Fibers never change their host thread, and the runtime is loaded before
// any kernel, which is what this model of thread-local storage asks for.
extern __thread SimThread* sim_thread __attribute__((tls_model("initial-exec")));

int sim_launch(const char* kernel, u32 threads, u64 args_bytes, void (*body)(const void*), const SimLaunch* launch,
               char* error);
// Counts of the last launch of the calling host thread.
void sim_counts(SimCounts* counts);

// Memory of the device, aligned to 256 bytes and filled with 0xFF; null if there is none.
void* sim_allocate(u64 bytes);
void sim_free(void* address, u64 bytes);

void sim_shared_memory(u64 bytes, u32 line);
int sim_barrier(int is_or, int value, u32 line);
void sim_warp_barrier(u32 line);
u64 sim_shuffle(u64 value, SimShuffle how, u32 argument, u32 line);
u32 sim_ballot(bool predicate, u32 line);
void sim_load_matrix_x4(u32* r, const void* row, bool transposed, u32 line);
void sim_mma_16x8x16(bool is_bf16, f32* c, const u32* a, u32 b0, u32 b1, u32 line);
void sim_copy_async(void* shared, const void* global, bool valid, u32 line);
void sim_copy_async_commit(u32 line);
void sim_copy_async_wait(u32 groups);
void sim_fence();
void sim_mbarrier_init(void* barrier, u32 count, u32 line);
void sim_mbarrier_arrive(void* barrier, u32 line);
void sim_mbarrier_wait(void* barrier, u32 parity, u32 line);
void sim_copy_async_arrive(void* barrier, u32 line);
void sim_mbarrier_arrive_expect(void* barrier, u32 bytes, u32 line);
void sim_copy_box(void* shared, const void* map, const u32* at, void* barrier, u32 line);
u32 sim_shared_address(const void* place, u32 line);
void sim_fence_proxy_async();
void sim_wgmma_fence(u32 line);
void sim_wgmma_commit(u32 line);
void sim_wgmma_wait(u32 groups, u32 line);
// c: n / 2 numbers. Operand a: its words, or null and a descriptor.
void sim_wgmma(bool is_bf16, u32 n, f32* c, const u32* a_words, u64 a, u64 b, bool accumulate, u32 line);
void sim_atomic_begin(const void* address, u64 bytes, u32 line);
void sim_atomic_end(const void* address);
}

static inline u32 __float_as_uint(f32 x) {
    return __builtin_bit_cast(u32, x);
}

static inline f32 __uint_as_float(u32 x) {
    return __builtin_bit_cast(f32, x);
}

// To nearest, ties to even.
static inline i32 __float2int_rn(f32 x) {
    return i32(__builtin_nearbyintf(x));
}

// Without a branch, so that loops over it are vectorised. The exponent's bias is 112 more in f32; the product is exact,
// for subnormals too.
static inline f32 f16_to_f32(u16 bits) {
    const u32 sign = u32(bits & 0x8000) << 16, magnitude = bits & 0x7fff;
    const u32 special = magnitude >= 0x7c00 ? 0x7f800000 : 0; // infinity, NaN
    return __uint_as_float(sign | special | __float_as_uint(__uint_as_float(magnitude << 13) * 0x1p112f));
}

#ifndef COLATENT_SIM_RUNTIME

#define SIM_LINE u32 line = __builtin_LINE()

#define __global__
#define __device__
#define __forceinline__ inline
#define threadIdx (static_cast<const SimIndex&>(sim_thread->thread))
#define blockIdx (static_cast<const SimIndex&>(sim_thread->block))
#define blockDim (static_cast<const SimIndex&>(sim_thread->threads))
#define gridDim (static_cast<const SimIndex&>(sim_thread->blocks))

#define KERNEL(name, Args, threads, min_blocks)                                                                        \
    static void name(const Args& args);                                                                                \
    static void sim_body(const void* args) {                                                                           \
        name(*static_cast<const Args*>(args));                                                                         \
    }                                                                                                                  \
    extern "C" {                                                                                                       \
    __attribute__((visibility("default"))) extern const u64 colatent_args_bytes = sizeof(Args);                        \
    __attribute__((visibility("default"))) extern const char colatent_name[] = #name;                                  \
    __attribute__((visibility("default"))) int colatent_launch(const SimLaunch* launch, char* error) {                 \
        return sim_launch(#name, threads, sizeof(Args), sim_body, launch, error);                                      \
    }                                                                                                                  \
    }                                                                                                                  \
    static void name(const Args& args)

// -- numbers

extern "C" {
float fmaf(float, float, float) noexcept;
float fabsf(float) noexcept;
float sqrtf(float) noexcept;
float floorf(float) noexcept;
float log2f(float) noexcept;
float exp2f(float) noexcept;
}

static inline u32 __umulhi(u32 a, u32 b) {
    return u32(u64(a) * b >> 32);
}

static inline int __clz(int x) {
    return x ? __builtin_clz(u32(x)) : 32;
}

static inline int __popc(u32 x) {
    return __builtin_popcount(x);
}

// As the hardware has them: a NaN loses against a number, -0 is below +0.
static inline f32 sim_fmax(f32 a, f32 b) {
    if (a == b) {
        return __uint_as_float(__float_as_uint(a) & __float_as_uint(b));
    }
    return a > b || b != b ? a : b;
}

static inline f32 sim_fmin(f32 a, f32 b) {
    if (a == b) {
        return __uint_as_float(__float_as_uint(a) | __float_as_uint(b));
    }
    return a < b || b != b ? a : b;
}

// Macros: the host's library has these names already.
#define fmaxf sim_fmax
#define fminf sim_fmin

#define SIM_MIN_MAX(T)                                                                                                 \
    static inline T min(T a, T b) {                                                                                    \
        return b < a ? b : a;                                                                                          \
    }                                                                                                                  \
    static inline T max(T a, T b) {                                                                                    \
        return a < b ? b : a;                                                                                          \
    }
SIM_MIN_MAX(u32)
SIM_MIN_MAX(i32)
SIM_MIN_MAX(u64)
SIM_MIN_MAX(i64)

static inline f32 min(f32 a, f32 b) {
    return sim_fmin(a, b);
}

static inline f32 max(f32 a, f32 b) {
    return sim_fmax(a, b);
}

static inline f32 exp2_approx(f32 x) {
    const f32 smallest = 0x1p-126f;
    const f32 y = exp2f(fabsf(x) < smallest ? 0.0f : x);
    return y < smallest ? 0.0f : y;
}

static inline f32 reciprocal_approx(f32 x) {
    const f32 smallest = 0x1p-126f;
    const f32 y = 1.0f / (fabsf(x) < smallest ? 0.0f * x : x);
    return fabsf(y) < smallest ? 0.0f * y : y;
}

static inline u16 f32_to_f16(f32 x) {
    const u32 bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) {
        return 0x7fff;
    }
    if (magnitude >= 0x477ff000) { // 65520 and above round to infinity
        return u16(sign | 0x7c00);
    }
    if (magnitude < 0x38800000) { // below 2^-14: beside 0.5 an f32 is a multiple of 2^-24, as a subnormal f16 is
        return u16(sign | (__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000));
    }
    return u16(sign | (magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13);
}

static inline u16 f32_to_bf16(f32 x) {
    const u32 bits = __float_as_uint(x);
    return (bits & 0x7fffffff) > 0x7f800000 ? u16(0x7fff) : u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// -- blocks

template <class T> static inline T& shared_memory(SIM_LINE) {
    static_assert(alignof(T) <= 1024, "shared memory is 1024-byte aligned");
    sim_shared_memory(sizeof(T), line);
    return *reinterpret_cast<T*>(sim_thread->shared);
}

static inline void __syncthreads(SIM_LINE) {
    sim_barrier(0, 0, line);
}

static inline int __syncthreads_or(int value, SIM_LINE) {
    return sim_barrier(1, value, line);
}

// -- memory between blocks

static inline void __threadfence() {
    sim_fence();
}

#define SIM_ATOMIC(name, T, apply)                                                                                     \
    static inline T name(T* address, T value, SIM_LINE) {                                                              \
        sim_atomic_begin(address, sizeof(T), line);                                                                    \
        T old = __atomic_load_n(address, __ATOMIC_RELAXED);                                                            \
        while (!__atomic_compare_exchange_n(address, &old, T(apply), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {     \
        }                                                                                                              \
        sim_atomic_end(address);                                                                                       \
        return old;                                                                                                    \
    }
SIM_ATOMIC(atomicAdd, u32, old + value)
SIM_ATOMIC(atomicAdd, i32, u32(old) + u32(value))
SIM_ATOMIC(atomicAdd, u64, old + value)
SIM_ATOMIC(atomicMax, u32, old < value ? value : old)
SIM_ATOMIC(atomicMin, u32, value < old ? value : old)
SIM_ATOMIC(atomicOr, u32, old | value)
SIM_ATOMIC(atomicExch, u32, value)

static inline u32 atomic_add_ordered(u32* address, u32 value, SIM_LINE) {
    __threadfence();
    const u32 old = atomicAdd(address, value, line);
    __threadfence();
    return old;
}

// -- warps

static inline void __syncwarp(SIM_LINE) {
    sim_warp_barrier(line);
}

template <class T> static inline T sim_shuffle_as(T v, SimShuffle how, u32 argument, u32 line) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "lanes exchange numbers of 32 or 64 bits");
    if constexpr (sizeof(T) == 4) {
        return __builtin_bit_cast(T, u32(sim_shuffle(__builtin_bit_cast(u32, v), how, argument, line)));
    } else {
        return __builtin_bit_cast(T, sim_shuffle(__builtin_bit_cast(u64, v), how, argument, line));
    }
}

template <class T> static inline T shuffle_xor(T v, u32 mask, SIM_LINE) {
    return sim_shuffle_as(v, SIM_SHUFFLE_XOR, mask, line);
}

template <class T> static inline T shuffle(T v, u32 lane, SIM_LINE) {
    return sim_shuffle_as(v, SIM_SHUFFLE_INDEX, lane, line);
}

template <class T> static inline T shuffle_up(T v, u32 n, SIM_LINE) {
    return sim_shuffle_as(v, SIM_SHUFFLE_UP, n, line);
}

template <class T> static inline T shuffle_down(T v, u32 n, SIM_LINE) {
    return sim_shuffle_as(v, SIM_SHUFFLE_DOWN, n, line);
}

static inline u32 ballot(bool predicate, SIM_LINE) {
    return sim_ballot(predicate, line);
}

// -- asynchronous copies

static inline void copy_async_16(void* shared, const void* global, bool valid, SIM_LINE) {
    sim_copy_async(shared, global, valid, line);
}

static inline void copy_async_commit(SIM_LINE) {
    sim_copy_async_commit(line);
}

template <u32 N> static inline void copy_async_wait() {
    sim_copy_async_wait(N);
}

// -- matrix products

struct f16;
struct bf16;

static inline void load_matrix_x4(u32 (&r)[4], const void* shared_row, SIM_LINE) {
    sim_load_matrix_x4(r, shared_row, false, line);
}

static inline void load_matrix_x4_transposed(u32 (&r)[4], const void* shared_row, SIM_LINE) {
    sim_load_matrix_x4(r, shared_row, true, line);
}

// A template, since the tags are complete only in prelude.cuh.
template <class T>
static inline void mma_16x8x16(T, f32 (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, SIM_LINE) {
    static_assert(__is_same(T, f16) || __is_same(T, bf16), "matrix products take f16 or bf16");
    sim_mma_16x8x16(__is_same(T, bf16), c, a, b0, b1, line);
}

// -- barriers in shared memory

struct Mbarrier;

static inline void mbarrier_init(Mbarrier& barrier, u32 count, SIM_LINE) {
    sim_mbarrier_init(&barrier, count, line);
}

static inline void mbarrier_arrive(Mbarrier& barrier, SIM_LINE) {
    sim_mbarrier_arrive(&barrier, line);
}

static inline void mbarrier_wait(Mbarrier& barrier, u32 parity, SIM_LINE) {
    sim_mbarrier_wait(&barrier, parity, line);
}

static inline void copy_async_arrive(Mbarrier& barrier, SIM_LINE) {
    sim_copy_async_arrive(&barrier, line);
}

// -- bulk copies

static inline void prefetch_map(u64) {}

static inline void mbarrier_arrive_expect(Mbarrier& barrier, u32 bytes, SIM_LINE) {
    sim_mbarrier_arrive_expect(&barrier, bytes, line);
}

static inline void copy_box(u8* shared, u64 map, u32 c0, u32 c1, u32 c2, u32 c3, Mbarrier& barrier, SIM_LINE) {
    const u32 at[4] = {c0, c1, c2, c3};
    sim_copy_box(shared, reinterpret_cast<const void*>(map), at, &barrier, line);
}

// -- matrix products of a warpgroup

static inline u32 shared_address(const void* place, SIM_LINE) {
    return sim_shared_address(place, line);
}

static inline void fence_proxy_async() {
    sim_fence_proxy_async();
}

static inline void wgmma_fence(SIM_LINE) {
    sim_wgmma_fence(line);
}

static inline void wgmma_commit(SIM_LINE) {
    sim_wgmma_commit(line);
}

template <u32 N> static inline void wgmma_wait(SIM_LINE) {
    sim_wgmma_wait(N, line);
}

template <class T, u32 N> static inline void wgmma_hold(T (&)[N][4]) {}
static inline void wgmma_wait_behind(f32) {}
template <u32 N> static inline void registers_lower() {}
template <u32 N> static inline void registers_raise() {}

template <class T, u32 N>
static inline void wgmma(T, f32 (&c)[N][4], u64 a, u64 b, bool accumulate, SIM_LINE) {
    static_assert(__is_same(T, f16) || __is_same(T, bf16), "matrix products take f16 or bf16");
    static_assert(N * 8 == 64 || N * 8 == 96 || N * 8 == 128, "columns that wgmma.cuh has");
    sim_wgmma(__is_same(T, bf16), N * 8, &c[0][0], nullptr, a, b, accumulate, line);
}

template <class T, u32 N> static inline void wgmma(T, f32 (&c)[N][4], const u32 (&a)[4], u64 b, SIM_LINE) {
    static_assert(__is_same(T, f16) || __is_same(T, bf16), "matrix products take f16 or bf16");
    static_assert(N * 8 == 64 || N * 8 == 96 || N * 8 == 128 || N * 8 == 256, "columns that wgmma.cuh has");
    sim_wgmma(__is_same(T, bf16), N * 8, &c[0][0], a, 0, b, true, line);
}

#endif
