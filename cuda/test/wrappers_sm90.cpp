// wrappers_sm90.cpp: the primitives that only Hopper has, on the simulated device, against plain definitions that share
// no code with it: matrices by their subscripts, sums in double. Linked with wrappers_sm90.cu and the runtime by
// scripts/sanitize, plain and under both sanitizers. `wrappers_sm90 [cases]`.
#define COLATENT_SIM_RUNTIME
#include "../sim/shim.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

extern "C" int colatent_launch(const SimLaunch* launch, char* error);

namespace {

constexpr u32 A = 64 * 64, B = 256 * 64, C = 64 * 256, INPUT_WORDS = A / 2 + B / 2 + C;
// sizeof(Shared) of the kernel.
constexpr u32 SHARED_BYTES = 64 * 128 + 256 * 128 + 2 * 128 * 4 + 8;

struct Product {
    const char* name;
    u32 n, k;
    bool is_mn_major;
};
// In the order of wrappers_sm90.cu, behind the three primitives that are no products.
constexpr Product PRODUCTS[] = {
    {"shared 64", 64, 64, false},      {"shared 96", 96, 32, false},           {"shared 128", 128, 64, false},
    {"shared 128 narrow", 128, 16, false}, {"registers 64", 64, 64, true},     {"registers 64 narrow", 64, 64, true},
    {"registers 96", 96, 64, true},    {"registers 128", 128, 64, true},       {"registers 256", 256, 64, true},
};

struct alignas(128) Args {
    SimTensorMap map;
    u32 primitive, is_bf16;
    const void* input;
    void* output;
};

std::mt19937 dice(1);
u32 failures = 0;

// A multiple of 1/8 between -2 and 2 is exact in both types: sign, then by its binary digits.
u16 bits_of(int eighths, bool is_bf16) {
    const u16 sign = eighths < 0 ? 0x8000 : 0;
    const u32 magnitude = u32(std::abs(eighths));
    if (magnitude == 0) {
        return sign;
    }
    u32 top = 0;
    while (magnitude >> (top + 1) != 0) {
        top++;
    }
    const u32 fraction = magnitude - (1u << top); // of 2^top eighths
    const int exponent = int(top) - 3;
    return is_bf16 ? u16(sign | (u32(exponent + 127) << 7) | (fraction << 7 >> top))
                   : u16(sign | (u32(exponent + 15) << 10) | (fraction << 10 >> top));
}

void expect(bool holds, const char* what, u32 place, double got, double want) {
    if (!holds && failures++ < 20) {
        printf("%s, element %u: %g, expected %g\n", what, place, got, want);
    }
}

std::vector<u32> run(u32 primitive, bool is_bf16, const std::vector<u32>& input, u32 blocks) {
    std::vector<u32> output(size_t(blocks) * C, 0xFFFFFFFF);
    void* aligned = nullptr;
    if (posix_memalign(&aligned, 256, input.size() * 4) != 0) {
        abort();
    }
    memcpy(aligned, input.data(), input.size() * 4);
    const SimTensorMap map = {reinterpret_cast<u64>(aligned), {128, 16, 16}, {64, 20, 1, 1}, {64, 16}, 128, SIM_IS_MAP, {}};
    const Args args{map, primitive, is_bf16, aligned, output.data()};
    char error[512];
    const SimLaunch launch{blocks, 128, SHARED_BYTES, 2, u32(dice()), 3, &args};
    if (colatent_launch(&launch, error) != 0) {
        printf("primitive %u: %s\n", primitive, error);
        failures++;
    }
    free(aligned);
    return output;
}

void check_product(u32 primitive, bool is_bf16, u32 blocks) {
    const Product& p = PRODUCTS[primitive - 3];
    std::vector<u32> input(size_t(blocks) * INPUT_WORDS);
    std::vector<int> a(size_t(blocks) * A), b(size_t(blocks) * B);
    std::vector<f32> c(size_t(blocks) * C);
    for (u32 block = 0; block < blocks; block++) {
        u16* elements = reinterpret_cast<u16*>(&input[size_t(block) * INPUT_WORDS]);
        for (u32 i = 0; i < A + B; i++) {
            const int eighths = int(dice() % 33) - 16;
            (i < A ? a[size_t(block) * A + i] : b[size_t(block) * B + i - A]) = eighths;
            elements[i] = bits_of(eighths, is_bf16);
        }
        for (u32 i = 0; i < C; i++) {
            f32& x = c[size_t(block) * C + i];
            x = f32(int(dice() % 4001) - 2000) / 64.0f;
            memcpy(&input[size_t(block) * INPUT_WORDS + (A + B) / 2 + i], &x, 4);
        }
    }
    const std::vector<u32> output = run(primitive, is_bf16, input, blocks);
    for (u32 block = 0; block < blocks; block++) {
        for (u32 i = 0; i < 64; i++) {
            for (u32 n = 0; n < p.n; n++) {
                // Multiples of 1/64 below 2^12: f32 has them all, so that any order of sums is exact.
                double want = block % 2 == 1 ? c[size_t(block) * C + i * 256 + n] : 0.0;
                for (u32 k = 0; k < p.k; k++) {
                    const int y = b[size_t(block) * B + (p.is_mn_major ? k * 256 + n : n * 64 + k)];
                    want += a[size_t(block) * A + i * 64 + k] * y / 64.0;
                }
                f32 got;
                memcpy(&got, &output[size_t(block) * C + i * 256 + n], 4);
                expect(double(got) == want, p.name, i * 256 + n, got, want);
            }
        }
    }
}

void check_barriers(u32 blocks) {
    std::vector<u32> input(size_t(blocks) * INPUT_WORDS);
    for (u32& word : input) {
        word = u32(dice());
    }
    const std::vector<u32> rounds = run(0, false, input, blocks), copies = run(1, false, input, blocks);
    const std::vector<u32> boxes = run(2, false, input, blocks);
    for (u32 block = 0; block < blocks; block++) {
        const u32* a = &input[size_t(block) * INPUT_WORDS];
        for (u32 t = 0; t < 128; t++) {
            for (u32 phase = 0; phase < 3; phase++) {
                const u32 got = rounds[size_t(block) * C + t * 4 + phase], want = a[(t + phase + 1) % 128];
                expect(got == want, "mbarrier", t, got, want);
            }
            const u32 next = (t + 1) % 128;
            for (u32 w = 0; w < 4; w++) {
                const u32 got = copies[size_t(block) * C + t * 4 + w], want = next % 5 != 0 ? a[next * 4 + w] : 0;
                expect(got == want, "copy_async_arrive", t, got, want);
                // Chunk t % 8 of row t / 8 in shared memory is chunk t % 8 ^ t / 8 % 8 of the tensor's.
                const u32 row = block * 13 + t / 8, word = row * 32 + (t % 8 ^ t / 8 % 8) * 4 + w;
                const u32 boxed = boxes[size_t(block) * C + t * 4 + w], there = row < 20 ? input[word] : 0;
                expect(boxed == there, "copy_box", t, boxed, there);
            }
        }
    }
}

} // namespace

int main(int argc, char** argv) {
    const u32 blocks = argc > 1 ? u32(atoi(argv[1])) : 8;
    check_barriers(blocks);
    for (u32 i = 0; i < sizeof(PRODUCTS) / sizeof(PRODUCTS[0]); i++) {
        check_product(3 + i, false, blocks);
        check_product(3 + i, true, blocks);
    }
    printf(failures ? "%u failures\n" : "right\n", failures);
    return failures != 0;
}
