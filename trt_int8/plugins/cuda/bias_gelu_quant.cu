// y = int8(clamp(round_half_even(gelu(x * x_scale + bias) * inverse_output_scale)))
// erf:  gelu(v) = v/2 * (1 + erf(v / sqrt(2)))
// tanh: gelu(v) = v/2 * (1 + tanh(sqrt(2/pi) * (v + 0.044715 v^3)))
//
// x: half or int8 (x_scale: real value per step) [rows, H]. bias: half [H], optional by macro.
// y: int8 [rows, H]. Row-major and contiguous, 16-byte aligned; H static, rows * H < 2^31. Accesses
// move WIDTH elements, the largest power of two that divides H, up to 8 (16 bytes of half), or 16
// of int8 without bias. NaN gives 0, values beyond INT8 saturate, Inf gives 127, -Inf gives 0.
//
// Both forms are max(v, 0) - tail(|v|), with tail(a) = a/2 * erfc(a / sqrt(2)), or for the tanh of
// u(v) a / (1 + exp(2u(a))): a smooth bump on [0, 5.25] and below 4e-7 beyond. One polynomial of
// degree 15 replaces it (Chebyshev interpolation, below), so no instruction approximates and the
// bits are those of gelu_model.py. |gelu - exact| <= 7e-7 + 2^-24 |v|, of which 7e-7 is at most
// 0.05 of a step, as output_scale >= 2^-16. Against float64 and a true division by output_scale:
// at most one step apart, on at most 0.1 % of elements for output_scale >= 1e-3.
//
// int8 without bias has 256 inputs: each block tabulates their results in shared memory with the
// same code, one per thread, and looks up; two words per bank, so at most two wavefronts a look-up.
//
// v1 one element per thread, 2-byte accesses | v2 = v1 with WIDTH elements (kept) | v3 = v2 with
// the table for int8 without bias | v4 = v3 with bytes by prmt (kept)
#include "elements.cuh"

// int8 without bias; 2 stands for int8 (elements::kInt8).
#define USES_TABLE (X_KIND == 2 && !HAS_BIAS)

namespace {

using elements::Stored;

constexpr int kBlock = 256;
constexpr int kAccessesPerRow = HIDDEN / WIDTH;
// Beyond it the tail counts as constant; its value there is below the polynomial's own error.
constexpr float kTailEnd = 5.25f;

static_assert(HIDDEN % WIDTH == 0, "an access must not cross the end of a row");

// max(v, 0) - tail(|v|), with tail(a) = sum of c[k] t^(15-k), t = a * 2 / kTailEnd - 1 in [-1, 1]:
// the polynomial through tail at the 16 Chebyshev points of [0, kTailEnd], as powers of t, rounded
// to float32. Each product is fused with its sum: no other order of operations gives these bits.
// NaN ends as 0 - tail(kTailEnd), as fmaxf and fminf give the operand that is a number: code 0.
PTX_INLINE float gelu(float v) {
#if TANH
    constexpr float c[16] = {
        -6.979987025e-03f, 1.990474015e-02f,  4.088336602e-03f,  -8.075913042e-02f,
        9.991220385e-02f,  6.085189804e-02f,  -2.893671095e-01f, 2.451409847e-01f,
        1.779323071e-01f,  -5.353537798e-01f, 3.854973018e-01f,  5.904920772e-02f,
        -2.944569886e-01f, 2.202622592e-01f,  -7.662627846e-02f, 1.090403926e-02f};
#else
    constexpr float c[16] = {
        4.436884541e-03f,  1.981105283e-02f,  -5.063851923e-02f, -7.489708811e-02f,
        2.117575556e-01f,  3.524956107e-02f,  -4.147066176e-01f, 2.923808098e-01f,
        2.589684427e-01f,  -5.809705257e-01f, 3.575346172e-01f,  8.270083368e-02f,
        -2.910472155e-01f, 2.143528014e-01f,  -7.630500942e-02f, 1.137303747e-02f};
#endif
    const float t = fmaf(fminf(fabsf(v), kTailEnd), 2.0f / kTailEnd, -1.0f);
    float tail = c[0];
#pragma unroll
    for (int k = 1; k < 16; ++k) {
        tail = fmaf(tail, t, c[k]);
    }
    return fmaxf(v, 0.0f) - tail;
}

#if USES_TABLE

// Results of packed int8 codes. `table`: 256 bytes of shared memory that the threads of the block
// fill here, one entry each, so all of them must call it; it holds the barrier after that.
PTX_INLINE elements::Packed<WIDTH> results_of(const elements::Packed<WIDTH>& packed, uint8_t* table,
                                              float x_scale, float inverse_output_scale) {
    const int entry = static_cast<int>(threadIdx.x);
    const float value = static_cast<float>(entry - 128) * x_scale;
    table[entry] = static_cast<uint8_t>(ptx::float_to_s8(gelu(value) * inverse_output_scale));
    ptx::sync_threads();
    int results[WIDTH];
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
        // Flipping its top bit turns the byte of a code into code + 128; the selector puts byte
        // i % 4 below three zeros, in one instruction where shift and mask are two.
        const uint32_t entries = packed.words[i / 4] ^ 0x80808080u;
        results[i] = table[ptx::permute_bytes(entries, 0, 0x4440u + i % 4)];
    }
    return elements::pack_bytes(results);
}

