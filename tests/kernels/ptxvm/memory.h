// Checked memory: the arguments' buffers, and a block's shared memory with its race shadow.
#pragma once

#include <string>
#include <vector>

#include "instruction.h"

namespace ptxvm {

// Requests and what they cost: wavefronts in shared memory, 32-byte sectors in global memory.
struct Traffic {
    uint64_t requests = 0, units = 0;
};

// One lane's access.
struct Access {
    uint64_t address;
    int lane;
};

// Adds a warp's shared access of `bytes` per lane. Bank conflicts (CUDA C++ programming guide,
// "Shared Memory"): 32 banks of 4 bytes; lanes that want different words of one bank take turns.
// 8-byte accesses go by 16 lanes, 16-byte ones by 8, and each such part is one request.
void count_shared(Traffic* traffic, const Access* accesses, int count, int bytes);
// Adds a warp's global access: one request, as many units as distinct 32-byte sectors.
void count_global(Traffic* traffic, const Access* accesses, int count, int bytes);

struct Buffer {
    uint8_t* data;
    uint64_t size;
    bool output;
    int argument;
    std::vector<uint32_t> writer;  // outputs: 1 + number of the thread that wrote each byte
    uint64_t base(size_t index) const { return (index + 1) << 40 | 1ull << 39; }
    std::string name() const;
};

// The tensors given as arguments. An address tells its buffer by its upper bits, with room for
// overruns on both sides, so every stray access is blamed on the pointer it came from.
class GlobalMemory {
public:
    explicit GlobalMemory(std::vector<Buffer> buffers) : buffers_(std::move(buffers)) {}
    // `bytes` is a power of two, `thread` unique in the grid; `read_only_path`: ld.global.nc.
    const uint8_t* read(uint64_t address, int bytes, uint32_t thread, bool read_only_path) const;
    // Stores to an output; each byte at most once.
    void write(uint64_t address, const uint8_t* data, int bytes, uint32_t thread, uint32_t threads);
    // Every output byte must have been written.
    void check_complete() const;

private:
    size_t locate(uint64_t address, int bytes, const char* verb, uint64_t* offset) const;
    std::vector<Buffer> buffers_;
};

// When a byte was touched, and by whom. Accesses are ordered when a bar.sync (block) or, inside a
// warp, a bar.warp.sync (sync) lies between them; shuffles, mma and ldmatrix order nothing
// (PTX ISA 8.7, 8.10: only barriers and fences do).
struct Stamp {
    uint32_t block = 0;  // 0: never
    uint16_t sync = 0;
    uint16_t who = 0;  // thread of the block, or one of the values below
};
constexpr uint16_t kWarpReader = 1024;  // + warp: several lanes of one warp, as ldmatrix reads
constexpr uint16_t kManyWarps = 2000;
constexpr uint16_t kInFlight = 2001;  // target of a cp.async that was not waited for

class SharedMemory {
public:
    explicit SharedMemory(int bytes);
    int size() const { return size_; }
    void start_block();
    // `at.who` is a thread, or kWarpReader + warp for reads of a whole warp.
    const uint8_t* read(uint64_t address, int bytes, Stamp at);
    void write(uint64_t address, const uint8_t* data, int bytes, Stamp at);
    // cp.async: from begin to land nobody may touch the bytes.
    void begin_copy(uint64_t address, int bytes, Stamp at);
    void land_copy(uint64_t address, const uint8_t* data, int bytes, Stamp at);

private:
    struct Shadow {
        Stamp written, read;
    };
    void check_bounds(uint64_t address, int bytes, const char* verb) const;
    void split(uint32_t word);
    void note_read(Shadow* shadow, Stamp at, uint64_t address) const;
    void note_write(Shadow* shadow, Stamp at, uint64_t address) const;
    template <class Visit>
    void visit(uint64_t address, int bytes, Visit note);
    int size_;
    std::vector<uint8_t> data_, is_split_;
    std::vector<Shadow> words_, bytes_;  // a word's bytes share a shadow until one is touched alone
};

}  // namespace ptxvm
