// What bias_gelu_quant.cu computes, in plain C++ and double: the formula, no kernel's polynomial.
#pragma once

#include "reference_elements.h"

namespace reference {

inline double gelu(double v, bool tanh) {
    if (std::isinf(v)) {
        return std::fmax(v, 0.0);  // the limits; -Inf times zero would be NaN
    }
    // sqrt(1/2) and sqrt(2/pi).
    const double root_half = 0.70710678118654752440, root_two_over_pi = 0.79788456080286535588;
    return 0.5 * v *
           (1.0 + (tanh ? std::tanh(root_two_over_pi * (v + 0.044715 * v * v * v))
                        : std::erf(v * root_half)));
}

// Inputs of a node. `X`: uint16_t (half bits) or int8_t. `bias` may be null.
template <typename X>
struct BiasGelu {
    int rows, hidden;
    const X* x;  // [rows, hidden]
    double x_scale;
    const uint16_t* bias;  // [hidden]
    double output_scale;
    bool tanh;
};

// activated: [rows, hidden]. y: int8 [rows, hidden].
template <typename X>
void bias_gelu_quant(const BiasGelu<X>& node, double* activated, int8_t* y) {
    for (int i = 0; i < node.rows * node.hidden; ++i) {
        double v = real(node.x[i], node.x_scale);
        v += node.bias ? real(node.bias[i % node.hidden], 1.0) : 0.0;
        activated[i] = gelu(v, node.tanh);
        y[i] = quantize(activated[i], node.output_scale);
    }
}

}  // namespace reference
