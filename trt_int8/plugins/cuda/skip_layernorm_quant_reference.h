// What skip_layernorm_quant.cu computes, in plain C++ and double: the formula, no kernel's order.
#pragma once

#include "reference_elements.h"

namespace reference {

// Inputs of a node. `X`, `R`: uint16_t (half bits) or int8_t. bias, residual and beta may be null.
template <typename X, typename R>
struct SkipLayerNorm {
    int rows, hidden;
    const X* x;  // [rows, hidden]
    double x_scale;
    const uint16_t* bias;  // [hidden]
    const R* residual;     // [rows, hidden]
    double residual_scale;
    const uint16_t* gamma;  // [hidden]
    const uint16_t* beta;   // [hidden]
    double epsilon, output_scale;
    bool rms;
};

// sum, normalised: [rows, hidden]. y: int8 [rows, hidden]. A row with NaN or Inf: NaN, y 0.
template <typename X, typename R>
void skip_layernorm_quant(const SkipLayerNorm<X, R>& node, double* sum, double* normalised,
                          int8_t* y) {
    for (int row = 0; row < node.rows; ++row) {
        const int start = row * node.hidden;
        double mean = 0, mean_square = 0, variance = 0;
        for (int h = 0; h < node.hidden; ++h) {
            double s = real(node.x[start + h], node.x_scale);
            s += node.bias ? real(node.bias[h], 1.0) : 0.0;
            s += node.residual ? real(node.residual[start + h], node.residual_scale) : 0.0;
            sum[start + h] = s;
            mean += s / node.hidden;
            mean_square += s * s / node.hidden;
        }
        for (int h = 0; h < node.hidden; ++h) {
            const double difference = sum[start + h] - mean;
            variance += difference * difference / node.hidden;
        }
        const double centre = node.rms ? 0.0 : mean;
        const double spread = std::sqrt((node.rms ? mean_square : variance) + node.epsilon);
        for (int h = 0; h < node.hidden; ++h) {
            const double unit = std::isfinite(spread) ? (sum[start + h] - centre) / spread
                                                      : std::numeric_limits<double>::quiet_NaN();
            const double shift = node.beta ? real(node.beta[h], 1.0) : 0.0;
            normalised[start + h] = unit * real(node.gamma[h], 1.0) + shift;
            y[start + h] = quantize(normalised[start + h], node.output_scale);
        }
    }
}

}  // namespace reference
