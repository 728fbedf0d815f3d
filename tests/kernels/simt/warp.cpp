// What the lanes of a warp do together: each brings operands, the last one to come computes.
#include <algorithm>

#include "engine.h"
#include "sanitizer.h"

namespace simt {

namespace {

Warp& warp_of(const Thread& thread) { return engine().warps[thread.index / WARP_LANES]; }

std::array<Operands, WARP_LANES>& operands_now(const Thread& self) {
    return warp_of(self).operands[self.warp_meetings % 2];
}

Operands& mine_now(const Thread& self) { return operands_now(self)[self.index % WARP_LANES]; }

// Says with whom the running thread cannot meet.
[[noreturn]] void cannot_meet(Meeting meeting, Site site, unsigned first) {
    const Engine& e = engine();
    const std::string meets = std::string(" meets its warp in ") + name_of(meeting);
    const std::string who = where() + meets + at(site) + ", but ";
    if (first + WARP_LANES > e.threads.size()) {
        fault("launch", who + "a block of " + std::to_string(e.threads.size()) +
                            " threads leaves that warp without all its lanes");
    }
    for (unsigned i = first; i < first + WARP_LANES; ++i) {
        const Thread& other = e.threads[i];
        if (other.exited) {
            fault("divergence", who + "thread " + std::to_string(i) + " has returned");
        }
        const bool waits = other.waiting_for != Meeting::none;
        if (waits && (other.waiting_for != meeting || other.site.line != site.line)) {
            fault("divergence", who + "thread " + std::to_string(i) + " waits in " +
                                    name_of(other.waiting_for) + at(other.site));
        }
    }
    fault("divergence", who + "not all of its lanes");
}

// Arrives at a meeting of the running thread's warp; true in the lane that came last.
bool arrive(Meeting meeting, Site site) {
    Engine& e = engine();
    Thread& self = *e.running;
    Warp& warp = warp_of(self);
    const unsigned first = self.index / WARP_LANES * WARP_LANES;
    const bool differs = warp.arrived > 0 &&
                         (warp.first->waiting_for != meeting || warp.first->site.line != site.line);
    if (first + WARP_LANES > e.threads.size() || warp.absent > 0 || differs) {
        cannot_meet(meeting, site, first);
    }
    warp.first = warp.arrived == 0 ? &self : warp.first;
    if (++warp.arrived < WARP_LANES) {
        return false;
    }
    warp.arrived = 0;
    for (unsigned i = first; i < first + WARP_LANES; ++i) {
        e.threads[i].ready = true;
        e.threads[i].waiting_for = Meeting::none;
    }
    return true;
}

// Brings operands to the meeting, waits, and returns those of all lanes. `compute` runs once.
template <typename Compute>
const std::array<Operands, WARP_LANES>& exchange(Meeting meeting, Site site, Compute compute) {
    Thread& self = *engine().running;
    std::array<Operands, WARP_LANES>& all = operands_now(self);
    if (arrive(meeting, site)) {
        compute(all);
    } else {
        wait(meeting, site);
    }
    ++self.warp_meetings;
    return all;
}

void no_compute(const std::array<Operands, WARP_LANES>&) {}

// C[16,8] of A[16,32] B[32,8] from the fragments; PTX ISA "Matrix Fragments for mma.m16n8k32".
void multiply(std::array<Operands, WARP_LANES>& lanes, bool a_unsigned) {
    int16_t a[16][32];
    int16_t b[8][32];
    for (unsigned lane = 0; lane < WARP_LANES; ++lane) {
        const unsigned group = lane / 4, in_group = lane % 4;
        for (unsigned i = 0; i < 16; ++i) {
            const uint8_t byte = static_cast<uint8_t>(lanes[lane].words[i / 4] >> (8 * (i % 4)));
            const unsigned row = group + (i / 4 % 2 == 1 ? 8 : 0);
            const unsigned column = 4 * in_group + i % 4 + (i >= 8 ? 16 : 0);
            a[row][column] = a_unsigned ? static_cast<int16_t>(byte) : static_cast<int8_t>(byte);
        }
        for (unsigned i = 0; i < 8; ++i) {
            const uint32_t word = lanes[lane].words[4 + i / 4];
            const unsigned row = 4 * in_group + i % 4 + (i >= 4 ? 16 : 0);
            b[group][row] = static_cast<int8_t>(static_cast<uint8_t>(word >> (8 * (i % 4))));
        }
    }
    for (unsigned lane = 0; lane < WARP_LANES; ++lane) {
        for (unsigned i = 0; i < 4; ++i) {
            const int16_t* row = a[lane / 4 + (i >= 2 ? 8 : 0)];
            const int16_t* column = b[2 * (lane % 4) + i % 2];
            int32_t sum = 0;
            for (unsigned k = 0; k < 32; ++k) {
                sum += row[k] * column[k];
            }
            lanes[lane].products[i] = sum;
        }
    }
}

// Wavefronts that one matrix of eight 16-byte rows takes: two different rows that lie a multiple of
// 128 bytes apart, the width of the 32 banks, cannot be served together.
unsigned wavefronts(const uint8_t* const* rows) {
    unsigned most = 1;
    for (unsigned i = 0; i < 8; ++i) {
        unsigned same_banks = 0;
        for (unsigned j = 0; j < 8; ++j) {
            const bool repeated = std::find(rows, rows + j, rows[j]) != rows + j;
            const uintptr_t distance = reinterpret_cast<uintptr_t>(rows[i]) / 16 -
                                       reinterpret_cast<uintptr_t>(rows[j]) / 16;
            same_banks += !repeated && distance % 8 == 0 ? 1 : 0;
        }
        most = std::max(most, same_banks);
    }
    return most;
}

}  // namespace

}  // namespace simt

