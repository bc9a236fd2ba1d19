// planted_sm90.cu: a small kernel with what goes wrong between warpgroups. BUG plants one mistake (0: none), to show what
// the simulated device and the sanitizers find; planted_sm90.cpp runs it and scripts/sanitize has the list.
// Maths     per block: O = sum over tiles of (A B^T) B, total = sum of O over all blocks. Small integers: sums are exact.
// Shapes    a [64][64] f16; b [block, tile, 64][64] f16; total [1] u32.
// Grid      a block has a consumer (warpgroup 0) and a producer (1), and a ring of 2 stages. Bulk copies bring the tiles of
//           odd numbers modulo 3, two boxes each.
// #include "common/prelude.cuh"
// #include "common/async.cuh"
// #include "common/mbarrier.cuh"
// #include "common/bulk.cuh"
// #include "common/wgmma.cuh"
// #include "common/panel.cuh"

constexpr u32 STAGES = 2;
typedef Panels<64, 64> Tile;

struct PlantedParams {
    u32 tiles;
    u32 padding;
};

struct PlantedArgs {
    // [1][block, tile][row][lane] of b.
    TensorMap map;
    PlantedParams params;
    const u32x4* a;
    const u32x4* b;
    u32* total;
};

struct Shared {
    u8 a[Tile::BYTES];
    u8 b[STAGES][Tile::BYTES];
    Mbarrier a_full, full[STAGES], empty[STAGES];
};

DEVICE void load_a(Shared& s, const PlantedArgs& args) {
    for (u32 i = threadIdx.x; i < 64 * 8; i += 128) {
        *reinterpret_cast<u32x4*>(s.a + Tile::place(i / 8, i % 8)) = args.a[i];
    }
    fence_proxy_async();
    mbarrier_arrive(s.a_full);
    mbarrier_wait(s.a_full, 0);
}

DEVICE void produce(Shared& s, const PlantedArgs& args) {
    const u32 tiles = args.params.tiles;
    for (u32 tile = 0; tile < tiles; tile++) {
        const u32 stage = tile % STAGES, parity = tile / STAGES % 2;
        if (BUG != 2 && !(BUG == 22 && tile % 3 == 1)) {
            mbarrier_wait(s.empty[stage], parity ^ 1);
        }
        if (tile % 3 == 1) {
            if (threadIdx.x % 128 == 0) {
                mbarrier_arrive_expect(s.full[stage], BUG == 20 ? Tile::BYTES + 16 : Tile::BYTES);
                for (u32 row = 0; row < 64; row += 32) {
                    u8* target = s.b[stage] + row * 128 + (BUG == 21 ? 512 : 0);
                    copy_box(target, reinterpret_cast<u64>(&args.map), 0, row, blockIdx.x * tiles + tile, 0, s.full[stage]);
                }
            } else {
                mbarrier_arrive(s.full[stage]);
            }
            continue;
        }
        for (u32 i = threadIdx.x % 128; i < 64 * 8; i += 128) {
            const u64 place = (u64(blockIdx.x) * tiles + tile) * 64 * 8 + i;
            copy_async_16(s.b[stage] + Tile::place(i / 8, i % 8), args.b + place, true);
        }
        copy_async_arrive(s.full[stage]);
    }
    if (BUG != 17) {
        copy_async_commit();
        copy_async_wait<0>();
    }
}

KERNEL(planted_sm90, PlantedArgs, 256, 1) {
    Shared& s = shared_memory<Shared>();
    if (threadIdx.x == 0) {
        mbarrier_init(s.a_full, 128);
        for (u32 i = 0; i < STAGES && BUG != 14; i++) {
            mbarrier_init(s.full[i], BUG == 15 ? 129 : 128);
            mbarrier_init(s.empty[i], 4);
        }
        if (BUG != 19) {
            fence_proxy_async();
        }
    }
    __syncthreads();
    if (threadIdx.x >= 128) {
        produce(s, args);
        return;
    }

    load_a(s, args);
    f32 o[8][4] = {};
    for (u32 tile = 0; tile < args.params.tiles; tile++) {
        const u32 stage = tile % STAGES, parity = tile / STAGES % 2;
        f32 c[8][4] = {};
        if (BUG != 1) {
            mbarrier_wait(s.full[stage], BUG == 3 ? parity ^ 1 : parity);
        }
        if (BUG != 9) {
            fence_proxy_async();
        }
        if (BUG != 13) {
            wgmma_fence();
        }
        const u32 place = shared_address(s.b[stage]);
        const u64 a = Tile::k_major(shared_address(s.a));
        u64 b = Tile::k_major(place);
        b = BUG == 6 ? wgmma_operand<128>(place, 16, 512) : BUG == 7 ? wgmma_operand<64>(place, 16, 1024) : b;
        b = BUG == 18 ? wgmma_step(b, 256) : b;
        b = BUG == 10 ? wgmma_operand<128>(place, 16, 16384) : b;
        for (u32 step = 0; step < 4; step++) {
            const u32 odd = BUG == 16 && threadIdx.x / 32 == 2 ? 3 - step : step;
            wgmma(f16{}, c, Tile::k_major(a, odd), Tile::k_major(b, odd), step > 0);
        }
        wgmma_commit();
        if (BUG != 4) {
            wgmma_wait<0>();
        }
        u32 p[4][4];
        for (u32 i = 0; i < 16; i++) {
            p[i / 4][i % 4] = pack<f16>(c[i / 2][i % 2 * 2], c[i / 2][i % 2 * 2 + 1]);
        }
        wgmma_fence();
        for (u32 step = 0; step < 4; step++) {
            wgmma(f16{}, o, p[step], Tile::mn_major(Tile::mn_major(place), step));
        }
        wgmma_commit();
        if (BUG == 5 && threadIdx.x % 32 == 0) {
            mbarrier_arrive(s.empty[stage]);
        }
        if (BUG == 11) {
            p[1][1] = 0;
        }
        if (BUG == 12) {
            o[2][1] = 0.0f;
        }
        wgmma_wait<0>();
        if (BUG == 8 || (BUG != 5 && threadIdx.x % 32 == 0)) {
            mbarrier_arrive(s.empty[stage]);
        }
    }
    f32 sum = 0.0f;
    for (u32 i = 0; i < 32; i++) {
        sum += o[i / 4][i % 4];
    }
    atomicAdd(args.total, u32(sum));
}