#else

// Results of packed elements of `x`. `bias`: this thread's columns; not read without bias.
template <int bytes>
PTX_INLINE elements::Packed<WIDTH> results_of(const elements::Packed<bytes>& packed,
                                              [[maybe_unused]] const uint16_t* bias,
                                              [[maybe_unused]] float x_scale,
                                              float inverse_output_scale) {
    float values[WIDTH];
#if HAS_BIAS
    const auto added = elements::load<2 * WIDTH>(bias);
#endif
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
#if X_KIND == 2
        values[i] = fmaf(elements::int8_at(packed, i), x_scale, elements::half_at(added, i));
#elif HAS_BIAS
        values[i] = elements::half_at(packed, i) + elements::half_at(added, i);
#else
        values[i] = elements::half_at(packed, i);
#endif
        values[i] = gelu(values[i]);
    }
    return elements::quantize(values, inverse_output_scale);
}

#endif

}  // namespace

extern "C" __global__ void __launch_bounds__(kBlock)
    bias_gelu_quant(const Stored<X_KIND>::Type* __restrict__ x,  // [rows, H]
#if HAS_BIAS
                    const uint16_t* __restrict__ bias,  // [H]
#endif
                    int rows, int x_scale_bits, int inverse_output_scale_bits,
                    int8_t* __restrict__ y  // [rows, H]
    ) {
    const float x_scale = ptx::int_as_float(x_scale_bits);
    const float inverse_output_scale = ptx::int_as_float(inverse_output_scale_bits);
    // This thread's access among all, counted row after row.
    const uint32_t access = blockIdx.x * kBlock + threadIdx.x;
    const bool inside = access < static_cast<uint32_t>(rows) * kAccessesPerRow;
    // Threads beyond the end read the first elements and write nothing: they fill the table too.
    const size_t first = inside ? static_cast<size_t>(access) * WIDTH : 0;
    const auto packed = elements::load<WIDTH * sizeof(*x)>(x + first);
#if USES_TABLE
    SHARED_MEMORY(table);  // [256]
    const auto results = results_of(packed, table, x_scale, inverse_output_scale);
#elif HAS_BIAS
    const auto results = results_of(packed, bias + (access % kAccessesPerRow) * WIDTH, x_scale,
                                    inverse_output_scale);
#else
    const auto results = results_of(packed, nullptr, x_scale, inverse_output_scale);
#endif
    if (inside) {
        elements::store(y + first, results);
    }
}
