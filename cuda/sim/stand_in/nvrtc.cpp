// nvrtc.cpp: a stand-in for NVRTC beside the stand-in driver: compiles a kernel for the host, and gives the library for a
// cubin. shim.h lies in its own folder. Its version is 0.0, so that no cache takes its kernels for a GPU's.
#include <dlfcn.h>
#include <stdlib.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

namespace {

struct Program {
    std::string source, image, log;
};

std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
}

std::string own_folder() {
    Dl_info own = {};
    dladdr(reinterpret_cast<void*>(&own_folder), &own);
    const std::string path = own.dli_fname;
    return path.substr(0, path.rfind('/'));
}

} // namespace

extern "C" {

int nvrtcVersion(int* major, int* minor) {
    *major = *minor = 0;
    return 0;
}

int nvrtcCreateProgram(Program** program, const char* source, const char*, int, const char* const*, const char* const*) {
    *program = new Program{source, "", ""};
    return 0;
}

int nvrtcCompileProgram(Program* program, int, const char* const*) {
    char folder[] = "/tmp/stand-in-XXXXXX";
    if (!mkdtemp(folder)) {
        return 1;
    }
    const std::string in = std::string(folder) + "/kernel.cpp", out = std::string(folder) + "/kernel.so",
                      log = std::string(folder) + "/log";
    std::ofstream(in) << program->source;
    // As src/backend/cuda/sim.rs compiles kernels.
    const char* compiler = getenv("CXX");
    const std::string command = std::string(compiler ? compiler : "g++") +
                                " -std=c++17 -O2 -march=x86-64-v3 -ffp-contract=off -fno-strict-aliasing -fPIC -shared -w"
                                " -DCOLATENT_SIM -fvisibility=hidden -include '" +
                                own_folder() + "/shim.h' '" + in + "' -o '" + out + "' 2>'" + log + "'";
    const int code = system(command.c_str());
    program->image = read(out);
    program->log = read(log);
    const std::string clean = std::string("rm -r '") + folder + "'";
    return system(clean.c_str()) == 0 && code == 0 ? 0 : 6;
}

int nvrtcGetProgramLogSize(Program* program, size_t* bytes) {
    *bytes = program->log.size() + 1;
    return 0;
}

int nvrtcGetProgramLog(Program* program, char* log) {
    memcpy(log, program->log.c_str(), program->log.size() + 1);
    return 0;
}

int nvrtcGetCUBINSize(Program* program, size_t* bytes) {
    *bytes = program->image.size();
    return 0;
}

int nvrtcGetCUBIN(Program* program, char* image) {
    memcpy(image, program->image.data(), program->image.size());
    return 0;
}

int nvrtcDestroyProgram(Program** program) {
    delete *program;
    *program = nullptr;
    return 0;
}

} // extern "C"
