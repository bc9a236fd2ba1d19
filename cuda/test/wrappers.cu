// wrappers.cu: every primitive of cuda/common on given words, so that a device and the simulated one can be compared
// wrapper by wrapper.
// Maths     output = primitive(input), thread by thread; `params.primitive` is one of the list below.
// Shapes    input [block, 64 threads, 12 words], output [block, 64 threads, 4 words].
// Grid      one block of 64 threads a case.
// Numerics  bit for bit, but exp2_approx (2 ulp) and the matrix products (order of their sums).
// Limits    shared memory: sizeof(Shared).
// #include "common/prelude.cuh"
// #include "common/warp.cuh"
// #include "common/async.cuh"
// #include "common/mma.cuh"
// #include "common/dtype.cuh"

enum Primitive : u32 {
    MMA_F16,                // a [0..4), b [4..6), c [6..10) -> c
    MMA_BF16,               // the same
    LOAD_MATRIX,            // my row [0..4), the row I name [4] of my warp -> r
    LOAD_MATRIX_TRANSPOSED, // the same
    COPY_ASYNC,             // row [0..4), valid [4] -> the next thread's row
    COPY_ASYNC_GROUPS,      // rows [0..4), [4..8), a group each -> first word 0 after wait<1>, both after wait<0>
    SHUFFLE_XOR,            // value [0], argument [1], high half [2] -> 32 bits, 64 bits low and high, as i32
    SHUFFLE,                // the same
    SHUFFLE_UP,             // the same
    SHUFFLE_DOWN,           // the same
    BALLOT,                 // predicate [0] != 0 -> ballot, warp_any
    WARP_REDUCE,            // f32 [0] -> warp_sum, warp_max
    EXP2_APPROX,            // f32 [0] -> f32
    TO_F16,                 // f32 [0], [1] -> from_f32 of both, pack
    TO_BF16,                // the same
    FROM_16,                // bits [0] -> f32 of the f16, f32 of the bf16
    CHUNKS,                 // f32 [0..4) -> stored and loaded as f16 (2 words), as bf16 (2 words)
    INTEGERS,               // [0], [1] -> __umulhi, __clz, __popc, min + max of both signs
    FLOATS,                 // f32 [0..3) -> fmaxf, fminf, fmaf, floorf
    ATOMICS,                // [0] -> sum and maximum of the block; of its threads below 32, in global memory, the sum ordered
    BARRIER_OR,             // [0..3) -> whether any of the block is not 0, one barrier each
};

struct WrappersParams {
    u32 primitive;
    u32 padding;
};

struct WrappersArgs {
    WrappersParams params;
    const u32* input;
    u32* output;
    u32* counters; // [block, 2], zero
};

constexpr u32 ROWS = 64, INPUT_WORDS = 12;

struct Shared {
    u32x4 rows[2][ROWS];
    u32 sum, most;
};

DEVICE f32 as_f32(u32 bits) {
    return __uint_as_float(bits);
}

DEVICE u32 word(const u32x4& row, u32 i) {
    return i == 0 ? row.x : i == 1 ? row.y : i == 2 ? row.z : row.w;
}

template <class T> DEVICE void matrix_product(const u32* in, u32 (&out)[4]) {
    const u32 a[4] = {in[0], in[1], in[2], in[3]};
    f32 c[4] = {as_f32(in[6]), as_f32(in[7]), as_f32(in[8]), as_f32(in[9])};
    mma_16x8x16(T{}, c, a, in[4], in[5]);
    for (u32 i = 0; i < 4; i++) {
        out[i] = __float_as_uint(c[i]);
    }
}

DEVICE void store_row(u32x4& row, const u32* in) {
    row = u32x4{in[0], in[1], in[2], in[3]};
}

template <class Exchange> DEVICE void exchange(const u32* in, u32 (&out)[4], Exchange by) {
    out[0] = by(in[0], in[1]);
    const u64 wide = by(u64(in[2]) << 32 | in[0], in[1]);
    out[1] = u32(wide);
    out[2] = u32(wide >> 32);
    out[3] = u32(by(i32(in[0]), in[1]));
}

struct ByXor {
    template <class T> __device__ T operator()(T v, u32 n) const {
        return shuffle_xor(v, n);
    }
};
struct ByLane {
    template <class T> __device__ T operator()(T v, u32 n) const {
        return shuffle(v, n);
    }
};
struct Up {
    template <class T> __device__ T operator()(T v, u32 n) const {
        return shuffle_up(v, n);
    }
};
struct Down {
    template <class T> __device__ T operator()(T v, u32 n) const {
        return shuffle_down(v, n);
    }
};

template <class T> DEVICE void to_16(const u32* in, u32 (&out)[4]) {
    out[0] = from_f32<T>(as_f32(in[0])).bits;
    out[1] = from_f32<T>(as_f32(in[1])).bits;
    out[2] = pack<T>(as_f32(in[0]), as_f32(in[1]));
}

