// Names in a PTX body: registers (scoped), variables, parameters, constants, special registers.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "instruction.h"

namespace ptxvm {

struct Register {
    uint16_t unit;
    uint8_t width;
};

// ".param .u64 .ptr .align 8 name" or ".shared .align 16 .b8 name[64] = {1, 2}".
struct Declared {
    std::string name, space;
    int bytes = 0, align = 1, element_bytes = 0;
    std::vector<uint64_t> values;
};
Declared parse_declaration(const std::string& text);

class Symbols {
public:
    explicit Symbols(Program* program);
    void open_scope() { scopes_.emplace_back(); }
    void close_scope() {
        if (scopes_.size() > 1) scopes_.pop_back();
    }
    void declare(const std::string& text);            // a variable
    void declare_registers(const std::string& text);  // ".reg .b32 %r<10>"
    void parameter(const std::string& name, int offset) { variables_[name] = uint64_t(offset); }
    // A declared register; `width` 0 takes any but predicates.
    Register reg(const std::string& name, int width);
    // A register, special register, number or address of a variable, as a register.
    Register value(const std::string& text, int width);
    // "[base + offset]" or "[base]": the base as a register.
    std::pair<Register, int64_t> address(const std::string& text);
    int64_t number(const std::string& text) const;
    Register scratch(int width) { return allocate(width); }  // for "_"
    Register sink() const { return sink_; }                  // written, never read

private:
    struct Family {
        bool numbered;
        int count;
        uint8_t width;
    };  // "%r<10>", or one register
    struct Scope {
        std::map<std::string, Family> families;
        std::map<std::string, Register> made;  // registers get their unit when first named
    };
    Register allocate(int width);
    Register constant(uint64_t value, int width);
    Register find_register(const std::string& name);

    Program* program_;
    std::vector<Scope> scopes_{1};  // one per brace
    std::map<std::pair<uint64_t, int>, Register> constants_;
    std::map<std::string, uint64_t> variables_;
    std::map<std::string, Register> specials_;
    Register sink_;
};

}  // namespace ptxvm
