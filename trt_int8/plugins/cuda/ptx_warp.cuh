// Instructions that the threads of a block or of a warp execute together.
// Included by ptx.cuh, which says how the two branches work. All 32 lanes must take part in each
// of them, and in sync_threads() all threads of the block; none of them may have returned before.
#pragma once

namespace ptx {

// Barrier of the block; orders shared and global memory between its threads (PTX ISA "barrier").
PTX_INLINE void sync_threads(PTX_SITE) {
#if PTX_DEVICE
    __syncthreads();
#else
    ::simt_sync_threads(site);
#endif
}

// Barrier of the warp; orders memory between its lanes (PTX ISA "bar.warp.sync").
PTX_INLINE void sync_warp(PTX_SITE) {
#if PTX_DEVICE
    __syncwarp();
#else
    ::simt_sync_warp(site);
#endif
}

// The value that lane (own lane XOR lane_mask) gives. No memory ordering (PTX ISA "shfl.sync").
PTX_INLINE uint32_t shuffle_xor(uint32_t value, int lane_mask PTX_AND_SITE) {
#if PTX_DEVICE
    uint32_t y;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;"
                 : "=r"(y)
                 : "r"(value), "r"(lane_mask));
    return y;
#else
    return ::simt_shuffle_xor(value, lane_mask, site);
#endif
}

#if PTX_DEVICE
#define PTX_PASS_SITE
#else
#define PTX_PASS_SITE , site
#endif

PTX_INLINE int shuffle_xor(int value, int lane_mask PTX_AND_SITE) {
    return static_cast<int>(shuffle_xor(static_cast<uint32_t>(value), lane_mask PTX_PASS_SITE));
}

PTX_INLINE float shuffle_xor(float value, int lane_mask PTX_AND_SITE) {
    return int_as_float(shuffle_xor(float_as_int(value), lane_mask PTX_PASS_SITE));
}

// Whether any, or every, lane says true (PTX ISA "vote.sync"). No memory ordering.
PTX_INLINE bool warp_any(bool mine PTX_AND_SITE) {
#if PTX_DEVICE
    return __any_sync(0xffffffffu, mine) != 0;
#else
    return ::simt_ballot(mine, site) != 0u;
#endif
}

PTX_INLINE bool warp_all(bool mine PTX_AND_SITE) {
#if PTX_DEVICE
    return __all_sync(0xffffffffu, mine) != 0;
#else
    return ::simt_ballot(mine, site) == 0xffffffffu;
#endif
}

// ldmatrix loads 8x8 matrices of 16-bit elements (for int8: 8 rows of 16 bytes). Lane 8*m + i gives
// the address of row i of matrix m, 16-byte aligned, in shared memory. Lane l then holds in r[m]
// the two elements 2*(l%4), 2*(l%4)+1 of row l/4; with .trans those of rows 2*(l%4), 2*(l%4)+1 in
// column l/4 (PTX ISA "ldmatrix"). Reads are ordered by barriers only.
PTX_INLINE void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row PTX_AND_SITE) {
#if PTX_DEVICE
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
#else
    ::simt::ldmatrix<4, false>(r, shared_row, TARGET_SM, site);
#endif
}

// Two matrices; only the addresses of lanes 0..15 count, but on sm_75 all 32 must be valid.
PTX_INLINE void ldmatrix_x2(uint32_t (&r)[2], const void* shared_row PTX_AND_SITE) {
#if PTX_DEVICE
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared_row))
                 : "memory");
#else
    ::simt::ldmatrix<2, false>(r, shared_row, TARGET_SM, site);
#endif
}

PTX_INLINE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row PTX_AND_SITE) {
#if PTX_DEVICE
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
#else
    ::simt::ldmatrix<4, true>(r, shared_row, TARGET_SM, site);
#endif
}

// mma: C[16,8] += A[16,32] * B[32,8] by one warp, int32 that wraps. With g = lane/4, t = lane%4:
//   a[0] A[g][4t..4t+3]   a[1] A[g+8][4t..]   a[2] A[g][16+4t..]   a[3] A[g+8][16+4t..]
//   b[0] B[4t..4t+3][g]   b[1] B[16+4t..][g]
//   c[0], c[1] C[g][2t, 2t+1]   c[2], c[3] C[g+8][2t, 2t+1]
// (PTX ISA "Matrix Fragments for mma.m16n8k32"). sm_75 only has m8n8k16, whose fragments are the
// quarters of the same registers ("Matrix Fragments for mma.m8n8k16"): four of them, same result.
#if PTX_DEVICE && TARGET_SM >= 80
#define PTX_MMA(a_type)                                                                    \
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32." a_type                           \
                 ".s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                          \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#elif PTX_DEVICE
#define PTX_MMA_QUARTER(a_type, low, high, a_word, b_word)      \
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32." a_type \
                 ".s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"      \
                 : "+r"(c[low]), "+r"(c[high])                  \
                 : "r"(a[a_word]), "r"(b[b_word]))
#define PTX_MMA(a_type)                  \
    PTX_MMA_QUARTER(a_type, 0, 1, 0, 0); \
    PTX_MMA_QUARTER(a_type, 2, 3, 1, 0); \
    PTX_MMA_QUARTER(a_type, 0, 1, 2, 1); \
    PTX_MMA_QUARTER(a_type, 2, 3, 3, 1)
#endif

// A signed.
PTX_INLINE void mma_s8s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] PTX_AND_SITE) {
#if PTX_DEVICE
    PTX_MMA("s8");
#else
    ::simt_mma(c, a, b, false, site);
#endif
}

// C = start + A * B, A signed: saves setting four registers before the first product of a sum.
PTX_INLINE void mma_s8s8_from(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              int start PTX_AND_SITE) {
#if PTX_DEVICE && TARGET_SM >= 80
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %10, %10, %10};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(start));
#elif PTX_DEVICE
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%4, %4};"
                 : "=r"(c[0]), "=r"(c[1])
                 : "r"(a[0]), "r"(b[0]), "r"(start));
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%4, %4};"
                 : "=r"(c[2]), "=r"(c[3])
                 : "r"(a[1]), "r"(b[0]), "r"(start));
    PTX_MMA_QUARTER("s8", 0, 1, 2, 1);
    PTX_MMA_QUARTER("s8", 2, 3, 3, 1);
#else
    c[0] = c[1] = c[2] = c[3] = start;
    ::simt_mma(c, a, b, false, site);
#endif
}

// A unsigned: the probabilities of attention.
PTX_INLINE void mma_u8s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] PTX_AND_SITE) {
#if PTX_DEVICE
    PTX_MMA("u8");
#else
    ::simt_mma(c, a, b, true, site);
#endif
}

}  // namespace ptx
