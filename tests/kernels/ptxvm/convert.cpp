// cvt, cvt.pack (PTX ISA 8.7, 9.7.9.21, 9.7.9.22).
//
// Integers may sit in registers wider than their type: the low bits are read, and results are
// extended by their sign to the whole register (9.4.1, relaxed type checking).
#include <cmath>
#include <limits>

#include "half.h"
#include "warp.h"

namespace ptxvm {
namespace {

template <class D, class A>
inline D clamped(A a) {
    using Limits = std::numeric_limits<D>;
    const __int128 wide = a;
    if (wide < Limits::min()) return Limits::min();
    return wide > Limits::max() ? Limits::max() : D(a);
}

struct Cut {
    template <class D, class A>
    static D apply(A a) {
        return static_cast<D>(a);
    }
};
struct Saturated {
    template <class D, class A>
    static D apply(A a) {
        return clamped<D>(a);
    }
};

struct ToNearest {
    static double round(double x) { return std::nearbyint(x); }
};
struct ToZero {
    static double round(double x) { return std::trunc(x); }
};
struct Downwards {
    static double round(double x) { return std::floor(x); }
};
struct Upwards {
    static double round(double x) { return std::ceil(x); }
};

// Float to integer: rounded, then clamped to the type with or without .sat; NaN gives 0. The
// compare is made in double, where every limit of up to 32 bits is exact and the 64-bit upper
// limit rounds up to the first value that does not fit.
template <class Rounding>
struct FloatToInteger {
    template <class D, class A>
    static D apply(A a) {
        using Limits = std::numeric_limits<D>;
        const double x = Rounding::round(double(a));
        if (std::isnan(x)) return 0;
        if (x <= double(Limits::min())) return Limits::min();
        return x >= double(Limits::max()) ? Limits::max() : D(x);
    }
};
template <class Rounding>
struct RoundFloat {
    template <class D, class A>
    static D apply(A a) {
        return std::isnan(a) ? value_of<float>(0x7fffffffu) : D(Rounding::round(double(a)));
    }
};
// .sat on a float clamps to [0, 1]; NaN gives +0.
struct ClampToUnit {
    template <class D, class A>
    static D apply(A a) {
        return !(a > 0) ? D(0) : a > 1 ? D(1) : D(a);
    }
};
struct Flush {
    template <class D, class A>
    static D apply(A a) {
        return std::fpclassify(a) == FP_SUBNORMAL ? std::copysign(D(0), a) : D(a);
    }
};
struct ToHalf {
    template <class D, class A>
    static D apply(A a) {
        return half_from_float(a);
    }
};
struct FromHalf {
    template <class D, class A>
    static D apply(A a) {
        return float_from_half(a);
    }
};

// Conversion between registers stored in cells of type To and From.
template <class Operation, class D, class A, class To, class From>
void convert_cells(Warp& warp, const Instruction& in) {
    To* out = reinterpret_cast<To*>(warp.unit(in.operand[0]));
    const From* source = reinterpret_cast<const From*>(warp.unit(in.operand[1]));
    const To keep = in.width[0] == 16 ? To(0xffff) : ~To(0);
    for (int i = 0; i < kLanes; ++i) {
        const D value = Operation::template apply<D>(value_of<A>(static_cast<Cell<A>>(source[i])));
        To cell;
        if constexpr (std::is_floating_point_v<D>)
            cell = To(cell_of<D>(value));
        else
            cell = static_cast<To>(value) & keep;
        out[i] = warp.takes_part(i) ? cell : out[i];
    }
}

template <class Operation, class D, class A>
void convert(Warp& warp, const Instruction& in) {
    using W = uint32_t;
    using X = uint64_t;
    const bool to_wide = in.width[0] == 64, from_wide = in.width[1] == 64;
    if (!to_wide && !from_wide) return convert_cells<Operation, D, A, W, W>(warp, in);
    if (to_wide && from_wide) return convert_cells<Operation, D, A, X, X>(warp, in);
    if (to_wide) return convert_cells<Operation, D, A, X, W>(warp, in);
    convert_cells<Operation, D, A, W, X>(warp, in);
}

template <class Visit>
void for_all_integers(Visit visit) {
    visit("s8", int8_t{});
    visit("u8", uint8_t{});
    for_integers(visit);
}

template <class F>
void add_float_integer(Opcodes& table, const std::string& type) {
    const std::string letter(1, pattern_letter<F>());
    for_all_integers([&](const std::string& name, auto zero) {
        using T = decltype(zero);
        const auto add = [&](const std::string& rounding, Handler execute) {
            for (const char* modifiers : {"", ".ftz", ".sat", ".ftz.sat"})
                table.add("cvt." + rounding + modifiers + "." + name + "." + type,
                          {"a:" + letter, execute, "move", {}});
        };
        add("rni", &convert<FloatToInteger<ToNearest>, T, F>);
        add("rzi", &convert<FloatToInteger<ToZero>, T, F>);
        add("rmi", &convert<FloatToInteger<Downwards>, T, F>);
        add("rpi", &convert<FloatToInteger<Upwards>, T, F>);
        table.add("cvt.rn." + type + "." + name, {letter + ":a", &convert<Cut, F, T>, "move", {}});
    });
}

void add_float_float(Opcodes& table) {
    using F = float;
    const auto add = [&](const std::string& name, Handler execute, const char* pattern) {
        table.add(name, {pattern, execute, "move", {}});
    };
    add("cvt.rni.f32.f32", &convert<RoundFloat<ToNearest>, F, F>, "w:w");
    add("cvt.rzi.f32.f32", &convert<RoundFloat<ToZero>, F, F>, "w:w");
    add("cvt.rmi.f32.f32", &convert<RoundFloat<Downwards>, F, F>, "w:w");
    add("cvt.rpi.f32.f32", &convert<RoundFloat<Upwards>, F, F>, "w:w");
    add("cvt.sat.f32.f32", &convert<ClampToUnit, F, F>, "w:w");
    add("cvt.ftz.f32.f32", &convert<Flush, F, F>, "w:w");
    add("cvt.ftz.sat.f32.f32", &convert<ClampToUnit, F, F>, "w:w");
    add("cvt.f64.f32", &convert<Cut, double, F>, "x:w");
    add("cvt.rn.f32.f64", &convert<Cut, F, double>, "w:x");
    add("cvt.rn.f16.f32", &convert<ToHalf, uint16_t, F>, "h:w");
    add("cvt.f32.f16", &convert<FromHalf, F, uint16_t>, "w:h");
}

// cvt.rn.f16x2.f32 d, a, b: a goes to the upper half, b to the lower.
struct PackHalves {
    static uint32_t apply(float a, float b) {
        return uint32_t(half_from_float(a)) << 16 | half_from_float(b);
    }
};

// cvt.pack.sat d, a, b, c: b saturated in the lowest bits, a above it, c's low bits above both.
template <class T>
struct PackSaturated {
    static constexpr int kBits = 8 * sizeof(T);
    static uint32_t apply(int32_t a, int32_t b, uint32_t c) {
        using U = std::make_unsigned_t<T>;
        const uint32_t both = uint32_t(U(clamped<T>(a))) << kBits | U(clamped<T>(b));
        return kBits == 16 ? both : c << 2 * kBits | both;
    }
    static uint32_t apply(int32_t a, int32_t b) { return apply(a, b, 0); }
};

}  // namespace

void add_convert(Opcodes& table) {
    using W = uint32_t;
    using I = int32_t;
    for_all_integers([&](const std::string& to, auto to_zero) {
        for_all_integers([&](const std::string& from, auto from_zero) {
            using D = decltype(to_zero);
            using A = decltype(from_zero);
            const std::string types = to + "." + from;
            table.add("cvt." + types, {"a:a", &convert<Cut, D, A>, "move", {}});
            table.add("cvt.sat." + types, {"a:a", &convert<Saturated, D, A>, "move", {}});
        });
    });
    add_float_integer<float>(table, "f32");
    add_float_integer<double>(table, "f64");
    add_float_float(table);
    table.add("cvt.rn.f16x2.f32", elementwise<PackHalves, W, float, float>("move"));
    table.add("cvt.pack.sat.s8.s32.b32", elementwise<PackSaturated<int8_t>, W, I, I, W>("move"));
    table.add("cvt.pack.sat.u8.s32.b32", elementwise<PackSaturated<uint8_t>, W, I, I, W>("move"));
    table.add("cvt.pack.sat.s16.s32", elementwise<PackSaturated<int16_t>, W, I, I>("move"));
    table.add("cvt.pack.sat.u16.s32", elementwise<PackSaturated<uint16_t>, W, I, I>("move"));
}

}  // namespace ptxvm
