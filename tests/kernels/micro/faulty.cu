// Kernels that each do one thing wrong, for the tests of the layers that must see it. `wrong` is 1
// where the mistake shall be made and 0 for the same kernel without it. Blocks of 64 threads;
// x, y int [threads of the grid] unless told otherwise; shared memory int [64].
#include "ptx.cuh"

#define SIMT_ENTRIES(entry)                                                                  \
    entry(barrier_in_a_branch) entry(return_before_barrier) entry(two_barriers)              \
        entry(shuffle_in_a_branch) entry(shuffle_or_vote) entry(shuffle_or_barrier)          \
            entry(store_past_the_end) entry(store_before_the_start) entry(load_past_the_end) \
                entry(store_to_an_input) entry(shared_past_the_end) entry(stray_pointer)     \
                    entry(int_overflow) entry(float_too_large) entry(divide_by_zero)         \
                        entry(endless) entry(misaligned_word) entry(copy_left_under_way)     \
                            entry(copy_waited_too_weakly) entry(copy_from_outside)           \
                                entry(copy_to_outside) entry(copy_too_much) entry(row_outside)

#define FAULTY_KERNEL extern "C" __global__ void __launch_bounds__(64)
#define FAULTY_INDEX (blockIdx.x * blockDim.x + threadIdx.x)

// --- threads that do not meet

FAULTY_KERNEL barrier_in_a_branch(const int* x, int wrong, int* y) {
    if (wrong == 0 || threadIdx.x < 40) {
        ptx::sync_threads();
    }
    y[FAULTY_INDEX] = x[FAULTY_INDEX];
}

FAULTY_KERNEL return_before_barrier(const int* x, int wrong, int* y) {
    y[FAULTY_INDEX] = x[FAULTY_INDEX];
    if (wrong != 0 && threadIdx.x >= 32) {
        return;
    }
    ptx::sync_threads();
}

FAULTY_KERNEL two_barriers(const int* x, int wrong, int* y) {
    y[FAULTY_INDEX] = x[FAULTY_INDEX];
    if (wrong != 0 && threadIdx.x >= 32) {
        ptx::sync_threads();
    } else {
        ptx::sync_threads();
    }
}

FAULTY_KERNEL shuffle_in_a_branch(const int* x, int wrong, int* y) {
    int value = x[FAULTY_INDEX];
    if (wrong == 0 || threadIdx.x % 32 < 16) {
        value = ptx::shuffle_xor(value, 1);
    }
    y[FAULTY_INDEX] = value;
}

FAULTY_KERNEL shuffle_or_vote(const int* x, int wrong, int* y) {
    int value = x[FAULTY_INDEX];
    if (wrong != 0 && threadIdx.x % 2 == 1) {
        value = ptx::warp_any(value != 0) ? 1 : 0;
    } else {
        value = ptx::shuffle_xor(value, 1);
    }
    y[FAULTY_INDEX] = value;
}

FAULTY_KERNEL shuffle_or_barrier(const int* x, int wrong, int* y) {
    int value = x[FAULTY_INDEX];
    if (wrong != 0 && threadIdx.x == 63) {
        ptx::sync_threads();
    }
    value = ptx::shuffle_xor(value, 1);
    y[FAULTY_INDEX] = value;
}

// --- memory that is not the kernel's

FAULTY_KERNEL store_past_the_end(const int* x, int wrong, int* y) {
    y[FAULTY_INDEX] = x[FAULTY_INDEX];
    if (threadIdx.x == 63) {
        y[63 + wrong] = 7;
    }
}

FAULTY_KERNEL store_before_the_start(const int* x, int wrong, int* y) {
    y[FAULTY_INDEX] = x[FAULTY_INDEX];
    if (threadIdx.x == 0) {
        y[-wrong] = 7;
    }
}

FAULTY_KERNEL load_past_the_end(const int* x, int wrong, int* y) {
    y[FAULTY_INDEX] = x[FAULTY_INDEX + (threadIdx.x == 63 ? wrong : 0)];
}

FAULTY_KERNEL store_to_an_input(const int* x, int wrong, int* y) {
    y[FAULTY_INDEX] = x[FAULTY_INDEX];
    if (wrong != 0 && threadIdx.x == 5) {
        const_cast<int*>(x)[5] = -1;
    }
}

FAULTY_KERNEL shared_past_the_end(const int* x, int wrong, int* y) {
    SHARED_MEMORY(bytes);
    int* values = reinterpret_cast<int*>(bytes);
    values[threadIdx.x + wrong] = x[FAULTY_INDEX];
    y[FAULTY_INDEX] = values[threadIdx.x + wrong];
}

