// PTX text cut into what the decoder needs: directives, declarations, statements with their lines.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "instruction.h"

namespace ptxvm {

// One statement of a body. `guard` is "", "%p1" or "!%p1".
struct Statement {
    enum class Kind { kInstruction, kLabel, kOpenScope, kCloseScope, kDeclaration } kind;
    std::string opcode, guard, rest;   // rest: operands; label: its name; declaration: its text
    int text_line = 0, location = -1;  // in the PTX text; index into Source::lines
};

struct Source {
    std::vector<Statement> body;                   // of the entry
    std::vector<std::string> module_declarations;  // .shared, .const, .global outside of entries
    std::string parameters, directives;            // of the entry: between ( ), and before {
    std::vector<SourceLine> lines;
};

// Reads a module and picks `entry`. Throws Fault("load") naming the PTX line.
Source read_source(const std::string& ptx, const std::string& entry);

std::string trimmed(const std::string& text);
// Splits at top-level `separator`: not inside { } or [ ].
std::vector<std::string> split_operands(const std::string& text, char separator = ',');

}  // namespace ptxvm
