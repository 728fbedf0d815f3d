// How K and V get from global memory to the warps: sizes, and the copier of tiles.
// Included by int8_attention.cu.
#pragma once

#include "ptx.cuh"

namespace attention {

constexpr int THREADS = 128;              // four warps
constexpr int KEYS = 64;                  // keys of a tile
constexpr int WORDS = HEAD_DIM / 16;      // 16-byte words of a head
constexpr int K_STEPS = (WORDS + 1) / 2;  // products of depth 32 that cover a head
// A warp owns M_TILES * 16 queries. Two tiles halve the loads of K and V, where registers allow it;
// a mask with a row of its own per query takes some.
constexpr int M_TILES = HEAD_DIM <= (MASK == 3 ? 32 : 64) ? 2 : 1;
constexpr int ROWS_PER_WARP = 16 * M_TILES;
constexpr int ROWS_PER_BLOCK = THREADS / 32 * ROWS_PER_WARP;
// A row in shared memory takes an odd number of 16-byte words. The eight rows that ldmatrix reads
// at once then start in eight different groups of four banks: one wavefront per matrix.
constexpr int STRIDE = 16 * (WORDS % 2 ? WORDS : WORDS + 1);
constexpr int TILE_BYTES = KEYS * STRIDE;  // one tile of K or of V; there are two of each

// Copies tile after tile of K and V of one head into two alternating buffers.
//
// Neighbouring threads take neighbouring 16-byte words of a row, so that a warp reads whole 32-byte
// sectors; a pass takes a power of two of rows, which leaves some threads idle where WORDS is odd.
// sm_80: fetch() starts asynchronous copies and land() waits for them. sm_75: fetch() loads into
// registers, where the words wait while the tile before is worked on, and land() stores them. In
// both cases the latency of global memory hides behind one tile of work.
class TileCopier {
public:
    // k, v: the first key, each next one `row_bytes` further on; shared: 4 * TILE_BYTES.
    __device__ TileCopier(const int8_t* k, const int8_t* v, int row_bytes, int keys,
                          uint8_t* shared)
        : row_bytes_(row_bytes), last_key_(keys - 1), row_(threadIdx.x / WORDS) {
        const int word = static_cast<int>(threadIdx.x) % WORDS;
        k_ = k + 16 * word;
        v_ = v + 16 * word;
        slot_ = shared + row_ * STRIDE + 16 * word;
    }

    // Starts to bring in the tile from key `key0` on. Keys past the last one become copies of it:
    // their scores are hidden later, so they never count, and nothing is read out of bounds.
    __device__ __forceinline__ void fetch(int key0, int buffer) {
        if (!active()) return;
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int key = key0 + row_ + pass * ROWS_PER_PASS;
            const int64_t offset = static_cast<int64_t>(min(key, last_key_)) * row_bytes_;
#if TARGET_SM >= 80
            uint8_t* slot = slot_ + 2 * buffer * TILE_BYTES + pass * ROWS_PER_PASS * STRIDE;
            ptx::cp_async_16(slot, k_ + offset, 16);
            ptx::cp_async_16(slot + TILE_BYTES, v_ + offset, 16);
#else
            (void)buffer;
            staged_[0][pass] = ptx::load_16(k_ + offset);
            staged_[1][pass] = ptx::load_16(v_ + offset);
#endif
        }
        ptx::cp_async_commit();
    }

    // Ends what fetch() began; a barrier must follow before the tile is read.
    __device__ __forceinline__ void land(int buffer) {
#if TARGET_SM >= 80
        (void)buffer;
        ptx::cp_async_wait<0>();
#else
        if (!active()) return;
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            uint8_t* slot = slot_ + 2 * buffer * TILE_BYTES + pass * ROWS_PER_PASS * STRIDE;
            ptx::store_16(slot, staged_[0][pass]);
            ptx::store_16(slot + TILE_BYTES, staged_[1][pass]);
        }
#endif
    }

private:
    static constexpr int ROWS_PER_PASS = WORDS <= 2 ? 64 : WORDS == 4 ? 32 : 16;
    static constexpr int PASSES = KEYS / ROWS_PER_PASS;

    __device__ __forceinline__ bool active() const {
        return ROWS_PER_PASS * WORDS == THREADS || row_ < ROWS_PER_PASS;
    }

    const int8_t* k_;
    const int8_t* v_;
    int row_bytes_;
    int last_key_;
    int row_;
    uint8_t* slot_;
#if TARGET_SM < 80
    ptx::Vector16 staged_[2][PASSES];
#endif
};

// Q of a warp as A fragments of m16n8k32, straight from global memory: it is read once.
// fragment[m][s][0..3]: rows g, g+8, g, g+8 of m-tile m; elements 32s+4t.. and, for the last two,
// 32s+16+4t..  (PTX ISA "Matrix Fragments for mma.m16n8k32"; g = lane/4, t = lane%4).
// A head of an odd number of words ends in a half step: its second half is zero, and then K's words
// there may be anything. Rows past the last query repeat it; nobody stores what comes of them.
__device__ __forceinline__ void load_queries(uint32_t (&fragment)[M_TILES][K_STEPS][4],
                                             const int8_t* q, int row_bytes, int first_row,
                                             int queries) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int row = first_row + 16 * m + 8 * r + lane / 4;
            const int8_t* source = q + static_cast<int64_t>(min(row, queries - 1)) * row_bytes;
#pragma unroll
            for (int word = 0; word < 2 * K_STEPS; ++word) {
                const int8_t* address = source + 16 * word + 4 * (lane % 4);
                fragment[m][word / 2][r + 2 * (word % 2)] =
                    word < WORDS ? *reinterpret_cast<const uint32_t*>(address) : 0u;
            }
        }
    }
}

}  // namespace attention
