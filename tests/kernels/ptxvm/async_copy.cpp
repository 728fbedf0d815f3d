// cp.async (PTX ISA 8.7, 9.7.9.25.3). The bytes land only when a wait says they must have, so a
// wait that is too weak leaves them in flight and the next reader faults.
#include <algorithm>

#include "machine.h"

namespace ptxvm {
namespace {

uint64_t address(const Warp& warp, const Instruction& in, int operand, int lane) {
    const uint64_t base = in.width[operand] == 64 ? row<uint64_t>(warp, in, operand)[lane]
                                                  : row<uint32_t>(warp, in, operand)[lane];
    return base + uint64_t(in.immediate[operand]);
}

// A partial source is read byte by byte: its own bounds count, not those of the whole.
void read_source(const Warp& warp, uint64_t source, int bytes, uint32_t valid, AsyncCopy* pending) {
    const Machine& machine = *warp.machine;
    const uint32_t thread = machine.grid_thread(warp, pending->lane);
    if (valid == uint32_t(bytes)) {
        std::memcpy(pending->data, machine.global.read(source, bytes, thread, false), valid);
        return;
    }
    if (source % uint64_t(bytes) != 0)
        throw Fault("misaligned",
                    "reads at an address that is no multiple of " + std::to_string(bytes));
    for (uint32_t i = 0; i < valid; ++i)
        pending->data[i] = *machine.global.read(source + i, 1, thread, false);
}

// cp.async [shared], [global], size {, source size}: bytes beyond the source size become zero,
// and only the source bytes are read. Addresses of both sides are multiples of `size`.
void copy(Warp& warp, const Instruction& in) {
    Machine& machine = *warp.machine;
    const int bytes = int(in.immediate[2]);
    if (bytes != 4 && bytes != 8 && bytes != 16)
        throw Fault("undefined", "copies " + std::to_string(bytes) + " bytes at once");
    Access targets[kLanes], sources[kLanes];
    int total = 0, reads = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
        if (!warp.takes_part(lane)) continue;
        const uint64_t target = address(warp, in, 0, lane), source = address(warp, in, 1, lane);
        const uint32_t valid = in.operands > 2 ? row<uint32_t>(warp, in, 2)[lane] : uint32_t(bytes);
        AsyncCopy pending{lane, warp.commits[lane], uint32_t(target), uint8_t(bytes), {}};
        try {
            if (valid > uint32_t(bytes))
                throw Fault("undefined", "cp.async of " + std::to_string(bytes) +
                                             " bytes with a source of " + std::to_string(valid));
            read_source(warp, source, bytes, valid, &pending);
            machine.shared.begin_copy(target, bytes, machine.stamp(warp, lane));
        } catch (Fault& fault) {
            fault.lane = lane;
            throw;
        }
        warp.copies.push_back(pending);
        targets[total++] = {target, lane};
        if (valid) sources[reads++] = {source, lane};
    }
    const size_t at = machine.position(warp);
    count_shared(&machine.shared_traffic[at], targets, total, bytes);
    if (reads) count_global(&machine.global_traffic[at], sources, reads, bytes);
}

void commit(Warp& warp, const Instruction&) {
    for (int i = 0; i < kLanes; ++i) warp.commits[i] += uint32_t(warp.takes_part(i));
}

// Lands the copies of executing lanes that `due(copy)` names.
template <class Due>
void land(Warp& warp, Due due) {
    const auto landed = [&](const AsyncCopy& pending) {
        if (!warp.takes_part(pending.lane) || !due(pending)) return false;
        warp.machine->shared.land_copy(pending.target, pending.data, pending.bytes,
                                       warp.machine->stamp(warp, pending.lane));
        return true;
    };
    warp.copies.erase(std::remove_if(warp.copies.begin(), warp.copies.end(), landed),
                      warp.copies.end());
}

// All groups but the lane's latest `in.immediate` ones have landed.
void wait_group(Warp& warp, const Instruction& in) {
    land(warp, [&](const AsyncCopy& pending) {
        return int64_t(pending.group) + in.immediate[0] < int64_t(warp.commits[pending.lane]);
    });
}
void wait_all(Warp& warp, const Instruction&) {
    land(warp, [](const AsyncCopy&) { return true; });
}

}  // namespace

void add_async_copy(Opcodes& table) {
    for (const char* cache : {"ca", "cg"})
        for (const char* space : {"shared", "shared::cta"})
            for (const char* prefetch : {"", ".L2::64B", ".L2::128B", ".L2::256B"})
                table.add(std::string("cp.async.") + cache + "." + space + ".global" + prefetch,
                          {":mmn?w", &copy, "memory", {}});
    table.add("cp.async.commit_group", {":", &commit, "memory", {}});
    table.add("cp.async.wait_group", {":n", &wait_group, "memory", {}});
    table.add("cp.async.wait_all", {":", &wait_all, "memory", {}});
}

}  // namespace ptxvm
