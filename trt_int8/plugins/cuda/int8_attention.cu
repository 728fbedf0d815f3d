// output[b,i,n,:] = quantize(sum_j w[i][j] * v[b,j,n,:] * v_scale),  w[i][j] = P[i][j] / sum 255 p,
// P = rint(255 p),  p[i][j] = 2^(x[i][j] + e[i]),
// x = q k^T * q_scale * k_scale * softmax_scale * log2(e) (+ mask * log2(e)),
// e[i] about -(largest x of row i so far): see attention_softmax.cuh.
//
// q int8 [B, S_q, N, D], k and v int8 [B, S_k, N, D]; or PACKED: qkv int8 [B, S, 3, N, D]; or
// RAGGED: q, k, v int8 [T, N, D], cu_seqlens int32 [B+1], sequence b has the tokens
// cu_seqlens[b] .. cu_seqlens[b+1]-1. Output like q, int8 or (HALF_OUTPUT) half. All row-major,
// 16-byte aligned. D = HEAD_DIM in 16, 32, 64, 80, 96, 128; S_k <= 65,536 (int32 sums).
// MASK 0 none | 1 key_lengths int32 [B], keys from there on are hidden | 2, 3 mask float
// [mask_batch, mask_heads, mask_queries, S_k] added to the scores, the first three sizes 1 where
// broadcast; NaN, and values below -2.9e6, hide a key. CAUSAL: query i sees keys j <= i.
// A query that sees no key gets 0; tokens of no sequence keep what was there. Lengths are clamped
// to what there is: bad ones read nothing out of bounds.
// score_bits: float bits of q_scale * k_scale * softmax_scale * log2(e), rounded to 21 significant
// bits, at most 1/4. output_bits: float bits of v_scale / output_scale (half: v_scale).
//
// Contract: equal to attention_model.py and attention_reference.h bit for bit, where ex2.approx
// gives the nearest float (it may be 2^-22 off, which moves a P by one where 255 p lies that close
// to a half). Against float64 on the same int8 inputs, in all tests: at most the error of a softmax
// in float with P as int8 in steps of 1/127, plus max(2^-10, 3 * score scale) of the largest |v|.
// Grid (ceil(S_q / ROWS_PER_BLOCK), N, B), 128 threads. The versions before this one, and what each
// gained, are in the README.
//
// A block owns ROWS_PER_BLOCK queries of one head, a warp 16 or 32 of them. It walks over tiles of
// 64 keys; K and V lie in shared memory as in global memory. S = Q K^T stays in registers as C
// fragments, which packed to bytes are A fragments of P V if V's keys are taken in the same order.
#include "attention_softmax.cuh"

namespace attention {

#if HALF_OUTPUT
using Output = uint16_t;
#else
using Output = int8_t;
#endif

// What one block works on.
struct Head {
    const int8_t* q;  // first query of the sequence, this head; k and v alike
    const int8_t* k;
    const int8_t* v;
    Output* output;
    int row_bytes;   // from one query or key to the next
    int output_row;  // elements from one row of the output to the next
    int queries;
    int keys;
    int visible;  // keys that are not hidden by key_lengths
};

// Scores of a warp's queries against a tile of K, as OFFSET_BITS + q k^T.
// An ldmatrix brings two B fragments (depth 32) of eight keys each: matrices 0 and 1 are the halves
// of the first, so that each fragment lands in a register pair and needs no moves. Where a head
// ends in a half step, the second half is the next row's first word: any byte will do, as Q is zero
// there.
__device__ __forceinline__ void score(Scores& scores,
                                      const uint32_t (&queries)[M_TILES][K_STEPS][4],
                                      const uint8_t* lane_row) {
#pragma unroll
    for (int step = 0; step < K_STEPS; ++step) {
#pragma unroll
        for (int j = 0; j < SCORE_TILES; j += 2) {
            uint32_t r[4];
            ptx::ldmatrix_x4(r, lane_row + 8 * j * STRIDE + 32 * step);
#pragma unroll
            for (int n = 0; n < 2; ++n) {
                const uint32_t b[2] = {r[2 * n], r[2 * n + 1]};
#pragma unroll
                for (int m = 0; m < M_TILES; ++m) {
                    int (&c)[4] = scores[m][j + n];
                    if (step == 0) {
                        ptx::mma_s8s8_from(c, queries[m][step], b, OFFSET_BITS);
                    } else {
                        ptx::mma_s8s8(c, queries[m][step], b);
                    }
                }
            }
        }
    }
}

// Hides keys from a row's limit on; limits count from this thread's first key of the tile.
__device__ __forceinline__ void hide(Scores& scores, const int (&limits)[M_TILES][2]) {
#pragma unroll
    for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
        for (int j = 0; j < SCORE_TILES; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (8 * j + i % 2 >= limits[m][i / 2]) scores[m][j][i] = HIDDEN_BITS;
            }
        }
    }
}

