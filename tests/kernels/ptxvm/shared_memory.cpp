#include <cstring>

#include "memory.h"

namespace ptxvm {
namespace {

std::string whom(uint16_t who) {
    if (who == kManyWarps) return "threads of several warps";
    if (who >= kWarpReader) return "warp " + std::to_string(who - kWarpReader);
    return "thread " + std::to_string(who);
}

int warp_of(uint16_t who) { return who >= kWarpReader ? who - kWarpReader : who / kLanes; }

// Did `earlier` happen without a barrier before `now`, on behalf of someone else?
bool conflicts(Stamp earlier, Stamp now) {
    if (earlier.block != now.block) return false;
    if (earlier.who == kManyWarps || warp_of(earlier.who) != warp_of(now.who)) return true;
    return earlier.sync == now.sync && (earlier.who != now.who || now.who >= kWarpReader);
}

std::string byte_at(uint64_t address) { return "shared byte " + std::to_string(address); }

}  // namespace

SharedMemory::SharedMemory(int bytes)
    : size_(bytes),
      data_(size_t(bytes)),
      is_split_(size_t(bytes + 3) / 4),
      words_(is_split_.size()),
      bytes_(is_split_.size() * 4) {}

void SharedMemory::start_block() {
    std::fill(is_split_.begin(), is_split_.end(), uint8_t(0));
    std::fill(words_.begin(), words_.end(), Shadow{});
}

void SharedMemory::check_bounds(uint64_t address, int bytes, const char* verb) const {
    const bool inside = address <= uint64_t(size_) && uint64_t(bytes) <= uint64_t(size_) - address;
    if (inside && (address & uint64_t(bytes - 1)) == 0) return;
    const std::string what = std::string(verb) + " " + std::to_string(bytes) + " bytes at offset " +
                             std::to_string(int64_t(address)) + " of the " + std::to_string(size_) +
                             " bytes of shared memory";
    if (!inside) throw Fault("out_of_bounds", what);
    throw Fault("misaligned", what + ", no multiple of its size");
}

void SharedMemory::split(uint32_t word) {
    if (is_split_[word]) return;
    for (uint32_t i = 0; i < 4; ++i) bytes_[word * 4 + i] = words_[word];
    is_split_[word] = 1;
}

template <class Visit>
void SharedMemory::visit(uint64_t address, int bytes, Visit note) {
    for (uint64_t at = address; at < address + uint64_t(bytes);) {
        const uint32_t word = uint32_t(at / 4);
        if (bytes < 4) split(word);
        if (is_split_[word]) {
            note(&bytes_[at], at);
            ++at;
        } else {
            note(&words_[word], at);
            at += 4;
        }
    }
}

void SharedMemory::note_read(Shadow* shadow, Stamp at, uint64_t address) const {
    const Stamp written = shadow->written;
    if (written.block == 0)
        throw Fault("uninitialised", "reads " + byte_at(address) + ", which nobody wrote");
    if (written.who == kInFlight)
        throw Fault("in_flight",
                    "reads " + byte_at(address) + " while a cp.async into it is in flight");
    if (conflicts(written, at))
        throw Fault("race", "reads " + byte_at(address) + ", written by " + whom(written.who) +
                                " with no barrier in between");
    Stamp& read = shadow->read;
    if (read.block != at.block) {
        read = at;
        return;
    }
    if (read.who == at.who && read.sync == at.sync) return;
    if (read.who == kManyWarps || warp_of(read.who) != warp_of(at.who)) {
        read = at;
        read.who = kManyWarps;
    } else if (read.sync != at.sync) {
        read = at;  // what this warp read before its own barrier can no longer conflict inside it
    } else {
        read.who = uint16_t(kWarpReader + warp_of(at.who));
    }
}

void SharedMemory::note_write(Shadow* shadow, Stamp at, uint64_t address) const {
    const Stamp written = shadow->written, read = shadow->read;
    if (written.who == kInFlight)
        throw Fault("in_flight",
                    "writes " + byte_at(address) + " while a cp.async into it is in flight");
    if (written.block != 0 && conflicts(written, at))
        throw Fault("race", "writes " + byte_at(address) + ", written by " + whom(written.who) +
                                " with no barrier in between");
    if (read.block != 0 && conflicts(read, at))
        throw Fault("race", "writes " + byte_at(address) + ", read by " + whom(read.who) +
                                " with no barrier in between");
    shadow->written = at;
}

const uint8_t* SharedMemory::read(uint64_t address, int bytes, Stamp at) {
    check_bounds(address, bytes, "reads");
    visit(address, bytes, [&](Shadow* shadow, uint64_t byte) { note_read(shadow, at, byte); });
    return data_.data() + address;
}

void SharedMemory::write(uint64_t address, const uint8_t* data, int bytes, Stamp at) {
    check_bounds(address, bytes, "writes");
    visit(address, bytes, [&](Shadow* shadow, uint64_t byte) { note_write(shadow, at, byte); });
    std::memcpy(data_.data() + address, data, size_t(bytes));
}

void SharedMemory::begin_copy(uint64_t address, int bytes, Stamp at) {
    check_bounds(address, bytes, "copies");
    visit(address, bytes, [&](Shadow* shadow, uint64_t byte) {
        note_write(shadow, at, byte);
        shadow->written.who = kInFlight;
    });
}

void SharedMemory::land_copy(uint64_t address, const uint8_t* data, int bytes, Stamp at) {
    visit(address, bytes, [&](Shadow* shadow, uint64_t) { shadow->written = at; });
    std::memcpy(data_.data() + address, data, size_t(bytes));
}

}  // namespace ptxvm
