// Elements of the plain C++ references: halves and INT8 codes as real numbers, in double.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace reference {

// The value of an IEEE 754 binary16: sign, 5 bits of exponent (bias 15), 10 of fraction.
inline double real(uint16_t half_bits, double /*scale*/) {
    const int exponent = (half_bits >> 10) & 31;
    const int fraction = half_bits & 1023;
    double magnitude;
    if (exponent == 31) {
        magnitude = fraction ? std::numeric_limits<double>::quiet_NaN()
                             : std::numeric_limits<double>::infinity();
    } else if (exponent == 0) {
        magnitude = std::ldexp(fraction, -24);
    } else {
        magnitude = std::ldexp(1024 + fraction, exponent - 25);
    }
    return half_bits >> 15 ? -magnitude : magnitude;
}

inline double real(int8_t code, double scale) { return code * scale; }

// round-half-even(value / scale), clamped to -128..127; NaN gives 0.
inline int8_t quantize(double value, double scale) {
    if (std::isnan(value)) {
        return 0;
    }
    // The default rounding of the C++ environment is half to even.
    const double steps = std::nearbyint(value / scale);
    return static_cast<int8_t>(std::fmin(std::fmax(steps, -128.0), 127.0));
}

}  // namespace reference
