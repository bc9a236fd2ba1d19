// wgmma.cpp: matrix products of a warpgroup on the simulated device: each warp multiplies its 16 rows when it waits for
// them, and not before. Until then their registers hold 0xFF, and they read shared memory as the proxy sees it.
#include "runtime.h"

#include <cstdlib>

using namespace sim;

// Loops stay loops: calls of memcpy and memset would be accesses of the running thread to TSan.
#pragma GCC push_options
#pragma GCC optimize("no-tree-loop-distribute-patterns")

namespace sim {

// As on the hardware, where the system has the first KiB.
constexpr u32 FIRST_ADDRESS = 1024;

// -- the proxy

void reserve_proxy(Worker& w) {
    if (w.has_proxy) {
        return;
    }
    const u64 bytes = (w.launch->shared_bytes + 31) / 32 * 32;
    if (w.proxy_capacity < bytes) {
        free(w.proxy);
        void* fresh = nullptr;
        if (posix_memalign(&fresh, 1024, bytes) != 0) {
            abort();
        }
        w.proxy = static_cast<u8*>(fresh);
        w.proxy_capacity = bytes;
    }
    for (u64 i = 0; i < bytes / 8; i++) {
        reinterpret_cast<u64*>(w.proxy)[i] = ~0ull;
    }
    w.has_proxy = true;
}

void update_proxy(Worker& w) {
    if (!w.is_proxy_fenced) {
        return;
    }
    w.is_proxy_fenced = false;
    const u64 words = w.launch->shared_bytes / 8;
    const u64* from = reinterpret_cast<const u64*>(w.shared);
    u64* to = reinterpret_cast<u64*>(w.proxy);
    for (u64 i = 0; i < words; i++) {
        to[i] = from[i];
    }
}

void poison_proxy(Worker& w, const u8* place, u64 bytes) {
    for (u64 i = 0; w.has_proxy && i < bytes; i++) {
        w.proxy[u64(place - w.shared) + i] = w.launch->in_flight;
    }
}

void reset_products(Worker& w) {
    w.num_arrivals = w.num_boxes = 0;
    w.initialiser = nullptr;
    w.has_proxy = w.is_proxy_fenced = false;
    for (Products* p : w.products) {
        if (p) {
            p->num_products = p->num_groups = p->num_issued = 0;
            p->is_fenced = false;
            for (Sums& sums : p->sums) {
                sums.num_products = 0;
            }
        }
    }
    for (u32& n : w.num_issued) {
        n = 0;
    }
}

void check_products(Fiber& f) {
    const Products* p = f.worker->products[f.thread.x / LANES];
    if (p && p->num_products != 0) {
        fail(f, "exits with %u products of its warp in flight", p->num_products);
    }
}

// -- operands in shared memory

struct Operand {
    u32 address, leading, stride, swizzle;
};

static Operand decode(u64 word) {
    const u32 layout = u32(word >> 62);
    return Operand{u32(word & 0x3fff) << 4, u32(word >> 16 & 0x3fff) << 4, u32(word >> 32 & 0x3fff) << 4,
                   layout == 0 ? 0 : 256u >> layout};
}

// Rules that hold for every operand whose rows are turned by the address.
static void check_operand(Fiber& f, u64 word, bool is_k_major, const char* name, u32 line) {
    const Operand o = decode(word);
    if (o.swizzle == 0) {
        fail(f, "line %u: operand %s without a swizzle", line, name);
    }
    const u32 atom = 8 * o.swizzle, in_atom = o.address % atom;
    if (is_k_major ? in_atom + 32 > o.swizzle : in_atom != 0) {
        fail(f, "line %u: operand %s at address %u is not in the first row of an atom of 8 rows of %u bytes", line, name,
             o.address, o.swizzle);
    }
    if (o.stride % atom != 0 || o.stride == 0 || (!is_k_major && o.leading % atom != 0)) {
        fail(f, "line %u: operand %s with stride %u, leading %u, which are not whole atoms of %u bytes", line, name,
             o.stride, o.leading, atom);
    }
}

// Where chunk `half` (8 k) of row `row` lies.
static u32 k_major(const Operand& o, u32 row, u32 half) {
    const u32 place = o.address + row / 8 * o.stride + row % 8 * o.swizzle + half * 16;
    return place ^ (place >> 7 & (o.swizzle / 16 - 1)) << 4;
}

// Where chunk `chunk` (8 columns) of k lies.
static u32 mn_major(const Operand& o, u32 k, u32 chunk) {
    const u32 chunks = o.swizzle / 16;
    const u32 place = o.address + chunk / chunks * o.leading + k / 8 * o.stride + k % 8 * o.swizzle + chunk % chunks * 16;
    return place ^ (place >> 7 & (chunks - 1)) << 4;
}

static u32 checked(Fiber& f, u32 place, u32 line) {
    if (place < FIRST_ADDRESS || place + 16 > FIRST_ADDRESS + f.worker->launch->shared_bytes) {
        fail(f, "line %u: wgmma reads at %lld of %u bytes of shared memory", line, i64(place) - FIRST_ADDRESS,
             f.worker->launch->shared_bytes);
    }
    return place - FIRST_ADDRESS;
}

template <f32 (*to_f32)(u16)> static void load_chunk(Fiber& f, u32 place, u32 line, f32* to, u32 step) {
    u16 bits[8];
    __builtin_memcpy(bits, f.worker->proxy + checked(f, place, line), 16);
    for (u32 i = 0; i < 8; i++) {
        to[i * step] = to_f32(bits[i]);
    }
}

// -- products

template <f32 (*to_f32)(u16)> static void multiply_rows(Fiber& f, const Product& p, Sums& sums) {
    const Operand a_operand = decode(p.a), b_operand = decode(p.b);
    const u32 first_row = f.thread.x / LANES % 4 * 16;
    f32 a[16][16], b[16][256];
    if (p.a_words[0]) {
        for (u32 l = 0; l < LANES; l++) {
            for (u32 q = 0; q < 4; q++) {
                const u32 row = l / 4 + q % 2 * 8, k = l % 4 * 2 + q / 2 * 8;
                a[row][k] = to_f32(u16(p.a_copy[l][q]));
                a[row][k + 1] = to_f32(u16(p.a_copy[l][q] >> 16));
            }
        }
        for (u32 k = 0; k < 16; k++) {
            for (u32 chunk = 0; chunk < p.n / 8; chunk++) {
                load_chunk<to_f32>(f, mn_major(b_operand, k, chunk), p.line, &b[k][chunk * 8], 1);
            }
        }
    } else {
        for (u32 i = 0; i < 16 * 2; i++) {
            load_chunk<to_f32>(f, k_major(a_operand, first_row + i / 2, i % 2), p.line, &a[i / 2][i % 2 * 8], 1);
        }
        for (u32 i = 0; i < p.n * 2; i++) {
            load_chunk<to_f32>(f, k_major(b_operand, i / 2, i % 2), p.line, &b[i % 2 * 8][i / 2], 256);
        }
    }
    for (u32 i = 0; i < 16; i++) {
        f32* c = sums.value[i];
        for (u32 n = 0; n < p.n && !p.accumulate; n++) {
            c[n] = 0.0f;
        }
        for (u32 k = 0; k < 16; k++) {
            const f32 x = a[i][k];
            for (u32 n = 0; n < p.n; n++) {
                c[n] += x * b[k][n];
            }
        }
    }
}

// Lane l's number e of group n of c.
static f32& sum_of(Sums& sums, u32 lane, u32 n, u32 e) {
    return sums.value[lane / 4 + e / 2 * 8][n * 8 + lane % 4 * 2 + e % 2];
}

static u32 take_sums(Fiber& f, Products& p, u32 n, u32 line) {
    Fiber* const* lanes = &f.worker->fibers[f.thread.x - lane_of(f)];
    u32 free_slot = MOST_SUMS;
    for (u32 i = 0; i < MOST_SUMS; i++) {
        if (p.sums[i].num_products == 0) {
            free_slot = i;
        } else if (p.sums[i].c[0] == lanes[0]->result.floats) {
            if (p.sums[i].n != n) {
                fail(f, "line %u: products of %u and %u columns on the same registers", line, p.sums[i].n, n);
            }
            return i;
        }
    }
    if (free_slot == MOST_SUMS) {
        fail(f, "line %u: products on more than %u sets of registers in flight", line, MOST_SUMS);
    }
    Sums& sums = p.sums[free_slot];
    sums.n = n;
    for (u32 l = 0; l < LANES; l++) {
        sums.c[l] = lanes[l]->result.floats;
        for (u32 i = 0; i < n / 2; i++) {
            sum_of(sums, l, i / 4, i % 4) = sums.c[l][i];
            sums.c[l][i] = __uint_as_float(0xFFFFFFFF);
        }
    }
    return free_slot;
}

static void give_back(Fiber& f, Sums& sums, u32 line) {
    for (u32 l = 0; l < LANES; l++) {
        for (u32 i = 0; i < sums.n / 2; i++) {
            if (__float_as_uint(sums.c[l][i]) != 0xFFFFFFFF) {
                fail(f, "line %u: lane %u wrote to registers of a product in flight", line, l);
            }
            sums.c[l][i] = sum_of(sums, l, i / 4, i % 4);
        }
    }
}

// The warps of a warpgroup issue the same products in the same order.
static void compare_with_others(Fiber& f, u64 signature, u32 number, u32 line) {
    Worker& w = *f.worker;
    const u32 group = f.thread.x / LANES / 4, kept = sizeof(w.issued[0]) / sizeof(w.issued[0][0]);
    u64& first = w.issued[group][number % kept];
    if (number >= w.num_issued[group]) {
        w.num_issued[group] = number + 1;
        first = signature;
    } else if (number + kept > w.num_issued[group] && first != signature) {
        fail(f, "line %u: product %u of this warp is not that of its warpgroup", line, number);
    }
}

} // namespace sim

