// Instructions in which lanes meet: shuffles, votes, reductions, bar.warp.sync
// (PTX ISA 8.7, 9.7.9.6, 9.7.13.1 - 9.7.13.6).
#include <algorithm>

#include "machine.h"

namespace ptxvm {
namespace {

// The member mask must name exactly the lanes that execute: a lane that is named but elsewhere
// would be waited for, one that executes unnamed is undefined.
void check_members(const Warp& warp, const Instruction& in, int operand) {
    for (int i = 0; i < kLanes; ++i) {
        if (!warp.takes_part(i)) continue;
        const uint32_t members = row<uint32_t>(warp, in, operand)[i];
        if (members == warp.mask) continue;
        const uint32_t strange = members ^ warp.mask;
        throw Fault("divergence",
                    "the member mask names other lanes than those that arrive together "
                    "(lane " +
                        std::to_string(__builtin_ctz(strange)) + " differs)",
                    i);
    }
}

enum class Shuffle { kUp, kDown, kButterfly, kIndex };

// shfl.sync d|p, a, b, c, members. c holds the clamp in bits 0-4 and the segment mask in 8-12.
template <Shuffle mode>
void shuffle(Warp& warp, const Instruction& in) {
    check_members(warp, in, 5);
    const uint32_t *a = row<uint32_t>(warp, in, 2), *b = row<uint32_t>(warp, in, 3),
                   *c = row<uint32_t>(warp, in, 4);
    uint32_t result[kLanes], inside = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
        if (!warp.takes_part(lane)) continue;
        const int amount = int(b[lane] & 31), segment = int(c[lane] >> 8 & 31);
        const int clamp = int(c[lane] & 31);
        const int lowest = lane & segment, highest = lowest | (clamp & ~segment);
        int from = lane;
        bool valid = false;
        if constexpr (mode == Shuffle::kUp) {
            from = lane - amount;
            valid = from >= highest;
        }
        if constexpr (mode == Shuffle::kDown) {
            from = lane + amount;
            valid = from <= highest;
        }
        if constexpr (mode == Shuffle::kButterfly) {
            from = lane ^ amount;
            valid = from <= highest;
        }
        if constexpr (mode == Shuffle::kIndex) {
            from = lowest | (amount & ~segment);
            valid = from <= highest;
        }
        if (!valid) from = lane;
        if (!warp.takes_part(from))
            throw Fault("divergence",
                        "a shuffle reads lane " + std::to_string(from) + ", which takes no part",
                        lane);
        result[lane] = a[from];
        inside |= uint32_t(valid) << lane;
    }
    uint32_t* out = row<uint32_t>(warp, in, 0);
    for (int lane = 0; lane < kLanes; ++lane)
        if (warp.takes_part(lane)) out[lane] = result[lane];
    set_predicate(warp, in, 1, inside);
}

enum class Vote { kAll, kAny, kUniform };

template <Vote kind>
void vote(Warp& warp, const Instruction& in) {
    check_members(warp, in, 2);
    const uint32_t ballot = predicate_source(warp, in, 1) & warp.mask;
    bool result = ballot == warp.mask;
    if (kind == Vote::kAny) result = ballot != 0;
    if (kind == Vote::kUniform) result |= ballot == 0;
    set_predicate(warp, in, 0, result ? kFullWarp : 0);
}

void give_all(Warp& warp, const Instruction& in, uint32_t value) {
    uint32_t* out = row<uint32_t>(warp, in, 0);
    for (int i = 0; i < kLanes; ++i)
        if (warp.takes_part(i)) out[i] = value;
}

void ballot(Warp& warp, const Instruction& in) {
    check_members(warp, in, 2);
    give_all(warp, in, predicate_source(warp, in, 1) & warp.mask);
}

void active_mask(Warp& warp, const Instruction& in) { give_all(warp, in, warp.mask); }

struct Sum {
    template <class T>
    static T apply(T a, T b) {
        return T(uint32_t(a) + uint32_t(b));
    }
};
struct Least {
    template <class T>
    static T apply(T a, T b) {
        return std::min(a, b);
    }
};
struct Most {
    template <class T>
    static T apply(T a, T b) {
        return std::max(a, b);
    }
};
struct And {
    template <class T>
    static T apply(T a, T b) {
        return a & b;
    }
};
struct Or {
    template <class T>
    static T apply(T a, T b) {
        return a | b;
    }
};
struct Xor {
    template <class T>
    static T apply(T a, T b) {
        return a ^ b;
    }
};

// redux.sync d, a, members (sm_80 and later).
template <class Operation, class T>
void reduce(Warp& warp, const Instruction& in) {
    check_members(warp, in, 2);
    const uint32_t* a = row<uint32_t>(warp, in, 1);
    const int first = __builtin_ctz(warp.mask);
    T total = T(a[first]);
    for (int i = first + 1; i < kLanes; ++i)
        if (warp.takes_part(i)) total = Operation::apply(total, T(a[i]));
    give_all(warp, in, uint32_t(total));
}

void warp_barrier(Warp& warp, const Instruction& in) {
    check_members(warp, in, 0);
    ++warp.sync_epoch;
}

}  // namespace

void add_warp_collectives(Opcodes& table) {
    const auto add = [&](const std::string& name, const std::string& pattern, Handler execute) {
        table.add(name, {pattern, execute, "shuffle", {}});
    };
    add("shfl.sync.up.b32", "S:wwww", &shuffle<Shuffle::kUp>);
    add("shfl.sync.down.b32", "S:wwww", &shuffle<Shuffle::kDown>);
    add("shfl.sync.bfly.b32", "S:wwww", &shuffle<Shuffle::kButterfly>);
    add("shfl.sync.idx.b32", "S:wwww", &shuffle<Shuffle::kIndex>);
    add("vote.sync.all.pred", "p:pw", &vote<Vote::kAll>);
    add("vote.sync.any.pred", "p:pw", &vote<Vote::kAny>);
    add("vote.sync.uni.pred", "p:pw", &vote<Vote::kUniform>);
    add("vote.sync.ballot.b32", "w:pw", &ballot);
    add("activemask.b32", "w:", &active_mask);
    add("redux.sync.add.s32", "w:ww", &reduce<Sum, int32_t>);
    add("redux.sync.add.u32", "w:ww", &reduce<Sum, uint32_t>);
    add("redux.sync.min.s32", "w:ww", &reduce<Least, int32_t>);
    add("redux.sync.min.u32", "w:ww", &reduce<Least, uint32_t>);
    add("redux.sync.max.s32", "w:ww", &reduce<Most, int32_t>);
    add("redux.sync.max.u32", "w:ww", &reduce<Most, uint32_t>);
    add("redux.sync.and.b32", "w:ww", &reduce<And, uint32_t>);
    add("redux.sync.or.b32", "w:ww", &reduce<Or, uint32_t>);
    add("redux.sync.xor.b32", "w:ww", &reduce<Xor, uint32_t>);
    table.add("bar.warp.sync", {":w", &warp_barrier, "control", {}});
}

}  // namespace ptxvm
