#include "memory.h"

#include <algorithm>
#include <cstring>

namespace ptxvm {
namespace {

constexpr uint32_t kBanks = 32, kBankBytes = 4, kSectorBytes = 32;

// Wavefronts of one part of a warp access: the most distinct words wanted from one bank.
uint64_t wavefronts(const Access* accesses, int count, int bytes) {
    uint32_t words[kBanks * 4];
    int total = 0;
    for (int i = 0; i < count; ++i)
        for (int at = 0; at < bytes; at += int(kBankBytes))
            words[total++] = uint32_t(accesses[i].address + uint64_t(at)) / kBankBytes;
    std::sort(words, words + total);
    total = int(std::unique(words, words + total) - words);
    uint8_t wanted[kBanks] = {};
    uint8_t most = 0;
    for (int i = 0; i < total; ++i) most = std::max(most, ++wanted[words[i] % kBanks]);
    return most;
}

// Parts of 8 rows of 16 bytes, the common case: banks come in groups of four, so it is enough to
// look at which of the eight groups each row starts in.
uint64_t wavefronts_of_rows(const Access* accesses, int count) {
    uint8_t wanted[8] = {}, most = 0;
    for (int i = 0; i < count; ++i) {
        bool seen = false;
        for (int j = 0; j < i; ++j) seen |= accesses[j].address == accesses[i].address;
        if (!seen) most = std::max(most, ++wanted[accesses[i].address / 16 % 8]);
    }
    return most;
}

std::string bytes_at(int bytes, int64_t offset) {
    return std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes") + " at offset " +
           std::to_string(offset);
}

}  // namespace

void count_shared(Traffic* traffic, const Access* accesses, int count, int bytes) {
    const int part = bytes >= 16 ? 8 : bytes == 8 ? 16 : 32;
    for (int from = 0; from < count;) {
        // A part is lanes of the same half or quarter warp, whether they take part or not.
        int to = from;
        while (to < count && accesses[to].lane / part == accesses[from].lane / part) ++to;
        ++traffic->requests;
        traffic->units += bytes == 16 ? wavefronts_of_rows(accesses + from, to - from)
                                      : wavefronts(accesses + from, to - from, bytes);
        from = to;
    }
}

void count_global(Traffic* traffic, const Access* accesses, int count, int bytes) {
    uint64_t sectors[kLanes * 2];
    int total = 0;
    for (int i = 0; i < count; ++i) {
        sectors[total++] = accesses[i].address / kSectorBytes;
        sectors[total++] = (accesses[i].address + uint64_t(bytes) - 1) / kSectorBytes;
    }
    std::sort(sectors, sectors + total);
    ++traffic->requests;
    traffic->units += uint64_t(std::unique(sectors, sectors + total) - sectors);
}

std::string Buffer::name() const {
    return "argument " + std::to_string(argument) + " (" + (output ? "output" : "input") + ", " +
           std::to_string(size) + " bytes)";
}

size_t GlobalMemory::locate(uint64_t address, int bytes, const char* verb, uint64_t* offset) const {
    const uint64_t index = (address >> 40) - 1;
    if (index >= buffers_.size())
        throw Fault("out_of_bounds", std::string(verb) + " " + std::to_string(bytes) +
                                         " bytes at address " + std::to_string(address) +
                                         ", which no argument owns");
    const Buffer& buffer = buffers_[index];
    const int64_t at = int64_t(address - buffer.base(index));
    if (at < 0 || uint64_t(at) + uint64_t(bytes) > buffer.size)
        throw Fault("out_of_bounds",
                    std::string(verb) + " " + bytes_at(bytes, at) + " of " + buffer.name());
    if (at & (bytes - 1))
        throw Fault("misaligned", std::string(verb) + " " + bytes_at(bytes, at) + " of " +
                                      buffer.name() + ", no multiple of its size");
    *offset = uint64_t(at);
    return index;
}

const uint8_t* GlobalMemory::read(uint64_t address, int bytes, uint32_t thread,
                                  bool read_only_path) const {
    uint64_t offset = 0;
    const Buffer& buffer = buffers_[locate(address, bytes, "reads", &offset)];
    if (!buffer.output) return buffer.data + offset;
    const std::string what = "reads " + bytes_at(bytes, int64_t(offset)) + " of " + buffer.name();
    if (read_only_path) throw Fault("read_only", what + " through the read-only path");
    for (uint64_t i = offset; i < offset + uint64_t(bytes); ++i) {
        if (buffer.writer[i] == 0) throw Fault("uninitialised", what + " before anyone wrote it");
        if (buffer.writer[i] != thread + 1)
            throw Fault("race", what + ", written by another thread");
    }
    return buffer.data + offset;
}

void GlobalMemory::write(uint64_t address, const uint8_t* data, int bytes, uint32_t thread,
                         uint32_t threads) {
    uint64_t offset = 0;
    Buffer& buffer = buffers_[locate(address, bytes, "writes", &offset)];
    if (!buffer.output)
        throw Fault("read_only",
                    "writes " + bytes_at(bytes, int64_t(offset)) + " of " + buffer.name());
    for (uint64_t i = offset; i < offset + uint64_t(bytes); ++i) {
        if (buffer.writer[i] != 0) {
            const uint32_t first = buffer.writer[i] - 1;
            throw Fault("output", "writes " + bytes_at(1, int64_t(i)) + " of " + buffer.name() +
                                      " a second time, after block " +
                                      std::to_string(first / threads) + ", thread " +
                                      std::to_string(first % threads));
        }
        buffer.writer[i] = thread + 1;
    }
    std::memcpy(buffer.data + offset, data, size_t(bytes));
}

void GlobalMemory::check_complete() const {
    for (const Buffer& buffer : buffers_) {
        if (!buffer.output) continue;
        const auto missing = std::find(buffer.writer.begin(), buffer.writer.end(), 0u);
        if (missing == buffer.writer.end()) continue;
        const auto count = std::count(missing, buffer.writer.end(), 0u);
        throw Fault("output", "the kernel left " + std::to_string(count) + " bytes of " +
                                  buffer.name() + " unwritten, the first at offset " +
                                  std::to_string(missing - buffer.writer.begin()));
    }
}

}  // namespace ptxvm
