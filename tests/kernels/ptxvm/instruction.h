// The decoded program: what the parser makes and the warps execute.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace ptxvm {

constexpr int kLanes = 32;
constexpr uint32_t kFullWarp = 0xffffffffu;

// A broken rule. `kind` is one of FaultKind in tests/kernels/report.py; `lane` is -1 where the
// fault belongs to the whole warp.
struct Fault : std::runtime_error {
    Fault(std::string kind_, const std::string& text, int lane_ = -1)
        : std::runtime_error(text), kind(std::move(kind_)), lane(lane_) {}
    std::string kind;
    int lane;
};

struct Warp;
struct Instruction;
using Handler = void (*)(Warp&, const Instruction&);

// What the scheduler itself must know; everything else is kPlain and runs its handler.
enum class Control : uint8_t { kPlain, kBranch, kExit, kBlockBarrier };

// How the warp checks that sources were written: kChecked faults, kCopied hands the poison on
// (a compiler may move undefined values around), kOwn leaves it to the handler.
enum class Poison : uint8_t { kChecked, kCopied, kOwn };

enum class Space : uint8_t { kGeneric, kGlobal, kShared, kLocal, kParam, kConstant };

// Traits of an opcode that its handler or the scheduler reads; copied into the instruction.
struct Detail {
    Control control = Control::kPlain;
    Poison poison = Poison::kChecked;
    Space space = Space::kGeneric;
    bool aligned = false;         // .aligned: every lane of the warp must take part
    bool uniform = false;         // .uni: all active lanes must agree
    bool read_only_path = false;  // ld.global.nc
    bool is_signed = false;
    uint8_t element_bytes = 0;  // of one element of ld, st
    uint8_t combine = 0;        // setp: see compare.cpp
};

constexpr int kMaxOperands = 16;

struct Instruction {
    Handler execute = nullptr;
    Detail detail;
    uint8_t destinations = 0;             // operand[0 .. destinations) are written
    uint8_t operands = 0;                 // operand[destinations .. operands) are read
    uint8_t width[kMaxOperands] = {};     // bits of each operand: 1, 16, 32 or 64
    uint16_t operand[kMaxOperands] = {};  // unit in the register file, see warp.h
    uint32_t negated = 0;                 // bit i: predicate operand i is "!p"
    bool guarded = false, guard_negated = false;
    uint16_t guard = 0;
    int64_t immediate[3] = {};                 // address offsets and load-time constants, in order
    int target = -1;                           // of a branch
    int opcode = 0, line = -1, text_line = 0;  // into Program::opcodes, Program::lines; PTX line
};

enum class Special : uint8_t {
    kTidX,
    kTidY,
    kTidZ,
    kNtidX,
    kNtidY,
    kNtidZ,
    kCtaidX,
    kCtaidY,
    kCtaidZ,
    kNctaidX,
    kNctaidY,
    kNctaidZ,
    kLaneId,
    kWarpId,
    kNwarpId,
    kMaskEq,
    kMaskLt,
    kMaskLe,
    kMaskGt,
    kMaskGe
};

struct Constant {
    uint16_t unit;
    bool wide;
    uint64_t value;
};
struct SpecialRegister {
    uint16_t unit;
    Special which;
};
struct Parameter {
    std::string name;
    int bytes;
    int offset;
};
struct OpcodeName {
    std::string name, family;
};
// `leaf` names the whole inlining chain, `line` the innermost line outside ptx*.cuh.
struct SourceLine {
    std::string leaf, line;
};

struct Program {
    std::vector<Instruction> code;
    std::vector<OpcodeName> opcodes;
    std::vector<SourceLine> lines;
    std::vector<Constant> constants;
    std::vector<SpecialRegister> specials;
    std::vector<Parameter> parameters;
    std::vector<uint8_t> constant_data;  // module-level .const and .global tables
    int units = 0;                       // size of a warp's register file
    int parameter_bytes = 0, static_shared_bytes = 0, local_bytes = 0;
    int max_threads = 0;         // product of .maxntid or .reqntid; 0 if not given
    bool exact_threads = false;  // .reqntid
};

// Address windows. Global buffers live at (index + 1) << 40 (see memory.cpp); the others hold
// generic addresses, so that one 64-bit number tells its space.
constexpr uint64_t kSharedWindow = 1ull << 56;
constexpr uint64_t kLocalWindow = 1ull << 57;
constexpr uint64_t kConstantWindow = 1ull << 58;

Program load_program(const std::string& ptx, const std::string& entry);

}  // namespace ptxvm
