// driver.cpp: runs recorded launches of one kernel again, outside of the crate, so that the sanitizers see the kernel
// and exactly sized buffers. Linked with the kernel and the runtime by scripts/sanitize. Results are not compared:
// the tests of the operations do that.
//
// Usage     driver SEEDS FOLDER...      returns 0, or 1 after a sentence about each launch that failed.
// Recording one folder per launch, written before the launch (COLATENT_SIM_RECORD in src/backend/cuda/sim.rs):
//   kernel.cpp               the source of the variant behind the text of shim.h, as the host compiler gets it
//   launch.txt               three numbers: groups, threads, bytes of shared memory
//   args.bin                 the argument struct
//   block-ADDRESS.bin        one file per allocation that an argument points into: its content, exactly its size; the
//                            address is in hexadecimal
// Every aligned 64-bit word of args.bin that lies in [ADDRESS, ADDRESS + SIZE) of an allocation becomes the same place
// in a copy of it on the heap; a word equal to ADDRESS + SIZE of one and inside of none becomes the end of its copy.
// SIZE is the file's.
#define COLATENT_SIM_RUNTIME
#include "shim.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int colatent_launch(const SimLaunch* launch, char* error);
extern "C" const u64 colatent_args_bytes;

namespace {

namespace fs = std::filesystem;

struct Allocation {
    u64 address;
    std::vector<char> content;
    void* copy = nullptr;
};

struct Recording {
    u32 threads = 0, groups = 0, shared_bytes = 0;
    std::vector<u64> args;
    std::vector<Allocation> allocations;
};

std::vector<char> read(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return std::vector<char>(std::istreambuf_iterator<char>(file), {});
}

// False, after a sentence, if the folder is no recording of this kernel.
bool load(const fs::path& folder, Recording& r) {
    std::ifstream(folder / "launch.txt") >> r.groups >> r.threads >> r.shared_bytes;
    const std::vector<char> args = read(folder / "args.bin");
    if (r.threads == 0 || args.size() != colatent_args_bytes) {
        printf("%s: no launch.txt, or args.bin of %zu bytes where the kernel takes %llu\n",
               folder.c_str(), args.size(), colatent_args_bytes);
        return false;
    }
    r.args.resize((args.size() + 7) / 8);
    memcpy(r.args.data(), args.data(), args.size());
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
        u64 address = 0;
        int length = 0;
        const std::string file = entry.path().filename();
        if (sscanf(file.c_str(), "block-%llx.bin%n", &address, &length) == 1 && length == int(file.size())) {
            r.allocations.push_back(Allocation{address, read(entry.path())});
        }
    }
    return true;
}

// The place in the copies that a recorded address means; anything else stays as it is.
u64 relocate(const Recording& r, u64 word) {
    u64 end = word;
    for (const Allocation& a : r.allocations) {
        const u64 copy = reinterpret_cast<u64>(a.copy), size = a.content.size();
        if (word >= a.address && word < a.address + size) {
            return copy + (word - a.address);
        }
        if (word == a.address + size) {
            end = copy + size;
        }
    }
    return end;
}

bool run(const fs::path& folder, Recording& r, u32 seed) {
    for (Allocation& a : r.allocations) {
        const size_t size = a.content.size();
        // A device aligns allocations to 256 bytes.
        if (posix_memalign(&a.copy, 256, size) != 0) {
            printf("%s: no memory\n", folder.c_str());
            return false;
        }
        if (size != 0) {
            memcpy(a.copy, a.content.data(), size);
        }
    }
    std::vector<u64> args;
    for (u64 word : r.args) {
        args.push_back(relocate(r, word));
    }
    char error[512];
    // Several workers: blocks on different threads are not ordered, so that races between them show.
    const SimLaunch launch{r.groups, r.threads, r.shared_bytes, 3, seed, seed % 3 * 4, args.data()};
    const int failed = colatent_launch(&launch, error);
    if (failed) {
        printf("%s (seed %u): %s\n", folder.c_str(), seed, error);
    }
    for (Allocation& a : r.allocations) {
        free(a.copy);
        a.copy = nullptr;
    }
    return !failed;
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 3) {
        printf("usage: driver SEEDS FOLDER...\n");
        return 2;
    }
    bool right = true;
    for (int i = 2; i < argc; i++) {
        Recording recording;
        if (!load(argv[i], recording)) {
            right = false;
            continue;
        }
        for (u32 seed = 0; seed < u32(atoi(argv[1])); seed++) {
            right &= run(argv[i], recording, seed);
        }
    }
    return right ? 0 : 1;
}