// sums += P * V for one tile. ldmatrix.trans gives a thread two elements (2g, 2g+1) of two keys
// (2t, 2t+1) per register; one byte permutation of two registers gathers four keys of one element,
// in the order of OnlineSoftmax::probabilities. Even and odd elements are separate products, so a
// thread ends with the elements 4t..4t+3 of each word.
__device__ __forceinline__ void add_values(Accumulators& sums, OnlineSoftmax& softmax,
                                           const Scores& scores, const uint8_t* lane_row) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        uint32_t p[M_TILES][4];
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) softmax.probabilities(p[m], scores, m, half);
#pragma unroll
        for (int word = 0; word < WORDS; ++word) {
            uint32_t r[4];
            ptx::ldmatrix_x4_trans(r, lane_row + 32 * half * STRIDE + 16 * word);
            const uint32_t even[2] = {ptx::permute_bytes(r[0], r[1], 0x6420),
                                      ptx::permute_bytes(r[2], r[3], 0x6420)};
            const uint32_t odd[2] = {ptx::permute_bytes(r[0], r[1], 0x7531),
                                     ptx::permute_bytes(r[2], r[3], 0x7531)};
#pragma unroll
            for (int m = 0; m < M_TILES; ++m) {
                ptx::mma_u8s8(sums[m][2 * word], p[m], even);
                ptx::mma_u8s8(sums[m][2 * word + 1], p[m], odd);
            }
        }
    }
}

#if HALF_OUTPUT
__device__ __forceinline__ void store_four(Output* target, const float (&values)[4]) {
    struct alignas(8) Halves {
        uint16_t of[4];
    } halves;
#pragma unroll
    for (int i = 0; i < 4; ++i) halves.of[i] = ptx::float_to_half(values[i]);
    *reinterpret_cast<Halves*>(target) = halves;
}
#else
__device__ __forceinline__ void store_four(Output* target, const float (&values)[4]) {
    uint32_t bytes[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) bytes[i] = static_cast<uint32_t>(ptx::float_to_s8(values[i]));
    *reinterpret_cast<uint32_t*>(target) =
        ptx::permute_bytes(ptx::permute_bytes(bytes[0], bytes[1], 0x0040),
                           ptx::permute_bytes(bytes[2], bytes[3], 0x0040), 0x5410);
}
#endif

// Normalises and stores the warp's rows: four neighbouring elements per thread and word.
__device__ __forceinline__ void store(const Accumulators& sums, const OnlineSoftmax& softmax,
                                      const Head& head, int first_row, float output_factor) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float factor = softmax.normaliser(output_factor, m, r);
            const int row = first_row + 16 * m + 8 * r + lane / 4;
            const int64_t offset = static_cast<int64_t>(row) * head.output_row;
            Output* target = head.output + offset + 4 * (lane % 4);
#pragma unroll
            for (int word = 0; word < WORDS; ++word) {
                const int (&even)[4] = sums[m][2 * word];
                const int (&odd)[4] = sums[m][2 * word + 1];
                const float values[4] = {
                    static_cast<float>(even[2 * r]) * factor,
                    static_cast<float>(odd[2 * r]) * factor,
                    static_cast<float>(even[2 * r + 1]) * factor,
                    static_cast<float>(odd[2 * r + 1]) * factor,
                };
                if (row < head.queries) store_four(target + 16 * word, values);
            }
        }
    }
}

