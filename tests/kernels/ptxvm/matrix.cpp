// Warp-level matrix instructions. In every fragment below, g = lane / 4 is the group and
// t = lane % 4 the thread in the group.
#include <cstring>

#include "machine.h"

namespace ptxvm {
namespace {

constexpr int kGroups = 8, kDepth = 16;  // rows of one register's fragment; its bytes per row

// One register over the warp holds 8 rows of 16 bytes: lane (g, t) has bytes 4t .. 4t+3 of row g.
// As lanes are in order, the fragment is the row-major matrix itself. True for A of m8n8k16 and,
// with "row" read as "column", for B (PTX ISA 8.7, 9.7.14.5.3), for the registers of A of m16n8k32
// (a0: rows 0-7, k 0-15; a1: rows 8-15, k 0-15; a2, a3: k 16-31) and of B (b0: k 0-15, b1: k 16-31)
// (9.7.14.5.10), and of m16n8k16 (a0, a1 and b0) (9.7.14.5.9).
struct Fragment {
    alignas(64) float value[kGroups][kDepth];
};

template <class T>
void spread(const uint32_t* registers, Fragment* out) {
    const T* bytes = reinterpret_cast<const T*>(registers);
    float* flat = &out->value[0][0];
    for (int i = 0; i < kGroups * kDepth; ++i) flat[i] = bytes[i];
}

// Eight floats in one host register (a GCC vector type: lowered where the host has none).
typedef float FloatRow __attribute__((vector_size(32)));
typedef int32_t IntegerRow __attribute__((vector_size(32)));

// c[g][n] += sum over k of a[g][k] * b[n][k], modulo 2^32: without .satfinite the sum wraps.
// A sum of 16 byte products stays below 2^24, so float32 holds it exactly, and hosts multiply
// floats faster than 32-bit integers.
void accumulate(const Fragment& a, const Fragment& b, int32_t* c) {
    FloatRow sums[kGroups] = {};
    for (int k = 0; k < kDepth; ++k) {
        FloatRow column;
        for (int n = 0; n < kGroups; ++n) column[n] = b.value[n][k];
        for (int g = 0; g < kGroups; ++g) sums[g] += a.value[g][k] * column;
    }
    for (int g = 0; g < kGroups; ++g) {
        const IntegerRow total = __builtin_convertvector(sums[g], IntegerRow);
        for (int n = 0; n < kGroups; ++n)
            c[g * kGroups + n] = int32_t(uint32_t(c[g * kGroups + n]) + uint32_t(total[n]));
    }
}

// Accumulators: lane (g, t) holds columns 2t and 2t+1 of row g (first register pair) and of row
// g + 8 (second pair) (9.7.14.5.3 and 9.7.14.5.10, "Accumulators").
// In order of lanes that is the row-major matrix with its columns dealt to the two registers.
void gather(const uint32_t* even, const uint32_t* odd, int32_t* c) {
    for (int lane = 0; lane < kLanes; ++lane) {
        c[2 * lane] = int32_t(even[lane]);
        c[2 * lane + 1] = int32_t(odd[lane]);
    }
}
void scatter(const int32_t* c, uint32_t* even, uint32_t* odd) {
    for (int lane = 0; lane < kLanes; ++lane) {
        even[lane] = uint32_t(c[2 * lane]);
        odd[lane] = uint32_t(c[2 * lane + 1]);
    }
}

// halves: blocks of 8 rows (m / 8); slices: blocks of 16 in k (k / 16). Operands in order:
// d (2 per half), a (half fastest, then slice), b (1 per slice), c (2 per half).
template <class A, class B, int halves, int slices>
void multiply(Warp& warp, const Instruction& in) {
    Fragment a[halves * slices], b[slices];
    const int first_a = 2 * halves, first_b = first_a + halves * slices, first_c = first_b + slices;
    for (int i = 0; i < halves * slices; ++i)
        spread<A>(row<uint32_t>(warp, in, first_a + i), &a[i]);
    for (int i = 0; i < slices; ++i) spread<B>(row<uint32_t>(warp, in, first_b + i), &b[i]);
    alignas(64) int32_t c[halves][kGroups * kGroups];
    for (int half = 0; half < halves; ++half) {
        gather(row<uint32_t>(warp, in, first_c + 2 * half),
               row<uint32_t>(warp, in, first_c + 2 * half + 1), c[half]);
        for (int slice = 0; slice < slices; ++slice)
            accumulate(a[slice * halves + half], b[slice], c[half]);
    }
    for (int half = 0; half < halves; ++half)
        scatter(c[half], row<uint32_t>(warp, in, 2 * half), row<uint32_t>(warp, in, 2 * half + 1));
}

template <class A, class B>
void add_mma(Opcodes& table, const std::string& types) {
    const auto add = [&](const std::string& shape, const std::string& pattern, Handler execute) {
        Form form{pattern, execute, "mma", {}};
        form.detail.aligned = true;
        table.add("mma.sync.aligned." + shape + ".row.col.s32." + types + ".s32", form);
    };
    add("m8n8k16", "(ww):(w)(w)(ww)", &multiply<A, B, 1, 1>);
    add("m16n8k16", "(wwww):(ww)(w)(wwww)", &multiply<A, B, 2, 1>);
    add("m16n8k32", "(wwww):(wwww)(ww)(wwww)", &multiply<A, B, 2, 2>);
}

// ldmatrix (9.7.14.5.15): lanes 8i .. 8i+7 give the addresses of the 16-byte rows of matrix i;
// lane (g, t) receives the 16-bit elements 2t, 2t+1 of row g, or with .trans of column g, that is
// elements (2t, g) and (2t+1, g).
template <bool transposed>
void load_matrices(Warp& warp, const Instruction& in) {
    Machine& machine = *warp.machine;
    const int count = in.destinations;
    Stamp at = machine.stamp(warp, 0);
    at.who = uint16_t(kWarpReader + warp.index);  // each row is read by four lanes
    for (int matrix = 0; matrix < count; ++matrix) {
        uint16_t rows[8][8];
        Access accesses[8];
        for (int i = 0; i < 8; ++i) {
            const int lane = 8 * matrix + i;
            const uint64_t base = in.width[count] == 64 ? row<uint64_t>(warp, in, count)[lane]
                                                        : row<uint32_t>(warp, in, count)[lane];
            accesses[i] = {base + uint64_t(in.immediate[0]), lane};
            try {
                std::memcpy(rows[i], machine.shared.read(accesses[i].address, 16, at), 16);
            } catch (Fault& fault) {
                fault.lane = lane;
                throw;
            }
        }
        uint32_t* out = row<uint32_t>(warp, in, matrix);
        for (int lane = 0; lane < kLanes; ++lane) {
            const int g = lane / 4, t = lane % 4;
            const uint32_t low = transposed ? rows[2 * t][g] : rows[g][2 * t];
            const uint32_t high = transposed ? rows[2 * t + 1][g] : rows[g][2 * t + 1];
            out[lane] = high << 16 | low;
        }
        count_shared(&machine.shared_traffic[machine.position(warp)], accesses, 8, 16);
    }
}

// movmatrix (9.7.14.5.17): transposes an 8x8 matrix of 16-bit elements held as ldmatrix gives it.
void transpose_matrix(Warp& warp, const Instruction& in) {
    uint16_t matrix[8][8];
    std::memcpy(matrix, row<uint32_t>(warp, in, 1), sizeof matrix);
    uint32_t* out = row<uint32_t>(warp, in, 0);
    for (int lane = 0; lane < kLanes; ++lane)
        out[lane] =
            uint32_t(matrix[2 * (lane % 4) + 1][lane / 4]) << 16 | matrix[2 * (lane % 4)][lane / 4];
}

void add_ldmatrix(Opcodes& table, const std::string& number, const std::string& registers) {
    for (const char* space : {".shared", ".shared::cta"})
        for (bool transposed : {false, true}) {
            Form form{"(" + registers + "):m",
                      transposed ? &load_matrices<true> : &load_matrices<false>,
                      "ldmatrix",
                      {}};
            form.detail.aligned = true;
            table.add("ldmatrix.sync.aligned.m8n8." + number + (transposed ? ".trans" : "") +
                          space + ".b16",
                      form);
        }
}

}  // namespace

void add_matrix(Opcodes& table) {
    add_mma<uint8_t, uint8_t>(table, "u8.u8");
    add_mma<uint8_t, int8_t>(table, "u8.s8");
    add_mma<int8_t, uint8_t>(table, "s8.u8");
    add_mma<int8_t, int8_t>(table, "s8.s8");
    add_ldmatrix(table, "x1", "w");
    add_ldmatrix(table, "x2", "ww");
    add_ldmatrix(table, "x4", "wwww");
    Form form{"w:w", &transpose_matrix, "shuffle", {}};
    form.detail.aligned = true;
    table.add("movmatrix.sync.aligned.m8n8.trans.b16", form);
}

}  // namespace ptxvm
