// One kernel per arithmetic function of ptx.cuh: one thread per element, y[i] = function(x[i]).
// All arrays have n elements; the grid covers them in blocks of 128 threads.
#include "ptx.cuh"

#define SIMT_ENTRIES(entry)                                                                 \
    entry(exp2_approx) entry(reciprocal_approx) entry(rsqrt_approx) entry(sqrt_rn)          \
        entry(divide_rn) entry(half_to_float) entry(float_to_half) entry(float_to_s8)       \
            entry(permute_bytes) entry(dot4_u8) entry(dot4_s8) entry(float_to_int_and_back) \
                entry(smaller_and_larger)

#define MICRO_KERNEL extern "C" __global__ void __launch_bounds__(128)
#define MICRO_INDEX static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x)

MICRO_KERNEL exp2_approx(const float* x, int n, float* y) {
    const int i = MICRO_INDEX;
    if (i < n) {
        y[i] = ptx::exp2_approx(x[i]);
    }
}

MICRO_KERNEL reciprocal_approx(const float* x, int n, float* y) {
    const int i = MICRO_INDEX;
    if (i < n) {
        y[i] = ptx::reciprocal_approx(x[i]);
    }
}

MICRO_KERNEL rsqrt_approx(const float* x, int n, float* y) {
    const int i = MICRO_INDEX;
    if (i < n) {
        y[i] = ptx::rsqrt_approx(x[i]);
    }
}

MICRO_KERNEL sqrt_rn(const float* x, int n, float* y) {
    const int i = MICRO_INDEX;
    if (i < n) {
        y[i] = ptx::sqrt_rn(x[i]);
    }
}

MICRO_KERNEL divide_rn(const float* a, const float* b, int n, float* y) {
    const int i = MICRO_INDEX;
    if (i < n) {
        y[i] = ptx::divide_rn(a[i], b[i]);
    }
}

MICRO_KERNEL half_to_float(const uint16_t* x, int n, float* y) {
    const int i = MICRO_INDEX;
    if (i < n) {
        y[i] = ptx::half_to_float(x[i]);
    }
}

MICRO_KERNEL float_to_half(const float* x, int n, uint16_t* y) {
    const int i = MICRO_INDEX;
    if (i < n) {
        y[i] = ptx::float_to_half(x[i]);
    }
}

MICRO_KERNEL float_to_s8(const float* x, int n, int* y) {
    const int i = MICRO_INDEX;
    if (i < n) {
        y[i] = ptx::float_to_s8(x[i]);
    }
}

MICRO_KERNEL permute_bytes(const uint32_t* low, const uint32_t* high, const uint32_t* selector,
                           int n, uint32_t* y) {
    const int i = MICRO_INDEX;
    if (i < n) {
        y[i] = ptx::permute_bytes(low[i], high[i], selector[i]);
    }
}

MICRO_KERNEL dot4_u8(const uint32_t* a, const uint32_t* b, const uint32_t* c, int n, uint32_t* y) {
    const int i = MICRO_INDEX;
    if (i < n) {
        y[i] = ptx::dot4_u8(a[i], b[i], c[i]);
    }
}

MICRO_KERNEL dot4_s8(const uint32_t* a, const uint32_t* b, const int* c, int n, int* y) {
    const int i = MICRO_INDEX;
    if (i < n) {
        y[i] = ptx::dot4_s8(a[i], b[i], c[i]);
    }
}

// A float argument travels as an int; each float's bits come back with the lowest one flipped.
MICRO_KERNEL float_to_int_and_back(const float* x, int added_bits, int n, float* y) {
    const int i = MICRO_INDEX;
    if (i < n) {
        const float sum = x[i] + ptx::int_as_float(added_bits);
        y[i] = ptx::int_as_float(ptx::float_as_int(sum) ^ 1);
    }
}

// CUDA's own words that need no header: min and max of integers, fminf, fmaxf and fmaf.
MICRO_KERNEL smaller_and_larger(const int* a, const int* b, int n, int* y, float* z) {
    const int i = MICRO_INDEX;
    if (i < n) {
        y[2 * i] = min(a[i], b[i]);
        y[2 * i + 1] = max(a[i], b[i]);
        const float left = static_cast<float>(a[i]);
        const float right = static_cast<float>(b[i]);
        z[3 * i] = fminf(left, right);
        z[3 * i + 1] = fmaxf(left, right);
        z[3 * i + 2] = fmaf(left, right, 0.5f);
    }
}
