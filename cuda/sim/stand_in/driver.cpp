// driver.cpp: initialisation, devices and contexts of a stand-in for NVIDIA's driver library, so that what speaks to the
// driver (src/backend/cuda/driver.rs, captures, benchmarks' clocks) is executed where there is no GPU. Built by
// scripts/stand-in; whoever finds it first on the loader's path takes it for libcuda.so.1. Linked with the runtime of the
// simulated device, which executes the launches.
//
// What it does  The calls that the crate and cudarc make, one device. Work of a stream is done when somebody waits for it,
//               as late as a GPU may do it; a capture keeps it for a graph.
// What it asks  What the driver's documentation asks, and says on stderr what was wrong beside the code it returns: a current
//               context, handles of that context, live memory, launches within the limits that were opted into, tensor maps
//               within theirs, and in a capture nothing that waits, allocates or reads the host's memory.
// Images        What stand_in/nvrtc.cpp gives for a cubin: a library for the host.
// Environment   COLATENT_STAND_IN_ARCH: a compute capability, 90 unless given. COLATENT_STAND_IN_IDLE: everything is checked
//               and nothing done, memory is addresses alone and reads as zeros: for programs that time a GPU's work.
#include "state.h"

#include <dlfcn.h>

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

} // extern "C"
