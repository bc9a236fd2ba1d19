// state.h: what the stand-in driver knows, and what all its calls ask first.
#pragma once
#define COLATENT_SIM_RUNTIME
#include "../shim.h"

#include <pthread.h>

#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

// Of cuda.h: codes and numbers of attributes, as the documentation lists them.
enum Code : int {
    OK = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    LAUNCH_FAILED = 719,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};
enum Attribute : int {
    MULTIPROCESSOR_COUNT = 16,
    COMPUTE_CAPABILITY_MAJOR = 75,
    COMPUTE_CAPABILITY_MINOR = 76,
    MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
    MEMORY_POOLS_SUPPORTED = 115,
};
constexpr int MAX_DYNAMIC_SHARED_SIZE_BYTES = 8; // of a function
constexpr u32 SHARED_BYTES_WITHOUT_OPTIN = 48 << 10;

namespace stand_in {

struct Graph;
using Work = std::function<Code()>;

struct Context {
    int uses = 0;
};

struct Stream {
    Context* context;
    std::vector<Work> queue;
    // The capture under way, and whether something was asked for that it cannot keep.
    std::shared_ptr<Graph> capture;
    bool is_invalid = false;
};

struct Graph {
    std::vector<Work> work;
};

struct Event {
    Context* context;
    Stream* stream = nullptr;
    bool is_done = false;
    std::chrono::steady_clock::time_point time;
};

struct Module {
    Context* context;
    void* library;
    int file;
    u32 shared_bytes = SHARED_BYTES_WITHOUT_OPTIN;
    int (*entry)(const SimLaunch*, char*);
    u64 args_bytes;
    const char* name;
};

inline std::recursive_mutex everything;
using Lock = std::lock_guard<std::recursive_mutex>;
inline bool is_initialized;
inline Context primary;
inline std::map<u64, u64> blocks; // bytes by address
inline std::set<void*> streams, events, modules, graphs;
inline u32 next_seed = 1;
// What failed on a stream fails everything after it, as on a GPU.
inline Code broken = OK;

inline thread_local std::vector<Context*> contexts;
inline thread_local int captures;

inline Code refuse(Code code, const char* text, ...) {
    va_list args;
    va_start(args, text);
    fprintf(stderr, "stand-in driver: ");
    vfprintf(stderr, text, args);
    fprintf(stderr, "\n");
    va_end(args);
    return code;
}

inline bool is_idle() {
    static const bool is_idle = getenv("COLATENT_STAND_IN_IDLE") != nullptr;
    return is_idle;
}

inline int arch() {
    const char* text = getenv("COLATENT_STAND_IN_ARCH");
    return text ? atoi(text) : 90;
}

inline u32 most_shared_bytes() {
    return arch() / 10 == 9 || arch() / 10 == 10 ? 232448 : arch() == 80 ? 166912 : 101376;
}

inline Context* current() {
    return contexts.empty() ? nullptr : contexts.back();
}

// The thread has a current context.
inline Code ready(const char* call) {
    if (!is_initialized) {
        return refuse(NOT_INITIALIZED, "%s before cuInit", call);
    }
    if (!current()) {
        return refuse(INVALID_CONTEXT, "%s without a current context", call);
    }
    return broken;
}

// As `ready`, for what a thread that captures may not do.
inline Code ready_to_wait(const char* call) {
    if (const Code code = ready(call)) {
        return code;
    }
    if (captures > 0) {
        for (void* stream : streams) {
            static_cast<Stream*>(stream)->is_invalid |= static_cast<Stream*>(stream)->capture != nullptr;
        }
        return refuse(CAPTURE_UNSUPPORTED, "%s while the thread captures a stream", call);
    }
    return OK;
}

template <class T> bool is_of_context(const std::set<void*>& known, T* handle) {
    return known.count(handle) && handle->context == current();
}

// 0x0 and 0x1 are the legacy stream, 0x2 is the thread's. Under the lock.
inline Stream* stream_of(void* handle) {
    static std::map<std::pair<Context*, u64>, std::unique_ptr<Stream>> defaults;
    const u64 number = u64(handle);
    if (number > 2) {
        Stream* stream = static_cast<Stream*>(handle);
        return is_of_context(streams, stream) ? stream : nullptr;
    }
    auto& stream = defaults[{current(), number == 2 ? u64(pthread_self()) : 0}];
    if (!stream) {
        stream.reset(new Stream{current(), {}, nullptr, false});
        streams.insert(stream.get());
    }
    return stream.get();
}

inline Code drain(Stream* stream) {
    while (!stream->queue.empty() && !broken) {
        const Work work = std::move(stream->queue.front());
        stream->queue.erase(stream->queue.begin());
        broken = work();
    }
    return broken;
}

inline Code drain_all() {
    for (void* stream : streams) {
        if (static_cast<Stream*>(stream)->context == current()) {
            drain(static_cast<Stream*>(stream));
        }
    }
    return broken;
}

// Puts work onto a stream or into its capture.
inline Code put(const char* call, void* handle, Work work, bool is_for_the_clock = false) {
    if (const Code code = ready(call)) {
        return code;
    }
    Stream* stream = stream_of(handle);
    if (!stream) {
        return refuse(INVALID_HANDLE, "%s on a stream that the current context does not have", call);
    }
    if (!is_idle() || is_for_the_clock) {
        (stream->capture ? stream->capture->work : stream->queue).push_back(std::move(work));
    }
    return OK;
}

// Whether a range lies in one allocation.
inline bool is_inside(u64 address, u64 bytes) {
    auto after = blocks.upper_bound(address);
    if (after == blocks.begin()) {
        return false;
    }
    const auto [start, size] = *--after;
    return address - start <= size && bytes <= size - (address - start);
}

inline Code range(const char* call, u64 address, u64 bytes) {
    return is_inside(address, bytes) ? OK
                                     : refuse(INVALID_VALUE, "%s of %llu bytes at %#llx: no allocation", call, bytes, address);
}

} // namespace stand_in

using namespace stand_in;