// Through shared memory: chunk `thread` of rows that hold two chunks of 16-bit elements.
template <class T> DEVICE void chunk_bits(Shared& s, const u32* in, u32& low, u32& high) {
    T* base = reinterpret_cast<T*>(&s.rows[0][0]);
    store_chunk(base, threadIdx.x, f32x4{as_f32(in[0]), as_f32(in[1]), as_f32(in[2]), as_f32(in[3])});
    const f32x4 x = load_chunk(base, threadIdx.x);
    low = pack<T>(x.x, x.y);
    high = pack<T>(x.z, x.w);
}

KERNEL(wrappers, WrappersArgs, 64, 1) {
    Shared& s = shared_memory<Shared>();
    const u32 thread = threadIdx.x, lane = thread % 32;
    const u64 place = u64(blockIdx.x) * ROWS + thread;
    const u32* in = args.input + place * INPUT_WORDS;
    u32 out[4] = {0, 0, 0, 0};

    switch (args.params.primitive) {
    case MMA_F16:
        matrix_product<f16>(in, out);
        break;
    case MMA_BF16:
        matrix_product<bf16>(in, out);
        break;
    case LOAD_MATRIX:
        store_row(s.rows[0][thread], in);
        __syncthreads();
        load_matrix_x4(out, &s.rows[0][thread - lane + in[4] % 32]);
        break;
    case LOAD_MATRIX_TRANSPOSED:
        store_row(s.rows[0][thread], in);
        __syncthreads();
        load_matrix_x4_transposed(out, &s.rows[0][thread - lane + in[4] % 32]);
        break;
    case COPY_ASYNC: {
        copy_async_16(&s.rows[0][thread], in, in[4] != 0);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        const u32x4 row = s.rows[0][(thread + 1) % ROWS];
        for (u32 i = 0; i < 4; i++) {
            out[i] = word(row, i);
        }
        break;
    }
    case COPY_ASYNC_GROUPS:
        copy_async_16(&s.rows[0][thread], in, true);
        copy_async_commit();
        copy_async_16(&s.rows[1][thread], in + 4, true);
        copy_async_commit();
        copy_async_wait<1>();
        out[0] = s.rows[0][thread].x;
        copy_async_wait<0>();
        out[1] = s.rows[0][thread].x;
        out[2] = s.rows[1][thread].x;
        break;
    case SHUFFLE_XOR:
        exchange(in, out, ByXor{});
        break;
    case SHUFFLE:
        exchange(in, out, ByLane{});
        break;
    case SHUFFLE_UP:
        exchange(in, out, Up{});
        break;
    case SHUFFLE_DOWN:
        exchange(in, out, Down{});
        break;
    case BALLOT:
        out[0] = ballot(in[0] != 0);
        out[1] = warp_any(in[0] != 0);
        break;
    case WARP_REDUCE:
        out[0] = __float_as_uint(warp_sum(as_f32(in[0])));
        out[1] = __float_as_uint(warp_max(as_f32(in[0])));
        break;
    case EXP2_APPROX:
        out[0] = __float_as_uint(exp2_approx(as_f32(in[0])));
        break;
    case TO_F16:
        to_16<f16>(in, out);
        break;
    case TO_BF16:
        to_16<bf16>(in, out);
        break;
    case FROM_16:
        out[0] = __float_as_uint(to_f32(f16{u16(in[0])}));
        out[1] = __float_as_uint(to_f32(bf16{u16(in[0])}));
        break;
    case CHUNKS:
        chunk_bits<f16>(s, in, out[0], out[1]);
        __syncthreads();
        chunk_bits<bf16>(s, in, out[2], out[3]);
        break;
    case INTEGERS:
        out[0] = __umulhi(in[0], in[1]);
        out[1] = u32(__clz(i32(in[0])));
        out[2] = u32(__popc(in[0]));
        out[3] = min(in[0], in[1]) + 3 * max(in[0], in[1]) + 5 * u32(min(i32(in[0]), i32(in[1])))
            + 7 * u32(max(i32(in[0]), i32(in[1])));
        break;
    case FLOATS:
        out[0] = __float_as_uint(fmaxf(as_f32(in[0]), as_f32(in[1])));
        out[1] = __float_as_uint(fminf(as_f32(in[0]), as_f32(in[1])));
        out[2] = __float_as_uint(fmaf(as_f32(in[0]), as_f32(in[1]), as_f32(in[2])));
        out[3] = __float_as_uint(floorf(as_f32(in[0])));
        break;
    case ATOMICS: {
        u32* counters = args.counters + 2 * u64(blockIdx.x);
        if (thread == 0) {
            s.sum = s.most = 0;
        }
        __syncthreads();
        atomicAdd(&s.sum, in[0]);
        atomicMax(&s.most, in[0]);
        if (thread < 32) {
            atomic_add_ordered(&counters[0], in[0]);
            atomicMax(&counters[1], in[0]);
        }
        __syncthreads();
        out[0] = s.sum;
        out[1] = s.most;
        out[2] = atomicAdd(&counters[0], 0u);
        out[3] = atomicMax(&counters[1], 0u);
        break;
    }
    case BARRIER_OR:
        for (u32 i = 0; i < 3; i++) {
            out[i] = __syncthreads_or(int(in[i])) != 0;
        }
        break;
    }
    for (u32 i = 0; i < 4; i++) {
        args.output[place * 4 + i] = out[i];
    }
}
