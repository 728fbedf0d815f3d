// Softmax, GELU and LayerNorm of I-BERT (Kim et al. 2021, sections 3.3 to 3.6) in integers only.
//
// Every result is an integer, so each layer (GPU, emulator, PTX interpreter, integer_ops_model.py,
// integer_ops_reference.h) gives the same bits. Constants are made by integer_constants.py.
//   input   int32 [rows, length], row-major, 16-byte aligned; WIDTH is 4 where length % 4 == 0 (for
//           i_gelu: always), else 1: neighbouring elements of a thread.
//   output  one byte per element, same shape.
// Rows of length 1 and inputs at the ends of int32 are right. There is no shared memory and no
// barrier: a warp owns a row, or a thread its elements. Each pass reads the row anew; 16 KiB of it
// stay in the L1 cache.
//   rounded(v, s) = v / 2^s, halves to even (HAWQ-V3, Yao et al. 2021)
// Ladder (i_softmax, WIDTH 4, static instructions for sm_75): v1 division by ln 2, 1104 | v2 the
// multiplication in its place, 968 | v3 = v2 + room for 8 blocks asked of the compiler, which else
// keeps to 32 registers on sm_80 and spills 8 bytes (kept). Nothing was timed.
#include "integer_math.cuh"

namespace {

// Four warps: a row each. Eight blocks, 1024 threads, fill a multiprocessor of sm_75: 64 registers.
constexpr int kBlock = 128;
constexpr int kBlocks = 8;
constexpr int kWarps = kBlock / 32;
// z = d / q_ln2 never exceeds it: e^-21 is nothing in 16 bits.
constexpr int kHalvings = 30;
// Where i_layernorm clamps: the sum of 4096 squares of 25 bits fits 63.
constexpr int kLargestInput = 1 << 24;

// The constants of one softmax (SoftmaxConstants in integer_constants.py).
struct Exponential {
    int input_shift, ln2, reciprocal, linear, constant, multiplier, shift;

    // 16-bit code of e^(-distance * scale), 32767 for 1.
    // d = distance shifted; z = d / ln2; r = z * ln2 - d; ((r + b) r + c) / 2^z, rescaled once.
    PTX_INLINE uint32_t operator()(uint32_t distance) const {
        const uint32_t limit = static_cast<uint32_t>(kHalvings) * static_cast<uint32_t>(ln2);
        uint32_t d;
        if (input_shift >= 0) {
            d = distance >> input_shift;
        } else {
            // Clamped first: what is shifted out on the left would come back as a small distance.
            const uint32_t most = (limit >> -input_shift) + 1u;
            d = (distance < most ? distance : most) << -input_shift;
        }
        d = d < limit ? d : limit;
        const int z = static_cast<int>(uint64_t{d} * static_cast<uint32_t>(reciprocal) >> 40);
        const int r = z * ln2 - static_cast<int>(d);
        const int polynomial = (r + linear) * r + constant;
        // From 63 on the code is 0 in any case: the product has 62 bits.
        return static_cast<uint32_t>(
            rounded(int64_t{polynomial} * multiplier, smaller(shift + z, 63)));
    }
};

PTX_INLINE int clamped(int value) { return smaller(larger(value, -kLargestInput), kLargestInput); }

}  // namespace

// out = softmax(scores * scale) over each row.  e = 16-bit code of exp(score - max), as above
//   SIGNED 0: floor(e * floor(2^32 / sum e) / 2^24), uint8, real value code / 256; 1 gives 255
//   SIGNED 1: e * floor(2^32 / sum e) * 127 / 2^32 to the nearest, int8, real value code / 127
// length <= 65536.  Error of an element against float64 softmax: at most 1/256 + 0.002 unsigned,
// 0.5/127 + 0.002 signed; with scales below 3.6e-5 0.0001 more. Probabilities below 1/256, or
// 1/254, become 0: so does a whole row of more than 256 alike.
#ifndef SIGNED
#define SIGNED 0
#endif
extern "C" __global__ void __launch_bounds__(kBlock, kBlocks)
    i_softmax(const int* __restrict__ scores, int rows, int length, int input_shift, int ln2,
              int reciprocal, int linear, int constant, int multiplier, int shift,
              uint8_t* __restrict__ out) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int row = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
    // The whole warp leaves together, and there is no barrier after.
    if (row >= rows) return;
    const int* in = scores + static_cast<int64_t>(row) * length;
    const Exponential exponential = {input_shift, ln2,        reciprocal, linear,
                                     constant,    multiplier, shift};
    int highest = -2147483647 - 1;
    for (int i = lane * WIDTH; i < length; i += 32 * WIDTH) {
        const Elements part = load(in + i);
#pragma unroll
        for (int value : part.value) highest = larger(highest, value);
    }
    highest = warp_max(highest);
    // Unsigned: the distance of two int32 needs 32 bits.
    const uint32_t top = static_cast<uint32_t>(highest);
    uint32_t own = 0;
    for (int i = lane * WIDTH; i < length; i += 32 * WIDTH) {
        const Elements part = load(in + i);
#pragma unroll
        for (int value : part.value) own += exponential(top - static_cast<uint32_t>(value));
    }
    // At most 65536 codes of 15 bits; at least 32767, the code of the maximum itself.
    const uint32_t sum = static_cast<uint32_t>(warp_sum(own));
    // floor(2^32 / sum) in 32 bits: that of 2^32 - 1, and one more where sum divides 2^32.
    const uint32_t below = 0xffffffffu / sum;
    const uint32_t factor = below + (0xffffffffu - below * sum == sum - 1u ? 1u : 0u);
    uint8_t* to = out + static_cast<int64_t>(row) * length;
    for (int i = lane * WIDTH; i < length; i += 32 * WIDTH) {
        const Elements part = load(in + i);
        Elements codes;
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            const uint32_t distance = top - static_cast<uint32_t>(part.value[j]);
            const uint64_t share = uint64_t{exponential(distance)} * factor;
#if SIGNED
            codes.value[j] = static_cast<int>((share * 127u + (uint64_t{1} << 31)) >> 32);
#else
            codes.value[j] = static_cast<int>(share >> 24);
#endif
        }
        store(to + i, codes);
    }
}

