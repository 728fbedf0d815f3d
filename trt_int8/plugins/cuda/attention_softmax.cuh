// The online softmax of a warp: scores of a tile to bytes of probability, all in registers.
// Included by int8_attention.cu.
//
// Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", with powers of two:
//   p[i][j] = 2^(x[i][j] + e[i]) <= 1,   x = q k^T * score_scale (+ mask * log2(e)).
// e[i] starts as -(largest x of the first tile with a visible key), rounded down by less than STEP,
// and goes down by whole numbers where a later x + e would exceed 0. So a row's past sums follow a
// new e by a right shift: no float accumulator, no multiplication, and nothing at all in tiles
// where no row of the warp needs it. A shift drops at most 1/127 of a step of v.
//
// One fused multiply-add makes p a fixed-point number of 8.8 bits in the low half of a word. Its
// upper byte, P = rint(255 p), is multiplied with V; the row's sum takes the whole number. Summing
// P instead would lose the mass of all keys below 1/510 and scale the rest up by as much: then the
// error can exceed that of a plain softmax with int8 probabilities (README, "Versions tried").
#pragma once

#include "attention_tiles.cuh"

namespace attention {

constexpr int SCORE_TILES = KEYS / 8;  // C fragments of a warp's m-tile and a tile of keys
constexpr bool ADDITIVE = MASK >= 2;

// 1.5 * 2^23: the bits of the float (OFFSET + n) are OFFSET_BITS + n for every integer |n| < 2^22.
// Sums of products start at OFFSET_BITS, so they are floats already, without a conversion;
// |q k^T| <= 128 * 128 * HEAD_DIM <= 2^21.
constexpr int OFFSET_BITS = 0x4B400000;
constexpr float OFFSET = 12582912.0f;
// 65,280 p + 2^23 + 128 has the bits WORD_BITS + rint(65,280 p): byte 1 is 255 p, rounded by the
// 128.
constexpr float P_ONE = 65280.0f;  // 255 * 256; times 65,536 keys it is still below 2^32
constexpr float WORD_OFFSET = 8388736.0f;
constexpr uint32_t WORD_BITS = 0x4B000080u;                 // of WORD_OFFSET
constexpr int HIDDEN_BITS = static_cast<int>(0xFF800000u);  // -infinity: probability 0
constexpr float HIGHEST_MASK = 1e6f;
constexpr float LOG2_E = 1.44269504f;
// e of a row that has seen no key. A score below -2^22 then counts as hidden.
constexpr float NOTHING_SEEN = 4194304.0f;
constexpr float LEAST_STEP = 0.0009765625f;  // 2^-10: a lone key's weight is that close to 1
constexpr float BYTE_ONE = 256.0f;           // sums of p per sum of P

// int32 sums of P * V; [m][2w] even and [m][2w+1] odd elements of word w, as C fragments.
using Accumulators = int[M_TILES][2 * WORDS][4];
// Bits of floats: OFFSET + q k^T, or x itself where a mask was added. C fragments: row g (first
// two) and g+8 of an m-tile, keys 8j + 2t and 8j + 2t + 1.
using Scores = int[M_TILES][SCORE_TILES][4];

// An additive mask of one head.
struct MaskRows {
    const float* base;
    int rows;  // 1: the same for all queries
    int keys;

