// What a CUDA kernel sees when g++ compiles it: the CUDA words, and the emulator behind ptx.cuh.
//
// Every CUDA thread is a fiber; one block runs at a time, on one operating system thread. Whatever
// touches memory on behalf of the kernel is an inline function here, so that it is compiled with
// the kernel's sanitizer; the engine (`extern "C"` below) is compiled without any.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace simt {

// The source line that called a function in which threads meet.
struct Site {
    const char* file;
    int line;
};

struct Index3 {
    unsigned x, y, z;
};

// One lane's copy that is under way.
struct PendingCopy {
    void* shared;
    const void* global;
    int valid_bytes;
};

}  // namespace simt

// The engine sets these before it switches to a thread, so each thread reads its own.
extern simt::Index3 threadIdx, blockIdx, blockDim, gridDim;

extern "C" {
void simt_sync_threads(simt::Site site);
void simt_sync_warp(simt::Site site);
uint32_t simt_shuffle_xor(uint32_t value, int lane_mask, simt::Site site);
uint32_t simt_ballot(bool mine, simt::Site site);
void simt_mma(int* c, const uint32_t* a, const uint32_t* b, bool a_unsigned, simt::Site site);
uint8_t* simt_shared_memory();
// The 32 row addresses of the warp, checked: inside shared memory and 16-byte aligned.
const uint8_t* const* simt_ldmatrix_rows(const void* row, int matrices, int checked_lanes,
                                         simt::Site site);
[[noreturn]] void simt_misaligned(const void* address, simt::Site site);
void simt_check_copy(const void* shared, const void* global, int valid_bytes, simt::Site site);
// Queues a copy; false when this schedule lets copies land at once.
bool simt_copy_start(const simt::PendingCopy& copy);
void simt_copy_commit();
// The next copy that has to land so that at most `newest` groups stay under way.
bool simt_copy_next(int newest, simt::PendingCopy* copy);
}

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

// CUDA's overloads for integers; those for floats are fminf and fmaxf.
inline int min(int a, int b) { return b < a ? b : a; }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
inline long long min(long long a, long long b) { return b < a ? b : a; }
inline long long max(long long a, long long b) { return a < b ? b : a; }

#include "simt_math.h"
#include "simt_memory.h"
