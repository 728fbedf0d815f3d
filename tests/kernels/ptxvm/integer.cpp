// Integer arithmetic and extended shifts (PTX ISA 8.7, 9.7.1 and 9.7.8.9).
#include <algorithm>

#include "warp.h"

namespace ptxvm {
namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;
template <class T>
using Wide =
    std::conditional_t<std::is_signed_v<T>, std::conditional_t<sizeof(T) == 2, int32_t, int64_t>,
                       std::conditional_t<sizeof(T) == 2, uint32_t, uint64_t>>;
template <class T>
using Double =
    std::conditional_t<std::is_signed_v<T>, std::conditional_t<sizeof(T) == 8, __int128, int64_t>,
                       std::conditional_t<sizeof(T) == 8, unsigned __int128, uint64_t>>;

// Wrap-around results are computed unsigned: signed overflow is undefined in C++. The 64-bit
// detour keeps 16-bit operands from being promoted to a signed int.
template <class T>
T wrapped(uint64_t value) {
    return static_cast<T>(value);
}

struct Add {
    template <class T>
    static T apply(T a, T b) {
        return wrapped<T>(uint64_t(a) + uint64_t(b));
    }
};
struct Sub {
    template <class T>
    static T apply(T a, T b) {
        return wrapped<T>(uint64_t(a) - uint64_t(b));
    }
};
struct MulLow {
    template <class T>
    static T apply(T a, T b) {
        return wrapped<T>(uint64_t(a) * uint64_t(b));
    }
};
struct MulHigh {
    template <class T>
    static T apply(T a, T b) {
        return static_cast<T>((Double<T>(a) * Double<T>(b)) >> (8 * sizeof(T)));
    }
};
struct MulWide {
    template <class T>
    static Wide<T> apply(T a, T b) {
        return Wide<T>(a) * Wide<T>(b);
    }
};
struct MadLow {
    template <class T>
    static T apply(T a, T b, T c) {
        return Add::apply<T>(MulLow::apply<T>(a, b), c);
    }
};
struct MadHigh {
    template <class T>
    static T apply(T a, T b, T c) {
        return Add::apply<T>(MulHigh::apply<T>(a, b), c);
    }
};
struct MadWide {
    template <class T>
    static Wide<T> apply(T a, T b, Wide<T> c) {
        return Add::apply<Wide<T>>(MulWide::apply<T>(a, b), c);
    }
};
// add.sat.s32 and sub.sat.s32 clamp to the type; only these two have .sat.
struct AddSaturated {
    static int32_t apply(int32_t a, int32_t b) {
        return int32_t(std::clamp<int64_t>(int64_t(a) + b, INT32_MIN, INT32_MAX));
    }
};
struct SubSaturated {
    static int32_t apply(int32_t a, int32_t b) {
        return int32_t(std::clamp<int64_t>(int64_t(a) - b, INT32_MIN, INT32_MAX));
    }
};
struct Minimum {
    template <class T>
    static T apply(T a, T b) {
        return a < b ? a : b;
    }
};
struct Maximum {
    template <class T>
    static T apply(T a, T b) {
        return a > b ? a : b;
    }
};
// The most negative number is its own absolute value and negative (9.7.1.11, 9.7.1.12).
struct Negate {
    template <class T>
    static T apply(T a) {
        return wrapped<T>(0 - uint64_t(a));
    }
};
struct Absolute {
    template <class T>
    static T apply(T a) {
        return a < 0 ? Negate::apply<T>(a) : a;
    }
};
struct AbsoluteDifferenceSum {
    template <class T>
    static T apply(T a, T b, T c) {
        return wrapped<T>(uint64_t(c) +
                          (a < b ? uint64_t(b) - uint64_t(a) : uint64_t(a) - uint64_t(b)));
    }
};

// Division by zero gives an unspecified machine value (9.7.1.8): here it is a fault, since no
// kernel can mean it. Truncates towards zero; the remainder has the dividend's sign.
template <class T, bool remainder>
void divide(Warp& warp, const Instruction& in) {
    Cell<T>* out = row<T>(warp, in, 0);
    const Cell<T>* above = row<T>(warp, in, 1);
    const Cell<T>* below = row<T>(warp, in, 2);
    for (int i = 0; i < kLanes; ++i) {
        if (!warp.takes_part(i)) continue;
        const T a = value_of<T>(above[i]), b = value_of<T>(below[i]);
        if (b == 0) throw Fault("undefined", "integer division by zero", i);
        // The one overflow, lowest / -1, wraps; C++ would trap.
        const bool overflow = std::is_signed_v<T> && b == T(-1);
        const T quotient = overflow ? Negate::apply<T>(a) : T(a / (overflow ? T(1) : b));
        out[i] = cell_of<T>(remainder ? (overflow ? T(0) : T(a % b)) : quotient);
    }
}

// Shift amounts beyond the width clamp to it (9.7.8.7, 9.7.8.8): all zeros, or all sign bits.
struct ShiftLeft {
    template <class T>
    static T apply(T a, uint32_t by) {
        return by >= 8 * sizeof(T) ? T(0) : T(uint64_t(a) << by);
    }
};
struct ShiftRight {
    template <class T>
    static T apply(T a, uint32_t by) {
        constexpr uint32_t top = 8 * sizeof(T) - 1;
        if (by <= top) return T(a >> by);
        return std::is_signed_v<T> ? T(a >> top) : T(0);
    }
};

// shf: the 64-bit value b:a shifted; .clamp limits the amount to 32, .wrap takes it modulo 32.
template <bool left, bool wrap>
struct FunnelShift {
    static uint32_t apply(uint32_t a, uint32_t b, uint32_t c) {
        const uint32_t by = wrap ? c & 31 : std::min(c, 32u);
        const uint64_t both = uint64_t(b) << 32 | a;
        return left ? uint32_t(by == 32 ? a : (both << by) >> 32) : uint32_t(both >> by);
    }
};

// dp4a: four byte products added to c; the sum wraps (9.7.1.23).
template <class A, class B>
struct DotProduct4 {
    static uint32_t apply(uint32_t a, uint32_t b, uint32_t c) {
        for (int i = 0; i < 4; ++i) c += uint32_t(int32_t(A(a >> 8 * i)) * int32_t(B(b >> 8 * i)));
        return c;
    }
};

void add_shifts(Opcodes& table) {
    for_integers([&](const char* type, auto zero) {
        using T = decltype(zero);
        table.add(std::string("shr.") + type, elementwise<ShiftRight, T, T, uint32_t>("int"));
    });
    for_bits([&](const char* type, auto zero) {
        using T = decltype(zero);
        table.add(std::string("shl.") + type, elementwise<ShiftLeft, T, T, uint32_t>("int"));
        table.add(std::string("shr.") + type, elementwise<ShiftRight, T, T, uint32_t>("int"));
    });
    using W = uint32_t;
    table.add("shf.l.clamp.b32", elementwise<FunnelShift<true, false>, W, W, W, W>("int"));
    table.add("shf.l.wrap.b32", elementwise<FunnelShift<true, true>, W, W, W, W>("int"));
    table.add("shf.r.clamp.b32", elementwise<FunnelShift<false, false>, W, W, W, W>("int"));
    table.add("shf.r.wrap.b32", elementwise<FunnelShift<false, true>, W, W, W, W>("int"));
    table.add("dp4a.u32.u32", elementwise<DotProduct4<uint8_t, uint8_t>, W, W, W, W>("int"));
    table.add("dp4a.u32.s32", elementwise<DotProduct4<uint8_t, int8_t>, W, W, W, W>("int"));
    table.add("dp4a.s32.u32", elementwise<DotProduct4<int8_t, uint8_t>, W, W, W, W>("int"));
    table.add("dp4a.s32.s32", elementwise<DotProduct4<int8_t, int8_t>, W, W, W, W>("int"));
}

template <class T>
void add_signed(Opcodes& table, const std::string& type) {
    table.add("neg." + type, elementwise<Negate, T, T>("int"));
    table.add("abs." + type, elementwise<Absolute, T, T>("int"));
}

template <class T>
void add_wide(Opcodes& table, const std::string& type) {
    table.add("mul.wide." + type, elementwise<MulWide, Wide<T>, T, T>("int"));
    table.add("mad.wide." + type, elementwise<MadWide, Wide<T>, T, T, Wide<T>>("int"));
}

}  // namespace

