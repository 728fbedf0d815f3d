// The integer-only kernels in plain C++17, one element after the other: to read first, and to hold
// the kernels against. Same bits as integer_ops.cu and integer_ops_model.py.
// Formulas: I-BERT (Kim et al. 2021), sections 3.3 to 3.6; constants: integer_constants.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace integer_ops_reference {

// multiplier / 2^shift
struct Dyadic {
    int64_t multiplier;
    int shift;
};

struct SoftmaxConstants {
    int input_shift;
    int64_t ln2, linear, constant;
    Dyadic to_codes;
};

struct GeluConstants {
    int64_t clamp, bound, constant;
    int shift;
    int64_t one;
    Dyadic to_codes;
};

// value / 2^shift to the nearest integer, halves to even; |value| < 2^62, shift 1..62.
inline int64_t rounded(int64_t value, int shift) {
    const int64_t unit = int64_t{1} << shift;
    int64_t quotient = value / unit;
    int64_t rest = value % unit;
    if (rest < 0) {
        rest += unit;
        --quotient;
    }
    const int64_t half = unit / 2;
    return quotient + (rest > half || (rest == half && quotient % 2 != 0));
}

inline int8_t to_int8(int64_t value) {
    return static_cast<int8_t>(std::clamp<int64_t>(value, -128, 127));
}

// 16-bit code of e^(-distance * scale); distance 0..2^32 - 1.
inline int64_t exponential(int64_t distance, const SoftmaxConstants& made) {
    int64_t d = made.input_shift >= 0 ? distance >> made.input_shift
                                      : distance * (int64_t{1} << -made.input_shift);
    d = std::min(d, 30 * made.ln2);
    const int64_t z = d / made.ln2;
    const int64_t r = z * made.ln2 - d;
    const int64_t polynomial = (r + made.linear) * r + made.constant;
    const int shift = made.to_codes.shift + static_cast<int>(z);
    // The product has 62 bits, so from a shift of 63 on nothing rounds up to 1.
    return shift > 62 ? 0 : rounded(polynomial * made.to_codes.multiplier, shift);
}

// out[row][i] = code of softmax; scores, out: [rows, length].
inline void softmax(const int32_t* scores, int rows, int length, const SoftmaxConstants& made,
                    bool as_signed, uint8_t* out) {
    for (int row = 0; row < rows; ++row) {
        const int32_t* in = scores + int64_t{row} * length;
        const int64_t highest = *std::max_element(in, in + length);
        std::vector<int64_t> codes;
        int64_t sum = 0;
        for (int i = 0; i < length; ++i) {
            codes.push_back(exponential(highest - in[i], made));
            sum += codes.back();
        }
        const int64_t factor = (int64_t{1} << 32) / sum;
        for (int i = 0; i < length; ++i) {
            const int64_t share = codes[static_cast<size_t>(i)] * factor;
            out[int64_t{row} * length + i] = static_cast<uint8_t>(
                as_signed ? (share * 127 + (int64_t{1} << 31)) / (int64_t{1} << 32)
                          : share / (int64_t{1} << 24));
        }
    }
}

// out[i] = code of gelu; x, out: [count].
inline void gelu(const int32_t* x, int count, const GeluConstants& made, int8_t* out) {
    for (int i = 0; i < count; ++i) {
        const int64_t q = std::clamp<int64_t>(x[i], -made.clamp, made.clamp);
        const int64_t near = std::min(q < 0 ? -q : q, made.bound) - made.bound;
        const int64_t sign = (q > 0) - (q < 0);
        const int64_t erf = (sign * (near * near + made.constant)) >> made.shift;
        const int64_t product = q * (erf + made.one);
        out[i] = to_int8(rounded(product * made.to_codes.multiplier, made.to_codes.shift));
    }
}

// floor(sqrt(value)), bit by bit.
inline int64_t square_root(int64_t value) {
    int64_t root = 0;
    for (int64_t bit = int64_t{1} << 30; bit > 0; bit /= 2) {
        if ((root + bit) * (root + bit) <= value) root += bit;
    }
    return root;
}

// out[row][c] = code of LayerNorm; x, out: [rows, length]; multipliers, biases: [length].
inline void layernorm(const int32_t* x, const int32_t* multipliers, const int64_t* biases, int rows,
                      int length, int output_shift, int8_t* out) {
    std::vector<int64_t> q(static_cast<size_t>(length));
    for (int row = 0; row < rows; ++row) {
        int64_t sum = 0;
        for (int c = 0; c < length; ++c) {
            const int64_t limit = int64_t{1} << 24;
            q[static_cast<size_t>(c)] =
                std::clamp<int64_t>(x[int64_t{row} * length + c], -limit, limit);
            sum += q[static_cast<size_t>(c)];
        }
        int64_t mean = sum / length - (sum % length < 0);
        const int64_t rest = sum - mean * length;
        mean += 2 * rest > length || (2 * rest == length && mean % 2 != 0);
        int64_t spread = 0;
        for (int64_t value : q) spread += (value - mean) * (value - mean);
        int k = 0;
        while (spread >> (2 * k) >= int64_t{1} << 32) ++k;
        const int64_t root = square_root(spread >> (2 * k));
        const int64_t factor = root == 0 ? 0 : (int64_t{1} << 31) / root;
        for (int c = 0; c < length; ++c) {
            const int64_t fraction = ((q[static_cast<size_t>(c)] - mean) * factor) >> (k + 1);
            out[int64_t{row} * length + c] =
                to_int8(rounded((fraction + biases[c]) * multipliers[c], output_shift));
        }
    }
}

}  // namespace integer_ops_reference
