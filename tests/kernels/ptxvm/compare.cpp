// Comparison and selection (PTX ISA 8.7, 9.7.6).
#include <cmath>

#include "warp.h"

namespace ptxvm {
namespace {

// Ordered comparisons are false when an operand is NaN, the unordered ones (equ, ltu, ...) true.
struct Equal {
    template <class T>
    static bool apply(T a, T b) {
        return a == b;
    }
};
struct NotEqual {
    template <class T>
    static bool apply(T a, T b) {
        return a < b || a > b;
    }
};
struct NotEqualInteger {
    template <class T>
    static bool apply(T a, T b) {
        return a != b;
    }
};
struct Less {
    template <class T>
    static bool apply(T a, T b) {
        return a < b;
    }
};
struct LessEqual {
    template <class T>
    static bool apply(T a, T b) {
        return a <= b;
    }
};
struct Greater {
    template <class T>
    static bool apply(T a, T b) {
        return a > b;
    }
};
struct GreaterEqual {
    template <class T>
    static bool apply(T a, T b) {
        return a >= b;
    }
};
struct Numbers {
    template <class T>
    static bool apply(T a, T b) {
        return !std::isnan(a) && !std::isnan(b);
    }
};
struct AnyNan {
    template <class T>
    static bool apply(T a, T b) {
        return std::isnan(a) || std::isnan(b);
    }
};
template <class Operation>
struct Unordered {
    template <class T>
    static bool apply(T a, T b) {
        return AnyNan::apply(a, b) || Operation::apply(a, b);
    }
};

// How a comparison meets the third operand of setp.
enum Combine : uint8_t { kAlone, kAnd, kOr, kXor };

uint32_t combined(uint8_t how, uint32_t compared, uint32_t other) {
    if (how == kAnd) return compared & other;
    if (how == kOr) return compared | other;
    return how == kXor ? compared ^ other : compared;
}

// setp p|q, a, b, c: p = (a cmp b) op c, q = !(a cmp b) op c.
template <class Compare, class T, bool flush>
void set_predicates(Warp& warp, const Instruction& in) {
    const Cell<T>* a = row<T>(warp, in, 2);
    const Cell<T>* b = row<T>(warp, in, 3);
    uint32_t compared = 0;
    for (int i = 0; i < kLanes; ++i) {
        T left = value_of<T>(a[i]), right = value_of<T>(b[i]);
        if constexpr (flush) {
            if (std::fpclassify(left) == FP_SUBNORMAL) left = 0;
            if (std::fpclassify(right) == FP_SUBNORMAL) right = 0;
        }
        compared |= uint32_t(Compare::apply(left, right)) << i;
    }
    const uint32_t other = in.operands > 4 ? predicate_source(warp, in, 4) : 0;
    set_predicate(warp, in, 0, combined(in.detail.combine, compared, other));
    set_predicate(warp, in, 1, combined(in.detail.combine, ~compared, other));
}

template <class Compare, class T, bool flush = false>
void add_setp(Opcodes& table, const std::string& name, const std::string& type) {
    const std::string tail = (flush ? ".ftz." : ".") + type;
    const std::pair<const char*, Combine> ways[] = {
        {"", kAlone}, {".and", kAnd}, {".or", kOr}, {".xor", kXor}};
    for (const auto& [word, combine] : ways) {
        Form form;
        form.pattern = "P:" + std::string(2, pattern_letter<T>()) + (combine == kAlone ? "" : "p");
        form.execute = &set_predicates<Compare, T, flush>;
        form.family = std::is_floating_point_v<T> ? "float" : "int";
        form.detail.combine = combine;
        table.add("setp." + name + word + tail, form);
    }
}

template <class T>
void add_integer_setp(Opcodes& table, const std::string& type, bool ordered) {
    add_setp<Equal, T>(table, "eq", type);
    add_setp<NotEqualInteger, T>(table, "ne", type);
    if (!ordered) return;
    add_setp<Less, T>(table, "lt", type);
    add_setp<LessEqual, T>(table, "le", type);
    add_setp<Greater, T>(table, "gt", type);
    add_setp<GreaterEqual, T>(table, "ge", type);
    if (std::is_signed_v<T>) return;
    add_setp<Less, T>(table, "lo", type);
    add_setp<LessEqual, T>(table, "ls", type);
    add_setp<Greater, T>(table, "hi", type);
    add_setp<GreaterEqual, T>(table, "hs", type);
}

template <class T, bool flush>
void add_float_setp(Opcodes& table, const std::string& type) {
    add_setp<Equal, T, flush>(table, "eq", type);
    add_setp<NotEqual, T, flush>(table, "ne", type);
    add_setp<Less, T, flush>(table, "lt", type);
    add_setp<LessEqual, T, flush>(table, "le", type);
    add_setp<Greater, T, flush>(table, "gt", type);
    add_setp<GreaterEqual, T, flush>(table, "ge", type);
    add_setp<Unordered<Equal>, T, flush>(table, "equ", type);
    add_setp<Unordered<NotEqual>, T, flush>(table, "neu", type);
    add_setp<Unordered<Less>, T, flush>(table, "ltu", type);
    add_setp<Unordered<LessEqual>, T, flush>(table, "leu", type);
    add_setp<Unordered<Greater>, T, flush>(table, "gtu", type);
    add_setp<Unordered<GreaterEqual>, T, flush>(table, "geu", type);
    add_setp<Numbers, T, flush>(table, "num", type);
    add_setp<AnyNan, T, flush>(table, "nan", type);
}

// selp: only the chosen operand need be defined.
template <class T>
void select(Warp& warp, const Instruction& in) {
    Cell<T>* out = row<T>(warp, in, 0);
    const Cell<T>*a = row<T>(warp, in, 1), *b = row<T>(warp, in, 2);
    const uint32_t chosen = predicate_source(warp, in, 3);
    const uint32_t known =
        (warp.defined[in.operand[1]] & chosen) | (warp.defined[in.operand[2]] & ~chosen);
    if (warp.mask & ~warp.defined[in.operand[3]])
        throw Fault("uninitialised", "the predicate of selp was never written",
                    __builtin_ctz(warp.mask & ~warp.defined[in.operand[3]]));
    for (int i = 0; i < kLanes; ++i) {
        const Cell<T> value = chosen >> i & 1 ? a[i] : b[i];
        out[i] = warp.takes_part(i) ? value : out[i];
    }
    uint32_t& defined = warp.defined[in.operand[0]];
    defined = (defined & ~warp.mask) | (known & warp.mask);
}

template <class T>
void add_selp(Opcodes& table, const std::string& type, const char* family) {
    Form form{"", &select<T>, family, {}};
    form.pattern =
        std::string(1, pattern_letter<T>()) + ":" + std::string(2, pattern_letter<T>()) + "p";
    form.detail.poison = Poison::kOwn;
    table.add("selp." + type, form);
}

// testp (9.7.3.1) looks at the class of one number.
template <int... classes>
struct IsClass {
    static bool apply(float a, float) { return ((std::fpclassify(a) == classes) || ...); }
};
template <class Test>
void test_property(Warp& warp, const Instruction& in) {
    uint32_t result = 0;
    const uint32_t* a = row<float>(warp, in, 1);
    for (int i = 0; i < kLanes; ++i)
        result |= uint32_t(Test::apply(value_of<float>(a[i]), 0.0f)) << i;
    set_predicate(warp, in, 0, result);
}

}  // namespace

void add_compare(Opcodes& table) {
    for_integers([&](const std::string& type, auto zero) {
        using T = decltype(zero);
        add_integer_setp<T>(table, type, true);
        add_selp<T>(table, type, "int");
    });
    for_bits([&](const std::string& type, auto zero) {
        using T = decltype(zero);
        add_integer_setp<T>(table, type, false);
        add_selp<T>(table, type, "int");
    });
    add_float_setp<float, false>(table, "f32");
    add_float_setp<float, true>(table, "f32");
    add_float_setp<double, false>(table, "f64");
    add_selp<float>(table, "f32", "float");
    add_selp<double>(table, "f64", "float");
    using Normal = IsClass<FP_NORMAL, FP_ZERO>;  // zero counts as normal
    using Finite = IsClass<FP_NORMAL, FP_SUBNORMAL, FP_ZERO>;
    using Number = IsClass<FP_NORMAL, FP_SUBNORMAL, FP_ZERO, FP_INFINITE>;
    table.add("testp.normal.f32", {"p:w", &test_property<Normal>, "float", {}});
    table.add("testp.subnormal.f32", {"p:w", &test_property<IsClass<FP_SUBNORMAL>>, "float", {}});
    table.add("testp.finite.f32", {"p:w", &test_property<Finite>, "float", {}});
    table.add("testp.infinite.f32", {"p:w", &test_property<IsClass<FP_INFINITE>>, "float", {}});
    table.add("testp.number.f32", {"p:w", &test_property<Number>, "float", {}});
    table.add("testp.notanumber.f32", {"p:w", &test_property<IsClass<FP_NAN>>, "float", {}});
}

}  // namespace ptxvm