    // The mask of a query that this thread owns, or of the last one for rows past it.
    __device__ __forceinline__ const float* row(int query) const {
        const int own = query + static_cast<int>(threadIdx.x) % 32 / 4;
        return base + static_cast<int64_t>(min(own, rows - 1)) * keys;
    }
};

class OnlineSoftmax {
public:
    // score_scale has 21 significant bits: OFFSET * score_scale is exact.
    __device__ explicit OnlineSoftmax(float score_scale)
        : scale_(score_scale), offset_(-OFFSET * score_scale) {
        // Two units in the last place of the offset, so that offset + e is exact.
        const int power_of_two = ptx::float_as_int(OFFSET * score_scale) & 0x7F800000;
        step_ = fmaxf(ptx::int_as_float(power_of_two) * 2.38418579e-07f, LEAST_STEP);  // * 2^-22
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                bias_[m][r] = bias_of(NOTHING_SEEN);
                sum_[m][r] = 0;
            }
        }
    }

    // Scores to x by adding the mask from key `first_key` on, the tile's first of this thread.
    // Keys past the last one repeat its mask, and are hidden afterwards.
    __device__ __forceinline__ void add_mask(Scores& scores, const MaskRows& mask, int first_row,
                                             int first_key) const {
        float shared_by_rows[2 * SCORE_TILES];
        const int last = mask.keys - 1;
        if (MASK == 2) {
#pragma unroll
            for (int i = 0; i < 2 * SCORE_TILES; ++i) {
                shared_by_rows[i] = mask.base[min(first_key + 8 * (i / 2) + i % 2, last)];
            }
        }
#pragma unroll
        for (int row = 0; row < 2 * M_TILES; ++row) {
            const float* own = mask.row(first_row + 8 * row);
#pragma unroll
            for (int i = 0; i < 2 * SCORE_TILES; ++i) {
                const float value =
                    MASK == 2 ? shared_by_rows[i] : own[min(first_key + 8 * (i / 2) + i % 2, last)];
                int& score = scores[row / 2][i / 2][2 * (row % 2) + i % 2];
                const float x = fmaf(ptx::int_as_float(score), scale_, offset_);
                // fmaxf drops NaN.
                const float bounded = fminf(fmaxf(value, hidden()), HIGHEST_MASK);
                score = ptx::float_as_int(fmaf(bounded, LOG2_E, x));
            }
        }
    }

    // Lowers e of rows whose largest score of the tile asks for it, and shifts their past sums.
    // Uniform in the warp: the quads exchange their maxima only when some row needs it. What a row
    // does depends on that row alone.
    __device__ __forceinline__ void raise(const Scores& scores, Accumulators& sums) {
        float largest[M_TILES][2];
        bool larger = false;
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                float top = ptx::int_as_float(scores[m][0][2 * r]);
#pragma unroll
                for (int i = 1; i < 2 * SCORE_TILES; ++i) {
                    top = fmaxf(top, ptx::int_as_float(scores[m][i / 2][2 * r + i % 2]));
                }
                largest[m][r] = top;
                larger |= power(top, m, r) > 0.0f;
            }
        }
        if (!ptx::warp_any(larger)) return;
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                float top = fmaxf(largest[m][r], ptx::shuffle_xor(largest[m][r], 1));
                top = fmaxf(top, ptx::shuffle_xor(top, 2));
                raise_row(top, m, r, sums);
            }
        }
    }

    // Probabilities of keys 32 * half .. + 31 as the A fragment of P * V. Slots 4t..4t+3 of its
    // depth are keys 2t, 2t+1, 8+2t, 8+2t+1 (16 more in its second half), as add_values() orders V.
    __device__ __forceinline__ void probabilities(uint32_t (&a)[4], const Scores& scores, int m,
                                                  int half) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int r = i % 2;
            const int j = 4 * half + 2 * (i / 2);
            const int low[2] = {scores[m][j][2 * r], scores[m][j][2 * r + 1]};
            const int high[2] = {scores[m][j + 1][2 * r], scores[m][j + 1][2 * r + 1]};
            a[i] = ptx::permute_bytes(two_bytes(low, m, r), two_bytes(high, m, r), 0x5410);
        }
        // Every word brought WORD_BITS along; modulo 2^32 they go all at once.
        if (half == 1) {
            sum_[m][0] -= 2 * SCORE_TILES * WORD_BITS;
            sum_[m][1] -= 2 * SCORE_TILES * WORD_BITS;
        }
    }

    // What a row's sums of P * V are multiplied with at the end; 0 where no key was visible.
    __device__ __forceinline__ float normaliser(float output_factor, int m, int r) const {
        uint32_t sum = sum_[m][r];
        sum += ptx::shuffle_xor(sum, 1);
        sum += ptx::shuffle_xor(sum, 2);
        const float factor = ptx::divide_rn(output_factor * BYTE_ONE, static_cast<float>(sum));
        return sum == 0 ? 0.0f : factor;
    }

private:
    static __device__ __forceinline__ float hidden() { return ptx::int_as_float(HIDDEN_BITS); }

    // log2 of a probability is fmaf(score, scale, bias), exact but for that one rounding.
    __device__ __forceinline__ float bias_of(float exponent) const {
        return ADDITIVE ? exponent : offset_ + exponent;
    }
    __device__ __forceinline__ float power(float score, int m, int r) const {
        return ADDITIVE ? score + bias_[m][r] : fmaf(score, scale_, bias_[m][r]);
    }

    __device__ __forceinline__ void raise_row(float top, int m, int r, Accumulators& sums) {
        const float over = fmaxf(ceilf(power(top, m, r)), 0.0f);
        if (bias_[m][r] == bias_of(NOTHING_SEEN) && over > 0.0f) {
            const float x = ADDITIVE ? top : fmaf(top, scale_, offset_);
            // 1 / step, a power of two, by its bits.
            const float steps = x * ptx::int_as_float(0x7F000000 - ptx::float_as_int(step_));
            bias_[m][r] = bias_of(-step_ * ceilf(steps));
        } else {
            bias_[m][r] -= over;
        }
        // The sum was rounded: of a score beyond 2^16 a part may be left, and the byte of a
        // probability over one would begin again at zero.
        const float rest = power(top, m, r) > 0.0f ? 1.0f : 0.0f;
        bias_[m][r] -= rest;
        const int shift = static_cast<int>(fminf(over + rest, 31.0f));
        sum_[m][r] >>= shift;
#pragma unroll
        for (int n = 0; n < 2 * WORDS; ++n) {
            sums[m][n][2 * r] >>= shift;
            sums[m][n][2 * r + 1] >>= shift;
        }
    }

    __device__ __forceinline__ uint32_t two_bytes(const int (&scores)[2], int m, int r) {
        uint32_t word[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float p = ptx::exp2_approx(power(ptx::int_as_float(scores[i]), m, r));
            word[i] = static_cast<uint32_t>(ptx::float_as_int(fmaf(p, P_ONE, WORD_OFFSET)));
        }
        sum_[m][r] += word[0] + word[1];
        return ptx::permute_bytes(word[0], word[1], 0x0051);
    }

    float scale_;               // one step of q k^T, as a power of two
    float offset_;              // -OFFSET * scale
    float step_;                // STEP: a power of two, at least LEAST_STEP
    float bias_[M_TILES][2];    // bias_of(e) of the rows g and g+8 of each m-tile
    uint32_t sum_[M_TILES][2];  // of 65,280 p, of this thread's keys only
};

}  // namespace attention