// out = quantize(gelu(x * scale)), element by element, x int32 [count].
//   q = x clamped to -clamp .. clamp, which changes no code
//   q_erf = sgn(q) ((min(|q|, bound) - bound)^2 + constant) >> shift
//   out = rounded(q (q_erf + one) * multiplier, output_shift) to int8
// constant = constant_high * 2^32 + constant_low (unsigned). WIDTH 4; the last elements one by one.
// Error against float64 GELU before the last rounding: at most 0.0182 + scale + |x| / |one|.
extern "C" __global__ void __launch_bounds__(kBlock, kBlocks)
    i_gelu(const int* __restrict__ x, int count, int clamp, int bound, int constant_low,
           int constant_high, int shift, int one, int multiplier, int output_shift,
           uint8_t* __restrict__ out) {
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
    const int64_t first = thread * WIDTH;
    const int64_t constant =
        static_cast<int64_t>(static_cast<uint64_t>(static_cast<uint32_t>(constant_high)) << 32 |
                             static_cast<uint32_t>(constant_low));
    const auto code = [=](int value) {
        const int q = smaller(larger(value, -clamp), clamp);
        const int near = smaller(q < 0 ? -q : q, bound) - bound;
        const int64_t square = int64_t{near} * near + constant;
        // At 0 the sign is nothing to the product.
        const int erf = static_cast<int>((q < 0 ? -square : square) >> shift);
        return to_int8(rounded(int64_t{q * (erf + one)} * multiplier, output_shift));
    };
    if (first + WIDTH <= count) {
        Elements part = load(x + first);
#pragma unroll
        for (int& value : part.value) value = code(value);
        store(out + first, part);
    } else {
        for (int64_t i = first; i < count; ++i) out[i] = static_cast<uint8_t>(code(x[i]));
    }
}

// out = quantize(LayerNorm(x) * gamma + beta) over each row, without epsilon; x's scale cancels.
//   q = x clamped to +-2^24;  mu = rint(mean q), halves to even;  y = q - mu;  v = sum y^2, exact
//   k = smallest with v >> 2k < 2^32;  root = isqrt(v >> 2k);  f = floor(2^31 / root), 0 for root 0
//   out = rounded((floor(y f / 2^(k+1)) + bias[c]) * multiplier[c], output_shift) to int8
// length <= 4096.  multipliers: int32 [length], biases: int64 [length]; 16-byte aligned.
// With k = 0 (v < 2^32) these are I-BERT's bits; above, I-BERT shifts each y before squaring, by a
// k fixed in training, and loses what is shifted out: here k is the row's own and the sum exact.
// Error against float64 LayerNorm of the same input, for 16 to 22 bits: at most 1e-3 of the largest
// output, and half an output step. A row of equal elements gives beta.
extern "C" __global__ void __launch_bounds__(kBlock, kBlocks)
    i_layernorm(const int* __restrict__ x, const int* __restrict__ multipliers,
                const int64_t* __restrict__ biases, int rows, int length, int output_shift,
                uint8_t* __restrict__ out) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int row = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
    if (row >= rows) return;
    const int* in = x + static_cast<int64_t>(row) * length;
    int64_t sum = 0;      // 37 bits
    int64_t squares = 0;  // 61 bits
    for (int i = lane * WIDTH; i < length; i += 32 * WIDTH) {
        const Elements part = load(in + i);
#pragma unroll
        for (int value : part.value) {
            const int q = clamped(value);
            sum += q;
            squares += int64_t{q} * q;
        }
    }
    sum = warp_sum(sum);
    squares = warp_sum(squares);
    const int mean = static_cast<int>(rounded_mean(sum, length));
    // Integers: sum (q - mu)^2 from the two sums loses nothing, so one pass is enough.
    uint64_t spread =
        static_cast<uint64_t>(squares - int64_t{mean} * (2 * sum - int64_t{mean} * length));
    int k = 0;
    while (spread >> 32 != 0) {
        spread >>= 2;
        ++k;
    }
    const uint32_t root = square_root(static_cast<uint32_t>(spread));
    const int64_t f = root == 0 ? 0 : 0x80000000u / root;
    uint8_t* to = out + static_cast<int64_t>(row) * length;
    for (int i = lane * WIDTH; i < length; i += 32 * WIDTH) {
        const Elements part = load(in + i);
        const Elements scale = load(multipliers + i);
        Elements codes;
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            const int64_t fraction = ((clamped(part.value[j]) - mean) * f) >> (k + 1);
            const int64_t product = (fraction + biases[i + j]) * scale.value[j];
            codes.value[j] = to_int8(rounded(product, output_shift));
        }
        store(to + i, codes);
    }
}
