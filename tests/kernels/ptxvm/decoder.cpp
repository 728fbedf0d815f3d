// Source -> Program: registers to units, operands by the pattern of their opcode, labels to
// positions. Whatever is not understood is a fault that names the PTX line.
#include <algorithm>
#include <sstream>

#include "opcodes.h"
#include "source.h"
#include "symbols.h"

namespace ptxvm {
namespace {

class Decoder {
public:
    explicit Decoder(Source source) : source_(std::move(source)), names_(&program_) {}

    Program decode() {
        program_.lines = source_.lines;
        declare_parameters();
        read_directives();
        declare_variables();
        for (const Statement& statement : source_.body) {
            line_ = statement.text_line;
            try {
                read(statement);
            } catch (const Fault& fault) {
                throw Fault("load",
                            "PTX line " + std::to_string(line_) + ": " + fault.what() +
                                (statement.opcode.empty()
                                     ? ""
                                     : " in `" + statement.opcode + " " + statement.rest + "`"));
            }
        }
        for (Instruction& in : program_.code) link(in);
        Instruction end;  // a body may end without ret
        end.detail.control = Control::kExit;
        end.opcode = opcode_index("exit", "control");
        program_.code.push_back(end);
        return std::move(program_);
    }

private:
    void declare_parameters() {
        for (const std::string& text : split_operands(source_.parameters)) {
            const Declared declared = parse_declaration(text);
            int& at = program_.parameter_bytes;
            at = (at + declared.align - 1) / declared.align * declared.align;
            program_.parameters.push_back({declared.name, declared.bytes, at});
            names_.parameter(declared.name, at);
            at += declared.bytes;
        }
    }

    // Dynamic shared memory begins behind the static one, so that must be known first.
    void declare_variables() {
        std::vector<std::string> texts = source_.module_declarations;
        for (const Statement& statement : source_.body)
            if (statement.kind == Statement::Kind::kDeclaration && is_variable(statement.rest))
                texts.push_back(statement.rest);
        for (const std::string& text : texts)
            if (text.rfind(".extern", 0) != 0) names_.declare(text);
        for (const std::string& text : texts)
            if (text.rfind(".extern", 0) == 0) names_.declare(text);
    }
    static bool is_variable(const std::string& text) {
        return text.rfind(".reg", 0) != 0 && text.rfind(".pragma", 0) != 0;
    }

    void read_directives() {
        std::string text = source_.directives;
        std::replace(text.begin(), text.end(), ',', ' ');
        std::istringstream words(text);
        std::string word;
        while (words >> word) {
            if (word != ".maxntid" && word != ".reqntid") continue;
            program_.exact_threads = word == ".reqntid";
            program_.max_threads = 1;
            for (int extent; words >> extent;) program_.max_threads *= extent;
            words.clear();  // the word after the last number comes next
        }
    }

    void read(const Statement& statement) {
        using Kind = Statement::Kind;
        switch (statement.kind) {
            case Kind::kOpenScope:
                return names_.open_scope();
            case Kind::kCloseScope:
                return names_.close_scope();
            case Kind::kLabel:
                labels_[statement.rest] = int(program_.code.size());
                return;
            case Kind::kDeclaration:
                if (statement.rest.rfind(".reg", 0) == 0) names_.declare_registers(statement.rest);
                return;
            case Kind::kInstruction:
                instruction(statement);
        }
    }

    void instruction(const Statement& statement) {
        const std::vector<std::string> operands = split_operands(statement.rest);
        std::string key = statement.opcode;
        if (key.rfind("mov.b", 0) == 0 && statement.rest.find('{') != std::string::npos)
            key += statement.rest[0] == '{' ? "/unpack" : "/pack";
        const Form* form = opcodes_.find(key);
        if (!form) throw Fault("load", "unknown instruction");
        Instruction in;
        in.execute = form->execute;
        in.detail = form->detail;
        in.opcode = opcode_index(statement.opcode, form->family);
        in.line = statement.location;
        in.text_line = statement.text_line;
        if (!statement.guard.empty()) {
            in.guarded = true;
            in.guard_negated = statement.guard[0] == '!';
            in.guard = names_.reg(statement.guard.substr(in.guard_negated), 1).unit;
        }
        read_operands(form->pattern, operands, &in);
        program_.code.push_back(in);
    }