u32 sim_shared_address(const void* place, u32 line) {
    Fiber& f = current();
    if (!in_shared(f, place, 0)) {
        fail(f, "line %u: shared_address of a place outside of shared memory", line);
    }
    return FIRST_ADDRESS + u32(static_cast<const u8*>(place) - f.shared);
}

void sim_fence_proxy_async() {
    Fiber& f = current();
    reserve_proxy(*f.worker);
    f.worker->is_proxy_fenced = true;
    if (f.worker->initialiser == &f) {
        f.worker->initialiser = nullptr;
    }
    jitter(f);
}

static Products& reserve_products(Fiber& f) {
    Products*& p = f.worker->products[f.thread.x / LANES];
    if (!p) {
        p = new Products();
    }
    return *p;
}

void sim_wgmma_fence(u32 line) {
    Fiber& f = current();
    if (arrive(f, Op::WgmmaFence, line)) {
        reserve_products(f).is_fenced = true;
        release_warp(f);
    }
}

void sim_wgmma_commit(u32 line) {
    Fiber& f = current();
    if (arrive(f, Op::WgmmaCommit, line)) {
        Products& p = reserve_products(f);
        if (p.num_groups == MOST_PRODUCT_GROUPS) {
            fail(f, "line %u: more than %u groups of products in flight", line, MOST_PRODUCT_GROUPS);
        }
        p.group_end[p.num_groups++] = p.num_products;
        release_warp(f);
    }
}

