// One warp: its register file, its lanes' program counters, and how handlers reach operands.
#pragma once

#include <cstring>
#include <tuple>
#include <type_traits>
#include <vector>

#include "instruction.h"
#include "opcodes.h"

namespace ptxvm {

struct Machine;

// A pending cp.async of one lane; `group` counts the lane's commits before it was issued.
struct AsyncCopy {
    int lane;
    uint32_t group;
    uint32_t target;
    uint8_t bytes;
    uint8_t data[16];
};

// Register file: units of 32 lanes x 32 bits. A register of up to 32 bits owns one unit, a 64-bit
// one two (32 x uint64_t), a predicate one unit of which word 0 holds the 32 lanes' bits. 16-bit
// values are kept zero-extended. `defined[unit]` has a bit per lane that wrote the register.
struct Warp {
    Machine* machine = nullptr;
    int index = 0;
    uint32_t lanes = 0;  // lanes that exist: fewer than 32 in the last warp of an odd block
    uint32_t exited = 0;
    uint32_t active = 0;  // lanes at `pc`
    uint32_t mask = 0;    // lanes that execute the present instruction (guard applied)
    int pc = 0;
    int next_other_pc = 0;  // lowest pc of the live lanes that are not active
    int lane_pc[kLanes] = {};
    uint32_t sync_epoch = 1;  // counts bar.warp.sync: orders accesses inside the warp
    uint32_t commits[kLanes] = {};
    std::vector<AsyncCopy> copies;
    std::vector<uint32_t> storage, defined;
    std::vector<uint8_t> local;  // [lane][Program::local_bytes]
    std::vector<uint8_t> local_written;
    uint32_t* file = nullptr;

    uint32_t* unit(int index_) const { return file + size_t(index_) * kLanes; }
    bool takes_part(int lane) const { return mask >> lane & 1; }
    int thread(int lane) const { return index * kLanes + lane; }
    uint32_t& predicate(int index_) const { return unit(index_)[0]; }
};

template <class T>
using Cell = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

// Bits of a register as T: narrow integers are cut to size, floats keep their bits.
template <class T>
inline T value_of(Cell<T> cell) {
    if constexpr (std::is_floating_point_v<T>) {
        T value;
        std::memcpy(&value, &cell, sizeof value);
        return value;
    } else {
        return static_cast<T>(cell);
    }
}

template <class T>
inline Cell<T> cell_of(T value) {
    if constexpr (std::is_floating_point_v<T>) {
        Cell<T> cell;
        std::memcpy(&cell, &value, sizeof value);
        return cell;
    } else {
        return static_cast<std::make_unsigned_t<T>>(value);
    }
}

template <class T>
inline Cell<T>* row(const Warp& warp, const Instruction& in, int operand) {
    return reinterpret_cast<Cell<T>*>(warp.unit(in.operand[operand]));
}

// Runs Operation on every executing lane. Rows are equal or disjoint, so lanes never depend on
// each other: the loop over a full warp vectorises.
template <class Operation, class D, class... S>
struct Elementwise {
    template <size_t... I>
    static inline void run(Warp& warp, const Instruction& in, std::index_sequence<I...>) {
        Cell<D>* __restrict__ out = row<D>(warp, in, 0);
        const auto sources =
            std::make_tuple(static_cast<const Cell<S>*>(row<S>(warp, in, 1 + int(I)))...);
        if (warp.mask == kFullWarp) {
#pragma GCC ivdep
            for (int i = 0; i < kLanes; ++i)
                out[i] = cell_of<D>(Operation::apply(value_of<S>(std::get<I>(sources)[i])...));
            return;
        }
        for (int i = 0; i < kLanes; ++i)
            if (warp.takes_part(i))
                out[i] = cell_of<D>(Operation::apply(value_of<S>(std::get<I>(sources)[i])...));
    }
    static void execute(Warp& warp, const Instruction& in) {
        run(warp, in, std::index_sequence_for<S...>{});
    }
};

// The 32 lanes of a predicate source, "!p" applied.
inline uint32_t predicate_source(const Warp& warp, const Instruction& in, int operand) {
    const uint32_t bits = warp.predicate(in.operand[operand]);
    return in.negated >> operand & 1 ? ~bits : bits;
}

// Writes a predicate for the executing lanes only.
inline void set_predicate(const Warp& warp, const Instruction& in, int operand, uint32_t bits) {
    uint32_t& old = warp.predicate(in.operand[operand]);
    old = (old & ~warp.mask) | (bits & warp.mask);
}

template <class T>
constexpr char pattern_letter() {
    return sizeof(T) == 8 ? 'x' : sizeof(T) == 2 ? 'h' : 'w';
}

// The form of an elementwise operation; the pattern follows from the types.
template <class Operation, class D, class... S>
Form elementwise(const char* family) {
    Form form;
    form.pattern = std::string(1, pattern_letter<D>()) + ':';
    (form.pattern.push_back(pattern_letter<S>()), ...);
    form.execute = &Elementwise<Operation, D, S...>::execute;
    form.family = family;
    return form;
}

// Calls visit(name, T{}) for integer types by their PTX names.
template <class Visit>
void for_integers(Visit visit) {
    visit("s16", int16_t{});
    visit("u16", uint16_t{});
    visit("s32", int32_t{});
    visit("u32", uint32_t{});
    visit("s64", int64_t{});
    visit("u64", uint64_t{});
}

template <class Visit>
void for_bits(Visit visit) {
    visit("b16", uint16_t{});
    visit("b32", uint32_t{});
    visit("b64", uint64_t{});
}

}  // namespace ptxvm
