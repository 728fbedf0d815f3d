// Memory that one lane reads or writes for others: compiled with the kernel, seen by sanitizers.
#pragma once

namespace simt {

// Where a GPU stops a 16-byte access that is not aligned, a CPU may not.
inline void check_aligned_16(const void* address, Site site) {
    if (reinterpret_cast<uintptr_t>(address) % 16 != 0) {
        simt_misaligned(address, site);
    }
}

// ldmatrix as PTX ISA "ldmatrix" says: lane 8*m + i names row i of matrix m; lane l receives
// elements 2*(l%4) and 2*(l%4)+1 of row l/4, or transposed those of column l/4.
template <int matrices, bool transposed>
inline void ldmatrix(uint32_t* r, const void* row, int target_sm, Site site) {
    // PTX ISA: up to sm_75 all threads must hold valid addresses, whatever the count.
    const int checked_lanes = target_sm >= 80 ? 8 * matrices : 32;
    const uint8_t* const* rows = simt_ldmatrix_rows(row, matrices, checked_lanes, site);
    const unsigned lane = threadIdx.x % 32u;
    for (unsigned m = 0; m < static_cast<unsigned>(matrices); ++m) {
        uint16_t pair[2];
        for (unsigned i = 0; i < 2; ++i) {
            const unsigned major = transposed ? 2 * (lane % 4) + i : lane / 4;
            const unsigned minor = transposed ? lane / 4 : 2 * (lane % 4) + i;
            std::memcpy(&pair[i], rows[8 * m + major] + 2 * minor, 2);
        }
        r[m] = pair[0] | (static_cast<uint32_t>(pair[1]) << 16);
    }
}

// One store of sixteen bytes. GCC expands memset and longer copies where ThreadSanitizer does not
// see them any more.
struct alignas(16) Word16 {
    uint8_t bytes[16];
};

// The copy itself: at most `valid_bytes` are read, sixteen are written.
inline void land(const PendingCopy& copy) {
    Word16 word = {};
    for (int i = 0; i < copy.valid_bytes; ++i) {
        word.bytes[i] = static_cast<const uint8_t*>(copy.global)[i];
    }
    *static_cast<Word16*>(copy.shared) = word;
}

// Until it lands, an asynchronous copy leaves rubbish where it will land: whoever reads too early,
// or still reads what was there before, gets wrong numbers (and a race under ThreadSanitizer).
inline void cp_async_16(void* shared, const void* global, int valid_bytes, bool asynchronous,
                        Site site) {
    simt_check_copy(shared, global, valid_bytes, site);
    const PendingCopy copy = {shared, global, valid_bytes};
    if (!asynchronous || !simt_copy_start(copy)) {
        land(copy);
        return;
    }
    constexpr uint8_t RUBBISH = 0x5a;
    Word16 word;
    for (uint8_t& byte : word.bytes) {
        byte = RUBBISH;
    }
    *static_cast<Word16*>(shared) = word;
}

inline void cp_async_commit() { simt_copy_commit(); }

inline void cp_async_wait(int newest) {
    PendingCopy copy;
    while (simt_copy_next(newest, &copy)) {
        land(copy);
    }
}

}  // namespace simt
