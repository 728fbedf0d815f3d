// s = x * x_scale + bias + residual * residual_scale      (scales of int8 tensors only)
// LayerNorm: n = (s - mean(s)) / sqrt(var(s) + epsilon) * gamma + beta    (biased variance)
// RMSNorm:   n = s / sqrt(mean(s^2) + epsilon) * gamma
// y = int8(clamp(round_half_even(n * inverse_output_scale))), y_half = half(n), sum = half(s)
//
// x, residual: half or int8 [rows, H]. bias, gamma, beta: half [H]. y: int8 [rows, H]. y_half, sum:
// half [rows, H]. All row-major and contiguous, 16-byte aligned. 1 <= H <= 4096, any H: an access
// moves WIDTH elements, the largest power of two that divides H, up to 8 (16 bytes of halves).
// Optional, by macro: bias, residual, beta (all but RMSNorm), y_half, sum.
//
// A row that holds NaN or Inf gives NaN: y 0, y_half NaN; its sum keeps what it is. No other row
// notices. A row of equal elements gives beta, to 1e-6. Values beyond INT8 saturate, beyond half
// become Inf.
//
// Float32, the mean first, then squared differences, whose own mean corrects the first one (Chan,
// Golub and LeVeque 1983, "Algorithms for computing the sample variance", corrected two-pass).
// The order of every addition is fixed and no instruction approximates: layernorm_model.py gives
// the same bits. Against float64 and a true division by output_scale: at most one step apart, on at
// most 0.1 % of elements.
//
// LANES threads share a row: 8, 16 or 32 lanes of a warp, with no barrier (H % 8 == 0 up to 1024),
// or 2 to 16 warps of a block. Each input is read once and a row stays in registers after that, up
// to 32 values in up to 8 accesses per thread.
//
// v1 a thread per row, three passes over memory | v2 a warp per row in registers, one element per
// access | v3 = v2 with up to 8 elements per access, LANES chosen to leave few idle (kept) |
// v4 = v3 with 16 codes per access where all rows are int8 (dropped: gamma and beta cost more)
#include "elements.cuh"

// Up to 24 values a thread fit 64 registers, at which an sm_75 holds all its 1024 threads. Left
// alone the compiler once chose 48 and a spill; with 32 values it chooses well (64 to 80).
#if VECTORS * WIDTH <= 24
#define LAUNCH_BOUNDS __launch_bounds__(kBlock, 1024 / kBlock)
#else
#define LAUNCH_BOUNDS __launch_bounds__(kBlock)
#endif

