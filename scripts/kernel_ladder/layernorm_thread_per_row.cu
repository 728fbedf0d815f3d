// The first version of skip_layernorm_quant: a thread owns a row and reads it three times, for the
// mean, for the variance and for the result. Half x, bias and residual, LayerNorm, int8 out.
//
// x, residual: half [rows, H]. bias, gamma, beta: half [H]. y: int8 [rows, H]. H = HIDDEN.
// Same arguments and formula as the shipped kernel, other order of additions and rsqrt.approx: not
// its bits. Grid ceil(rows / 128), 128 threads. Neighbouring threads read addresses 2 H bytes
// apart, so that every access of a warp takes 32 sectors.
#include "ptx.cuh"

// Biased variance needs the mean first: E(s^2) - mean^2 would cancel.
PTX_INLINE float element(const uint16_t* x, const uint16_t* bias, const uint16_t* residual, int h) {
    return ptx::half_to_float(bias[h]) + ptx::half_to_float(x[h]) + ptx::half_to_float(residual[h]);
}

extern "C" __global__ void __launch_bounds__(128)
    layernorm_thread_per_row(const uint16_t* __restrict__ x, const uint16_t* __restrict__ bias,
                             const uint16_t* __restrict__ residual,
                             const uint16_t* __restrict__ gamma, const uint16_t* __restrict__ beta,
                             int rows, int, int, int inverse_output_scale_bits, int epsilon_bits,
                             int8_t* __restrict__ y) {
    const int row = static_cast<int>(blockIdx.x * 128 + threadIdx.x);
    if (row >= rows) return;
    const int64_t start = static_cast<int64_t>(row) * HIDDEN;
    x += start;
    residual += start;
    float total = 0.0f;
    for (int h = 0; h < HIDDEN; ++h) total += element(x, bias, residual, h);
    const float mean = total * (1.0f / HIDDEN);
    float squares = 0.0f;
    for (int h = 0; h < HIDDEN; ++h) {
        const float difference = element(x, bias, residual, h) - mean;
        squares = fmaf(difference, difference, squares);
    }
    const float factor =
        ptx::rsqrt_approx(fmaf(squares, 1.0f / HIDDEN, ptx::int_as_float(epsilon_bits)));
    const float inverse_output_scale = ptx::int_as_float(inverse_output_scale_bits);
    for (int h = 0; h < HIDDEN; ++h) {
        const float unit = (element(x, bias, residual, h) - mean) * factor;
        const float n = fmaf(unit, ptx::half_to_float(gamma[h]), ptx::half_to_float(beta[h]));
        y[start + h] = static_cast<int8_t>(ptx::float_to_s8(n * inverse_output_scale));
    }
}
