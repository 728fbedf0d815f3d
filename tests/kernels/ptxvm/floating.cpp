// Floating point (PTX ISA 8.7, 9.7.3). Single operations round to nearest even as the host does;
// build without contraction (-ffp-contract=off), or mul + add would fuse here and not there.
//
// The .approx functions are computed in double and rounded once: nearer to the truth than a GPU,
// whose last bits are unspecified (9.7.3.21: ex2.approx has at most 2 ulp). Results that depend
// on them need a tolerance.
#include <cmath>
#include <limits>

#include "warp.h"

namespace ptxvm {
namespace {

// .ftz: subnormal inputs and results become zero of the same sign.
inline float flushed(float x) {
    return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x;
}
inline double flushed(double x) { return x; }

// PTX gives one canonical NaN (0x7fffffff) from arithmetic; the host keeps payloads (9.7.3).
inline float canonical(float x) {
    if (!std::isnan(x)) return x;
    return value_of<float>(0x7fffffffu);
}
inline double canonical(double x) { return x; }

struct Add {
    template <class T>
    static T apply(T a, T b) {
        return a + b;
    }
};
struct Sub {
    template <class T>
    static T apply(T a, T b) {
        return a - b;
    }
};
struct Mul {
    template <class T>
    static T apply(T a, T b) {
        return a * b;
    }
};
struct Div {
    template <class T>
    static T apply(T a, T b) {
        return a / b;
    }
};
struct Fma {
    template <class T>
    static T apply(T a, T b, T c) {
        return std::fma(a, b, c);
    }
};
struct SquareRoot {
    template <class T>
    static T apply(T a) {
        return std::sqrt(a);
    }
};
struct Reciprocal {
    template <class T>
    static T apply(T a) {
        return T(1) / a;
    }
};
struct ReciprocalRoot {
    static float apply(float a) { return float(1.0 / std::sqrt(double(a))); }
};
struct Exp2 {
    static float apply(float a) { return float(std::exp2(double(a))); }
};
struct Log2 {
    static float apply(float a) { return float(std::log2(double(a))); }
};
struct Tanh {
    static float apply(float a) { return float(std::tanh(double(a))); }
};

// min and max: a NaN loses against a number, and -0 counts as less than +0 (9.7.3.13, 9.7.3.14);
// with .NaN it wins.
template <bool largest, bool keep_nan>
struct Extreme {
    template <class T>
    static T apply(T a, T b) {
        if (std::isnan(a) || std::isnan(b)) {
            if (keep_nan) return std::numeric_limits<T>::quiet_NaN();
            return std::isnan(a) ? b : a;
        }
        if (a == b) return std::signbit(a) == largest ? b : a;
        return (a < b) == largest ? b : a;
    }
};

// Applies the result rules around an operation.
template <class Operation, bool flush>
struct Rounded {
    template <class... T>
    static auto apply(T... x) {
        if constexpr (flush)
            return canonical(flushed(Operation::apply(flushed(x)...)));
        else
            return canonical(Operation::apply(x...));
    }
};

// neg, abs and copysign only touch the sign bit, of NaNs too.
struct Negate {
    template <class T>
    static T apply(T a) {
        return -a;
    }
};
struct Absolute {
    template <class T>
    static T apply(T a) {
        return std::fabs(a);
    }
};
// copysign.f32 d, a, b: the sign of a on the magnitude of b (9.7.3.2).
struct CopySign {
    template <class T>
    static T apply(T a, T b) {
        return std::copysign(b, a);
    }
};

// One opcode, plain and as "<stem>.ftz.f32".
template <class Operation, class... S>
void add_both(Opcodes& table, const std::string& stem) {
    table.add(stem + ".f32", elementwise<Rounded<Operation, false>, float, S...>("float"));
    table.add(stem + ".ftz.f32", elementwise<Rounded<Operation, true>, float, S...>("float"));
}

void add_double(Opcodes& table) {
    using D = double;
    for (const char* rounding : {"", ".rn"}) {
        const std::string suffix = std::string(rounding) + ".f64";
        table.add("add" + suffix, elementwise<Add, D, D, D>("float"));
        table.add("sub" + suffix, elementwise<Sub, D, D, D>("float"));
        table.add("mul" + suffix, elementwise<Mul, D, D, D>("float"));
    }
    table.add("fma.rn.f64", elementwise<Fma, D, D, D, D>("float"));
    table.add("div.rn.f64", elementwise<Div, D, D, D>("float"));
    table.add("sqrt.rn.f64", elementwise<SquareRoot, D, D>("float"));
    table.add("rcp.rn.f64", elementwise<Reciprocal, D, D>("float"));
    table.add("neg.f64", elementwise<Negate, D, D>("float"));
    table.add("abs.f64", elementwise<Absolute, D, D>("float"));
    table.add("min.f64", elementwise<Extreme<false, false>, D, D, D>("float"));
    table.add("max.f64", elementwise<Extreme<true, false>, D, D, D>("float"));
}

}  // namespace

void add_float(Opcodes& table) {
    using F = float;
    for (const char* rounding : {"", ".rn"}) {
        add_both<Add, F, F>(table, std::string("add") + rounding);
        add_both<Sub, F, F>(table, std::string("sub") + rounding);
        add_both<Mul, F, F>(table, std::string("mul") + rounding);
    }
    add_both<Fma, F, F, F>(table, "fma.rn");
    for (const char* name : {"div.rn", "div.full", "div.approx"}) add_both<Div, F, F>(table, name);
    for (const char* name : {"sqrt.rn", "sqrt.approx"}) add_both<SquareRoot, F>(table, name);
    for (const char* name : {"rcp.rn", "rcp.approx"}) add_both<Reciprocal, F>(table, name);
    add_both<ReciprocalRoot, F>(table, "rsqrt.approx");
    add_both<Exp2, F>(table, "ex2.approx");
    add_both<Log2, F>(table, "lg2.approx");
    table.add("tanh.approx.f32", elementwise<Rounded<Tanh, false>, F, F>("float"));
    add_both<Extreme<false, false>, F, F>(table, "min");
    add_both<Extreme<true, false>, F, F>(table, "max");
    table.add("min.NaN.f32", elementwise<Rounded<Extreme<false, true>, false>, F, F, F>("float"));
    table.add("max.NaN.f32", elementwise<Rounded<Extreme<true, true>, false>, F, F, F>("float"));
    table.add("neg.f32", elementwise<Negate, F, F>("float"));
    table.add("abs.f32", elementwise<Absolute, F, F>("float"));
    table.add("copysign.f32", elementwise<CopySign, F, F, F>("float"));
    add_double(table);
}

}  // namespace ptxvm
