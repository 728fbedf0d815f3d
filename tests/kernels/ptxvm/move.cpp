// mov and cvta (PTX ISA 8.7, 9.7.9.3, 9.7.9.20).
#include "warp.h"

namespace ptxvm {
namespace {

template <class T>
struct Same {
    static T apply(T a) { return a; }
};

void move_predicate(Warp& warp, const Instruction& in) {
    set_predicate(warp, in, 0, predicate_source(warp, in, 1));
}

// mov.b64 {a, b}, r and the like: the first element is the least significant.
void unpack(Warp& warp, const Instruction& in) {
    const int source = in.destinations;
    for (int i = 0; i < kLanes; ++i) {
        if (!warp.takes_part(i)) continue;
        uint64_t value = in.width[source] == 64 ? row<uint64_t>(warp, in, source)[i]
                                                : row<uint32_t>(warp, in, source)[i];
        for (int d = 0; d < in.destinations; ++d) {
            row<uint32_t>(warp, in, d)[i] = uint32_t(value & ((1ull << in.width[d]) - 1));
            value >>= in.width[d];
        }
    }
}

void pack(Warp& warp, const Instruction& in) {
    for (int i = 0; i < kLanes; ++i) {
        if (!warp.takes_part(i)) continue;
        uint64_t value = 0;
        int shift = 0;
        for (int s = 1; s < in.operands; ++s) {
            value |= uint64_t(row<uint32_t>(warp, in, s)[i]) << shift;
            shift += in.width[s];
        }
        if (in.width[0] == 64)
            row<uint64_t>(warp, in, 0)[i] = value;
        else
            row<uint32_t>(warp, in, 0)[i] = uint32_t(value);
    }
}

// cvta: generic addresses of a space carry its window; global addresses are generic already.
template <int64_t offset>
struct Shifted {
    static uint64_t apply(uint64_t a) { return a + uint64_t(offset); }
};

}  // namespace

void add_move(Opcodes& table) {
    const auto add = [&](const std::string& name, Form form) {
        form.family = "move";
        form.detail.poison = Poison::kCopied;
        table.add(name, form);
    };
    for (const char* type : {"b16", "u16", "s16", "f16"})
        add(std::string("mov.") + type, elementwise<Same<uint16_t>, uint16_t, uint16_t>("move"));
    for (const char* type : {"b32", "u32", "s32", "f32"})
        add(std::string("mov.") + type, elementwise<Same<uint32_t>, uint32_t, uint32_t>("move"));
    for (const char* type : {"b64", "u64", "s64", "f64"})
        add(std::string("mov.") + type, elementwise<Same<uint64_t>, uint64_t, uint64_t>("move"));
    add("mov.pred", {"p:p", &move_predicate, "move", {}});
    add("mov.b32/unpack", {"(*):w", &unpack, "move", {}});
    add("mov.b64/unpack", {"(*):x", &unpack, "move", {}});
    add("mov.b32/pack", {"w:(*)", &pack, "move", {}});
    add("mov.b64/pack", {"x:(*)", &pack, "move", {}});
    using X = uint64_t;
    add("cvta.global.u64", elementwise<Shifted<0>, X, X>("move"));
    add("cvta.to.global.u64", elementwise<Shifted<0>, X, X>("move"));
    add("cvta.const.u64", elementwise<Shifted<0>, X, X>("move"));
    add("cvta.to.const.u64", elementwise<Shifted<0>, X, X>("move"));
    add("cvta.shared.u64", elementwise<Shifted<int64_t(kSharedWindow)>, X, X>("move"));
    add("cvta.to.shared.u64", elementwise<Shifted<-int64_t(kSharedWindow)>, X, X>("move"));
    add("cvta.local.u64", elementwise<Shifted<int64_t(kLocalWindow)>, X, X>("move"));
    add("cvta.to.local.u64", elementwise<Shifted<-int64_t(kLocalWindow)>, X, X>("move"));
}

}  // namespace ptxvm
