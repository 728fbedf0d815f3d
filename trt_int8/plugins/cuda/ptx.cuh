// Every instruction that C++ has no word for, once for the GPU and once for the test emulator.
//
// Each function has two branches. Device (nvcc, NVRTC): the PTX instruction itself. Host (g++):
// the same meaning in C++ over the emulator's "simt.h", so that one kernel source runs in both.
// No standard and no CUDA header is included on the device: NVRTC needs none.
// "PTX ISA" below is NVIDIA's "Parallel Thread Execution ISA", version 8.7, with section names.
//
//   ptx.cuh         types, bits, float arithmetic, bytes
//   ptx_memory.cuh  16-byte words, shared memory, asynchronous copies
//   ptx_warp.cuh    barriers, shuffles, votes, ldmatrix, mma
//
// TARGET_SM (75, 80, ...) is given by the compiler's command line; it chooses instructions, never
// results.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define PTX_DEVICE 1
// Functions that threads meet in carry the line that called them when emulated.
#define PTX_SITE
#define PTX_AND_SITE
#define PTX_INLINE __device__ __forceinline__
#else
#define PTX_DEVICE 0
#include "simt.h"
#define PTX_SITE ::simt::Site site = {__builtin_FILE(), __builtin_LINE()}
#define PTX_AND_SITE , PTX_SITE
#define PTX_INLINE inline __attribute__((always_inline))
#endif

#ifndef TARGET_SM
#error "compile with -DTARGET_SM=75 or -DTARGET_SM=80"
#endif

#if defined(__CUDACC_RTC__)
// NVRTC has no <stdint.h> of its own.
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif

namespace ptx {

// The float with the bits of `bits`: float arguments reach a kernel as integers.
PTX_INLINE float int_as_float(int bits) {
#if PTX_DEVICE
    return __int_as_float(bits);
#else
    return ::simt::bit_cast<float>(bits);
#endif
}

PTX_INLINE int float_as_int(float value) {
#if PTX_DEVICE
    return __float_as_int(value);
#else
    return ::simt::bit_cast<int>(value);
#endif
}

// 2^x. Subnormal inputs and results count as zero.
// PTX ISA "ex2": relative error at most 2^-22; the emulator returns the float nearest to 2^x.
PTX_INLINE float exp2_approx(float x) {
#if PTX_DEVICE
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return ::simt::exp2_flushed(x);
#endif
}

// 1 / x. PTX ISA "rcp": at most 1 ulp away; the emulator returns the nearest float.
PTX_INLINE float reciprocal_approx(float x) {
#if PTX_DEVICE
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return ::simt::reciprocal_flushed(x);
#endif
}

// 1 / sqrt(x). PTX ISA "rsqrt": relative error at most 2^-22.9; the emulator: nearest float.
PTX_INLINE float rsqrt_approx(float x) {
#if PTX_DEVICE
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return ::simt::rsqrt_flushed(x);
#endif
}

// sqrt(x) rounded to nearest even, IEEE 754 (PTX ISA "sqrt", .rn).
PTX_INLINE float sqrt_rn(float x) {
#if PTX_DEVICE
    float y;
    asm("sqrt.rn.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return __builtin_sqrtf(x);
#endif
}

// a / b rounded to nearest even, IEEE 754 (PTX ISA "div", .rn).
PTX_INLINE float divide_rn(float a, float b) {
#if PTX_DEVICE
    float y;
    asm("div.rn.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
#else
    return a / b;
#endif
}

// Halves are raw bits (uint16_t) in these kernels. Widening is exact (PTX ISA "cvt").
PTX_INLINE float half_to_float(uint16_t half_bits) {
#if PTX_DEVICE
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(half_bits));
    return y;
#else
    return ::simt::half_to_float(half_bits);
#endif
}

// Rounds to nearest even; beyond 65,519.996 gives infinity (PTX ISA "cvt", .rn.f16.f32).
PTX_INLINE uint16_t float_to_half(float x) {
#if PTX_DEVICE
    uint16_t half_bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half_bits) : "f"(x));
    return half_bits;
#else
    return ::simt::float_to_half(x);
#endif
}

// Round half to even, clamp to -128..127, NaN -> 0: the INT8 contract in one instruction
// (PTX ISA "cvt": .rni rounds, .sat clamps to the range of s8, NaN converts to zero).
PTX_INLINE int float_to_s8(float x) {
#if PTX_DEVICE
    int y;
    asm("cvt.rni.sat.s8.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
#else
    return ::simt::float_to_s8(x);
#endif
}

// Four bytes picked from the eight of {high, low}: nibble i of `selector` names the byte that goes
// to byte i, 0..3 from `low`, 4..7 from `high`; its bit 3 spreads that byte's sign instead
// (PTX ISA "prmt", default mode).
PTX_INLINE uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
#if PTX_DEVICE
    uint32_t y;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(y) : "r"(low), "r"(high), "r"(selector));
    return y;
#else
    return ::simt::permute_bytes(low, high, selector);
#endif
}

// c + sum of the four products of unsigned bytes, modulo 2^32 (PTX ISA "dp4a").
PTX_INLINE uint32_t dot4_u8(uint32_t a, uint32_t b, uint32_t c) {
#if PTX_DEVICE
    uint32_t y;
    asm("dp4a.u32.u32 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c));
    return y;
#else
    return ::simt::dot4<uint8_t>(a, b, c);
#endif
}

// c + sum of the four products of signed bytes, modulo 2^32 (PTX ISA "dp4a").
PTX_INLINE int dot4_s8(uint32_t a, uint32_t b, int c) {
#if PTX_DEVICE
    int y;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c));
    return y;
#else
    return static_cast<int>(::simt::dot4<int8_t>(a, b, static_cast<uint32_t>(c)));
#endif
}

}  // namespace ptx

#include "ptx_memory.cuh"
#include "ptx_warp.cuh"
