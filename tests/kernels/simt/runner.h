// Between the runner, which knows buffers, and the unit, which knows the kernel's parameters.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace simt {

// What the type of a parameter says: pointer to const, 32-bit integer, pointer.
enum class ParameterKind { input = 0, integer = 1, output = 2 };

// One kernel of the unit.
struct Entry {
    const char* name;
    std::vector<ParameterKind> parameters;
    // One CUDA thread's call; `words` are the arguments as 64-bit words.
    void (*call)(void* words);
};

}  // namespace simt

std::vector<simt::Entry> simt_entries();
