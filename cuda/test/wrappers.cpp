// wrappers.cpp: the primitives of the simulated device against plain definitions that share no code with it. Linked
// with wrappers.cu and the runtime by scripts/sanitize, plain and under both sanitizers. `wrappers [cases]`.
//
// 16-bit formats are defined here by their values (sign, exponent, fraction as doubles) and rounding by search among
// neighbours; matrices by their subscripts; shuffles by the table of the lanes.
#define COLATENT_SIM_RUNTIME
#include "../sim/shim.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

extern "C" int colatent_launch(const SimLaunch* launch, char* error);

namespace {

constexpr u32 THREADS = 64, LANES = 32, INPUT_WORDS = 12, SHARED_BYTES = 2 * 64 * 16 + 16;

// As in wrappers.cu.
enum Primitive : u32 {
    MMA_F16, MMA_BF16, LOAD_MATRIX, LOAD_MATRIX_TRANSPOSED, COPY_ASYNC, COPY_ASYNC_GROUPS, SHUFFLE_XOR, SHUFFLE,
    SHUFFLE_UP, SHUFFLE_DOWN, BALLOT, WARP_REDUCE, EXP2_APPROX, TO_F16, TO_BF16, FROM_16, CHUNKS, INTEGERS, FLOATS,
    ATOMICS, BARRIER_OR
};

struct Case {
    u32 in[THREADS][INPUT_WORDS];
    u32 out[THREADS][4];
};

struct Args {
    u32 primitive, padding;
    const void* input;
    void* output;
    void* counters;
};

std::mt19937 dice(1);
u32 failures = 0;
u32 num_cases = 40;

f32 number(u32 bits) {
    f32 x;
    memcpy(&x, &bits, 4);
    return x;
}

u32 bits_of(f32 x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    return bits;
}

f32 small() {
    return std::uniform_real_distribution<f32>(-2.0f, 2.0f)(dice);
}

// -- 16-bit formats by their values

struct Format {
    int exponent_bits, fraction_bits;
};
constexpr Format F16{5, 10}, BF16{8, 7};

double value(Format f, u32 bits) {
    const u32 fraction = bits & ((1u << f.fraction_bits) - 1);
    const int exponent = int(bits >> f.fraction_bits & ((1u << f.exponent_bits) - 1));
    const int bias = (1 << (f.exponent_bits - 1)) - 1, top = (1 << f.exponent_bits) - 1;
    const double sign = bits & 0x8000 ? -1.0 : 1.0;
    if (exponent == top) {
        return fraction ? NAN : sign * INFINITY;
    }
    const double unit = std::ldexp(1.0, -f.fraction_bits);
    return sign * std::ldexp((exponent ? 1.0 : 0.0) + fraction * unit, (exponent ? exponent : 1) - bias);
}

// The nearest, ties to the even one; NaN is 0x7fff. Magnitudes ascend with their bits.
u32 nearest(Format f, f32 x) {
    if (std::isnan(x)) {
        return 0x7fff;
    }
    const u32 sign = std::signbit(x) ? 0x8000 : 0;
    const double magnitude = std::fabs(double(x));
    const u32 infinity = ((1u << f.exponent_bits) - 1) << f.fraction_bits;
    u32 low = 0, high = infinity; // value(low) <= magnitude
    while (high - low > 1) {
        const u32 middle = (low + high) / 2;
        (value(f, middle) <= magnitude ? low : high) = middle;
    }
    // Infinity stands where the next number would be.
    const int bias = (1 << (f.exponent_bits - 1)) - 1;
    const double above = high == infinity ? std::ldexp(1.0, bias + 1) : value(f, high);
    if (magnitude >= above) {
        return sign | high;
    }
    const double down = magnitude - value(f, low), up = above - magnitude;
    return sign | (down < up || (down == up && low % 2 == 0) ? low : high);
}

// -- running

void run(Primitive primitive, std::vector<Case>& cases) {
    void* input = nullptr;
    std::vector<u32> output(cases.size() * THREADS * 4, 0xFFFFFFFF), counters(cases.size() * 2, 0);
    if (posix_memalign(&input, 256, cases.size() * sizeof(Case::in)) != 0) {
        abort();
    }
    for (size_t i = 0; i < cases.size(); i++) {
        memcpy(static_cast<u8*>(input) + i * sizeof(Case::in), cases[i].in, sizeof(Case::in));
    }
    const Args args{primitive, 0, input, output.data(), counters.data()};
    char error[512];
    const SimLaunch launch{u32(cases.size()), THREADS, SHARED_BYTES, 2, u32(dice()), 3, &args};
    if (colatent_launch(&launch, error) != 0) {
        printf("primitive %u: %s\n", primitive, error);
        failures++;
    }
    for (size_t i = 0; i < cases.size(); i++) {
        memcpy(cases[i].out, &output[i * THREADS * 4], sizeof(Case::out));
    }
    free(input);
}

std::vector<Case> random_cases(u32 count = num_cases) {
    std::vector<Case> cases(count);
    for (Case& c : cases) {
        for (u32 i = 0; i < THREADS * INPUT_WORDS; i++) {
            c.in[i / INPUT_WORDS][i % INPUT_WORDS] = u32(dice());
        }
    }
    return cases;
}

void expect(bool holds, const char* what, u32 thread, u32 got, u32 want) {
    if (!holds && failures++ < 20) {
        printf("%s, thread %u: %08x, expected %08x\n", what, thread, got, want);
    }
}

// Runs random cases and compares word `w` of every thread with `want(case, thread)`.
void check(Primitive primitive, const char* what, std::vector<Case> cases,
           std::vector<std::function<u32(const Case&, u32)>> want) {
    run(primitive, cases);
    for (const Case& c : cases) {
        for (u32 t = 0; t < THREADS; t++) {
            for (size_t w = 0; w < want.size(); w++) {
                const u32 expected = want[w](c, t);
                expect(c.out[t][w] == expected, what, t, c.out[t][w], expected);
            }
        }
    }
}

// -- definitions

void check_mma(Primitive primitive, Format format, const char* what) {
    std::vector<Case> cases = random_cases();
    for (Case& c : cases) {
        for (auto& in : c.in) {
            for (u32 i = 0; i < 6; i++) {
                in[i] = nearest(format, small()) | nearest(format, small()) << 16;
            }
            for (u32 i = 6; i < 10; i++) {
                in[i] = bits_of(small());
            }
        }
    }
    run(primitive, cases);
    for (const Case& c : cases) {
        for (u32 warp = 0; warp < THREADS / LANES; warp++) {
            const auto* in = &c.in[warp * LANES];
            // Element k of row i of a: lane 4 (i % 8) + (k % 8) / 2, register (i / 8) + 2 (k / 8), half k % 2.
            const auto half = [&](u32 lane, u32 reg, u32 k) {
                return value(format, in[lane][reg] >> (k % 2 * 16) & 0xffff);
            };
            for (u32 i = 0; i < 16; i++) {
                for (u32 n = 0; n < 8; n++) {
                    const u32 lane = 4 * (i % 8) + n / 2, reg = 2 * (i / 8) + n % 2;
                    double sum = number(in[lane][6 + reg]), size = std::fabs(sum);
                    for (u32 k = 0; k < 16; k++) {
                        const double a = half(4 * (i % 8) + k % 8 / 2, i / 8 + 2 * (k / 8), k);
                        const double term = a * half(4 * n + k % 8 / 2, 4 + k / 8, k);
                        sum += term;
                        size += std::fabs(term);
                    }
                    const f32 got = number(c.out[warp * LANES + lane][reg]);
                    // 16 additions in f32, each half an ulp of a partial sum.
                    expect(std::fabs(got - sum) <= 16 * 0x1p-24 * size, what, warp * LANES + lane, bits_of(got),
                           bits_of(f32(sum)));
                }
            }
        }
    }
}

void check_memory() {
    std::vector<Case> permuted = random_cases();
    for (Case& c : permuted) { // each matrix's rows in any order, some twice
        for (auto& in : c.in) {
            in[4] %= LANES;
        }
    }
    const auto element = [](const Case& c, u32 t, u32 matrix, u32 row, u32 column) {
        const u32 warp = t / LANES * LANES, source = warp + c.in[warp + matrix * 8 + row][4];
        return c.in[source][column / 2] >> (column % 2 * 16) & 0xffff;
    };
    std::vector<std::function<u32(const Case&, u32)>> plain, transposed;
    for (u32 q = 0; q < 4; q++) {
        plain.push_back([=](const Case& c, u32 t) {
            const u32 g = t % LANES / 4, j = t % 4 * 2;
            return element(c, t, q, g, j) | element(c, t, q, g, j + 1) << 16;
        });
        transposed.push_back([=](const Case& c, u32 t) {
            const u32 g = t % LANES / 4, j = t % 4 * 2;
            return element(c, t, q, j, g) | element(c, t, q, j + 1, g) << 16;
        });
    }
    check(LOAD_MATRIX, "load_matrix_x4", permuted, plain);
    check(LOAD_MATRIX_TRANSPOSED, "load_matrix_x4_transposed", permuted, transposed);

    std::vector<Case> copies = random_cases();
    for (Case& c : copies) {
        for (auto& in : c.in) {
            in[4] %= 2;
        }
    }
    std::vector<std::function<u32(const Case&, u32)>> rows;
    for (u32 w = 0; w < 4; w++) {
        rows.push_back([=](const Case& c, u32 t) {
            const u32 next = (t + 1) % THREADS;
            return c.in[next][4] ? c.in[next][w] : 0;
        });
    }
    check(COPY_ASYNC, "copy_async_16", copies, rows);
    check(COPY_ASYNC_GROUPS, "copy_async_wait", random_cases(),
          {[](const Case& c, u32 t) { return c.in[t][0]; }, [](const Case& c, u32 t) { return c.in[t][0]; },
           [](const Case& c, u32 t) { return c.in[t][4]; }});
}

void check_warps() {
    const auto exchange = [](Primitive primitive, const char* what, u32 arguments, u32 (*source)(u32 lane, u32 n)) {
        std::vector<Case> cases = random_cases();
        for (Case& c : cases) {
            for (auto& in : c.in) {
                in[1] %= arguments; // each lane may ask its own
            }
        }
        const auto from = [=](const Case& c, u32 t) { return t / LANES * LANES + source(t % LANES, c.in[t][1]); };
        const auto low = [=](const Case& c, u32 t) { return c.in[from(c, t)][0]; };
        const auto high = [=](const Case& c, u32 t) { return c.in[from(c, t)][2]; };
        check(primitive, what, cases, {low, low, high, low});
    };
    exchange(SHUFFLE_XOR, "shuffle_xor", 32, [](u32 lane, u32 n) { return lane ^ n; });
    exchange(SHUFFLE, "shuffle", 64, [](u32, u32 n) { return n % 32; });
    exchange(SHUFFLE_UP, "shuffle_up", 32, [](u32 lane, u32 n) { return lane < n ? lane : lane - n; });
    exchange(SHUFFLE_DOWN, "shuffle_down", 32, [](u32 lane, u32 n) { return lane + n > 31 ? lane : lane + n; });

    std::vector<Case> rare = random_cases();
    for (Case& c : rare) {
        for (auto& in : c.in) {
            for (u32 i = 0; i < 3; i++) {
                in[i] = in[i] % 40 == 0;
            }
        }
    }
    const auto votes = [](const Case& c, u32 t) {
        u32 bits = 0;
        for (u32 l = 0; l < LANES; l++) {
            bits |= u32(c.in[t / LANES * LANES + l][0] != 0) << l;
        }
        return bits;
    };
    check(BALLOT, "ballot", rare, {votes, [=](const Case& c, u32 t) { return u32(votes(c, t) != 0); }});
    const auto any = [](u32 word) {
        return [=](const Case& c, u32) {
            u32 any = 0;
            for (const auto& in : c.in) {
                any |= in[word];
            }
            return any;
        };
    };
    check(BARRIER_OR, "__syncthreads_or", rare, {any(0), any(1), any(2)});

    std::vector<Case> reduced = random_cases();
    for (Case& c : reduced) {
        for (auto& in : c.in) {
            in[0] = bits_of(small());
        }
    }
    const auto sum = [](const Case& c, u32 t) { // the tree over lanes 16 apart, 8 apart, ...
        f32 v[LANES];
        for (u32 l = 0; l < LANES; l++) {
            v[l] = number(c.in[t / LANES * LANES + l][0]);
        }
        for (u32 n = 16; n > 0; n /= 2) {
            for (u32 l = 0; l < n; l++) {
                v[l] += v[l + n];
            }
        }
        return bits_of(v[0]);
    };
    const auto most = [](const Case& c, u32 t) {
        f32 v = -INFINITY;
        for (u32 l = 0; l < LANES; l++) {
            v = std::fmax(v, number(c.in[t / LANES * LANES + l][0]));
        }
        return bits_of(v);
    };
    check(WARP_REDUCE, "warp_sum, warp_max", reduced, {sum, most});
}

// Random bits, and the values at which formats change: ties, subnormals, the largest, infinities, NaN.
std::vector<Case> float_cases() {
    const u32 special[] = {
        0, 0x80000000, 0x007fffff, 0x00800000, 0x33000000, 0x33000001, 0x32ffffff, 0x33800000,
        0x33c00000, 0x387fc000, 0x387fe000, 0x387ff000, 0x38800000, 0x38801000, 0x38803000, 0x3f800000,
        0x3f801000, 0x3f803000, 0x3f808000, 0x3f818000, 0x477fe000, 0x477fefff, 0x477ff000, 0x7f7f7fff,
        0x7f7f8000, 0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fc00000, 0x7fffffff, 0x00004000, 0x00008000,
        0x0000c000, 0x00018000, 0x42fe0000, 0x43000000, 0x43160000, 0x3f000000, 0x4b000000,
    };
    std::vector<Case> cases = random_cases(num_cases + 2);
    for (Case& c : cases) {
        for (auto& in : c.in) {
            for (u32 i = 0; i < 4; i++) {
                const u32 sign = in[i] & 0x80000000;
                switch (dice() % 4) {
                case 0:
                    in[i] = sign | special[dice() % (sizeof(special) / 4)];
                    break;
                case 1: // around the subnormal numbers of f16
                    in[i] = sign | ((in[i] & 0x07ffffff) + 0x32800000);
                    break;
                case 2: // few bits, many ties
                    in[i] &= 0xfffff000;
                    break;
                }
            }
        }
    }
    return cases;
}

void check_numbers() {
    const auto rounded = [](Format f) {
        return [=](u32 word) { return [=](const Case& c, u32 t) { return nearest(f, number(c.in[t][word])); }; };
    };
    const auto packed = [](Format f, u32 low, u32 high) {
        return [=](const Case& c, u32 t) {
            return nearest(f, number(c.in[t][low])) | nearest(f, number(c.in[t][high])) << 16;
        };
    };
    check(TO_F16, "from_f32, pack of f16", float_cases(), {rounded(F16)(0), rounded(F16)(1), packed(F16, 0, 1)});
    check(TO_BF16, "from_f32, pack of bf16", float_cases(), {rounded(BF16)(0), rounded(BF16)(1), packed(BF16, 0, 1)});
    check(CHUNKS, "load_chunk, store_chunk", float_cases(),
          {packed(F16, 0, 1), packed(F16, 2, 3), packed(BF16, 0, 1), packed(BF16, 2, 3)});

    std::vector<Case> all(1024); // every 16-bit word
    for (u32 i = 0; i < 65536; i++) {
        all[i / THREADS].in[i % THREADS][0] = i;
    }
    run(FROM_16, all);
    for (u32 i = 0; i < 65536; i++) {
        const u32* out = all[i / THREADS].out[i % THREADS];
        for (u32 w = 0; w < 2; w++) {
            const f32 want = f32(value(w ? BF16 : F16, i)), got = number(out[w]);
            const bool same = std::isnan(want) ? std::isnan(got) : bits_of(want) == out[w];
            expect(same, w ? "to_f32 of bf16" : "to_f32 of f16", i, out[w], bits_of(want));
        }
    }

    std::vector<Case> exponents = float_cases();
    run(EXP2_APPROX, exponents);
    for (const Case& c : exponents) {
        for (u32 t = 0; t < THREADS; t++) {
            const f32 x = number(c.in[t][0]), got = number(c.out[t][0]);
            const double want = std::exp2(double(x));
            bool holds;
            if (std::isnan(x)) {
                holds = std::isnan(got);
            } else if (want < 0x1p-126) {
                holds = got == 0 || (want > 0x0.fffffcp-126 && got == 0x1p-126f);
            } else if (want >= 0x1.ffffffp127) {
                holds = std::isinf(got) || want < 0x1.000001p128;
            } else {
                holds = std::fabs(got - want) <= 0x1p-22 * want; // 2 ulp
            }
            expect(holds, "exp2_approx", t, c.out[t][0], bits_of(f32(want)));
        }
    }

    std::vector<Case> integers = random_cases();
    for (Case& c : integers) {
        for (auto& in : c.in) {
            in[0] >>= dice() % 33 % 32;
            in[0] *= dice() % 8 != 0;
        }
    }
    check(INTEGERS, "integers", integers,
          {[](const Case& c, u32 t) { return u32((u64(c.in[t][0]) * c.in[t][1]) >> 32); },
           [](const Case& c, u32 t) {
               u32 zeros = 0;
               while (zeros < 32 && !(c.in[t][0] >> (31 - zeros) & 1)) {
                   zeros++;
               }
               return zeros;
           },
           [](const Case& c, u32 t) {
               u32 ones = 0;
               for (u32 i = 0; i < 32; i++) {
                   ones += c.in[t][0] >> i & 1;
               }
               return ones;
           },
           [](const Case& c, u32 t) {
               const u32 a = c.in[t][0], b = c.in[t][1];
               const u32 least = a < b ? a : b, most = a < b ? b : a;
               const bool a_less = i64(i32(a)) < i64(i32(b));
               return least + 3 * most + 5 * (a_less ? a : b) + 7 * (a_less ? b : a);
           }});

    std::vector<Case> floats = float_cases();
    run(FLOATS, floats);
    for (const Case& c : floats) {
        for (u32 t = 0; t < THREADS; t++) {
            const f32 x = number(c.in[t][0]), y = number(c.in[t][1]), z = number(c.in[t][2]);
            // -0 is below +0, and a NaN loses.
            const bool less = x < y || (x == y && std::signbit(x) && !std::signbit(y));
            const f32 want[4] = {std::isnan(x) || less ? y : x, std::isnan(x) || !(less || std::isnan(y)) ? y : x,
                                 std::fma(x, y, z), std::floor(x)};
            for (u32 w = 0; w < 4; w++) {
                const u32 got = c.out[t][w];
                const bool same = std::isnan(want[w]) ? std::isnan(number(got)) : bits_of(want[w]) == got;
                expect(same, "fmaxf, fminf, fmaf, floorf", t, c.out[t][w], bits_of(want[w]));
            }
        }
    }

    const auto total = [](u32 threads) {
        return [=](const Case& c, u32) {
            u32 sum = 0;
            for (u32 t = 0; t < threads; t++) {
                sum += c.in[t][0];
            }
            return sum;
        };
    };
    const auto most = [](u32 threads) {
        return [=](const Case& c, u32) {
            u32 most = 0;
            for (u32 t = 0; t < threads; t++) {
                most = c.in[t][0] > most ? c.in[t][0] : most;
            }
            return most;
        };
    };
    check(ATOMICS, "atomicAdd, atomicMax", random_cases(), {total(64), most(64), total(32), most(32)});
}

} // namespace

int main(int argc, char** argv) {
    if (argc > 1) {
        num_cases = u32(atoi(argv[1]));
    }
    check_mma(MMA_F16, F16, "mma_16x8x16 of f16");
    check_mma(MMA_BF16, BF16, "mma_16x8x16 of bf16");
    check_memory();
    check_warps();
    check_numbers();
    printf("wrappers: %s\n", failures ? "FAILED" : "every primitive is as defined");
    return failures != 0;
}
