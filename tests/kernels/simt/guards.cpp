// Guard bytes around the memory that a kernel may touch: a store past an end must not go unseen.
#include <cstdlib>
#include <cstring>

#include "engine.h"

namespace simt {

namespace {

#if defined(SIMT_ASAN)
constexpr size_t GUARD_BYTES = 0;
#else
constexpr size_t GUARD_BYTES = 1024;
#endif
constexpr uint8_t GUARD_BYTE = 0xa5;

[[noreturn]] void hit(const Buffer& buffer, ptrdiff_t offset) {
    fault("out_of_bounds", "a store hit byte " + std::to_string(offset) + " of " + buffer.name +
                               ", which has " + std::to_string(buffer.bytes));
}

}  // namespace

uint8_t* guarded_memory(size_t bytes, size_t alignment) {
    // Whole alignments before the buffer, so that it stays aligned.
    const size_t before = (GUARD_BYTES + alignment - 1) / alignment * alignment;
    void* memory = nullptr;
    if (posix_memalign(&memory, alignment, before + bytes + GUARD_BYTES) != 0) {
        fault("launch", "no memory for a buffer of " + std::to_string(bytes) + " bytes");
    }
    std::memset(memory, GUARD_BYTE, before + bytes + GUARD_BYTES);
    return static_cast<uint8_t*>(memory) + before;
}

void check_guards(const Buffer& buffer) {
    for (size_t i = 0; i < GUARD_BYTES; ++i) {
        const ptrdiff_t distance = static_cast<ptrdiff_t>(i);
        const ptrdiff_t end = static_cast<ptrdiff_t>(buffer.bytes);
        if (buffer.begin[-1 - distance] != GUARD_BYTE) {
            hit(buffer, -1 - distance);
        }
        if (buffer.begin[end + distance] != GUARD_BYTE) {
            hit(buffer, end + distance);
        }
    }
}

}  // namespace simt
