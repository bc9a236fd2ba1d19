// wrappers_sm90.cu: the primitives that only Hopper has, on given words, as wrappers.cu has the others.
// Maths     output = primitive(input); `params.primitive` is one of the list below. Products: c (kept in odd blocks, 0 in
//           even ones) + a b^T or a b, over K lanes.
// Shapes    input [block]: a [64][64] 16-bit, b [256][64] (K-major: its first N rows; MN-major: [64][256], its first N
//           columns), c [64][256] f32; output [block][64][256] words, of which other primitives have 4 per thread.
// Grid      one warpgroup a case.
// Numerics  bit for bit, but the products (order of their sums).
// Limits    sm_90a; shared memory: sizeof(Shared).
// #include "common/prelude.cuh"
// #include "common/async.cuh"
// #include "common/mbarrier.cuh"
// #include "common/bulk.cuh"
// #include "common/wgmma.cuh"

enum Primitive : u32 {
    MBARRIER,           // a[thread] handed round by three phases -> neighbour's, next but one's, third's
    COPY_ASYNC_ARRIVE,  // the first row of a [thread] copied, on a barrier -> the next thread's
    COPY_BOX,           // 16 rows of 128 bytes from row 13 block on, zeros from row 20 on -> a [thread] as they lie in shared memory
    SHARED_64,          // both operands K-major, 128-byte atoms (K = 64)
    SHARED_96,          // 64-byte atoms (K = 32)
    SHARED_128,         // 128-byte atoms
    SHARED_128_NARROW,  // 32-byte atoms (K = 16)
    REGISTERS_64,       // a in registers, b MN-major in 128-byte atoms (K = 64)
    REGISTERS_64_NARROW, // 32-byte atoms
    REGISTERS_96,       // 64-byte atoms
    REGISTERS_128,      // 128-byte atoms
    REGISTERS_256,      // 128-byte atoms
};

struct WrappersParams {
    u32 primitive;
    u32 is_bf16;
};

struct WrappersArgs {
    // Of the first 20 rows of the input: 64 lanes each, boxes of 16 rows.
    TensorMap map;
    WrappersParams params;
    const u32* input;
    u32* output;
};

constexpr u32 A_WORDS = 64 * 32, B_WORDS = 256 * 32, C_WORDS = 64 * 256;

struct Shared {
    u8 a[64 * 128];
    u8 b[256 * 128];
    u32 rounds[2][128];
    Mbarrier barrier;
};

struct Case {
    const u32 *a, *b, *c;
    u32* out;
};

// As the header says: address bits 4 up are xored with bits 7 up.
template <u32 SWIZZLE> DEVICE u8* turned(u8* atoms, u32 place) {
    return atoms + (place ^ (place >> 7 & (SWIZZLE / 16 - 1)) << 4);
}

DEVICE u32x4 chunk_of(const u32* words) {
    return u32x4{words[0], words[1], words[2], words[3]};
}

template <u32 N> DEVICE void load_sums(f32 (&c)[N / 8][4], const Case& in, bool is_kept) {
    const u32 row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
    for (u32 n = 0; n < N / 8; n++) {
        for (u32 e = 0; e < 4; e++) {
            const u32 place = (row + e / 2 * 8) * 256 + n * 8 + column + e % 2;
            c[n][e] = is_kept ? __uint_as_float(in.c[place]) : 0.0f;
        }
    }
}

template <u32 N> DEVICE void store_sums(const f32 (&c)[N / 8][4], const Case& in) {
    const u32 row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
    for (u32 n = 0; n < N / 8; n++) {
        for (u32 e = 0; e < 4; e++) {
            in.out[(row + e / 2 * 8) * 256 + n * 8 + column + e % 2] = __float_as_uint(c[n][e]);
        }
    }
}

template <class T, u32 N, u32 SWIZZLE> DEVICE void product_shared(Shared& s, const Case& in) {
    constexpr u32 CHUNKS = SWIZZLE / 16;
    for (u32 i = threadIdx.x; i < 64 * CHUNKS; i += 128) {
        const u32 row = i / CHUNKS, chunk = i % CHUNKS;
        u8* place = turned<SWIZZLE>(s.a, row * SWIZZLE + chunk * 16);
        *reinterpret_cast<u32x4*>(place) = chunk_of(in.a + row * 32 + chunk * 4);
    }
    for (u32 i = threadIdx.x; i < N * CHUNKS; i += 128) {
        const u32 row = i / CHUNKS, chunk = i % CHUNKS;
        u8* place = turned<SWIZZLE>(s.b, row * SWIZZLE + chunk * 16);
        *reinterpret_cast<u32x4*>(place) = chunk_of(in.b + row * 32 + chunk * 4);
    }
    fence_proxy_async();
    __syncthreads();
    f32 c[N / 8][4];
    load_sums<N>(c, in, true);
    wgmma_hold(c);
    wgmma_fence();
    const u64 a = wgmma_operand<SWIZZLE>(shared_address(s.a), 16, 8 * SWIZZLE);
    const u64 b = wgmma_operand<SWIZZLE>(shared_address(s.b), 16, 8 * SWIZZLE);
    for (u32 step = 0; step < SWIZZLE / 32; step++) {
        wgmma(T{}, c, wgmma_step(a, step * 32), wgmma_step(b, step * 32), step > 0 || blockIdx.x % 2 == 1);
    }
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_hold(c);
    store_sums<N>(c, in);
}

