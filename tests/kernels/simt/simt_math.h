// Conversions and byte instructions of ptx.cuh in portable C++.
#pragma once

namespace simt {

template <typename To, typename From>
inline To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

// Subnormal floats become zero of the same sign (.ftz).
inline float flush(float x) {
    return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x;
}

// The three approximations: nearest float of the exact value, by way of double.
inline float exp2_flushed(float x) {
    return flush(static_cast<float>(std::exp2(static_cast<double>(flush(x)))));
}

inline float reciprocal_flushed(float x) {
    return flush(static_cast<float>(1.0 / static_cast<double>(flush(x))));
}

inline float rsqrt_flushed(float x) {
    return static_cast<float>(1.0 / std::sqrt(static_cast<double>(flush(x))));
}

// IEEE 754 binary16: 1 sign bit, 5 exponent bits (bias 15), 10 fraction bits.
inline float half_to_float(uint16_t half_bits) {
    const uint32_t sign = static_cast<uint32_t>(half_bits & 0x8000u) << 16;
    const uint32_t exponent = (half_bits >> 10) & 31u;
    const uint32_t fraction = half_bits & 1023u;
    if (exponent == 31u) {
        return bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
    }
    if (exponent == 0u) {
        // A subnormal half is fraction * 2^-24, which float holds exactly.
        const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
        return sign != 0u ? -magnitude : magnitude;
    }
    return bit_cast<float>(sign | ((exponent + 112u) << 23) | (fraction << 13));
}

inline uint16_t float_to_half(float x) {
    const uint32_t bits = bit_cast<uint32_t>(x);
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return 0x7fffu;  // PTX has one NaN of this width (PTX ISA "cvt": canonical NaN)
    }
    if (magnitude >= 0x477ff000u) {
        return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above round to infinity
    }
    if (magnitude < 0x38800000u) {
        // Below 2^-14: the sum with 0.5 leaves round(x * 2^24) in the low bits of the fraction.
        const float rounded = bit_cast<float>(magnitude) + 0.5f;
        return static_cast<uint16_t>(sign | (bit_cast<uint32_t>(rounded) - 0x3f000000u));
    }
    const uint32_t odd = (magnitude >> 13) & 1u;
    return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

inline int float_to_s8(float x) {
    if (std::isnan(x)) {
        return 0;
    }
    return static_cast<int>(std::nearbyint(std::fmin(std::fmax(x, -128.0f), 127.0f)));
}

inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
    const uint64_t bytes = (static_cast<uint64_t>(high) << 32) | low;
    uint32_t result = 0;
    for (unsigned i = 0; i < 4; ++i) {
        const uint32_t nibble = (selector >> (4 * i)) & 15u;
        uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (nibble & 7u))) & 255u;
        if ((nibble & 8u) != 0u) {
            byte = (byte & 128u) != 0u ? 255u : 0u;
        }
        result |= byte << (8 * i);
    }
    return result;
}

template <typename Byte>
inline uint32_t dot4(uint32_t a, uint32_t b, uint32_t c) {
    for (unsigned i = 0; i < 4; ++i) {
        const int left = static_cast<Byte>((a >> (8 * i)) & 255u);
        const int right = static_cast<Byte>((b >> (8 * i)) & 255u);
        c += static_cast<uint32_t>(left * right);
    }
    return c;
}

}  // namespace simt