namespace {

using elements::kHalf;
using elements::Stored;

constexpr int kWarp = 32;
constexpr int kRowsPerBlock = LANES <= kWarp ? 128 / LANES : 1;
constexpr int kBlock = kRowsPerBlock * LANES;
constexpr int kWarpsPerRow = (LANES + kWarp - 1) / kWarp;
// Words of shared memory for one sum: the compiler reads them in fours, so the last ones exist too.
constexpr int kSlots = (kWarpsPerRow + 3) / 4 * 4;
// Independent sums of a thread: they hide the latency of an addition, and lose fewer bits than one.
constexpr int kChains = WIDTH < 4 ? WIDTH : 4;
// A constant expression: the compiler divides, rounded to nearest.
constexpr float kInverseHidden = 1.0f / HIDDEN;
constexpr float kLargest = 3.402823466e38f;

static_assert(HIDDEN >= 1 && HIDDEN <= 4096, "a row must fit the registers of its threads");
static_assert(HIDDEN % WIDTH == 0, "an access must not cross the end of a row");
static_assert(VECTORS * LANES * WIDTH >= HIDDEN, "the threads of a row must hold all of it");
static_assert(LANES <= kWarp ? kWarp % LANES == 0 : LANES % kWarp == 0, "whole warps only");

// 1 / sqrt(v) for v > 0 from additions and multiplications alone, so that the bits are the same
// everywhere: a guess from the exponent's half (relative error 0.035), then Newton's method for
// y^-2 = v. Each step squares the error and multiplies it by 1.5: 1.8e-3, 4.7e-6, 3.3e-11.
// At most 2e-7 after rounding. NaN and Inf give NaN.
PTX_INLINE float inverse_square_root(float v) {
    float y = ptx::int_as_float(0x5f3759df - (ptx::float_as_int(v) >> 1));
    const float half_v = 0.5f * v;
#pragma unroll
    for (int step = 0; step < 3; ++step) {
        y = y * fmaf(-(half_v * y), y, 1.5f);
    }
    return v <= kLargest ? y : ptx::int_as_float(0x7fffffff);
}

// Sums over the threads of a row; all of them receive the result, with the same bits, as a + b is
// b + a. `scratch`: count * kSlots floats that nobody else uses, 16-byte aligned. All threads of
// the block must call it; where a row has several warps it holds one barrier, between its writes
// and its reads: what comes later may not write there without another.
template <int count>
PTX_INLINE void sum_over_row(float (&sums)[count], float* scratch) {
#pragma unroll
    for (int distance = (LANES < kWarp ? LANES : kWarp) / 2; distance > 0; distance /= 2) {
#pragma unroll
        for (int i = 0; i < count; ++i) {
            sums[i] += ptx::shuffle_xor(sums[i], distance);
        }
    }
    if constexpr (kWarpsPerRow > 1) {
#pragma unroll
        for (int i = 0; i < count; ++i) {
            if (threadIdx.x % kWarp == 0) {
                scratch[i * kSlots + threadIdx.x / kWarp] = sums[i];
            }
            if (threadIdx.x < kSlots - kWarpsPerRow) {
                scratch[i * kSlots + kWarpsPerRow + threadIdx.x] = 0.0f;
            }
        }
        ptx::sync_threads();
#pragma unroll
        for (int i = 0; i < count; ++i) {
            sums[i] = scratch[i * kSlots];
#pragma unroll
            for (int warp = 1; warp < kWarpsPerRow; ++warp) {
                sums[i] += scratch[i * kSlots + warp];
            }
        }
    }
}

// One thread's chains to one sum: pairs of neighbours, then the pairs.
PTX_INLINE float join(const float (&chains)[kChains]) {
    if constexpr (kChains == 4) {
        return (chains[0] + chains[1]) + (chains[2] + chains[3]);
    } else if constexpr (kChains == 2) {
        return chains[0] + chains[1];
    } else {
        return chains[0];
    }
}

// First column of this thread's access `v`.
PTX_INLINE int column_of(int v) {
    return (v * LANES + static_cast<int>(threadIdx.x) % LANES) * WIDTH;
}

// Whether that access lies inside the row; known to the compiler for all but the last ones.
PTX_INLINE bool inside(int v) { return (v + 1) * LANES * WIDTH <= HIDDEN || column_of(v) < HIDDEN; }

// sums += tensor * scale, one rounding per element; the first tensor sets the sums. Halves have no
// scale.
template <int kind, bool first>
PTX_INLINE void add_tensor(const typename Stored<kind>::Type* address, float scale,
                           float (&sums)[WIDTH]) {
    const auto packed = elements::load<WIDTH * sizeof(*address)>(address);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
        if constexpr (kind == kHalf) {
            const float value = elements::half_at(packed, i);
            sums[i] = first ? value : sums[i] + value;
        } else {
            const float code = elements::int8_at(packed, i);
            sums[i] = first ? code * scale : fmaf(code, scale, sums[i]);
        }
    }
}

// What turns the sums s into the normalised row: n = s * factor + offset.
struct Normaliser {
    float factor, offset;
};

// RMSNorm: mean of squares. `scratch`: kSlots floats.
PTX_INLINE Normaliser root_mean_square(const float (&s)[VECTORS][WIDTH], float epsilon,
                                       float* scratch) {
    float squares[kChains] = {};
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            squares[i % kChains] = fmaf(s[v][i], s[v][i], squares[i % kChains]);
        }
    }
    float sums[1] = {join(squares)};
    sum_over_row(sums, scratch);
    return {inverse_square_root(fmaf(sums[0], kInverseHidden, epsilon)), 0.0f};
}