    // Walks pattern and operands together.
    void read_operands(const std::string& pattern, const std::vector<std::string>& operands,
                       Instruction* in) {
        size_t next = 0, immediates = 0;
        bool optional = false;
        for (size_t i = 0; i < pattern.size(); ++i) {
            const char letter = pattern[i];
            if (letter == ':') {
                in->destinations = in->operands;
                continue;
            }
            if (letter == '?') {
                optional = true;
                continue;
            }
            if (next == operands.size()) {
                if (optional) break;
                throw Fault("load", "too few operands");
            }
            const std::string& text = operands[next++];
            if (letter == '(') {
                const size_t end = pattern.find(')', i);
                read_vector(pattern.substr(i + 1, end - i - 1), text, in);
                i = end;
            } else if (letter == 'm') {
                const auto [base, offset] = names_.address(text);
                push(in, base, false);
                in->immediate[immediates++] = offset;
            } else if (letter == 'n') {
                in->immediate[immediates++] = names_.number(text);
            } else if (letter == 'l') {
                jumps_[program_.code.size()] = text;
            } else if (letter == 'P' || letter == 'S') {
                const std::vector<std::string> pair = split_operands(text, '|');
                push(in, names_.reg(pair.at(0), letter == 'P' ? 1 : 32), false);
                push(in, pair.size() > 1 ? names_.reg(pair[1], 1) : names_.sink(), false);
            } else {
                read_value(letter, text, in);
            }
        }
        if (next != operands.size()) throw Fault("load", "too many operands");
    }

    void read_vector(const std::string& letters, const std::string& text, Instruction* in) {
        if (text.size() < 2 || text.front() != '{') {
            // m8n8k16 and ld.v1 forms may drop the braces of a single element.
            if (letters.size() != 1 || letters == "*") throw Fault("load", "a vector is wanted");
            return read_value(letters[0], text, in);
        }
        const auto elements = split_operands(text.substr(1, text.size() - 2));
        if (letters != "*" && letters.size() != elements.size())
            throw Fault("load", "a vector of another size is wanted");
        if (letters == "*") return read_parts(elements, in);
        for (size_t i = 0; i < elements.size(); ++i) read_value(letters[i], elements[i], in);
    }

    // The parts of mov.b32 {..} and mov.b64 {..} share its bits evenly.
    void read_parts(const std::vector<std::string>& elements, Instruction* in) {
        const int bits = program_.opcodes[size_t(in->opcode)].name == "mov.b64" ? 64 : 32;
        for (const std::string& text : elements) {
            const int width = bits / int(elements.size());
            push(in, text == "_" ? names_.scratch(width) : names_.value(text, width), false);
        }
    }

    void read_value(char letter, const std::string& text, Instruction* in) {
        const bool negated = letter == 'p' && text[0] == '!';
        const int width = letter == 'p'   ? 1
                          : letter == 'h' ? 16
                          : letter == 'w' ? 32
                          : letter == 'x' ? 64
                                          : 0;
        push(in, names_.value(negated ? text.substr(1) : text, width), negated);
    }

    void push(Instruction* in, Register value, bool negated) {
        if (in->operands == kMaxOperands) throw Fault("load", "too many operands");
        in->negated |= uint32_t(negated) << in->operands;
        in->width[in->operands] = value.width;
        in->operand[in->operands++] = value.unit;
    }

    void link(Instruction& in) {
        const auto jump = jumps_.find(size_t(&in - program_.code.data()));
        if (jump != jumps_.end()) {
            const auto label = labels_.find(jump->second);
            if (label == labels_.end())
                throw Fault("load", "PTX line " + std::to_string(in.text_line) + ": no label '" +
                                        jump->second + "'");
            in.target = label->second;
        }
        if (in.detail.control == Control::kBlockBarrier && in.immediate[0] != 0)
            throw Fault("load", "PTX line " + std::to_string(in.text_line) +
                                    ": only barrier 0 is supported");
    }

    int opcode_index(const std::string& name, const char* family) {
        const auto known = opcode_indices_.find(name);
        if (known != opcode_indices_.end()) return known->second;
        program_.opcodes.push_back({name, family});
        return opcode_indices_[name] = int(program_.opcodes.size()) - 1;
    }

    Source source_;
    Program program_;
    Symbols names_;
    Opcodes opcodes_;
    std::map<std::string, int> labels_, opcode_indices_;
    std::map<size_t, std::string> jumps_;
    int line_ = 0;
};

}  // namespace

Program load_program(const std::string& ptx, const std::string& entry) {
    return Decoder(read_source(ptx, entry)).decode();
}

}  // namespace ptxvm
