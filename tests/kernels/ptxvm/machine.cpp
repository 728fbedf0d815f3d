#include "machine.h"

#include <algorithm>
#include <climits>

namespace ptxvm {
namespace {

std::vector<Traffic> counters(const Program& program) {
    return std::vector<Traffic>(program.code.size());
}

uint32_t special_value(Special which, const Machine& machine, const Warp& warp, int lane) {
    const uint32_t bit = 1u << lane;
    const auto grid = [&](int axis) { return uint32_t(machine.launch.grid[axis]); };
    switch (which) {
        case Special::kTidX:
            return uint32_t(warp.thread(lane));
        case Special::kTidY:
        case Special::kTidZ:
            return 0;
        case Special::kNtidX:
            return uint32_t(machine.launch.block);
        case Special::kNtidY:
        case Special::kNtidZ:
            return 1;
        case Special::kCtaidX:
            return machine.block_index[0];
        case Special::kCtaidY:
            return machine.block_index[1];
        case Special::kCtaidZ:
            return machine.block_index[2];
        case Special::kNctaidX:
            return grid(0);
        case Special::kNctaidY:
            return grid(1);
        case Special::kNctaidZ:
            return grid(2);
        case Special::kLaneId:
            return uint32_t(lane);
        case Special::kWarpId:
            return uint32_t(warp.index);
        case Special::kNwarpId:
            return uint32_t(machine.launch.block + kLanes - 1) / kLanes;
        case Special::kMaskEq:
            return bit;
        case Special::kMaskLt:
            return bit - 1;
        case Special::kMaskLe:
            return bit | (bit - 1);
        case Special::kMaskGt:
            return ~(bit | (bit - 1));
        case Special::kMaskGe:
            return ~(bit - 1);
    }
    return 0;
}

// Lanes with the lowest pc go first: those that lag catch up, and paths that rejoin run together.
void choose_lanes(Warp& warp) {
    const uint32_t live = warp.lanes & ~warp.exited;
    warp.pc = warp.next_other_pc = INT_MAX;
    warp.active = 0;
    for (int i = 0; i < kLanes; ++i)
        if (live >> i & 1) warp.pc = std::min(warp.pc, warp.lane_pc[i]);
    for (int i = 0; i < kLanes; ++i) {
        if (!(live >> i & 1)) continue;
        if (warp.lane_pc[i] == warp.pc)
            warp.active |= 1u << i;
        else
            warp.next_other_pc = std::min(warp.next_other_pc, warp.lane_pc[i]);
    }
}

// The active lanes go on at `pc`; regroups when another path is there or further behind.
void advance(Warp& warp, int pc) {
    warp.pc = pc;
    if (pc < warp.next_other_pc) return;
    for (int i = 0; i < kLanes; ++i)
        if (warp.active >> i & 1) warp.lane_pc[i] = pc;
    choose_lanes(warp);
}

void branch(Warp& warp, const Instruction& in) {
    const uint32_t taken = warp.mask, stay = warp.active & ~taken;
    if (stay == 0) return advance(warp, in.target);
    if (taken == 0) return advance(warp, warp.pc + 1);
    if (in.detail.uniform) throw Fault("divergence", "bra.uni is taken by only some of the lanes");
    for (int i = 0; i < kLanes; ++i) {
        if (taken >> i & 1) warp.lane_pc[i] = in.target;
        if (stay >> i & 1) warp.lane_pc[i] = warp.pc + 1;
    }
    choose_lanes(warp);
}

void leave(Warp& warp) {
    for (int i = 0; i < kLanes; ++i)
        if (warp.active >> i & 1) warp.lane_pc[i] = warp.pc + 1;
    warp.exited |= warp.mask;
    choose_lanes(warp);
}

void check_full(const Warp& warp) {
    if (warp.mask != kFullWarp)
        throw Fault("divergence", "an .aligned instruction runs without lane " +
                                      std::to_string(__builtin_ctz(~warp.mask)) + " of its warp");
}

}  // namespace

void check_defined(Warp& warp, const Instruction& in) {
    uint32_t known = kFullWarp;
    for (int i = in.destinations; i < in.operands; ++i) known &= warp.defined[in.operand[i]];
    const uint32_t strange = warp.mask & ~known;
    if (strange && in.detail.poison == Poison::kChecked)
        throw Fault("uninitialised", "uses a register that was never written",
                    __builtin_ctz(strange));
    for (int i = 0; i < in.destinations; ++i) {
        uint32_t& defined = warp.defined[in.operand[i]];
        defined = (defined & ~warp.mask) | (known & warp.mask);
    }
}

Machine::Machine(const Program& program_, Launch launch_, std::vector<Buffer> buffers,
                 std::vector<uint8_t> parameters_)
    : program(program_),
      launch(launch_),
      global(std::move(buffers)),
      shared(program_.static_shared_bytes + launch_.shared_bytes),
      parameters(std::move(parameters_)),
      executed(program_.code.size()),
      shared_traffic(counters(program_)),
      global_traffic(counters(program_)) {
    for (int from = 0; from < launch.block; from += kLanes) {
        auto warp = std::make_unique<Warp>();
        const int count = std::min(kLanes, launch.block - from);
        warp->machine = this;
        warp->index = from / kLanes;
        warp->lanes = count == kLanes ? kFullWarp : (1u << count) - 1;
        warp->storage.resize(size_t(program.units) * kLanes + kLanes);
        // Rows start at multiples of 128 bytes.
        const size_t address = reinterpret_cast<size_t>(warp->storage.data());
        warp->file = warp->storage.data() + ((128 - address % 128) % 128) / 4;
        warp->defined.resize(size_t(program.units));
        warp->local.resize(size_t(program.local_bytes) * kLanes);
        warp->local_written.resize(warp->local.size());
        for (const Constant& constant : program.constants)
            for (int i = 0; i < kLanes; ++i) {
                if (constant.wide)
                    reinterpret_cast<uint64_t*>(warp->unit(constant.unit))[i] = constant.value;
                else
                    warp->unit(constant.unit)[i] = uint32_t(constant.value);
            }
        warps_.push_back(std::move(warp));
    }
}

void Machine::run() {
    const uint32_t blocks[3] = {uint32_t(launch.grid[0]), uint32_t(launch.grid[1]),
                                uint32_t(launch.grid[2])};
    for (block_index[2] = 0; block_index[2] < blocks[2]; ++block_index[2])
        for (block_index[1] = 0; block_index[1] < blocks[1]; ++block_index[1])
            for (block_index[0] = 0; block_index[0] < blocks[0]; ++block_index[0]) run_block();
    global.check_complete();
}

void Machine::start_warp(Warp& warp) {
    warp.exited = 0;
    warp.sync_epoch = 1;
    warp.copies.clear();
    std::fill(std::begin(warp.commits), std::end(warp.commits), 0u);
    std::fill(std::begin(warp.lane_pc), std::end(warp.lane_pc), 0);
    std::fill(warp.defined.begin(), warp.defined.end(), 0u);
    std::fill(warp.local_written.begin(), warp.local_written.end(), uint8_t(0));
    for (const Constant& constant : program.constants) warp.defined[constant.unit] = kFullWarp;
    for (const SpecialRegister& special : program.specials) {
        warp.defined[special.unit] = kFullWarp;
        for (int i = 0; i < kLanes; ++i)
            warp.unit(special.unit)[i] = special_value(special.which, *this, warp, i);
    }
    choose_lanes(warp);
}

void Machine::run_block() {
    shared.start_block();
    ++block_epoch;
    for (auto& warp : warps_) start_warp(*warp);
    while (true) {
        std::vector<Stop> stops;
        for (auto& warp : warps_) stops.push_back(run_warp(*warp));
        if (std::count(stops.begin(), stops.end(), Stop::kExited) == long(stops.size())) return;
        check_barriers(stops);
        ++block_epoch;
        for (auto& warp : warps_) {
            warp->sync_epoch = 1;  // only compared within one block epoch
            advance(*warp, warp->pc + 1);
        }
    }
}

// All warps must stand at one and the same barrier.
void Machine::check_barriers(const std::vector<Stop>& stops) const {
    const Warp& first = *warps_[0];
    for (size_t i = 0; i < stops.size(); ++i) {
        const Warp& warp = *warps_[i];
        if (stops[i] == stops[0] && (stops[0] == Stop::kExited || warp.pc == first.pc)) continue;
        const Warp& waiting = stops[i] == Stop::kBarrier ? warp : first;
        const std::string other = stops[i] == Stop::kBarrier && stops[0] == Stop::kBarrier
                                      ? "waits at another barrier"
                                      : "has left the kernel";
        const int index = &waiting == &warp ? 0 : int(i);
        const std::string what = "waits at a barrier while warp " + std::to_string(index) + " ";
        explain(Fault("divergence", what + other), waiting);
    }
}

Machine::Stop Machine::run_warp(Warp& warp) {
    try {
        return step_until_stop(warp);
    } catch (const Fault& fault) {
        explain(fault, warp);
    }
}

Machine::Stop Machine::step_until_stop(Warp& warp) {
    while (warp.active) {
        const Instruction& in = program.code[size_t(warp.pc)];
        ++executed[size_t(warp.pc)];
        if (++steps > launch.instruction_limit)
            throw Fault("limit", "the launch runs more instructions than allowed");
        warp.mask = warp.active;
        if (in.guarded) {
            if (warp.active & ~warp.defined[in.guard])
                throw Fault("uninitialised", "its guard was never written");
            const uint32_t bits = warp.predicate(in.guard);
            warp.mask &= in.guard_negated ? ~bits : bits;
        }
        switch (in.detail.control) {
            case Control::kBranch:
                branch(warp, in);
                continue;
            case Control::kExit:
                if (!warp.copies.empty() && (warp.exited | warp.mask) == warp.lanes)
                    throw Fault("in_flight",
                                "leaves the kernel with a cp.async that was never waited for",
                                warp.copies.front().lane);
                leave(warp);
                continue;
            case Control::kBlockBarrier:
                if (warp.mask != warp.lanes)
                    throw Fault("divergence", "only some lanes of the warp reach the barrier");
                return Stop::kBarrier;
            case Control::kPlain:
                break;
        }
        if (in.detail.aligned) check_full(warp);
        if (warp.mask) {
            if (in.detail.poison != Poison::kOwn) check_defined(warp, in);
            in.execute(warp, in);
        }
        advance(warp, warp.pc + 1);
    }
    return Stop::kExited;
}

void Machine::explain(const Fault& fault, const Warp& warp) const {
    const Instruction& in =
        program.code[size_t(std::min<size_t>(size_t(warp.pc), program.code.size() - 1))];
    const int lane = fault.lane >= 0 ? fault.lane : warp.mask ? __builtin_ctz(warp.mask) : 0;
    std::string where = "block (" + std::to_string(block_index[0]) + ", " +
                        std::to_string(block_index[1]) + ", " + std::to_string(block_index[2]) +
                        "), " +
                        (fault.lane >= 0 ? "thread " + std::to_string(warp.thread(lane))
                                         : "warp " + std::to_string(warp.index)) +
                        ", PTX line " + std::to_string(in.text_line);
    if (in.line >= 0) where += " (" + program.lines[size_t(in.line)].leaf + ")";
    throw Fault(fault.kind,
                program.opcodes[size_t(in.opcode)].name + " " + fault.what() + "; " + where,
                fault.lane);
}

}  // namespace ptxvm