void sim_wgmma(bool is_bf16, u32 n, f32* c, const u32* a_words, u64 a, u64 b, bool accumulate, u32 line) {
    Fiber& f = current();
    Warp& warp = warp_of(f);
    const u64 signature = (a * 0x9e3779b97f4a7c15 ^ b) * 0x9e3779b97f4a7c15 + n * 8 + is_bf16 * 4 + accumulate * 2;
    const u32 phase = warp.phase;
    warp.value[phase][lane_of(f)] = signature;
    f.result.floats = c;
    f.operand = a_words;
    if (!arrive(f, is_bf16 ? Op::WgmmaBf16 : Op::WgmmaF16, line)) {
        return;
    }
    for (u32 l = 0; l < LANES; l++) {
        if (warp.value[phase][l] != signature) {
            fail(f, "line %u: operands of lane %u are not those of this lane", line, l);
        }
    }
    Products& p = reserve_products(f);
    if (!p.is_fenced) {
        fail(f, "line %u: wgmma on registers that were touched since the last wgmma_fence", line);
    }
    if (p.num_products == MOST_PRODUCTS) {
        fail(f, "line %u: more than %u products in flight", line, MOST_PRODUCTS);
    }
    compare_with_others(f, signature, p.num_issued++, line);
    if (!a_words) {
        check_operand(f, a, true, "a", line);
    }
    check_operand(f, b, !a_words, "b", line);
    Product& product = p.product[p.num_products++];
    product.is_bf16 = is_bf16;
    product.accumulate = accumulate;
    product.n = n;
    product.line = line;
    product.a = a;
    product.b = b;
    Fiber* const* lanes = &f.worker->fibers[f.thread.x - lane_of(f)];
    for (u32 l = 0; l < LANES; l++) {
        product.a_words[l] = static_cast<const u32*>(lanes[l]->operand);
        for (u32 q = 0; a_words && q < 4; q++) {
            product.a_copy[l][q] = product.a_words[l][q];
        }
    }
    product.sums = take_sums(f, p, n, line);
    p.sums[product.sums].num_products++;
    release_warp(f);
}

