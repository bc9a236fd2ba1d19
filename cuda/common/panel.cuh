// panel.cuh: matrices of 16-bit elements in shared memory as wgmma takes them: panels of 64 or 32 lanes, one after the
// other, each with all rows, as rows of 128 or 64 bytes in swizzled atoms. After wgmma.cuh.

template <u32 ROWS, u32 LANES> struct Panels {
    static_assert(LANES % 32 == 0 && ROWS % 16 == 0, "whole panels, whole steps");
    static constexpr u32 BYTES = ROWS * LANES * 2;
    // Bytes of a row of a panel, and of a panel.
    static constexpr u32 SWIZZLE = LANES % 64 == 0 ? 128 : 64;
    static constexpr u32 PANEL = ROWS * SWIZZLE;
    // Chunks of 16 bytes, and steps of 16 lanes, of a row of a panel.
    static constexpr u32 CHUNKS = SWIZZLE / 16, STEPS = SWIZZLE / 32;

    // Where chunk `chunk` of row `row` lies, in bytes.
    static __device__ __forceinline__ u32 place(u32 row, u32 chunk) {
        const u32 turned = chunk % CHUNKS ^ (row * SWIZZLE >> 7 & (CHUNKS - 1));
        return chunk / CHUNKS * PANEL + row * SWIZZLE + turned * 16;
    }

    // All rows, as rows of a or columns of b, and from them lanes 16 step .. 16 step + 15.
    static __device__ __forceinline__ u64 k_major(u32 address) {
        return wgmma_operand<SWIZZLE>(address, 16, 8 * SWIZZLE);
    }
    static __device__ __forceinline__ u64 k_major(u64 all, u32 step) {
        return wgmma_step(all, step / STEPS * PANEL + step % STEPS * 32);
    }

    // All lanes, as columns of b, and from them rows 16 step .. 16 step + 15, which are the k.
    static __device__ __forceinline__ u64 mn_major(u32 address) {
        return wgmma_operand<SWIZZLE>(address, PANEL, 8 * SWIZZLE);
    }
    static __device__ __forceinline__ u64 mn_major(u64 all, u32 step) {
        return wgmma_step(all, step * 16 * SWIZZLE);
    }
};
