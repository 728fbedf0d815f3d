// Integer arithmetic of integer_ops.cu: rounding, roots, sums over a warp, and how a thread moves
// its WIDTH neighbouring elements. All is exact; the functions that need the whole warp say so.
#pragma once

#include "ptx.cuh"

#ifndef WIDTH
#error "compile with -DWIDTH=1 or -DWIDTH=4"
#endif

namespace {

// The elements of one thread's step.
struct Elements {
    int value[WIDTH];
};

// WIDTH neighbours from `address`, 4 * WIDTH-byte aligned.
PTX_INLINE Elements load(const int* address) {
#if WIDTH == 4
    const ptx::Vector16 four = ptx::load_16(address);
    return {{static_cast<int>(four.x), static_cast<int>(four.y), static_cast<int>(four.z),
             static_cast<int>(four.w)}};
#else
    return {{*address}};
#endif
}

// The low bytes of WIDTH neighbours to `address`, WIDTH-byte aligned.
PTX_INLINE void store(uint8_t* address, const Elements& codes) {
#if WIDTH == 4
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
        word |= (static_cast<uint32_t>(codes.value[i]) & 0xffu) << (8 * i);
    }
    *reinterpret_cast<uint32_t*>(address) = word;
#else
    *address = static_cast<uint8_t>(codes.value[0]);
#endif
}

PTX_INLINE int smaller(int a, int b) { return a < b ? a : b; }
PTX_INLINE int larger(int a, int b) { return a > b ? a : b; }

// value / 2^shift, halves to even; |value| < 2^62, shift 1..63. Just below a half is added, and the
// bit that makes an odd quotient go up.
PTX_INLINE int64_t rounded(int64_t value, int shift) {
    const int64_t odd = (value >> shift) & 1;
    return (value + ((int64_t{1} << (shift - 1)) - 1) + odd) >> shift;
}

PTX_INLINE int to_int8(int64_t value) {
    return static_cast<int>(value < -128 ? -128 : value > 127 ? 127 : value);
}

// Sum over the warp; every lane gets it, all 32 must take part.
PTX_INLINE int64_t warp_sum(int64_t value) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
        const uint64_t bits = static_cast<uint64_t>(value);
        const uint32_t low = ptx::shuffle_xor(static_cast<uint32_t>(bits), mask);
        const uint32_t high = ptx::shuffle_xor(static_cast<uint32_t>(bits >> 32), mask);
        value += static_cast<int64_t>(uint64_t{high} << 32 | low);
    }
    return value;
}

// Largest of the warp; every lane gets it, all 32 must take part.
PTX_INLINE int warp_max(int value) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
        value = larger(value, ptx::shuffle_xor(value, mask));
    }
    return value;
}

// floor(sqrt(value)) by Newton's method, from a power of two that is not below it (I-BERT,
// algorithm 4). It stops where it no longer falls: four steps, as the paper has it, are too few.
PTX_INLINE uint32_t square_root(uint32_t value) {
    if (value == 0) return 0;
    int half_bits = 0;
    while (half_bits < 16 && value >> (2 * half_bits) != 0) ++half_bits;
    uint32_t root = 1u << half_bits;
    while (true) {
        const uint32_t next = (root + value / root) >> 1;
        if (next >= root) return root;
        root = next;
    }
}

// rint(sum / count): halves to even.
PTX_INLINE int64_t rounded_mean(int64_t sum, int count) {
    int64_t mean = sum / count;
    int64_t rest = sum - mean * count;
    if (rest < 0) {
        --mean;
        rest += count;
    }
    const bool up = 2 * rest > count || (2 * rest == count && (mean & 1) != 0);
    return up ? mean + 1 : mean;
}

}  // namespace
