// kernels.cpp: kernels and tensor maps of the stand-in driver.
#include "state.h"

#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

extern "C" {

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