void sim_wgmma_wait(u32 groups, u32 line) {
    Fiber& f = current();
    Products& p = reserve_products(f);
    const u32 landed = p.num_groups > groups ? p.num_groups - groups : 0, end = landed ? p.group_end[landed - 1] : 0;
#ifdef COLATENT_SIM_TSAN
    // Lane 0 has read for its warp: it is the one to say so at a barrier. A collective orders nothing for the others.
    for (u32 i = 0; i < (lane_of(f) == 0 ? end : 0); i++) {
        const Product& product = p.product[i];
        const Operand a = decode(product.a), b = decode(product.b);
        const auto note = [&](u32 place) {
            note_access(f.shared + checked(f, place, product.line), 16, false, __builtin_return_address(0));
        };
        for (u32 chunk = 0; chunk < product.n / 8 * 16 && product.a_words[0]; chunk++) {
            note(mn_major(b, chunk % 16, chunk / 16));
        }
        for (u32 chunk = 0; chunk < product.n * 2 && !product.a_words[0]; chunk++) {
            note(k_major(b, chunk / 2, chunk % 2));
        }
        for (u32 chunk = 0; chunk < 16 * 2 && !product.a_words[0]; chunk++) {
            note(k_major(a, f.thread.x / LANES % 4 * 16 + chunk / 2, chunk % 2));
        }
    }
#endif
    if (!arrive(f, Op::WgmmaWait, line)) {
        return;
    }
    // Not before others have had the chance to overwrite what is multiplied.
    yield_warp(f);
    Worker& w = *f.worker;
    if (end > 0) {
        reserve_proxy(w);
        update_proxy(w);
    }
    for (u32 i = 0; i < end; i++) {
        const Product& product = p.product[i];
        for (u32 word = 0; product.a_words[0] && word < LANES * 4; word++) {
            if (product.a_words[word / 4][word % 4] != product.a_copy[word / 4][word % 4]) {
                fail(f, "line %u: lane %u changed an operand of the product of line %u in flight", line, word / 4,
                     product.line);
            }
        }
        Sums& sums = p.sums[product.sums];
        (product.is_bf16 ? multiply_rows<bf16_to_f32> : multiply_rows<f16_to_f32>)(f, product, sums);
        if (--sums.num_products == 0) {
            give_back(f, sums, line);
        }
    }
    for (u32 i = end; i < p.num_products; i++) {
        p.product[i - end] = p.product[i];
    }
    for (u32 i = landed; i < p.num_groups; i++) {
        p.group_end[i - landed] = p.group_end[i] - end;
    }
    p.num_products -= end;
    p.num_groups -= landed;
    // From here on registers may be touched.
    p.is_fenced = false;
    release_warp(f);
}

#pragma GCC pop_options