template <class T, u32 N, u32 SWIZZLE> DEVICE void product_registers(Shared& s, const Case& in) {
    constexpr u32 CHUNKS = SWIZZLE / 16, PANEL = 64 * SWIZZLE;
    for (u32 i = threadIdx.x; i < 64 * N / 8; i += 128) {
        const u32 k = i / (N / 8), chunk = i % (N / 8);
        u8* place = turned<SWIZZLE>(s.b, chunk / CHUNKS * PANEL + k * SWIZZLE + chunk % CHUNKS * 16);
        *reinterpret_cast<u32x4*>(place) = chunk_of(in.b + k * 128 + chunk * 4);
    }
    fence_proxy_async();
    __syncthreads();
    u32 a[4][4];
    for (u32 step = 0; step < 4; step++) {
        for (u32 q = 0; q < 4; q++) {
            const u32 row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + q % 2 * 8;
            a[step][q] = in.a[row * 32 + step * 8 + q / 2 * 4 + threadIdx.x % 4];
        }
    }
    f32 c[N / 8][4];
    load_sums<N>(c, in, blockIdx.x % 2 == 1);
    wgmma_hold(c);
    wgmma_hold(a);
    wgmma_fence();
    const u64 b = wgmma_operand<SWIZZLE>(shared_address(s.b), PANEL, 8 * SWIZZLE);
    // Two groups, of which the first is done before the second is waited for.
#pragma unroll
    for (u32 step = 0; step < 4; step++) {
        wgmma(T{}, c, a[step], wgmma_step(b, step * 16 * SWIZZLE));
        if (step == 1) {
            wgmma_commit();
        }
    }
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_wait<0>();
    wgmma_hold(c);
    wgmma_hold(a);
    store_sums<N>(c, in);
}

// Each phase hands on what the last one brought; a buffer is written again two phases later.
DEVICE void hand_round(Shared& s, const Case& in) {
    u32 word = in.a[threadIdx.x];
    for (u32 phase = 0; phase < 3; phase++) {
        s.rounds[phase % 2][threadIdx.x] = word;
        mbarrier_arrive(s.barrier);
        mbarrier_wait(s.barrier, phase % 2);
        word = s.rounds[phase % 2][(threadIdx.x + 1) % 128];
        in.out[threadIdx.x * 4 + phase] = word;
    }
}

DEVICE void copy_row(Shared& s, const Case& in) {
    u32x4* rows = reinterpret_cast<u32x4*>(s.b);
    copy_async_16(&rows[threadIdx.x], in.a + threadIdx.x * 4, threadIdx.x % 5 != 0);
    copy_async_arrive(s.barrier);
    mbarrier_wait(s.barrier, 0);
    const u32x4 row = rows[(threadIdx.x + 1) % 128];
    *reinterpret_cast<u32x4*>(in.out + threadIdx.x * 4) = row;
}

// A chunk of the box per thread.
DEVICE void copy_rows(Shared& s, const Case& in, const WrappersArgs& args) {
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(s.barrier, 16 * 128);
        copy_box(s.b, reinterpret_cast<u64>(&args.map), 0, blockIdx.x * 13, 0, 0, s.barrier);
    } else {
        mbarrier_arrive(s.barrier);
    }
    mbarrier_wait(s.barrier, 0);
    *reinterpret_cast<u32x4*>(in.out + threadIdx.x * 4) = *reinterpret_cast<u32x4*>(s.b + threadIdx.x * 16);
}

template <class T> DEVICE void product(u32 primitive, Shared& s, const Case& in) {
    switch (primitive) {
    case SHARED_64:
        product_shared<T, 64, 128>(s, in);
        break;
    case SHARED_96:
        product_shared<T, 96, 64>(s, in);
        break;
    case SHARED_128:
        product_shared<T, 128, 128>(s, in);
        break;
    case SHARED_128_NARROW:
        product_shared<T, 128, 32>(s, in);
        break;
    case REGISTERS_64:
        product_registers<T, 64, 128>(s, in);
        break;
    case REGISTERS_64_NARROW:
        product_registers<T, 64, 32>(s, in);
        break;
    case REGISTERS_96:
        product_registers<T, 96, 64>(s, in);
        break;
    case REGISTERS_128:
        product_registers<T, 128, 128>(s, in);
        break;
    case REGISTERS_256:
        product_registers<T, 256, 128>(s, in);
        break;
    }
}

KERNEL(wrappers_sm90, WrappersArgs, 128, 1) {
    Shared& s = shared_memory<Shared>();
    const u32* input = args.input + u64(blockIdx.x) * (A_WORDS + B_WORDS + C_WORDS);
    const Case in = {input, input + A_WORDS, input + A_WORDS + B_WORDS, args.output + u64(blockIdx.x) * C_WORDS};
    if (threadIdx.x == 0) {
        mbarrier_init(s.barrier, 128);
        fence_proxy_async();
    }
    __syncthreads();
    switch (args.params.primitive) {
    case MBARRIER:
        hand_round(s, in);
        break;
    case COPY_ASYNC_ARRIVE:
        copy_row(s, in);
        break;
    case COPY_BOX:
        copy_rows(s, in, args);
        break;
    default:
        if (args.params.is_bf16 != 0) {
            product<bf16>(args.params.primitive, s, in);
        } else {
            product<f16>(args.params.primitive, s, in);
        }
        break;
    }
}
