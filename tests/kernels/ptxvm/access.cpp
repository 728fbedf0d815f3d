// ld and st in every state space (PTX ISA 8.7, 9.7.9.8 - 9.7.9.12).
#include <sstream>

#include "machine.h"

namespace ptxvm {
namespace {

uint64_t address_of(const Warp& warp, const Instruction& in, int operand, int lane) {
    const uint64_t base = in.width[operand] == 64 ? row<uint64_t>(warp, in, operand)[lane]
                                                  : row<uint32_t>(warp, in, operand)[lane];
    return base + uint64_t(in.immediate[0]);
}

// The space of an access, resolved from the window when the address is generic.
Space resolve(Space space, uint64_t* address) {
    if (space == Space::kShared || space == Space::kLocal || space == Space::kParam) return space;
    if (*address >= kConstantWindow) {
        *address -= kConstantWindow;
        return Space::kConstant;
    }
    if (space != Space::kGeneric) return space;
    if (*address >= kLocalWindow) {
        *address -= kLocalWindow;
        return Space::kLocal;
    }
    if (*address >= kSharedWindow) {
        *address -= kSharedWindow;
        return Space::kShared;
    }
    return Space::kGlobal;
}

// Spaces without a shadow: bounds and alignment only.
size_t checked(uint64_t address, int bytes, size_t size, const char* space) {
    if (address + uint64_t(bytes) > size || address > size)
        throw Fault("out_of_bounds", "touches " + std::to_string(bytes) + " bytes at offset " +
                                         std::to_string(int64_t(address)) + " of " +
                                         std::to_string(size) + " bytes of " + space);
    if (address % uint64_t(bytes) != 0)
        throw Fault("misaligned", "touches " + std::to_string(bytes) + " bytes at offset " +
                                      std::to_string(address) + " of " + space);
    return size_t(address);
}

const uint8_t* read_bytes(Warp& warp, const Instruction& in, Space space, uint64_t address,
                          int lane) {
    Machine& machine = *warp.machine;
    const int bytes = in.detail.element_bytes * in.destinations;
    switch (space) {
        case Space::kShared:
            return machine.shared.read(address, bytes, machine.stamp(warp, lane));
        case Space::kParam:
            return machine.parameters.data() +
                   checked(address, bytes, machine.parameters.size(), "parameters");
        case Space::kConstant: {
            const auto& data = machine.program.constant_data;
            return data.data() + checked(address, bytes, data.size(), "constant tables");
        }
        case Space::kLocal: {
            const size_t size = size_t(machine.program.local_bytes);
            const size_t at = size * size_t(lane) + checked(address, bytes, size, "local memory");
            for (size_t i = at; i < at + size_t(bytes); ++i)
                if (!warp.local_written[i])
                    throw Fault(
                        "uninitialised",
                        "reads local byte " + std::to_string(address) + ", which nobody wrote",
                        lane);
            return warp.local.data() + at;
        }
        default:
            return machine.global.read(address, bytes, machine.grid_thread(warp, lane),
                                       in.detail.read_only_path);
    }
}

void write_bytes(Warp& warp, const Instruction& in, Space space, uint64_t address,
                 const uint8_t* data, int lane) {
    Machine& machine = *warp.machine;
    const int bytes = in.detail.element_bytes * (in.operands - 1);
    if (space == Space::kShared)
        return machine.shared.write(address, data, bytes, machine.stamp(warp, lane));
    if (space == Space::kLocal) {
        const size_t size = size_t(machine.program.local_bytes);
        const size_t at = size * size_t(lane) + checked(address, bytes, size, "local memory");
        std::memcpy(warp.local.data() + at, data, size_t(bytes));
        std::memset(warp.local_written.data() + at, 1, size_t(bytes));
        return;
    }
    if (space != Space::kGlobal) throw Fault("read_only", "writes to constant memory");
    machine.global.write(address, data, bytes, machine.grid_thread(warp, lane),
                         uint32_t(machine.launch.block));
}

void count(Warp& warp, Space space, const Access* accesses, int total, int bytes) {
    const size_t at = warp.machine->position(warp);
    if (space == Space::kShared)
        count_shared(&warp.machine->shared_traffic[at], accesses, total, bytes);
    if (space == Space::kGlobal)
        count_global(&warp.machine->global_traffic[at], accesses, total, bytes);
}

// Runs one(lane, space, address) for the executing lanes and counts the traffic.
template <class One>
void each_lane(Warp& warp, const Instruction& in, int address_operand, int bytes, One one) {
    Access accesses[kLanes];
    int total = 0;
    Space space = in.detail.space;
    for (int lane = 0; lane < kLanes; ++lane) {
        if (!warp.takes_part(lane)) continue;
        uint64_t address = address_of(warp, in, address_operand, lane);
        space = resolve(in.detail.space, &address);
        try {
            one(lane, space, address);
        } catch (Fault& fault) {
            fault.lane = lane;
            throw;
        }
        accesses[total++] = {address, lane};
    }
    if (total) count(warp, space, accesses, total, bytes);
}

// Bits of one loaded element, extended by its sign to 64 bits.
uint64_t extended(const uint8_t* data, int bytes, bool is_signed) {
    uint64_t value = 0;
    std::memcpy(&value, data, size_t(bytes));
    if (is_signed && bytes < 8) {
        const int shift = 64 - 8 * bytes;
        value = uint64_t(int64_t(value << shift) >> shift);
    }
    return value;
}

void load(Warp& warp, const Instruction& in) {
    const int bytes = in.detail.element_bytes;
    each_lane(warp, in, in.destinations, bytes * in.destinations,
              [&](int lane, Space space, uint64_t address) {
                  const uint8_t* data = read_bytes(warp, in, space, address, lane);
                  for (int d = 0; d < in.destinations; ++d) {
                      const uint64_t value = extended(data + d * bytes, bytes, in.detail.is_signed);
                      if (in.width[d] == 64)
                          row<uint64_t>(warp, in, d)[lane] = value;
                      else
                          row<uint32_t>(warp, in, d)[lane] =
                              uint32_t(in.width[d] == 16 ? value & 0xffff : value);
                  }
              });
}

void store(Warp& warp, const Instruction& in) {
    const int bytes = in.detail.element_bytes, count_ = in.operands - 1;
    each_lane(warp, in, 0, bytes * count_, [&](int lane, Space space, uint64_t address) {
        uint8_t data[64];
        for (int s = 0; s < count_; ++s) {
            const uint64_t value = in.width[s + 1] == 64 ? row<uint64_t>(warp, in, s + 1)[lane]
                                                         : row<uint32_t>(warp, in, s + 1)[lane];
            std::memcpy(data + s * bytes, &value, size_t(bytes));
        }
        write_bytes(warp, in, space, address, data, lane);
    });
}

bool is_one_of(const std::string& part, std::initializer_list<const char*> names) {
    for (const char* name : names)
        if (part == name) return true;
    return false;
}

bool parse_space(const std::string& part, Space* space) {
    if (part == "global")
        *space = Space::kGlobal;
    else if (part == "shared" || part == "shared::cta")
        *space = Space::kShared;
    else if (part == "local")
        *space = Space::kLocal;
    else if (part == "param")
        *space = Space::kParam;
    else if (part == "const")
        *space = Space::kConstant;
    else
        return false;
    return true;
}

// u8, s16, b32, f64, ...: size and sign.
bool parse_type(const std::string& part, Detail* detail) {
    if (part.size() < 2 || std::string("busf").find(part[0]) == std::string::npos) return false;
    const std::string bits = part.substr(1);
    if (!is_one_of(bits, {"8", "16", "32", "64"})) return false;
    detail->element_bytes = uint8_t(std::stoi(bits) / 8);
    detail->is_signed = part[0] == 's';
    return true;
}

}  // namespace

bool memory_form(const std::string& opcode, Form* form) {
    std::stringstream parts(opcode);
    std::string part, elements = "a";
    std::getline(parts, part, '.');
    const bool is_load = part == "ld";
    if (!is_load && part != "st") return false;
    Detail detail;
    while (std::getline(parts, part, '.')) {
        if (parse_space(part, &detail.space) || parse_type(part, &detail)) continue;
        if (part == "v2")
            elements = "(aa)";
        else if (part == "v4")
            elements = "(aaaa)";
        else if (part == "nc" && is_load)
            detail.read_only_path = true;
        // Caching hints and .volatile change no result in this order of execution.
        else if (!is_one_of(part, {"ca", "cg", "cs", "lu", "cv", "wb", "wt", "volatile", "weak",
                                   "L1::no_allocate", "L1::evict_last", "L1::evict_first",
                                   "L1::evict_normal", "L2::64B", "L2::128B", "L2::256B"}))
            return false;
    }
    if (detail.element_bytes == 0) return false;
    form->pattern = is_load ? elements + ":m" : ":m" + elements;
    form->execute = is_load ? &load : &store;
    form->family = detail.space == Space::kParam ? "move" : "memory";
    form->detail = detail;
    return true;
}

}  // namespace ptxvm