FAULTY_KERNEL stray_pointer(const int* x, int wrong, int* y) {
    int* target = y + FAULTY_INDEX;
    if (wrong != 0 && threadIdx.x == 9) {
        target = reinterpret_cast<int*>(static_cast<uint64_t>(1) << 44);
    }
    *target = x[FAULTY_INDEX];
}

FAULTY_KERNEL misaligned_word(const int* x, int wrong, int* y) {
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(x) + 4 * wrong;
    ptx::store_16(y, threadIdx.x == 0 ? ptx::load_16(bytes) : ptx::load_16(x));
}

// --- arithmetic that C++ leaves undefined

FAULTY_KERNEL int_overflow(const int* x, int wrong, int* y) {
    y[FAULTY_INDEX] = x[FAULTY_INDEX] + wrong * 0x7fffffff;
}

FAULTY_KERNEL float_too_large(const int* x, int wrong, int* y) {
    y[FAULTY_INDEX] =
        static_cast<int>(static_cast<float>(x[FAULTY_INDEX]) + static_cast<float>(wrong) * 4e9f);
}

FAULTY_KERNEL divide_by_zero(const int* x, int wrong, int* y) {
    y[FAULTY_INDEX] = x[FAULTY_INDEX] / (1 - wrong);
}

FAULTY_KERNEL endless(const int* x, int wrong, int* y) {
    volatile int* watched = y + FAULTY_INDEX;
    *watched = x[FAULTY_INDEX];
    while (wrong != 0) {
        *watched = x[FAULTY_INDEX];
    }
}

// --- asynchronous copies; 16 bytes a thread, one block: x, y [256 ints], 1,024 bytes shared

FAULTY_KERNEL copy_left_under_way(const uint8_t* x, int wrong, uint8_t* y) {
    SHARED_MEMORY(bytes);
    ptx::store_16(y + 16 * threadIdx.x, ptx::load_16(x + 16 * threadIdx.x));
    ptx::cp_async_16(bytes + 16 * threadIdx.x, x + 16 * threadIdx.x, 16);
    ptx::cp_async_commit();
    if (wrong == 0) {
        ptx::cp_async_wait<0>();
    }
}

FAULTY_KERNEL copy_waited_too_weakly(const uint8_t* x, int wrong, uint8_t* y) {
    SHARED_MEMORY(bytes);
    ptx::cp_async_16(bytes + 16 * threadIdx.x, x + 16 * threadIdx.x, 16);
    ptx::cp_async_commit();
    if (wrong == 0) {
        ptx::cp_async_wait<0>();
    } else {
        ptx::cp_async_wait<1>();
    }
    ptx::store_16(y + 16 * threadIdx.x, ptx::load_16(bytes + 16 * threadIdx.x));
    ptx::cp_async_wait<0>();
}

FAULTY_KERNEL copy_from_outside(const uint8_t* x, int wrong, uint8_t* y) {
    SHARED_MEMORY(bytes);
    const uint8_t* from = x + 16 * (static_cast<int>(threadIdx.x) + wrong);
    ptx::cp_async_16(bytes + 16 * threadIdx.x, from, 16);
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    ptx::store_16(y + 16 * threadIdx.x, ptx::load_16(bytes + 16 * threadIdx.x));
}

FAULTY_KERNEL copy_to_outside(const uint8_t* x, int wrong, uint8_t* y) {
    SHARED_MEMORY(bytes);
    uint8_t* to = bytes + 16 * (static_cast<int>(threadIdx.x) + wrong);
    ptx::cp_async_16(to, x + 16 * threadIdx.x, 16);
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    ptx::store_16(y + 16 * threadIdx.x, ptx::load_16(x + 16 * threadIdx.x));
}

FAULTY_KERNEL copy_too_much(const uint8_t* x, int wrong, uint8_t* y) {
    SHARED_MEMORY(bytes);
    ptx::cp_async_16(bytes + 16 * threadIdx.x, x + 16 * threadIdx.x, 16 + wrong);
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    ptx::store_16(y + 16 * threadIdx.x, ptx::load_16(bytes + 16 * threadIdx.x));
}

// The row of the last lane begins 16 bytes before the end of shared memory, or at it.
FAULTY_KERNEL row_outside(const uint8_t* x, int wrong, uint8_t* y) {
    SHARED_MEMORY(bytes);
    const unsigned mine = 16 * threadIdx.x;
    ptx::store_16(bytes + mine, ptx::load_16(x + mine));
    ptx::sync_threads();
    uint32_t r[4];
    ptx::ldmatrix_x4(r, bytes + mine + 16 * wrong);
    ptx::store_16(y + mine, ptx::Vector16{r[0], r[1], r[2], r[3]});
}
