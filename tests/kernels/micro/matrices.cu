// One kernel per matrix instruction of ptx.cuh. The fragments come and go as they are in registers,
// lane by lane, so that the test itself says which element of the matrix each of them is.
#include "ptx.cuh"

#define SIMT_ENTRIES(entry)                                                                        \
    entry(ldmatrix_x4) entry(ldmatrix_x2) entry(ldmatrix_x4_trans) entry(mma_s8s8) entry(mma_u8s8) \
        entry(mma_s8s8_from)

#define MICRO_KERNEL extern "C" __global__ void __launch_bounds__(32)

// Shared memory holds `x`, 32 rows of 16 bytes, row i at byte row_bytes * i. Lane l names row l.
// r [32 lanes, matrices].
#define MICRO_LDMATRIX(name, matrices)                                        \
    MICRO_KERNEL name(const uint8_t* x, int row_bytes, uint32_t* r) {         \
        SHARED_MEMORY(bytes);                                                 \
        const int lane = static_cast<int>(threadIdx.x);                       \
        ptx::store_16(bytes + row_bytes * lane, ptx::load_16(x + 16 * lane)); \
        ptx::sync_threads();                                                  \
        uint32_t loaded[matrices];                                            \
        ptx::name(loaded, bytes + row_bytes * lane);                          \
        for (int i = 0; i < matrices; ++i) {                                  \
            r[matrices * lane + i] = loaded[i];                               \
        }                                                                     \
    }

MICRO_LDMATRIX(ldmatrix_x4, 4)
MICRO_LDMATRIX(ldmatrix_x2, 2)
MICRO_LDMATRIX(ldmatrix_x4_trans, 4)

// a [32, 4], b [32, 2], c [32, 4], d [32, 4]: registers of each lane; d = c + a * b.
#define MICRO_MMA(name)                                                                            \
    MICRO_KERNEL name(const uint32_t* a, const uint32_t* b, const int* c, int* d) {                \
        const unsigned lane = threadIdx.x;                                                         \
        const uint32_t left[4] = {a[4 * lane], a[4 * lane + 1], a[4 * lane + 2], a[4 * lane + 3]}; \
        const uint32_t right[2] = {b[2 * lane], b[2 * lane + 1]};                                  \
        int sum[4] = {c[4 * lane], c[4 * lane + 1], c[4 * lane + 2], c[4 * lane + 3]};             \
        ptx::name(sum, left, right);                                                               \
        for (unsigned i = 0; i < 4; ++i) {                                                         \
            d[4 * lane + i] = sum[i];                                                              \
        }                                                                                          \
    }

MICRO_MMA(mma_s8s8)
MICRO_MMA(mma_u8s8)

// As above, with every element of C equal to `start`.
MICRO_KERNEL mma_s8s8_from(const uint32_t* a, const uint32_t* b, int start, int* d) {
    const unsigned lane = threadIdx.x;
    const uint32_t left[4] = {a[4 * lane], a[4 * lane + 1], a[4 * lane + 2], a[4 * lane + 3]};
    const uint32_t right[2] = {b[2 * lane], b[2 * lane + 1]};
    int sum[4];
    ptx::mma_s8s8_from(sum, left, right, start);
    for (unsigned i = 0; i < 4; ++i) {
        d[4 * lane + i] = sum[i];
    }
}