// Walks over the tiles of K and V that some query of the block sees.
__device__ __forceinline__ void attend(const Head& head, const MaskRows& mask, float score_scale,
                                       float output_factor, uint8_t* shared) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int block_row = static_cast<int>(blockIdx.x) * ROWS_PER_BLOCK;
    const int first_row = block_row + static_cast<int>(threadIdx.x) / 32 * ROWS_PER_WARP;
    const int last_row = min(first_row + ROWS_PER_WARP, head.queries) - 1;
    // Keys that some query of the block, some and every query of the warp sees.
    const int block_keys = CAUSAL ? min(head.visible, block_row + ROWS_PER_BLOCK) : head.visible;
    const int some_keys = CAUSAL ? min(head.visible, last_row + 1) : head.visible;
    const int all_keys = CAUSAL ? min(head.visible, first_row + 1) : head.visible;

    // Rows that this lane names to ldmatrix: see score() and add_values().
    const int k_lane = (lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 16;
    const int v_lane = TILE_BYTES + lane * STRIDE;

    uint32_t queries[M_TILES][K_STEPS][4];
    load_queries(queries, head.q, head.row_bytes, first_row, head.queries);
    Accumulators sums = {};
    OnlineSoftmax softmax(score_scale);
    TileCopier copier(head.k, head.v, head.row_bytes, head.keys, shared);
    if (block_keys > 0) copier.fetch(0, 0);
    for (int key0 = 0; key0 < block_keys; key0 += KEYS) {
        const int buffer = key0 / KEYS % 2;
        copier.land(buffer);
        // Behind this barrier the tile is there, and every warp has left the tile before, whose
        // buffer the next one takes.
        ptx::sync_threads();
        if (key0 + KEYS < block_keys) copier.fetch(key0 + KEYS, buffer ^ 1);
        if (key0 >= some_keys || first_row > last_row) continue;

        const uint8_t* tile = shared + 2 * buffer * TILE_BYTES;
        Scores scores;
        score(scores, queries, tile + k_lane);
        const int first_key = key0 + lane % 4 * 2;  // this thread's first key
        if (ADDITIVE) softmax.add_mask(scores, mask, first_row, first_key);
        if (key0 + KEYS > all_keys) {
            int limits[M_TILES][2];
#pragma unroll
            for (int i = 0; i < 2 * M_TILES; ++i) {
                const int row = first_row + 8 * i + lane / 4;
                const int limit = CAUSAL ? min(head.visible, row + 1) : head.visible;
                limits[i / 2][i % 2] = limit - first_key;
            }
            hide(scores, limits);
        }
        softmax.raise(scores, sums);
        add_values(sums, softmax, scores, tile + v_lane);
    }
    store(sums, softmax, head, first_row, output_factor);
}

}  // namespace attention

// Two blocks per multiprocessor, asked for: with three, or left alone, ptxas spills in some forms.
// Heads of 128 have one on sm_75 all the same: its 64 KiB of shared memory hold no second.
extern "C" __global__ void __launch_bounds__(attention::THREADS, 2) int8_attention(
#if PACKED
    const int8_t* __restrict__ qkv,
#else
    const int8_t* __restrict__ q, const int8_t* __restrict__ k, const int8_t* __restrict__ v,
#endif
#if MASK == 1
    const int* __restrict__ key_lengths,
#elif MASK >= 2
    const float* __restrict__ mask,
#elif RAGGED
    const int* __restrict__ cu_seqlens,
#endif
    int queries, int keys, int heads, int score_bits, int output_bits,
#if MASK >= 2
    int mask_batch, int mask_heads, int mask_queries,
#endif
    attention::Output* __restrict__ output) {
    SHARED_MEMORY(shared);
    const int batch = static_cast<int>(blockIdx.z);
    const int head_index = static_cast<int>(blockIdx.y);
    attention::Head head;
    head.output_row = heads * HEAD_DIM;
    head.row_bytes = head.output_row * (PACKED ? 3 : 1);
    // Rows before this sequence.
    int64_t first_query = static_cast<int64_t>(batch) * queries;
    int64_t first_key = static_cast<int64_t>(batch) * keys;
    head.queries = queries;
    head.keys = keys;
#if RAGGED
    const int start = max(0, min(cu_seqlens[batch], queries));
    head.queries = head.keys = max(0, min(cu_seqlens[batch + 1], queries) - start);
    first_query = first_key = start;
#endif
    head.visible = head.keys;
#if MASK == 1
    head.visible = max(0, min(key_lengths[batch], keys));
#endif
    // Grids are made for the longest sequence: the whole block leaves, before any barrier.
    if (static_cast<int>(blockIdx.x) * attention::ROWS_PER_BLOCK >= head.queries) return;

    const int column = head_index * HEAD_DIM;
#if PACKED
    head.q = qkv + first_query * head.row_bytes + column;
    head.k = qkv + first_key * head.row_bytes + column + head.output_row;
    head.v = head.k + head.output_row;
#else
    head.q = q + first_query * head.row_bytes + column;
    head.k = k + first_key * head.row_bytes + column;
    head.v = v + first_key * head.row_bytes + column;
#endif
    head.output = output + first_query * head.output_row + column;

    attention::MaskRows mask_rows = {nullptr, 1, head.keys};
#if MASK >= 2
    const int64_t mask_row = static_cast<int64_t>(mask_batch > 1 ? batch : 0) * mask_heads +
                             (mask_heads > 1 ? head_index : 0);
    mask_rows = {mask + mask_row * mask_queries * keys, mask_queries, keys};
#endif
    attention::attend(head, mask_rows, ptx::int_as_float(score_bits),
                      ptx::int_as_float(output_bits), shared);
}
