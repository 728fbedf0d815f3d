// Accesses that the emulator checks itself, and asynchronous copies: which are under way, and when
// they land.
#include <algorithm>

#include "engine.h"

namespace simt {

namespace {

// Whether `bytes` bytes from `address` lie inside the buffer.
bool holds(const Buffer& buffer, const uint8_t* address, size_t bytes) {
    const intptr_t offset = address - buffer.begin;
    return offset >= 0 && static_cast<size_t>(offset) + bytes <= buffer.bytes;
}

// "byte 40 of argument 2 (output), which has 32": of the memory that `address` is in or nearest to.
std::string place_of(const uint8_t* address) {
    const Engine& e = engine();
    const Buffer* nearest = &e.shared;
    const auto distance = [address](const Buffer& buffer) {
        const intptr_t before = buffer.begin - address;
        const intptr_t after = address - (buffer.begin + buffer.bytes);
        return std::max({before, after, intptr_t{0}});
    };
    for (const Buffer& buffer : e.buffers) {
        nearest = distance(buffer) < distance(*nearest) ? &buffer : nearest;
    }
    return "byte " + std::to_string(address - nearest->begin) + " of " + nearest->name +
           ", which has " + std::to_string(nearest->bytes);
}

bool aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

}  // namespace

bool is_shared_row(const uint8_t* address) {
    return holds(engine().shared, address, 16) && aligned(address);
}

void refuse(const uint8_t* address, const std::string& access) {
    if (aligned(address)) {
        fault("out_of_bounds", access + " " + place_of(address));
    }
    fault("misaligned", access + " " + place_of(address) + ": no multiple of 16");
}

}  // namespace simt

extern "C" {

void simt_misaligned(const void* address, simt::Site site) {
    const std::string who = simt::where() + simt::at(site);
    simt::refuse(static_cast<const uint8_t*>(address), who + " accesses");
}

void simt_check_copy(const void* shared, const void* global, int valid_bytes, simt::Site site) {
    const uint8_t* to = static_cast<const uint8_t*>(shared);
    const uint8_t* from = static_cast<const uint8_t*>(global);
    const bool sensible = valid_bytes >= 0 && valid_bytes <= 16;
    // The global address has to be good even when few bytes are read or none.
    const size_t bytes = sensible ? static_cast<size_t>(valid_bytes) : 0;
    bool inside = false;
    for (const simt::Buffer& buffer : simt::engine().buffers) {
        inside = inside || simt::holds(buffer, from, bytes);
    }
    if (sensible && simt::is_shared_row(to) && inside && simt::aligned(from)) {
        return;
    }
    const std::string who = "cp_async_16" + simt::at(site) + " of " + simt::where();
    if (!sensible) {
        simt::fault("undefined", who + " asks for " + std::to_string(valid_bytes) +
                                     " valid bytes, wanted 0 to 16");
    }
    if (!simt::is_shared_row(to)) {
        simt::refuse(to, who + " writes");
    }
    simt::refuse(from, who + " reads");
}

bool simt_copy_start(const simt::PendingCopy& copy) {
    simt::Engine& e = simt::engine();
    if (e.launch.seed % 3 == 2) {
        return false;
    }
    simt::CopyQueue& queue = e.running->copies;
    if (queue.end - queue.begin == simt::CopyQueue::CAPACITY) {
        simt::fault("limit", simt::where() + " has more than " +
                                 std::to_string(simt::CopyQueue::CAPACITY) +
                                 " cp.async copies under way");
    }
    queue.items[queue.end++ % simt::CopyQueue::CAPACITY] = {copy, queue.groups};
    return true;
}

void simt_copy_commit() { ++simt::engine().running->copies.groups; }

bool simt_copy_next(int newest, simt::PendingCopy* copy) {
    simt::CopyQueue& queue = simt::engine().running->copies;
    if (queue.begin == queue.end) {
        return false;
    }
    const simt::CopyQueue::Item& oldest = queue.items[queue.begin % simt::CopyQueue::CAPACITY];
    if (oldest.group + static_cast<unsigned>(newest) >= queue.groups) {
        return false;
    }
    *copy = oldest.copy;
    ++queue.begin;
    return true;
}

}  // extern "C"
