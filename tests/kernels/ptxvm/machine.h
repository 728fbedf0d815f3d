// One launch: runs the blocks one after another, their warps in turn between barriers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "memory.h"
#include "warp.h"

namespace ptxvm {

struct Launch {
    int grid[3];
    int block;
    int shared_bytes;            // dynamic
    uint64_t instruction_limit;  // warp instructions before the kernel counts as endless
};

struct Machine {
    const Program& program;
    Launch launch;
    GlobalMemory global;
    SharedMemory shared;
    std::vector<uint8_t> parameters;
    uint32_t block_index[3] = {};
    uint32_t block_epoch = 0;        // counts bar.sync, never repeats in a launch
    std::vector<uint64_t> executed;  // warp instructions by position in the code
    std::vector<Traffic> shared_traffic, global_traffic;
    uint64_t steps = 0;

    Machine(const Program& program, Launch launch, std::vector<Buffer> buffers,
            std::vector<uint8_t> parameters);
    void run();

    uint32_t linear_block() const {
        return (block_index[2] * uint32_t(launch.grid[1]) + block_index[1]) *
                   uint32_t(launch.grid[0]) +
               block_index[0];
    }
    uint32_t grid_thread(const Warp& warp, int lane) const {
        return linear_block() * uint32_t(launch.block) + uint32_t(warp.thread(lane));
    }
    Stamp stamp(const Warp& warp, int lane) const {
        return {block_epoch, uint16_t(warp.sync_epoch), uint16_t(warp.thread(lane))};
    }
    // Position of the instruction that `warp` executes, for the traffic counters.
    size_t position(const Warp& warp) const { return size_t(warp.pc); }

private:
    enum class Stop { kExited, kBarrier };
    void run_block();
    void start_warp(Warp& warp);
    void fill_specials(Warp& warp);
    Stop run_warp(Warp& warp);
    Stop step_until_stop(Warp& warp);
    void check_barriers(const std::vector<Stop>& stops) const;
    [[noreturn]] void explain(const Fault& fault, const Warp& warp) const;
    std::vector<std::unique_ptr<Warp>> warps_;
};

// Sources of a plain instruction must be defined where it executes; hands poison on for moves.
void check_defined(Warp& warp, const Instruction& in);

}  // namespace ptxvm
