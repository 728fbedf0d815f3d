// One query of Int8Attention in plain C++: what int8_attention.cu computes, one step at a time.
//
// Bit for bit the same as attention_model.py. It knows nothing of warps or fragments; the only
// trace of them is that a row's sum of probabilities is kept in four parts, which a new exponent
// shifts apart.
#pragma once

#include <cmath>
#include <cstdint>

namespace reference {

// One query of one head, and the keys it may look at.
struct AttentionRow {
    int head_dim;
    const int8_t* query;  // [head_dim]
    const int8_t* key;    // key j starts at key + j * stride
    const int8_t* value;  // value j at value + j * stride
    int64_t stride;       // elements
    int visible;          // keys 0 .. visible - 1 count: causal, key lengths
    int keys;             // S_k
    const float* mask;    // [keys], added to the scores; null for none
    float score_scale;    // q_scale * k_scale * softmax_scale * log2(e)
    float output_factor;  // v_scale / output_scale
};

constexpr int kTile = 64;           // keys after which the exponent may change
constexpr int kMostElements = 128;  // of a head
constexpr float kNothingSeen = 4194304.0f;
constexpr float kHighestMask = 1e6f;
constexpr float kLog2E = 1.44269504f;
constexpr float kLeastStep = 0.0009765625f;  // 2^-10
constexpr double kPOne = 65280.0;

// x as a power of two, before it is rounded (no mask) or after.
inline double exponent_of(const AttentionRow& row, int j) {
    int product = 0;
    for (int d = 0; d < row.head_dim; ++d) {
        product += row.query[d] * row.key[j * row.stride + d];
    }
    const double exact = static_cast<double>(product) * static_cast<double>(row.score_scale);
    if (row.mask == nullptr) return exact;
    // fmax takes the number where the other one is NaN.
    const float mask = std::fmin(std::fmax(row.mask[j], -INFINITY), kHighestMask);
    return static_cast<double>(std::fma(mask, kLog2E, static_cast<float>(exact)));
}

// The head's output for one query, before it is rounded to int8 or half.
inline void attention_row(const AttentionRow& row, float* output) {
    // Two units in the last place of 1.5 * 2^23 times the scale, where the kernel computes.
    const int exponent = std::ilogb(12582912.0f * row.score_scale);
    const float step = std::fmax(std::ldexp(1.0f, exponent - 22), kLeastStep);
    float e = kNothingSeen;
    uint32_t weights[4] = {};
    int32_t sums[kMostElements] = {};
    for (int first = 0; first < row.keys; first += kTile) {
        const int last = first + kTile < row.visible ? first + kTile : row.visible;
        double exponents[kTile];
        double largest = -INFINITY;
        for (int j = first; j < last; ++j) {
            exponents[j - first] = exponent_of(row, j);
            largest = std::fmax(largest, exponents[j - first]);
        }
        const float over = std::fmax(std::ceil(static_cast<float>(largest + e)), 0.0f);
        if (over > 0.0f && e == kNothingSeen) {
            e = -step * std::ceil(static_cast<float>(largest) / step);
        } else {
            e -= over;
        }
        // The sum of a far score was rounded: what is left of it above 0 takes one more.
        const bool left = static_cast<float>(largest + static_cast<double>(e)) > 0.0f;
        const float rest = left ? 1.0f : 0.0f;
        e -= rest;
        const int shift = static_cast<int>(std::fmin(over + rest, 31.0f));
        for (uint32_t& weight : weights) weight >>= shift;
        for (int d = 0; d < row.head_dim; ++d) sums[d] >>= shift;
        for (int j = first; j < last; ++j) {
            const float power = static_cast<float>(exponents[j - first] + static_cast<double>(e));
            const float p = static_cast<float>(std::exp2(static_cast<double>(power)));
            // A float's product with 65,280 is exact in double.
            const auto word = static_cast<uint32_t>(std::nearbyint(static_cast<double>(p) * kPOne));
            weights[j % 8 / 2] += word;
            const auto byte = static_cast<int32_t>((word + 128) >> 8);
            for (int d = 0; d < row.head_dim; ++d) sums[d] += byte * row.value[j * row.stride + d];
        }
    }
    const uint32_t weight = weights[0] + weights[1] + weights[2] + weights[3];
    const float factor = weight ? row.output_factor * 256.0f / static_cast<float>(weight) : 0.0f;
    for (int d = 0; d < row.head_dim; ++d) output[d] = static_cast<float>(sums[d]) * factor;
}

}  // namespace reference
