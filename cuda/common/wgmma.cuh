// wgmma.cuh: matrix products of a warpgroup (4 warps, 128 threads), which run while the threads go on. After prelude.cuh.
// sm_90a only.
//   c[64][N] += a[64][16] b[16][N], 16-bit operands, f32 sums. Warp w has rows 16 w .. 16 w + 15; lane l has g = l / 4 and
//   t = l % 4: c[n][0], c[n][1] are row g, columns 8n + 2t and 8n + 2t + 1; c[n][2], c[n][3] row g + 8. An operand `a` in
//   registers has the fragments of mma.cuh.
// Order     wgmma_fence() before a product whose registers were touched since the last one; wgmma_commit() makes a group
//           of the products since the last; after wgmma_wait<N>() all groups but the N latest are done. In between nobody
//           touches the registers of c and a. Products on the same c follow each other.
// Memory    operands in shared memory are read by a proxy of their own: what was written by stores or copy_async_16 is
//           seen after fence_proxy_async(), by the writer before it arrives or by the reader after it has waited.
// Shared operands lie in atoms of 8 rows of SWIZZLE bytes (128, 64 or 32), whose chunks of 16 bytes are turned: address
// bits 4 up are xored with bits 7 up, as many as the swizzle has. An atom lies on 8 * SWIZZLE bytes.
//   K-major   rows of the atom are rows of a (columns of b), and their bytes the k; `stride` bytes from 8 rows to the next 8.
//   MN-major  rows of the atom are k, and their bytes columns of b; `stride` bytes from 8 k to the next 8, `leading` bytes
//             from SWIZZLE / 2 columns to the next.
// A step along k inside of an atom is one of the address: 32 bytes for 16 k.

// What a product is told of an operand in shared memory. `bytes` further on is wgmma_step(operand, bytes): an operand is
// put together where it is used, as a compiler would rather keep those of a whole loop in registers, and has none left.
template <u32 SWIZZLE> DEVICE u64 wgmma_operand(u32 address, u32 leading, u32 stride) {
    static_assert(SWIZZLE == 128 || SWIZZLE == 64 || SWIZZLE == 32, "rows of an atom in bytes");
    constexpr u64 LAYOUT = SWIZZLE == 128 ? 1 : SWIZZLE == 64 ? 2 : 3;
    u32 place = (address & 0x3ffff) >> 4;
#ifndef COLATENT_SIM
    asm volatile("" : "+r"(place));
#endif
    return u64(place) | u64(leading >> 4) << 16 | u64(stride >> 4) << 32 | LAYOUT << 62;
}

DEVICE u64 wgmma_step(u64 operand, u32 bytes) {
    return operand + (bytes >> 4);
}

#ifndef COLATENT_SIM

// As operands have it.
DEVICE u32 shared_address(const void* place) {
    return u32(__cvta_generic_to_shared(place));
}

DEVICE void fence_proxy_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

DEVICE void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

DEVICE void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <u32 N> DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Keeps a wait that follows behind what `x` was made of, which is not negative. A wait has no operands: an assembler moves
// it up in front of whatever was to run beside the products, and what never sleeps here keeps it from that.
DEVICE void wgmma_wait_behind(f32 x) {
    asm volatile("{\n.reg .pred p;\nsetp.lt.f32 p, %0, 0f00000000;\n@p nanosleep.u32 1;\n}" ::"f"(x) : "memory");
}

