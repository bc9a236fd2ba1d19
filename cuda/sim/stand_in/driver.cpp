// driver.cpp: a stand-in for NVIDIA's driver library, so that what speaks to the driver (src/backend/cuda/driver.rs, captures,
// benchmarks' clocks) is executed where there is no GPU. Built by scripts/stand-in; whoever finds it first on the loader's
// path takes it for libcuda.so.1. Linked with the runtime of the simulated device, which executes the launches.
//
// What it does  The calls that the crate and cudarc make, one device. Work of a stream is done when somebody waits for it,
//               as late as a GPU may do it; a capture keeps it for a graph.
// What it asks  What the driver's documentation asks, and says on stderr what was wrong beside the code it returns: a current
//               context, handles of that context, live memory, launches within the limits that were opted into, tensor maps
//               within theirs, and in a capture nothing that waits, allocates or reads the host's memory.
// Images        What stand_in/nvrtc.cpp gives for a cubin: a library for the host.
// Environment   COLATENT_STAND_IN_ARCH: a compute capability, 90 unless given. COLATENT_STAND_IN_IDLE: everything is checked
//               and nothing done, memory is addresses alone and reads as zeros: for programs that time a GPU's work.
#define COLATENT_SIM_RUNTIME
#include "../shim.h"

#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

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
    NOT_SUPPORTED = 801,
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
// Of a function.
constexpr int MAX_DYNAMIC_SHARED_SIZE_BYTES = 8, PREFERRED_SHARED_MEMORY_CARVEOUT = 9;
constexpr u32 SHARED_BYTES_WITHOUT_OPTIN = 48 << 10;

