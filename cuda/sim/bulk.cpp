// bulk.cpp: bulk copies of boxes on the simulated device. They land one by one in any order, at the latest when nobody else
// can go on; what they write is seen by all, products included, and until then its place holds what no test takes for data.
#include "runtime.h"

using namespace sim;

// As in wgmma.cpp.
#pragma GCC push_options
#pragma GCC optimize("no-tree-loop-distribute-patterns")

namespace sim {

u32 bytes_of(const Box& box) {
    return box.map.box[0] * box.map.box[1] * 2;
}

// Row `row` of the box in the tensor, or null where it lies outside.
static const u8* row_of(const Box& box, u32 row) {
    const SimTensorMap& map = box.map;
    const u64 at = u64(box.at[1]) + row;
    if (at >= map.dims[1] || box.at[2] >= map.dims[2] || box.at[3] >= map.dims[3]) {
        return nullptr;
    }
    const u64 place = box.at[0] * 2ull + at * map.strides[0] + box.at[2] * map.strides[1] + box.at[3] * map.strides[2];
    return reinterpret_cast<const u8*>(map.address + place);
}

// Bytes of a row that lie inside.
static u32 bytes_inside(const Box& box) {
    const u32 left = box.at[0] < box.map.dims[0] ? box.map.dims[0] - box.at[0] : 0;
    return (left < box.map.box[0] ? left : box.map.box[0]) * 2;
}

Box land_box(Worker& w, u32 i) {
    const Box box = w.boxes[i];
    w.boxes[i] = w.boxes[--w.num_boxes];
    update_proxy(w);
    const u32 row_bytes = box.map.swizzle, first = u32(box.shared - w.shared);
    for (u32 row = 0; row < box.map.box[1]; row++) {
        const u8* from = row_of(box, row);
        for (u32 byte = 0; byte < row_bytes; byte++) {
            const u32 place = first + row * row_bytes + byte;
            const u32 turned = place ^ (place >> 7 & (row_bytes / 16 - 1)) << 4;
            w.shared[turned] = w.proxy[turned] = from && byte < bytes_inside(box) ? from[byte] : 0;
        }
    }
    return box;
}

} // namespace sim

void sim_copy_box(void* shared, const void* map, const u32* at, void* barrier, u32 line) {
    Fiber& f = current();
    Worker& w = *f.worker;
    Box box = {&f, barrier, static_cast<u8*>(shared), *static_cast<const SimTensorMap*>(map), {at[0], at[1], at[2], at[3]}, line};
    const SimTensorMap& tensor = box.map;
    if (tensor.is_map != SIM_IS_MAP || u64(map) % 64 != 0) {
        fail(f, "line %u: a bulk copy by what is no tensor map", line);
    }
    if (tensor.box[0] * 2 != tensor.swizzle || tensor.address % 16 != 0 ||
        (tensor.strides[0] | tensor.strides[1] | tensor.strides[2]) % 16 != 0) {
        fail(f, "line %u: a tensor map with boxes of %u elements, turned in %u bytes, or misaligned", line, tensor.box[0],
             tensor.swizzle);
    }
    if (!in_shared(f, box.shared, bytes_of(box))) {
        fail(f, "line %u: a bulk copy to %lld of %u bytes of shared memory", line, i64(box.shared - f.shared),
             w.launch->shared_bytes);
    }
    if (u64(box.shared - f.shared) % (8 * tensor.swizzle) != 0) {
        fail(f, "line %u: a bulk copy to %lld, in the middle of an atom of 8 rows of %u bytes", line,
             i64(box.shared - f.shared), tensor.swizzle);
    }
    if (w.initialiser != nullptr) {
        fail(f, "line %u: a bulk copy, and no fence of the proxy since a barrier was initialised", line);
    }
    if (w.num_boxes == MOST_BOXES) {
        fail(f, "line %u: more than %u bulk copies in flight", line, MOST_BOXES);
    }
    const void* caller = __builtin_return_address(0);
    for (u32 row = 0; row < tensor.box[1] && bytes_inside(box) != 0; row++) {
        if (const u8* from = row_of(box, row)) {
            ASAN(if (__asan_region_is_poisoned(const_cast<u8*>(from), bytes_inside(box))) {
                fail(f, "line %u: a bulk copy reads outside of its buffer", line);
            })
            note_access(from, bytes_inside(box), false, caller);
        }
    }
    note_access(box.shared, bytes_of(box), true, caller);
    // What has landed is there for whoever waits: the order is that of this thread.
    TSAN(__tsan_release(barrier);)
    reserve_proxy(w);
    for (u32 i = 0; i < bytes_of(box); i++) {
        box.shared[i] = w.launch->in_flight;
    }
    poison_proxy(w, box.shared, bytes_of(box));
    w.boxes[w.num_boxes++] = box;
    jitter(f);
}

#pragma GCC pop_options
