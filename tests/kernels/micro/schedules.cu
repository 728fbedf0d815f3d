// Kernels whose result depends on what no kernel may depend on: the order of threads, what memory
// held before, when a copy lands. They show that the emulator varies it.
#include "ptx.cuh"

#define SIMT_ENTRIES(entry)                                                        \
    entry(order_of_threads) entry(what_shared_memory_held) entry(what_output_held) \
        entry(copy_read_at_once) entry(order_of_warps)

#define LOOSE_KERNEL extern "C" __global__ void __launch_bounds__(1024)

// y [threads]: how many threads ran before this one. `counter` int [1] starts anywhere.
LOOSE_KERNEL order_of_threads(int* counter, int* y) {
    if (counter[0] < 0 || counter[0] > static_cast<int>(blockDim.x)) {
        counter[0] = 0;
    }
    y[threadIdx.x] = counter[0];
    counter[0] = counter[0] + 1;
}

// y [warps, 8]: how many meetings all warps together had seen when this warp began its i-th.
LOOSE_KERNEL order_of_warps(int* counter, int* y) {
    if (threadIdx.x == 0) {
        counter[0] = 0;
    }
    ptx::sync_threads();
    for (int i = 0; i < 8; ++i) {
        if (threadIdx.x % 32 == 0) {
            y[threadIdx.x / 32 * 8 + static_cast<unsigned>(i)] = counter[0];
            counter[0] = counter[0] + 1;
        }
        ptx::sync_warp();
    }
}

// y [blocks, threads]: the shared word of each thread before anyone wrote it.
LOOSE_KERNEL what_shared_memory_held(int* y) {
    SHARED_MEMORY(bytes);
    y[blockIdx.x * blockDim.x + threadIdx.x] = reinterpret_cast<const int*>(bytes)[threadIdx.x];
}

LOOSE_KERNEL what_output_held(int* untouched, int* y) { y[threadIdx.x] = untouched[threadIdx.x]; }

// Reads the thread's 16 bytes before waiting for the copy that brings them.
LOOSE_KERNEL copy_read_at_once(const uint8_t* x, uint8_t* y) {
    SHARED_MEMORY(bytes);
    ptx::cp_async_16(bytes + 16 * threadIdx.x, x + 16 * threadIdx.x, 16);
    ptx::cp_async_commit();
    ptx::store_16(y + 16 * threadIdx.x, ptx::load_16(bytes + 16 * threadIdx.x));
    ptx::cp_async_wait<0>();
}