// LayerNorm: replaces s by s - mean, then gives what is left to do. Elements outside the row are 0
// before and after. `scratch`: 3 * kSlots floats; the second sum has its own, so that a warp
// may write there while another still reads the first.
PTX_INLINE Normaliser centre(float (&s)[VECTORS][WIDTH], float epsilon, float* scratch) {
    float totals[kChains] = {};
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            totals[i % kChains] += s[v][i];
        }
    }
    float total[1] = {join(totals)};
    sum_over_row(total, scratch);
    const float mean = total[0] * kInverseHidden;

    float rests[kChains] = {}, squares[kChains] = {};
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            s[v][i] = inside(v) ? s[v][i] - mean : 0.0f;
            rests[i % kChains] += s[v][i];
            squares[i % kChains] = fmaf(s[v][i], s[v][i], squares[i % kChains]);
        }
    }
    float sums[2] = {join(rests), join(squares)};
    sum_over_row(sums, scratch + kSlots);
    // What rounding left of the mean. Without it a row of equal elements would be divided by a
    // deviation that is rounding error itself.
    const float rest = sums[0] * kInverseHidden;
    const float variance = fmaxf(fmaf(-sums[0], rest, sums[1]) * kInverseHidden, 0.0f);
    const float factor = inverse_square_root(variance + epsilon);
    return {factor, -rest * factor};
}

}  // namespace

extern "C" __global__ void LAUNCH_BOUNDS skip_layernorm_quant(
    const Stored<X_KIND>::Type* __restrict__ x,  // [rows, H]
#if HAS_BIAS
    const uint16_t* __restrict__ bias,  // [H]
#endif
#if RESIDUAL_KIND
    const Stored<RESIDUAL_KIND>::Type* __restrict__ residual,  // [rows, H]
#endif
    const uint16_t* __restrict__ gamma,  // [H]
#if !RMS
    const uint16_t* __restrict__ beta,  // [H]
#endif
    int rows, int x_scale_bits, [[maybe_unused]] int residual_scale_bits,
    int inverse_output_scale_bits, int epsilon_bits,
    int8_t* __restrict__ y  // [rows, H]
#if HALF_OUTPUT
    ,
    uint16_t* __restrict__ y_half  // [rows, H]
#endif
#if SUM_OUTPUT
    ,
    uint16_t* __restrict__ sum  // [rows, H]
#endif
) {
    SHARED_MEMORY(shared);
    float* const scratch = reinterpret_cast<float*>(shared);  // [3, kSlots]

    // Threads beyond the last row repeat it without writing: every lane takes part in the shuffles.
    const int own_row =
        static_cast<int>(blockIdx.x) * kRowsPerBlock + static_cast<int>(threadIdx.x) / LANES;
    const bool writes = kRowsPerBlock == 1 || own_row < rows;
    const size_t start = static_cast<size_t>(writes ? own_row : rows - 1) * HIDDEN;

    const float x_scale = ptx::int_as_float(x_scale_bits);
    float s[VECTORS][WIDTH];
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            s[v][i] = 0.0f;
        }
        if (inside(v)) {
            const int column = column_of(v);
#if HAS_BIAS
            add_tensor<kHalf, true>(bias + column, 1.0f, s[v]);
#endif
            add_tensor<X_KIND, !HAS_BIAS>(x + start + column, x_scale, s[v]);
#if RESIDUAL_KIND
            const float residual_scale = ptx::int_as_float(residual_scale_bits);
            add_tensor<RESIDUAL_KIND, false>(residual + start + column, residual_scale, s[v]);
#endif
#if SUM_OUTPUT
            if (writes) {
                elements::store(sum + start + column, elements::pack_halves(s[v]));
            }
#endif
        }
    }

    const float epsilon = ptx::int_as_float(epsilon_bits);
#if RMS
    const Normaliser norm = root_mean_square(s, epsilon, scratch);
#else
    const Normaliser norm = centre(s, epsilon, scratch);
#endif
    const float inverse_output_scale = ptx::int_as_float(inverse_output_scale_bits);
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
        if (inside(v)) {
            const int column = column_of(v);
            const auto gains = elements::load<2 * WIDTH>(gamma + column);
#if !RMS
            const auto shifts = elements::load<2 * WIDTH>(beta + column);
#endif
            float n[WIDTH];
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) {
#if RMS
                n[i] = s[v][i] * norm.factor * elements::half_at(gains, i);
#else
                const float unit = fmaf(s[v][i], norm.factor, norm.offset);
                n[i] = fmaf(unit, elements::half_at(gains, i), elements::half_at(shifts, i));
#endif
            }
            if (writes) {
                elements::store(y + start + column, elements::quantize(n, inverse_output_scale));
#if HALF_OUTPUT
                elements::store(y_half + start + column, elements::pack_halves(n));
#endif
            }
        }
    }
}