extern "C" {

using simt::Meeting;
using simt::Operands;
using simt::WARP_LANES;

void simt_sync_warp(simt::Site site) {
    simt::Thread& self = *simt::engine().running;
    uint64_t* of_warp = simt::engine().sync_words + 2 + 2 * (self.index / WARP_LANES);
    uint64_t* word = of_warp + self.warp_meetings % 2;
    simt::sanitizer::release(word);
    simt::exchange(Meeting::warp_barrier, site, simt::no_compute);
    simt::sanitizer::acquire(word);
}

uint32_t simt_shuffle_xor(uint32_t value, int lane_mask, simt::Site site) {
    simt::Thread& self = *simt::engine().running;
    const unsigned lane = self.index % WARP_LANES;
    simt::mine_now(self).words[0] = value;
    const auto& all = simt::exchange(Meeting::shuffle, site, simt::no_compute);
    return all[(lane ^ static_cast<unsigned>(lane_mask)) % WARP_LANES].words[0];
}

uint32_t simt_ballot(bool mine, simt::Site site) {
    simt::mine_now(*simt::engine().running).words[0] = mine ? 1u : 0u;
    const auto& all = simt::exchange(Meeting::vote, site, simt::no_compute);
    uint32_t lanes = 0;
    for (unsigned i = 0; i < WARP_LANES; ++i) {
        lanes |= all[i].words[0] << i;
    }
    return lanes;
}

void simt_mma(int* c, const uint32_t* a, const uint32_t* b, bool a_unsigned, simt::Site site) {
    Operands& mine = simt::mine_now(*simt::engine().running);
    std::copy(a, a + 4, mine.words);
    std::copy(b, b + 2, mine.words + 4);
    const auto compute = [a_unsigned](auto& all) { simt::multiply(all, a_unsigned); };
    simt::exchange(Meeting::mma, site, compute);
    for (unsigned i = 0; i < 4; ++i) {
        c[i] =
            static_cast<int>(static_cast<uint32_t>(c[i]) + static_cast<uint32_t>(mine.products[i]));
    }
}

const uint8_t* const* simt_ldmatrix_rows(const void* row, int matrices, int checked_lanes,
                                         simt::Site site) {
    simt::Thread& self = *simt::engine().running;
    auto& rows = simt::warp_of(self).rows[self.warp_meetings % 2];
    rows[self.index % WARP_LANES] = static_cast<const uint8_t*>(row);
    simt::exchange(Meeting::ldmatrix, site, [&](auto&) {
        for (int lane = 0; lane < checked_lanes; ++lane) {
            const uint8_t* address = rows[static_cast<unsigned>(lane)];
            if (!simt::is_shared_row(address)) {
                simt::refuse(address, "ldmatrix" + simt::at(site) + " of " + simt::where() +
                                          ": the row of lane " + std::to_string(lane) + " is");
            }
        }
        simt::Counters& counters = simt::engine().counters;
        counters.ldmatrix_requests += static_cast<unsigned>(matrices);
        for (int m = 0; m < matrices; ++m) {
            counters.ldmatrix_wavefronts += simt::wavefronts(&rows[static_cast<unsigned>(8 * m)]);
        }
    });
    return rows.data();
}

}  // extern "C"
