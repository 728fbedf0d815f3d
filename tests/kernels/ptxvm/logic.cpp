// Bitwise logic, bit fields and byte permutation (PTX ISA 8.7, 9.7.1.13 - 9.7.1.22, 9.7.8).
#include <algorithm>

#include "warp.h"

namespace ptxvm {
namespace {

struct And {
    template <class T>
    static T apply(T a, T b) {
        return T(a & b);
    }
};
struct Or {
    template <class T>
    static T apply(T a, T b) {
        return T(a | b);
    }
};
struct Xor {
    template <class T>
    static T apply(T a, T b) {
        return T(a ^ b);
    }
};
struct Not {
    template <class T>
    static T apply(T a) {
        return T(~a);
    }
};

template <class Operation>
void predicate_logic(Warp& warp, const Instruction& in) {
    set_predicate(warp, in, 0,
                  Operation::template apply<uint32_t>(predicate_source(warp, in, 1),
                                                      predicate_source(warp, in, 2)));
}
void predicate_not(Warp& warp, const Instruction& in) {
    set_predicate(warp, in, 0, ~predicate_source(warp, in, 1));
}

// lop3: the immediate is the truth table, indexed by the bits (a, b, c) with a on top (9.7.8.6).
void lop3(Warp& warp, const Instruction& in) {
    const uint32_t table = uint32_t(in.immediate[0]) & 0xff;
    const uint32_t *a = row<uint32_t>(warp, in, 1), *b = row<uint32_t>(warp, in, 2),
                   *c = row<uint32_t>(warp, in, 3);
    uint32_t* out = row<uint32_t>(warp, in, 0);
    for (int i = 0; i < kLanes; ++i) {
        if (!warp.takes_part(i)) continue;
        uint32_t result = 0;
        for (int entry = 0; entry < 8; ++entry)
            if (table >> entry & 1)
                result |= (entry & 4 ? a[i] : ~a[i]) & (entry & 2 ? b[i] : ~b[i]) &
                          (entry & 1 ? c[i] : ~c[i]);
        out[i] = result;
    }
}

// prmt, default mode: each selector nibble picks a byte of b:a, or with bit 3 set replicates
// that byte's sign (9.7.8.10).
struct PermuteBytes {
    static uint32_t apply(uint32_t a, uint32_t b, uint32_t selector) {
        const uint64_t bytes = uint64_t(b) << 32 | a;
        uint32_t result = 0;
        for (int i = 0; i < 4; ++i) {
            const uint32_t nibble = selector >> 4 * i & 15;
            uint32_t byte = uint32_t(bytes >> 8 * (nibble & 7)) & 0xff;
            if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
            result |= byte << 8 * i;
        }
        return result;
    }
};

// bfe: position and length are the low bytes of their operands; bits above the top of `a` repeat
// its sign when signed, or the field's own top bit when that lies inside (9.7.1.20).
struct ExtractField {
    template <class T>
    static T apply(T a, uint32_t position, uint32_t length) {
        constexpr uint32_t top = 8 * sizeof(T) - 1;
        position &= 0xff;
        length &= 0xff;
        const uint32_t sign_at = std::min(position + length - 1, top);
        const bool sign = std::is_signed_v<T> && length != 0 && (uint64_t(a) >> sign_at & 1);
        T result = 0;
        for (uint32_t i = 0; i <= top; ++i) {
            const bool inside = i < length && position + i <= top;
            const bool bit = inside ? uint64_t(a) >> (position + i) & 1 : sign;
            result = T(uint64_t(result) | uint64_t(bit) << i);
        }
        return result;
    }
};

// bfi: the low `length` bits of a go into b at `position` (9.7.1.21).
struct InsertField {
    template <class T>
    static T apply(T a, T b, uint32_t position, uint32_t length) {
        constexpr uint32_t top = 8 * sizeof(T) - 1;
        position &= 0xff;
        length &= 0xff;
        T result = b;
        for (uint32_t i = 0; i < length && position + i <= top; ++i) {
            const T bit = T(1) << (position + i);
            result = (a >> i & 1) ? T(result | bit) : T(result & ~bit);
        }
        return result;
    }
};

struct CountOnes {
    template <class T>
    static uint32_t apply(T a) {
        return uint32_t(__builtin_popcountll(a));
    }
};
struct LeadingZeros {
    template <class T>
    static uint32_t apply(T a) {
        return a ? uint32_t(__builtin_clzll(a)) - (64 - 8 * sizeof(T)) : 8 * sizeof(T);
    }
};
struct ReverseBits {
    template <class T>
    static T apply(T a) {
        T result = 0;
        for (size_t i = 0; i < 8 * sizeof(T); ++i) result = T(result << 1 | (a >> i & 1));
        return result;
    }
};
// bfind: index of the top bit that differs from the sign; all ones when there is none; with
// .shiftamt the shift that would bring it to the top (9.7.1.18).
template <bool shift_amount>
struct FindTopBit {
    template <class T>
    static uint32_t apply(T a) {
        using U = std::make_unsigned_t<T>;
        const U bits = a < 0 ? U(~U(a)) : U(a);
        if (bits == 0) return 0xffffffffu;
        const uint32_t index = 63 - uint32_t(__builtin_clzll(bits));
        return shift_amount ? uint32_t(8 * sizeof(T)) - 1 - index : index;
    }
};

void add_fields(Opcodes& table) {
    for_integers([&](const std::string& type, auto zero) {
        using T = decltype(zero);
        if (sizeof(T) == 2) return;
        table.add("bfe." + type, elementwise<ExtractField, T, T, uint32_t, uint32_t>("int"));
        table.add("bfind." + type, elementwise<FindTopBit<false>, uint32_t, T>("int"));
        table.add("bfind.shiftamt." + type, elementwise<FindTopBit<true>, uint32_t, T>("int"));
    });
    for_bits([&](const std::string& type, auto zero) {
        using T = decltype(zero);
        if (sizeof(T) == 2) return;
        table.add("bfi." + type, elementwise<InsertField, T, T, T, uint32_t, uint32_t>("int"));
        table.add("popc." + type, elementwise<CountOnes, uint32_t, T>("int"));
        table.add("clz." + type, elementwise<LeadingZeros, uint32_t, T>("int"));
        table.add("brev." + type, elementwise<ReverseBits, T, T>("int"));
    });
}

template <class Operation>
void add_binary(Opcodes& table, const std::string& name) {
    for_bits([&](const std::string& type, auto zero) {
        using T = decltype(zero);
        table.add(name + "." + type, elementwise<Operation, T, T, T>("int"));
    });
    table.add(name + ".pred", {"p:pp", &predicate_logic<Operation>, "int", {}});
}

}  // namespace

void add_logic(Opcodes& table) {
    add_binary<And>(table, "and");
    add_binary<Or>(table, "or");
    add_binary<Xor>(table, "xor");
    for_bits([&](const std::string& type, auto zero) {
        using T = decltype(zero);
        table.add("not." + type, elementwise<Not, T, T>("int"));
    });
    table.add("not.pred", {"p:p", &predicate_not, "int", {}});
    table.add("lop3.b32", {"w:wwwn", &lop3, "int", {}});
    table.add("prmt.b32",
              elementwise<PermuteBytes, uint32_t, uint32_t, uint32_t, uint32_t>("move"));
    add_fields(table);
}

}  // namespace ptxvm