void add_integer(Opcodes& table) {
    for_integers([&](const std::string& type, auto zero) {
        using T = decltype(zero);
        table.add("add." + type, elementwise<Add, T, T, T>("int"));
        table.add("sub." + type, elementwise<Sub, T, T, T>("int"));
        table.add("mul.lo." + type, elementwise<MulLow, T, T, T>("int"));
        table.add("mul.hi." + type, elementwise<MulHigh, T, T, T>("int"));
        table.add("mad.lo." + type, elementwise<MadLow, T, T, T, T>("int"));
        table.add("mad.hi." + type, elementwise<MadHigh, T, T, T, T>("int"));
        table.add("min." + type, elementwise<Minimum, T, T, T>("int"));
        table.add("max." + type, elementwise<Maximum, T, T, T>("int"));
        table.add("sad." + type, elementwise<AbsoluteDifferenceSum, T, T, T, T>("int"));
        Form division = elementwise<Add, T, T, T>("int");
        division.execute = &divide<T, false>;
        table.add("div." + type, division);
        division.execute = &divide<T, true>;
        table.add("rem." + type, division);
    });
    add_signed<int16_t>(table, "s16");
    add_signed<int32_t>(table, "s32");
    add_signed<int64_t>(table, "s64");
    add_wide<int16_t>(table, "s16");
    add_wide<uint16_t>(table, "u16");
    add_wide<int32_t>(table, "s32");
    add_wide<uint32_t>(table, "u32");
    table.add("add.sat.s32", elementwise<AddSaturated, int32_t, int32_t, int32_t>("int"));
    table.add("sub.sat.s32", elementwise<SubSaturated, int32_t, int32_t, int32_t>("int"));
    add_shifts(table);
}

}  // namespace ptxvm
