// The C entry that Python calls: one launch in, one JSON text out.
#include <cstdlib>
#include <cstring>
#include <map>

#include "machine.h"

namespace ptxvm {
namespace {

std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\') out += '\\';
        out += c == '\n' || c == '\t' ? ' ' : c;
    }
    return out + "\"";
}

std::string json(const std::map<std::string, uint64_t>& counts) {
    std::string out;
    for (const auto& [name, count] : counts)
        out += (out.empty() ? "" : ",") + quoted(name) + ":" + std::to_string(count);
    return "{" + out + "}";
}

std::string json(const std::map<std::string, Traffic>& traffic) {
    std::string out;
    for (const auto& [name, t] : traffic)
        out += (out.empty() ? "" : ",") + quoted(name) + ":[" + std::to_string(t.requests) + "," +
               std::to_string(t.units) + "]";
    return "{" + out + "}";
}

// Short names: "ld.global.nc.v4.u32" -> "ld.global", "ldmatrix.sync..." -> "ldmatrix".
std::string traffic_name(const std::string& opcode, const char* space) {
    if (opcode.rfind("ldmatrix", 0) == 0) return "ldmatrix";
    if (opcode.rfind("cp.async", 0) == 0) return "cp.async";
    return opcode.substr(0, 3) + space;
}

std::string report(const Machine& machine) {
    std::map<std::string, uint64_t> opcodes, families, lines;
    std::map<std::string, Traffic> shared, shared_lines, global;
    const auto add = [](Traffic& total, const Traffic& part) {
        total.requests += part.requests;
        total.units += part.units;
    };
    for (size_t i = 0; i < machine.program.code.size(); ++i) {
        const Instruction& in = machine.program.code[i];
        if (machine.executed[i] == 0) continue;
        const OpcodeName& opcode = machine.program.opcodes[size_t(in.opcode)];
        const std::string line = in.line >= 0 ? machine.program.lines[size_t(in.line)].line : "";
        opcodes[opcode.name] += machine.executed[i];
        families[opcode.family] += machine.executed[i];
        if (!line.empty()) lines[line] += machine.executed[i];
        if (machine.shared_traffic[i].requests) {
            add(shared[traffic_name(opcode.name, "shared")], machine.shared_traffic[i]);
            if (!line.empty()) add(shared_lines[line], machine.shared_traffic[i]);
        }
        if (machine.global_traffic[i].requests)
            add(global[traffic_name(opcode.name, "global")], machine.global_traffic[i]);
    }
    return "{\"instructions\":" + json(opcodes) + ",\"instructions_by_class\":" + json(families) +
           ",\"instructions_by_line\":" + json(lines) + ",\"shared\":" + json(shared) +
           ",\"shared_by_line\":" + json(shared_lines) + ",\"global\":" + json(global) + "}";
}

}  // namespace

// Argument as Python gives it: an input or output array, or a 32-bit integer.
struct PlainArgument {
    int32_t kind;  // 0 input, 1 output, 2 integer
    int32_t value;
    void* data;
    uint64_t size;
};

namespace {

void check_block(const Program& program, const Launch& launch) {
    const std::string block = "a block of " + std::to_string(launch.block) + " threads";
    const std::string limit = std::to_string(program.max_threads);
    if (launch.block < 1 || launch.block > 1024)
        throw Fault("launch", block + ", wanted 1 to 1024");
    if (program.exact_threads && launch.block != program.max_threads)
        throw Fault("launch", block + ", wanted .reqntid " + limit);
    if (program.max_threads && launch.block > program.max_threads)
        throw Fault("launch", block + ", wanted at most .maxntid " + limit);
    for (int extent : launch.grid)
        if (extent < 1)
            throw Fault("launch",
                        "a grid axis of " + std::to_string(extent) + ", wanted at least 1");
    if (uint64_t(launch.grid[1]) > 65535 || uint64_t(launch.grid[2]) > 65535)
        throw Fault("launch", "a grid of more than 65535 blocks along y or z");
    const int shared = program.static_shared_bytes + launch.shared_bytes;
    if (shared > 48 * 1024)
        throw Fault("launch",
                    std::to_string(shared) + " bytes of shared memory, wanted at most 49152");
}

Machine make_machine(const Program& program, const Launch& launch, const PlainArgument* arguments,
                     int count) {
    check_block(program, launch);
    if (size_t(count) != program.parameters.size())
        throw Fault("launch", std::to_string(count) + " arguments for " +
                                  std::to_string(program.parameters.size()) + " parameters");
    std::vector<Buffer> buffers;
    std::vector<uint8_t> parameters(size_t(program.parameter_bytes));
    for (int i = 0; i < count; ++i) {
        const PlainArgument& argument = arguments[i];
        const Parameter& parameter = program.parameters[size_t(i)];
        const bool tensor = argument.kind != 2;
        if (parameter.bytes != (tensor ? 8 : 4))
            throw Fault("launch", "argument " + std::to_string(i) + " is " +
                                      (tensor ? "a tensor" : "an integer") + ", but parameter " +
                                      parameter.name + " has " + std::to_string(parameter.bytes) +
                                      " bytes");
        uint64_t value = uint32_t(argument.value);
        if (tensor) {
            const bool output = argument.kind == 1;
            buffers.push_back({static_cast<uint8_t*>(argument.data), argument.size, output, i,
                               std::vector<uint32_t>(output ? argument.size : 0)});
            value = buffers.back().base(buffers.size() - 1);
        }
        std::memcpy(parameters.data() + parameter.offset, &value, size_t(parameter.bytes));
    }
    return Machine(program, launch, std::move(buffers), std::move(parameters));
}

std::string run_to_json(const char* ptx, const char* entry, const Launch& launch,
                        const PlainArgument* arguments, int count) {
    try {
        const Program program = load_program(ptx, entry);
        Machine machine = make_machine(program, launch, arguments, count);
        machine.run();
        return report(machine);
    } catch (const Fault& fault) {
        return "{\"fault\":" + quoted(fault.kind) + ",\"message\":" + quoted(fault.what()) + "}";
    } catch (const std::exception& error) {
        return "{\"fault\":\"load\",\"message\":" +
               quoted(std::string("the PTX text cannot be read: ") + error.what()) + "}";
    }
}

}  // namespace
}  // namespace ptxvm

extern "C" char* ptxvm_run(const char* ptx, const char* entry, const ptxvm::Launch* launch,
                           const ptxvm::PlainArgument* arguments, int count) {
    const std::string text = ptxvm::run_to_json(ptx, entry, *launch, arguments, count);
    char* copy = static_cast<char*>(std::malloc(text.size() + 1));
    std::memcpy(copy, text.c_str(), text.size() + 1);
    return copy;
}

extern "C" void ptxvm_free(char* text) { std::free(text); }
