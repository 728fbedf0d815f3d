// IEEE binary16 in bits, round to nearest even; a NaN becomes the canonical one.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace ptxvm {

inline float float_from_half(uint16_t half) {
    const uint32_t exponent = half >> 10 & 31, fraction = half & 1023;
    float value;
    if (exponent == 31)
        value = fraction ? NAN : INFINITY;
    else if (exponent == 0)
        value = std::ldexp(float(fraction), -24);
    else
        value = std::ldexp(float(1024 + fraction), int(exponent) - 25);
    return half & 0x8000 ? -value : value;
}

inline uint16_t half_from_float(float value) {
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const float size = std::fabs(value);
    if (std::isnan(value)) return 0x7fff;
    if (size >= 65520.0f) return sign | 0x7c00;  // half a step above the largest half, 65504
    if (size < 6.103515625e-05f)                 // below 2^-14: steps of 2^-24
        return sign | uint16_t(std::nearbyint(std::ldexp(size, 24)));
    uint32_t bits;
    std::memcpy(&bits, &size, sizeof bits);
    bits += 0xfff + (bits >> 13 & 1);  // ties go to the even fraction
    return sign | uint16_t((bits - (112u << 23)) >> 13);
}

}  // namespace ptxvm