// The compiler reads and writes these registers on the side of this line where the source does.
template <u32 N> DEVICE void wgmma_hold(f32 (&c)[N][4]) {
#pragma unroll
    for (u32 n = 0; n < N; n++) {
        asm volatile("" : "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])::"memory");
    }
}

template <u32 N> DEVICE void wgmma_hold(u32 (&a)[N][4]) {
#pragma unroll
    for (u32 n = 0; n < N; n++) {
        asm volatile("" : "+r"(a[n][0]), "+r"(a[n][1]), "+r"(a[n][2]), "+r"(a[n][3])::"memory");
    }
}

// A warpgroup's registers per thread, a multiple of 8: fewer, for others to take, or more.
template <u32 N> DEVICE void registers_lower() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

template <u32 N> DEVICE void registers_raise() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

// Registers of c as operands: C4(i) is c[i][0..4).
#define C4(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define C16(i) C4(i), C4(i + 1), C4(i + 2), C4(i + 3)
#define C64(i) C16(i), C16(i + 4), C16(i + 8), C16(i + 12)
// Their names: T(3) is %30 .. %39.
#define T(t)                                                                                                           \
    "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9, "
#define UNITS "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, "
#define NAMES_32 UNITS T(1) T(2) "%30, %31"
#define NAMES_48 UNITS T(1) T(2) T(3) "%40, %41, %42, %43, %44, %45, %46, %47"
#define NAMES_64 UNITS T(1) T(2) T(3) T(4) T(5) "%60, %61, %62, %63"
#define NAMES_128                                                                                                      \
    UNITS T(1) T(2) T(3) T(4) T(5) T(6) T(7) T(8) T(9) T(10) T(11) "%120, %121, %122, %123, %124, %125, %126, %127"

// a, b from shared memory, both K-major. Without `accumulate` c is overwritten. The first argument is a tag.
#define WGMMA_SHARED(N, TYPE, NAMES, REGISTERS, A, B, ACCUMULATE)                                                      \
    DEVICE void wgmma(TYPE, f32 (&c)[N / 8][4], u64 a, u64 b, bool accumulate) {                                       \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " ACCUMULATE ", 0;\n"                                           \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #TYPE "." #TYPE                                 \
                     " {" NAMES "}, " A ", " B ", p, 1, 1, 0, 0;\n}"                                                   \
                     : REGISTERS                                                                                       \
                     : "l"(a), "l"(b), "r"(u32(accumulate)));                                                          \
    }

// a from registers, b from shared memory, MN-major. c grows.
#define WGMMA_REGISTERS(N, TYPE, NAMES, REGISTERS, A, B)                                                               \
    DEVICE void wgmma(TYPE, f32 (&c)[N / 8][4], const u32 (&a)[4], u64 b) {                                            \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #TYPE "." #TYPE                                 \
                     " {" NAMES "}, {" A "}, " B ", 1, 1, 1, 1;"                                                       \
                     : REGISTERS                                                                                       \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                            \
    }

#define WGMMA(TYPE)                                                                                                    \
    WGMMA_SHARED(64, TYPE, NAMES_32, C16(0) C_AND C16(4), "%32", "%33", "%34")                                         \
    WGMMA_SHARED(96, TYPE, NAMES_48, C16(0) C_AND C16(4) C_AND C16(8), "%48", "%49", "%50")                            \
    WGMMA_SHARED(128, TYPE, NAMES_64, C64(0), "%64", "%65", "%66")                                                     \
    WGMMA_REGISTERS(64, TYPE, NAMES_32, C16(0) C_AND C16(4), "%32, %33, %34, %35", "%36")                              \
    WGMMA_REGISTERS(96, TYPE, NAMES_48, C16(0) C_AND C16(4) C_AND C16(8), "%48, %49, %50, %51", "%52")                 \
    WGMMA_REGISTERS(128, TYPE, NAMES_64, C64(0), "%64, %65, %66, %67", "%68")                                          \
    WGMMA_REGISTERS(256, TYPE, NAMES_128, C64(0) C_AND C64(16), "%128, %129, %130, %131", "%132")
#define C_AND ,
WGMMA(f16)
WGMMA(bf16)
#undef WGMMA
#undef C_AND
#undef WGMMA_REGISTERS
#undef WGMMA_SHARED
#undef NAMES_128
#undef NAMES_64
#undef NAMES_48
#undef NAMES_32
#undef UNITS
#undef T
#undef C64
#undef C16
#undef C4

#endif
