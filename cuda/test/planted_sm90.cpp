// planted_sm90.cpp: runs planted_sm90.cu under several seeds and compares its total. Prints what was found and returns 1,
// or returns 0. Linked with the kernel and the runtime by scripts/sanitize.
#define COLATENT_SIM_RUNTIME
#include "../sim/shim.h"

#include <cstdio>
#include <cstdlib>

extern "C" int colatent_launch(const SimLaunch* launch, char* error);

int main() {
    constexpr u32 BLOCKS = 5, TILES = 7, SHARED_BYTES = 3 * 64 * 128 + 5 * 8;
    struct alignas(128) {
        SimTensorMap map;
        u32 tiles, padding;
        void *a, *b, *total;
    } args = {{}, TILES, 0, nullptr, nullptr, nullptr};
    if (posix_memalign(&args.a, 256, 64 * 64 * 2) != 0 || posix_memalign(&args.b, 256, BLOCKS * TILES * 64 * 64 * 2)) {
        return 2;
    }
    args.map = {reinterpret_cast<u64>(args.b), {128, 64 * 128, 64 * 128}, {64, 64, BLOCKS * TILES, 1}, {64, 32}, 128,
                SIM_IS_MAP, {}};
    // 0 or 1, seldom 1.
    u32 dice = 1;
    const auto fill = [&](void* to, u32 n) {
        for (u32 i = 0; i < n; i++) {
            dice = dice * 1664525 + 1013904223;
            static_cast<u16*>(to)[i] = dice >> 28 == 0 ? 0x3c00 : 0;
        }
    };
    fill(args.a, 64 * 64);
    fill(args.b, BLOCKS * TILES * 64 * 64);
    const auto at = [](const void* from, u32 i) { return u32(static_cast<const u16*>(from)[i] != 0); };
    u32 want = 0;
    for (u32 t = 0; t < BLOCKS * TILES; t++) {
        for (u32 key = 0; key < 64; key++) {
            u32 columns = 0, row = 0;
            for (u32 k = 0; k < 64; k++) {
                const u32 b = at(args.b, (t * 64 + key) * 64 + k);
                row += b;
                for (u32 i = 0; i < 64; i++) {
                    columns += b * at(args.a, i * 64 + k);
                }
            }
            want += columns * row;
        }
    }
    int failed = 0;
    for (u32 seed = 0; seed < 6 && !failed; seed++) {
        u32 total = 0;
        args.total = &total;
        char error[512];
        const SimLaunch launch{BLOCKS, 256, SHARED_BYTES, seed == 0 ? 1u : 3u, seed, seed % 3 * 2, &args};
        failed = colatent_launch(&launch, error);
        if (failed) {
            printf("%s\n", error);
        } else if (total != want) {
            printf("wrong result: %u, expected %u (seed %u)\n", total, want, seed);
            failed = 1;
        }
    }
    if (!failed) {
        printf("right\n");
    }
    free(args.a);
    free(args.b);
    return failed;
}
