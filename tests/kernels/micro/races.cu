// Kernels with one race each, or with none when `wrong` is 0. Blocks of 64 threads; x, y int
// [threads of the grid]; shared memory int [64].
#include "ptx.cuh"

#define SIMT_ENTRIES(entry)                                                                   \
    entry(read_too_early) entry(overwritten_too_early) entry(shuffle_is_no_barrier)           \
        entry(warp_barrier_is_no_block_barrier) entry(blocks_meet) entry(copy_not_yet_shared) \
            entry(mma_is_no_barrier) entry(after_one_barrier) entry(after_one_warp_barrier)   \
                entry(one_thread_of_two_blocks)

#define RACE_KERNEL extern "C" __global__ void __launch_bounds__(64)
#define RACE_INDEX (blockIdx.x * blockDim.x + threadIdx.x)

// Reads the neighbour's value: written before, with a barrier between or without.
RACE_KERNEL read_too_early(const int* x, int wrong, int* y) {
    SHARED_MEMORY(bytes);
    int* values = reinterpret_cast<int*>(bytes);
    values[threadIdx.x] = x[RACE_INDEX];
    if (wrong == 0) {
        ptx::sync_threads();
    }
    y[RACE_INDEX] = values[threadIdx.x ^ 32u];
}

// Each writes again what another may not have read yet. In the emulator's numbered order every
// thread reads before any writes, so the result is right: only a race detector sees it.
RACE_KERNEL overwritten_too_early(const int* x, int wrong, int* y) {
    SHARED_MEMORY(bytes);
    int* values = reinterpret_cast<int*>(bytes);
    values[threadIdx.x] = x[RACE_INDEX];
    ptx::sync_threads();
    const int before = values[threadIdx.x ^ 32u];
    ptx::shuffle_xor(before, 1);
    if (wrong == 0) {
        ptx::sync_threads();
    }
    values[threadIdx.x] = before + 1;
    ptx::sync_threads();
    y[RACE_INDEX] = values[threadIdx.x];
}

// A shuffle between a write and the neighbour's read orders nothing.
RACE_KERNEL shuffle_is_no_barrier(const int* x, int wrong, int* y) {
    SHARED_MEMORY(bytes);
    int* values = reinterpret_cast<int*>(bytes);
    values[threadIdx.x] = x[RACE_INDEX];
    if (wrong == 0) {
        ptx::sync_warp();
    } else {
        ptx::shuffle_xor(0, 1);
    }
    y[RACE_INDEX] = values[threadIdx.x ^ 1u];
}

// Nor does mma.
RACE_KERNEL mma_is_no_barrier(const int* x, int wrong, int* y) {
    SHARED_MEMORY(bytes);
    int* values = reinterpret_cast<int*>(bytes);
    values[threadIdx.x] = x[RACE_INDEX];
    if (wrong == 0) {
        ptx::sync_warp();
    } else {
        int c[4] = {0, 0, 0, 0};
        const uint32_t a[4] = {0, 0, 0, 0};
        const uint32_t b[2] = {0, 0};
        ptx::mma_s8s8(c, a, b);
    }
    y[RACE_INDEX] = values[threadIdx.x ^ 1u];
}

// A warp's barrier does not order the other warp.
RACE_KERNEL warp_barrier_is_no_block_barrier(const int* x, int wrong, int* y) {
    SHARED_MEMORY(bytes);
    int* values = reinterpret_cast<int*>(bytes);
    values[threadIdx.x] = x[RACE_INDEX];
    ptx::sync_warp();
    if (wrong == 0) {
        ptx::sync_threads();
    }
    y[RACE_INDEX] = values[threadIdx.x ^ 32u];
}

// The last thread of each block also writes the first element of the next block.
RACE_KERNEL blocks_meet(const int* x, int wrong, int* y) {
    y[RACE_INDEX] = x[RACE_INDEX];
    if (wrong != 0 && threadIdx.x == 63 && blockIdx.x + 1 < gridDim.x) {
        y[RACE_INDEX + 1] = x[RACE_INDEX + 1];
    }
}

// The same by the thread with the same number, which is another thread all the same.
RACE_KERNEL one_thread_of_two_blocks(const int* x, int wrong, int* y) {
    y[RACE_INDEX] = x[RACE_INDEX];
    if (wrong != 0 && threadIdx.x == 0 && blockIdx.x + 1 < gridDim.x) {
        y[RACE_INDEX + blockDim.x] = x[RACE_INDEX + blockDim.x];
    }
}

// The copy has landed for the thread that made it, but no barrier gave it to the others.
RACE_KERNEL copy_not_yet_shared(const int* x, int wrong, int* y) {
    SHARED_MEMORY(bytes);
    const int* values = reinterpret_cast<const int*>(bytes);
    if (threadIdx.x < 16) {
        ptx::cp_async_16(bytes + 16 * threadIdx.x, x + blockIdx.x * blockDim.x + 4 * threadIdx.x,
                         16);
    }
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    if (wrong == 0) {
        ptx::sync_threads();
    }
    y[RACE_INDEX] = values[threadIdx.x];
}

// The last thread goes on at once and is at the second barrier before the others leave the first:
// that must not hide that nothing orders its write before their reads.
RACE_KERNEL after_one_barrier(const int* x, int wrong, int* y) {
    SHARED_MEMORY(bytes);
    int* values = reinterpret_cast<int*>(bytes);
    values[threadIdx.x] = x[RACE_INDEX];
    ptx::sync_threads();
    if (threadIdx.x == 63) {
        values[wrong != 0 ? 0 : 63] = 1;
    }
    const int seen = values[threadIdx.x];
    ptx::sync_threads();
    y[RACE_INDEX] = seen;
}

// The same with the warp's barrier.
RACE_KERNEL after_one_warp_barrier(const int* x, int wrong, int* y) {
    SHARED_MEMORY(bytes);
    int* values = reinterpret_cast<int*>(bytes);
    values[threadIdx.x] = x[RACE_INDEX];
    ptx::sync_warp();
    if (threadIdx.x % 32 == 31) {
        values[wrong != 0 ? threadIdx.x - 31 : threadIdx.x] = 1;
    }
    const int seen = values[threadIdx.x];
    ptx::sync_warp();
    y[RACE_INDEX] = seen;
}
