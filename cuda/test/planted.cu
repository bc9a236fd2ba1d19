// planted.cu: a small kernel with everything that goes wrong in large ones. BUG plants one mistake (0: none), to show
// what the simulated device and the sanitizers find; planted.cpp runs it and scripts/sanitize has the list.
// Maths     total = sum over blocks and tiles of the f32 values of tile[ROWS][4 words], each counted by three paths:
//           matrix loads (as bits), shared rows, and shuffles. All values are small integers: sums are exact.
// Shapes    tiles [block, TILES, ROWS, 4] u32; partial [block] u32; total [1] u32; arrived [1] u32, zero.
// Grid      a block of 64 threads takes TILES tiles; the last block to arrive adds the partial sums.
// #include "common/prelude.cuh"
// #include "common/warp.cuh"
// #include "common/async.cuh"
// #include "common/mma.cuh"

constexpr u32 ROWS = 64, STAGES = 2;

struct PlantedParams {
    u32 tiles;
    u32 padding;
};

struct PlantedArgs {
    PlantedParams params;
    const u32x4* tiles;
    u32* partial;
    u32* total;
    u32* arrived;
};

struct Shared {
    u32x4 rows[STAGES][ROWS];
    u32 warp_sums[2];
    u32 is_last;
};

DEVICE void load_tile(Shared& s, const PlantedArgs& args, u32 tile) {
    const u64 place = (u64(blockIdx.x) * args.params.tiles + tile) * ROWS + threadIdx.x;
    const u32 row = threadIdx.x;
    const bool valid = tile < args.params.tiles;
    u32x4* target = &s.rows[tile % STAGES][row];
    if (BUG == 3 && row == 63) {
        target += 64 * STAGES; // a row outside
    }
    if (BUG == 4 && row == 5) {
        target = reinterpret_cast<u32x4*>(reinterpret_cast<u32*>(target) + 1);
    }
    copy_async_16(target, args.tiles + place, BUG == 13 || valid);
    if (BUG != 8 || valid) {
        copy_async_commit();
    }
}

DEVICE u32 low_sum(u32 word) {
    return (word & 0xffff) + (word >> 16);
}

KERNEL(planted, PlantedArgs, 64, 1) {
    Shared& s = shared_memory<Shared>();
    const u32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    u32 sum = 0;

    load_tile(s, args, 0);
    for (u32 tile = 0; tile < args.params.tiles; tile++) {
        load_tile(s, args, tile + 1); // past the end: no bytes are read
        if (BUG == 2) {
            copy_async_wait<2>();
        } else {
            copy_async_wait<1>();
        }
        if (BUG == 15) {
            for (u32 i = 0; i < 1000; i++) {
                load_tile(s, args, tile + 1);
            }
        }
        if (BUG != 1) {
            __syncthreads();
        }
        // Matrix loads of the other warp's rows.
        u32 r[4];
        load_matrix_x4(r, &s.rows[tile % STAGES][(thread + 32) % ROWS]);
        sum += low_sum(r[0]) + low_sum(r[1]) + low_sum(r[2]) + low_sum(r[3]);
        // A row of another thread.
        const u32x4 row = s.rows[tile % STAGES][ROWS - 1 - thread];
        sum += low_sum(row.x) + low_sum(row.y) + low_sum(row.z) + low_sum(row.w);
        if (BUG == 5) {
            if (lane < 16) {
                sum += shuffle_xor(sum, 0) - sum;
            }
        }
        if (BUG != 9) {
            __syncthreads(); // before the stage is loaded again
        }
    }
    if (BUG != 8) {
        copy_async_wait<0>();
    }

    // -- sum of the block
    for (u32 mask = 16; mask > 0; mask >>= 1) {
        sum += shuffle_xor(sum, mask);
    }
    if (BUG == 7 && thread == 40) {
        return;
    }
    if (BUG == 17) { // a different statement in each half
        sum = lane < 16 ? shuffle(sum, 0)
                        : shuffle(sum, 1);
    }
    if (lane == 0) {
        s.warp_sums[warp] = sum;
    }
    if (BUG == 14 && thread == 31) { // lanes of one warp, no __syncwarp between
        s.is_last = s.warp_sums[warp];
    }
    if (BUG == 18) {
        *(reinterpret_cast<volatile u32*>(&s) + sizeof(Shared) / 4 + thread) = sum;
    }
    if (BUG == 6) {
        if (warp == 0) {
            __syncthreads();
        }
    } else if (BUG == 19) {
        if (warp == 0) {
            __syncthreads();
        } else {
            __syncthreads();
        }
    } else {
        __syncthreads();
    }

    // -- the last block adds the blocks' sums
    if (thread == 0) {
        args.partial[blockIdx.x] = s.warp_sums[0] + s.warp_sums[1];
        if (BUG != 10) {
            __threadfence();
        }
        u32 before;
        if (BUG == 11) { // read and write, not one operation
            before = *static_cast<volatile u32*>(args.arrived);
            *static_cast<volatile u32*>(args.arrived) = before + 1;
        } else {
            before = atomicAdd(args.arrived, 1u);
        }
        if (BUG != 12) {
            __threadfence();
        }
        s.is_last = before == gridDim.x - 1;
    }
    if (BUG != 16) {
        __syncthreads();
    }
    if (s.is_last == 1) {
        u32 total = 0;
        for (u32 block = thread; block < gridDim.x; block += 64) {
            total += args.partial[block];
        }
        if (BUG == 20) { // a sum of one block too many
            total += args.partial[thread + gridDim.x];
        }
        atomicAdd(args.total, total);
    }
}
