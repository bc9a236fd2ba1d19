// memory.cpp: memory of the stand-in driver.
#include "state.h"

#include <sys/mman.h>

extern "C" {

int cuMemAlloc_v2(u64* address, u64 bytes) {
    Lock lock(everything);
    if (const Code code = ready_to_wait("cuMemAlloc")) {
        return code;
    }
    if (is_idle()) {
        void* memory = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        *address = memory == MAP_FAILED ? 0 : u64(memory);
    } else {
        *address = bytes == 0 ? 0 : u64(sim_allocate(bytes));
    }
    if (*address == 0) {
        return refuse(bytes == 0 ? INVALID_VALUE : OUT_OF_MEMORY, "cuMemAlloc of %llu bytes", bytes);
    }
    blocks[*address] = bytes;
    return OK;
}

int cuMemFree_v2(u64 address) {
    Lock lock(everything);
    if (const Code code = ready_to_wait("cuMemFree")) {
        return code;
    }
    auto block = blocks.find(address);
    if (block == blocks.end()) {
        return refuse(INVALID_VALUE, "cuMemFree of %#llx, which no cuMemAlloc gave", address);
    }
    drain_all();
    if (is_idle()) {
        munmap(reinterpret_cast<void*>(address), block->second);
    } else {
        sim_free(reinterpret_cast<void*>(address), block->second);
    }
    blocks.erase(block);
    return OK;
}

// Memory of the host is not known here, as pageable memory is not to the driver.
int cuPointerGetAttribute(u32* kind, int, u64 address) {
    Lock lock(everything);
    *kind = 2;
    return is_inside(address, 1) ? OK : INVALID_VALUE;
}

int cuMemsetD8Async(u64 address, u8 value, u64 bytes, void* stream) {
    Lock lock(everything);
    const Code code = range("cuMemsetD8Async", address, bytes);
    return code ? code : put("cuMemsetD8Async", stream, [=] {
        memset(reinterpret_cast<void*>(address), value, bytes);
        return OK;
    });
}

// Of pageable memory, which is copied before the call returns.
int cuMemcpyHtoDAsync_v2(u64 to, const void* from, u64 bytes, void* stream) {
    Lock lock(everything);
    // A graph would read the host's memory again at every launch.
    const Code code = ready_to_wait("an upload");
    if (code || range("cuMemcpyHtoDAsync", to, bytes)) {
        return code ? code : INVALID_VALUE;
    }
    const u8* first = static_cast<const u8*>(from);
    return put("cuMemcpyHtoDAsync", stream, [to, content = std::vector<u8>(first, first + bytes)] {
        memcpy(reinterpret_cast<void*>(to), content.data(), content.size());
        return OK;
    });
}

// Into pageable memory: over when the call returns.
int cuMemcpyDtoHAsync_v2(void* to, u64 from, u64 bytes, void* stream) {
    Lock lock(everything);
    const Code code = ready_to_wait("a read");
    if (code || range("cuMemcpyDtoHAsync", from, bytes)) {
        return code ? code : INVALID_VALUE;
    }
    memset(to, 0, is_idle() ? bytes : 0);
    const Code queued = put("cuMemcpyDtoHAsync", stream, [=] {
        memcpy(to, reinterpret_cast<void*>(from), bytes);
        return OK;
    });
    return queued ? queued : drain(stream_of(stream));
}

int cuMemcpyDtoDAsync_v2(u64 to, u64 from, u64 bytes, void* stream) {
    Lock lock(everything);
    if (range("cuMemcpyDtoDAsync", to, bytes) || range("cuMemcpyDtoDAsync", from, bytes)) {
        return INVALID_VALUE;
    }
    return put("cuMemcpyDtoDAsync", stream, [=] {
        memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
        return OK;
    });
}

} // extern "C"
