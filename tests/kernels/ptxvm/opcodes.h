// The table of PTX instructions: full opcode text -> operands wanted and the code that runs them.
#pragma once

#include <map>
#include <string>

#include "instruction.h"

namespace ptxvm {

// Operand pattern, destinations before ':' and sources after it, one letter each:
//   h w x  register or constant of 16, 32 or 64 bits      a  of any of these widths
//   p      predicate (a source may be "!p")                P  "p" or "p|q": two predicates
//   S      32-bit register with an optional "|p"           ( )  a vector in braces
//   m      memory address "[register + offset]"            n  integer known at load time
//   l      label of a branch                               *  any number of "a"
//   ?      what follows may be missing
struct Form {
    std::string pattern;
    Handler execute = nullptr;
    const char* family = "int";  // class in the report: mma, ldmatrix, float, int, ...
    Detail detail;
};

class Opcodes {
public:
    Opcodes();
    // The form of `opcode`, written in full; nullptr if it is not supported.
    const Form* find(const std::string& opcode);
    void add(const std::string& opcode, Form form) { forms_[opcode] = std::move(form); }

private:
    std::map<std::string, Form> forms_;
};

// One registration per source file of instructions; sections of the PTX ISA are named there.
void add_integer(Opcodes& table);
void add_logic(Opcodes& table);
void add_float(Opcodes& table);
void add_compare(Opcodes& table);
void add_convert(Opcodes& table);
void add_move(Opcodes& table);
void add_warp_collectives(Opcodes& table);
void add_matrix(Opcodes& table);
void add_async_copy(Opcodes& table);
void add_control(Opcodes& table);

// ld and st combine too many modifiers to be listed: their form is read from the opcode's parts.
bool memory_form(const std::string& opcode, Form* form);

}  // namespace ptxvm