namespace {

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

std::recursive_mutex everything;
using Lock = std::lock_guard<std::recursive_mutex>;
bool is_initialized;
Context primary;
std::map<u64, u64> blocks; // bytes by address
std::set<void*> streams, events, modules, graphs;
u32 next_seed = 1;
// What failed on a stream fails everything after it, as on a GPU.
Code broken = OK;

thread_local std::vector<Context*> contexts;
thread_local int captures;

Code refuse(Code code, const char* text, ...) {
    va_list args;
    va_start(args, text);
    fprintf(stderr, "stand-in driver: ");
    vfprintf(stderr, text, args);
    fprintf(stderr, "\n");
    va_end(args);
    return code;
}

bool is_idle() {
    static const bool is_idle = getenv("COLATENT_STAND_IN_IDLE") != nullptr;
    return is_idle;
}

int arch() {
    const char* text = getenv("COLATENT_STAND_IN_ARCH");
    return text ? atoi(text) : 90;
}

u32 most_shared_bytes() {
    return arch() == 90 ? 232448 : arch() == 80 ? 166912 : 101376;
}

Context* current() {
    return contexts.empty() ? nullptr : contexts.back();
}

// The thread has a current context.
Code ready(const char* call) {
    if (!is_initialized) {
        return refuse(NOT_INITIALIZED, "%s before cuInit", call);
    }
    if (!current()) {
        return refuse(INVALID_CONTEXT, "%s without a current context", call);
    }
    return broken;
}

// As `ready`, for what a thread that captures may not do.
Code ready_to_wait(const char* call) {
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

template <class T>
bool is_of_context(const std::set<void*>& known, T* handle) {
    return known.count(handle) && handle->context == current();
}

// 0x0 and 0x1 are the legacy stream, 0x2 is the thread's.
Stream* stream_of(void* handle) {
    static std::map<std::pair<Context*, u64>, std::unique_ptr<Stream>> defaults;
    static std::mutex guard;
    const u64 number = u64(handle);
    if (number > 2) {
        Stream* stream = static_cast<Stream*>(handle);
        return is_of_context(streams, stream) ? stream : nullptr;
    }
    std::lock_guard<std::mutex> lock(guard);
    auto& stream = defaults[{current(), number == 2 ? u64(pthread_self()) : 0}];
    if (!stream) {
        stream.reset(new Stream{current(), {}, nullptr, false});
        streams.insert(stream.get());
    }
    return stream.get();
}

Code drain(Stream* stream) {
    while (!stream->queue.empty() && !broken) {
        const Work work = std::move(stream->queue.front());
        stream->queue.erase(stream->queue.begin());
        broken = work();
    }
    return broken;
}

Code drain_all() {
    for (void* stream : streams) {
        if (static_cast<Stream*>(stream)->context == current()) {
            drain(static_cast<Stream*>(stream));
        }
    }
    return broken;
}

// Puts work onto a stream or into its capture.
Code put(const char* call, void* handle, Work work, bool is_for_the_clock = false) {
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
bool is_inside(u64 address, u64 bytes) {
    auto after = blocks.upper_bound(address);
    if (after == blocks.begin()) {
        return false;
    }
    const auto [start, size] = *--after;
    return address - start <= size && bytes <= size - (address - start);
}

Code range(const char* call, u64 address, u64 bytes) {
    return is_inside(address, bytes) ? OK
                                     : refuse(INVALID_VALUE, "%s of %llu bytes at %#llx: no allocation", call, bytes, address);
}

} // namespace

extern "C" {

int cuInit(u32) {
    Lock lock(everything);
    // Kernels resolve the runtime's symbols here, though the library was loaded for its loader alone.
    Dl_info own = {};
    dladdr(reinterpret_cast<void*>(&cuInit), &own);
    if (!dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL)) {
        return refuse(INVALID_VALUE, "cuInit: %s", dlerror());
    }
    is_initialized = true;
    return OK;
}

int cuDriverGetVersion(int* version) {
    *version = 13000;
    return OK;
}

int cuGetErrorName(int code, const char** text) {
    static thread_local std::string name;
    name = "CUDA error " + std::to_string(code) + " of the stand-in";
    *text = name.c_str();
    return OK;
}

int cuGetErrorString(int code, const char** text) {
    return cuGetErrorName(code, text);
}

// -- devices and contexts

int cuDeviceGetCount(int* count) {
    *count = 1;
    return is_initialized ? OK : NOT_INITIALIZED;
}

int cuDeviceGet(int* device, int ordinal) {
    *device = 0;
    return !is_initialized ? NOT_INITIALIZED : ordinal == 0 ? OK : INVALID_DEVICE;
}

int cuDeviceGetName(char* name, int bytes, int) {
    snprintf(name, bytes, "stand-in for compute capability %d.%d", arch() / 10, arch() % 10);
    return OK;
}

int cuDeviceGetUuid(void* uuid, int) {
    memset(uuid, 0, 16);
    return OK;
}

int cuDeviceGetUuid_v2(void* uuid, int device) {
    return cuDeviceGetUuid(uuid, device);
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
    case MULTIPROCESSOR_COUNT: *value = 3; return OK;
    case COMPUTE_CAPABILITY_MAJOR: *value = arch() / 10; return OK;
    case COMPUTE_CAPABILITY_MINOR: *value = arch() % 10; return OK;
    case MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = int(most_shared_bytes()); return OK;
    case MEMORY_POOLS_SUPPORTED: *value = 0; return OK;
    default: return refuse(INVALID_VALUE, "device attribute %d is not known here", attribute);
    }
}

int cuDevicePrimaryCtxRetain(Context** context, int) {
    Lock lock(everything);
    primary.uses++;
    *context = &primary;
    return is_initialized ? OK : NOT_INITIALIZED;
}

int cuDevicePrimaryCtxRelease_v2(int) {
    Lock lock(everything);
    return --primary.uses < 0 ? refuse(INVALID_CONTEXT, "the primary context was released too often") : OK;
}

int cuCtxCreate_v4(Context** context, void*, u32, int) {
    contexts.push_back(*context = new Context);
    return is_initialized ? OK : NOT_INITIALIZED;
}

int cuCtxDestroy_v2(Context* context) {
    if (current() == context) {
        contexts.pop_back();
    }
    return OK; // names of contexts are not given twice
}

int cuCtxGetCurrent(Context** context) {
    *context = current();
    return is_initialized ? OK : NOT_INITIALIZED;
}

int cuCtxSetCurrent(Context* context) {
    if (!contexts.empty()) {
        contexts.pop_back();
    }
    if (context) {
        contexts.push_back(context);
    }
    return is_initialized ? OK : NOT_INITIALIZED;
}

int cuCtxPushCurrent_v2(Context* context) {
    if (!is_initialized || !context) {
        return refuse(INVALID_CONTEXT, "a push of no context");
    }
    contexts.push_back(context);
    return OK;
}

int cuCtxPopCurrent_v2(Context** context) {
    if (contexts.empty()) {
        return refuse(INVALID_CONTEXT, "a pop of no context");
    }
    *context = contexts.back();
    contexts.pop_back();
    return OK;
}

int cuCtxGetDevice(int* device) {
    *device = 0;
    return ready("cuCtxGetDevice");
}

int cuCtxSynchronize() {
    Lock lock(everything);
    const Code code = ready_to_wait("cuCtxSynchronize");
    return code ? code : drain_all();
}

// -- memory

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

int cuMemGetInfo_v2(u64* unused, u64* all) {
    *unused = *all = 1ull << 32;
    return ready("cuMemGetInfo");
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

int cuMemcpyHtoD_v2(u64 to, const void* from, u64 bytes) {
    Lock lock(everything);
    const int code = cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr);
    return code ? code : drain(stream_of(nullptr));
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

int cuMemcpyDtoH_v2(void* to, u64 from, u64 bytes) {
    return cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr);
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

// -- streams and events

int cuStreamCreate(void** stream, u32) {
    Lock lock(everything);
    if (const Code code = ready("cuStreamCreate")) {
        return code;
    }
    streams.insert(*stream = new Stream{current(), {}, nullptr, false});
    return OK;
}

int cuStreamDestroy_v2(void* handle) {
    Lock lock(everything);
    Stream* stream = static_cast<Stream*>(handle);
    if (!streams.count(handle)) {
        return refuse(INVALID_HANDLE, "cuStreamDestroy of no stream");
    }
    drain(stream);
    streams.erase(handle);
    delete stream;
    return OK;
}

int cuStreamSynchronize(void* handle) {
    Lock lock(everything);
    if (const Code code = ready_to_wait("cuStreamSynchronize")) {
        return code;
    }
    Stream* stream = stream_of(handle);
    return stream ? drain(stream) : refuse(INVALID_HANDLE, "cuStreamSynchronize of another context's stream");
}

int cuStreamIsCapturing(void* handle, int* status) {
    Lock lock(everything);
    if (const Code code = ready("cuStreamIsCapturing")) {
        return code;
    }
    Stream* stream = stream_of(handle);
    *status = stream && stream->capture ? (stream->is_invalid ? 2 : 1) : 0;
    return stream ? OK : INVALID_HANDLE;
}

int cuStreamBeginCapture_v2(void* handle, int) {
    Lock lock(everything);
    if (const Code code = ready("cuStreamBeginCapture")) {
        return code;
    }
    Stream* stream = u64(handle) > 1 ? stream_of(handle) : nullptr;
    if (!stream || stream->capture) {
        return refuse(CAPTURE_UNSUPPORTED, "a capture of the legacy stream, or of one that is captured");
    }
    stream->capture = std::make_shared<Graph>();
    stream->is_invalid = false;
    captures++;
    return OK;
}

int cuStreamEndCapture(void* handle, void** graph) {
    Lock lock(everything);
    *graph = nullptr;
    Stream* stream = stream_of(handle);
    if (!stream || !stream->capture) {
        return refuse(INVALID_VALUE, "cuStreamEndCapture without a capture");
    }
    captures--;
    const std::shared_ptr<Graph> captured = std::move(stream->capture);
    if (stream->is_invalid) {
        return refuse(CAPTURE_INVALIDATED, "the capture was invalidated");
    }
    graphs.insert(*graph = new Graph(*captured));
    return OK;
}

int cuGraphInstantiateWithFlags(void** executable, void* graph, u64) {
    Lock lock(everything);
    if (!graphs.count(graph)) {
        return refuse(INVALID_VALUE, "cuGraphInstantiate of no graph");
    }
    graphs.insert(*executable = new Graph(*static_cast<Graph*>(graph)));
    return OK;
}

int cuGraphUpload(void*, void*) {
    return ready("cuGraphUpload");
}

int cuGraphLaunch(void* executable, void* stream) {
    Lock lock(everything);
    if (!graphs.count(executable)) {
        return refuse(INVALID_VALUE, "cuGraphLaunch of no graph");
    }
    for (const Work& work : static_cast<Graph*>(executable)->work) {
        if (const Code code = put("cuGraphLaunch", stream, work)) {
            return code;
        }
    }
    return OK;
}

int cuGraphDestroy(void* graph) {
    Lock lock(everything);
    if (graphs.erase(graph) == 0) {
        return refuse(INVALID_VALUE, "a graph was destroyed that there is not");
    }
    delete static_cast<Graph*>(graph);
    return OK;
}

int cuGraphExecDestroy(void* executable) {
    return cuGraphDestroy(executable);
}

int cuEventCreate(void** event, u32) {
    Lock lock(everything);
    if (const Code code = ready("cuEventCreate")) {
        return code;
    }
    events.insert(*event = new Event{current()});
    return OK;
}

// Events stay until the process ends: work that is not yet done may name them.
int cuEventDestroy_v2(void* event) {
    Lock lock(everything);
    return events.erase(event) ? OK : refuse(INVALID_HANDLE, "cuEventDestroy of no event");
}

int cuEventRecord(void* handle, void* stream) {
    Lock lock(everything);
    if (const Code code = ready("cuEventRecord")) {
        return code;
    }
    Event* event = static_cast<Event*>(handle);
    if (!is_of_context(events, event)) {
        return refuse(INVALID_HANDLE, "cuEventRecord of another context's event");
    }
    event->stream = stream_of(stream);
    event->is_done = false;
    return put("cuEventRecord", stream, [event] {
        event->time = std::chrono::steady_clock::now();
        event->is_done = true;
        return OK;
    }, true);
}

int cuEventQuery(void* event) {
    return static_cast<Event*>(event)->is_done ? OK : NOT_READY;
}

int cuEventSynchronize(void* handle) {
    Lock lock(everything);
    if (const Code code = ready_to_wait("cuEventSynchronize")) {
        return code;
    }
    Event* event = static_cast<Event*>(handle);
    return event->stream && !event->is_done ? drain(event->stream) : OK;
}

int cuStreamWaitEvent(void* stream, void* handle, u32) {
    Lock lock(everything);
    Event* event = static_cast<Event*>(handle);
    return put("cuStreamWaitEvent", stream, [event] {
        // One that was never recorded is no wait.
        return event->is_done || !event->stream ? OK : drain(event->stream);
    });
}

int cuEventElapsedTime_v2(f32* milliseconds, void* start, void* end) {
    const Event *first = static_cast<Event*>(start), *second = static_cast<Event*>(end);
    if (!first->is_done || !second->is_done) {
        return NOT_READY;
    }
    *milliseconds = std::chrono::duration<f32, std::milli>(second->time - first->time).count();
    return OK;
}

int cuEventElapsedTime(f32* milliseconds, void* start, void* end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}

// -- kernels

int cuModuleLoadData(void** handle, const void* image) {
    Lock lock(everything);
    if (const Code code = ready_to_wait("cuModuleLoadData")) {
        return code;
    }
    const Elf64_Ehdr& head = *static_cast<const Elf64_Ehdr*>(image);
    if (memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_machine != EM_X86_64) {
        return refuse(INVALID_IMAGE, "an image that the stand-in's compiler did not make");
    }
    // Sections end the file.
    const size_t bytes = head.e_shoff + size_t(head.e_shnum) * head.e_shentsize;
    const int file = memfd_create("kernel", 0);
    const std::string path = "/proc/self/fd/" + std::to_string(file);
    void* library = write(file, image, bytes) == ssize_t(bytes) ? dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (!library) {
        close(file);
        return refuse(INVALID_IMAGE, "an image that cannot be loaded: %s", dlerror());
    }
    Module* module = new Module{current(), library, file};
    module->entry = reinterpret_cast<decltype(module->entry)>(dlsym(library, "colatent_launch"));
    module->args_bytes = *static_cast<u64*>(dlsym(library, "colatent_args_bytes"));
    module->name = static_cast<const char*>(dlsym(library, "colatent_name"));
    modules.insert(*handle = module);
    return OK;
}

int cuModuleUnload(void* handle) {
    Lock lock(everything);
    Module* module = static_cast<Module*>(handle);
    if (!is_of_context(modules, module)) {
        return refuse(INVALID_HANDLE, "cuModuleUnload without its context");
    }
    drain_all();
    modules.erase(handle);
    dlclose(module->library);
    close(module->file);
    delete module;
    return OK;
}

// A module here has one function, and the same handle names it.
int cuModuleGetFunction(void** function, void* handle, const char* name) {
    Lock lock(everything);
    Module* module = static_cast<Module*>(handle);
    if (!is_of_context(modules, module)) {
        return refuse(INVALID_HANDLE, "cuModuleGetFunction without its context");
    }
    *function = handle;
    return strcmp(name, module->name) == 0 ? OK : refuse(NOT_FOUND, "no kernel %s beside %s", name, module->name);
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
    Lock lock(everything);
    if (const Code code = ready("cuFuncSetAttribute")) {
        return code;
    }
    if (attribute == PREFERRED_SHARED_MEMORY_CARVEOUT && value >= -1 && value <= 100) {
        return OK;
    }
    if (attribute != MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || u32(value) > most_shared_bytes()) {
        return refuse(INVALID_VALUE, "function attribute %d = %d", attribute, value);
    }
    static_cast<Module*>(function)->shared_bytes = u32(value);
    return OK;
}

int cuLaunchKernel(void* function, u32 grid_x, u32 grid_y, u32 grid_z, u32 block_x, u32 block_y, u32 block_z, u32 shared_bytes,
                   void* stream, void** params, void** extra) {
    Lock lock(everything);
    if (const Code code = ready("cuLaunchKernel")) {
        return code;
    }
    Module* module = static_cast<Module*>(function);
    if (!is_of_context(modules, module)) {
        return refuse(INVALID_HANDLE, "cuLaunchKernel of another context's function");
    }
    const bool is_line = grid_y == 1 && grid_z == 1 && block_y == 1 && block_z == 1;
    if (!is_line || grid_x == 0 || grid_x > 0x7fffffff || block_x == 0 || block_x > 1024 || !params || extra) {
        return refuse(INVALID_VALUE, "%s: a grid of %u x %u x %u by %u x %u x %u", module->name, grid_x, grid_y, grid_z, block_x,
                      block_y, block_z);
    }
    if (shared_bytes > module->shared_bytes) {
        return refuse(INVALID_VALUE, "%s: %u bytes of shared memory, %u are allowed", module->name, shared_bytes,
                      module->shared_bytes);
    }
    // As many bytes as the kernel's argument has, copied before the call returns.
    const std::shared_ptr<void> args(aligned_alloc(128, (module->args_bytes + 127) / 128 * 128), free);
    memcpy(args.get(), params[0], module->args_bytes);
    const u32 seed = next_seed++;
    return put("cuLaunchKernel", stream, [=] {
        char error[512];
        const SimLaunch launch{grid_x, block_x, shared_bytes, 1 + seed % 2, seed, seed / 2 % 2 * 7, args.get()};
        return module->entry(&launch, error) == 0 ? OK : refuse(LAUNCH_FAILED, "%s: %s", module->name, error);
    });
}

int cuTensorMapEncodeTiled(SimTensorMap* map, int type, u32 rank, u64 address, const u64* dims, const u64* strides,
                           const u32* box, const u32* steps, int interleave, int swizzle, int, int) {
    const u64 span = swizzle == 1 ? 32 : swizzle == 2 ? 64 : swizzle == 3 ? 128 : 0;
    bool fits = u64(map) % 64 == 0 && type == 1 && rank == 4 && address % 16 == 0 && interleave == 0 && span != 0;
    fits = fits && box[0] * 2 % 16 == 0 && box[0] * 2 <= span;
    for (u32 i = 0; fits && i < rank; i++) {
        fits = dims[i] > 0 && dims[i] <= 1ull << 32 && box[i] > 0 && box[i] <= 256 && steps[i] == 1;
        fits = fits && (i == 0 || (strides[i - 1] % 16 == 0 && strides[i - 1] < 1ull << 40));
    }
    if (!fits) {
        return INVALID_VALUE; // which the crate asks for: then there is no map
    }
    *map = SimTensorMap{address, {strides[0], strides[1], strides[2]}, {}, {box[0], box[1]}, u32(span), SIM_IS_MAP, {}};
    for (u32 i = 0; i < rank; i++) {
        map->dims[i] = u32(dims[i]);
    }
    return OK;
}

} // extern "C"
