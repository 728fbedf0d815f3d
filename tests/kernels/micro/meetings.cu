// One kernel per function in which threads meet, and per memory instruction of ptx.cuh.
#include "ptx.cuh"

#define SIMT_ENTRIES(entry)                                                                      \
    entry(shuffle_word) entry(shuffle_int) entry(shuffle_float) entry(votes) entry(swap_in_warp) \
        entry(reverse_block) entry(copy_16) entry(copy_async) entry(copy_async_in_groups)        \
            entry(last_block_index)

#define MICRO_KERNEL extern "C" __global__ void __launch_bounds__(128)

// x, y [threads]; one block.
MICRO_KERNEL shuffle_word(const uint32_t* x, int lane_mask, uint32_t* y) {
    y[threadIdx.x] = ptx::shuffle_xor(x[threadIdx.x], lane_mask);
}

MICRO_KERNEL shuffle_int(const int* x, int lane_mask, int* y) {
    y[threadIdx.x] = ptx::shuffle_xor(x[threadIdx.x], lane_mask);
}

MICRO_KERNEL shuffle_float(const float* x, int lane_mask, float* y) {
    y[threadIdx.x] = ptx::shuffle_xor(x[threadIdx.x], lane_mask);
}

// y [threads, 2]: whether any, whether every lane of the thread's warp has x != 0.
MICRO_KERNEL votes(const int* x, int* y) {
    const bool mine = x[threadIdx.x] != 0;
    y[2 * threadIdx.x] = ptx::warp_any(mine) ? 1 : 0;
    y[2 * threadIdx.x + 1] = ptx::warp_all(mine) ? 1 : 0;
}

// Each pair of lanes swaps its values through shared memory, int [threads].
MICRO_KERNEL swap_in_warp(const int* x, int* y) {
    SHARED_MEMORY(bytes);
    int* values = reinterpret_cast<int*>(bytes);
    values[threadIdx.x] = x[threadIdx.x];
    ptx::sync_warp();
    y[threadIdx.x] = values[threadIdx.x ^ 1u];
}

// y = x reversed within the block, through shared memory, int [threads]; any number of blocks.
MICRO_KERNEL reverse_block(const int* x, int* y) {
    SHARED_MEMORY(bytes);
    int* values = reinterpret_cast<int*>(bytes);
    const unsigned first = blockIdx.x * blockDim.x;
    values[threadIdx.x] = x[first + threadIdx.x];
    ptx::sync_threads();
    y[first + threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

// y = x, 16 bytes a thread.
MICRO_KERNEL copy_16(const uint8_t* x, uint8_t* y) {
    ptx::store_16(y + 16 * threadIdx.x, ptx::load_16(x + 16 * threadIdx.x));
}

// y = x with what is beyond valid[thread] bytes zeroed; 16 bytes a thread, by way of the
// neighbour's shared memory.
MICRO_KERNEL copy_async(const uint8_t* x, const int* valid, uint8_t* y) {
    SHARED_MEMORY(bytes);
    ptx::cp_async_16(bytes + 16 * threadIdx.x, x + 16 * threadIdx.x, valid[threadIdx.x]);
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    ptx::sync_threads();
    const unsigned other = threadIdx.x ^ 33u;
    ptx::store_16(y + 16 * other, ptx::load_16(bytes + 16 * other));
}

// Four groups under way at most two at a time: y = x, 64 bytes a thread.
MICRO_KERNEL copy_async_in_groups(const uint8_t* x, uint8_t* y) {
    SHARED_MEMORY(bytes);
    const unsigned mine = 16 * threadIdx.x;
    const unsigned step = 16 * blockDim.x;
    for (unsigned group = 0; group < 2; ++group) {
        ptx::cp_async_16(bytes + group * step + mine, x + group * step + mine, 16);
        ptx::cp_async_commit();
    }
    for (unsigned group = 0; group < 4; ++group) {
        if (group < 3) {
            ptx::cp_async_wait<1>();
        } else {
            ptx::cp_async_wait<0>();
        }
        ptx::store_16(y + group * step + mine, ptx::load_16(bytes + group % 2 * step + mine));
        if (group + 2 < 4) {
            ptx::cp_async_16(bytes + group % 2 * step + mine, x + (group + 2) * step + mine, 16);
            ptx::cp_async_commit();
        }
    }
}

// y [blocks, 6]: the block's index along x, y, z and the grid's size along x, y, z.
MICRO_KERNEL last_block_index(int* y) {
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    if (threadIdx.x == 0) {
        y[6 * block] = static_cast<int>(blockIdx.x);
        y[6 * block + 1] = static_cast<int>(blockIdx.y);
        y[6 * block + 2] = static_cast<int>(blockIdx.z);
        y[6 * block + 3] = static_cast<int>(gridDim.x);
        y[6 * block + 4] = static_cast<int>(gridDim.y);
        y[6 * block + 5] = static_cast<int>(gridDim.z);
    }
}
