#include "symbols.h"

#include <algorithm>
#include <cctype>
#include <sstream>

#include "source.h"

namespace ptxvm {
namespace {

const std::map<std::string, Special>& special_registers() {
    static const std::map<std::string, Special> names = {
        {"%tid.x", Special::kTidX},         {"%tid.y", Special::kTidY},
        {"%tid.z", Special::kTidZ},         {"%ntid.x", Special::kNtidX},
        {"%ntid.y", Special::kNtidY},       {"%ntid.z", Special::kNtidZ},
        {"%ctaid.x", Special::kCtaidX},     {"%ctaid.y", Special::kCtaidY},
        {"%ctaid.z", Special::kCtaidZ},     {"%nctaid.x", Special::kNctaidX},
        {"%nctaid.y", Special::kNctaidY},   {"%nctaid.z", Special::kNctaidZ},
        {"%laneid", Special::kLaneId},      {"%warpid", Special::kWarpId},
        {"%nwarpid", Special::kNwarpId},    {"%lanemask_eq", Special::kMaskEq},
        {"%lanemask_lt", Special::kMaskLt}, {"%lanemask_le", Special::kMaskLe},
        {"%lanemask_gt", Special::kMaskGt}, {"%lanemask_ge", Special::kMaskGe}};
    return names;
}

// 12, -3, 0x1F, 017, 0b101, 7U, 0f3F800000 (float bits), 0d3FF0000000000000 (double bits)
// (PTX ISA 8.7, 4.5). False if the text is no number.
bool parse_number(std::string text, uint64_t* value) {
    const bool negative = !text.empty() && text[0] == '-';
    if (negative) text.erase(0, 1);
    if (text.empty() || !std::isdigit(static_cast<unsigned char>(text[0]))) return false;
    if (text.back() == 'U') text.pop_back();
    int base = 10;
    size_t from = 0;
    const char second = text.size() > 1 && text[0] == '0' ? char(std::tolower(text[1])) : '\0';
    if (second == 'x' || second == 'f' || second == 'd')
        base = 16, from = 2;
    else if (second == 'b')
        base = 2, from = 2;
    else if (text.size() > 1 && text[0] == '0')
        base = 8, from = 1;
    size_t used = 0;
    try {
        *value = std::stoull(text.substr(from), &used, base);
    } catch (const std::exception&) {
        return false;
    }
    if (negative) *value = 0 - *value;
    return used == text.size() - from;
}

bool is_space(const std::string& word) {
    return word == ".param" || word == ".shared" || word == ".local" || word == ".const" ||
           word == ".global";
}

// .b8, .u16, .s32, .f64, ...
bool is_type(const std::string& word) {
    return word.size() > 2 && std::string("busf").find(word[1]) != std::string::npos &&
           std::isdigit(static_cast<unsigned char>(word[2]));
}

int width_of_type(const std::string& type) {
    if (type == ".pred") return 1;
    const int bits = std::stoi(type.substr(2));
    return std::max(bits, 16);
}

}  // namespace

Declared parse_declaration(const std::string& text) {
    Declared made;
    const size_t equals = text.find('=');
    const std::string head = text.substr(0, equals), before = head.substr(0, head.find('['));
    const bool pointer = head.find(".ptr") != std::string::npos;  // its .align is the pointee's
    std::istringstream words(before);
    std::string word;
    int align = 0;
    while (words >> word) {
        if (made.space.empty() && is_space(word)) made.space = word.substr(1);
        if (word == ".align") words >> align;
        if (is_type(word)) made.element_bytes = std::stoi(word.substr(2)) / 8;
        made.name = word;
    }
    if (made.space.empty() || made.element_bytes == 0 || made.name[0] == '.')
        throw Fault("load", "unknown declaration `" + text + "`");
    made.align = align && !pointer ? align : made.element_bytes;
    made.bytes = made.element_bytes;
    for (size_t at = before.size(); (at = head.find('[', at)) != std::string::npos; ++at) {
        const std::string extent = trimmed(head.substr(at + 1, head.find(']', at) - at - 1));
        made.bytes *= extent.empty() ? 0 : std::stoi(extent);
    }
    if (equals == std::string::npos) return made;
    std::string values = text.substr(equals + 1);
    std::replace_if(values.begin(), values.end(), [](char c) { return c == '{' || c == '}'; }, ' ');
    for (const std::string& part : split_operands(values)) {
        uint64_t value = 0;
        if (!parse_number(part, &value))
            throw Fault("load", "unknown initial value `" + part + "`");
        made.values.push_back(value);
    }
    return made;
}

Symbols::Symbols(Program* program) : program_(program), sink_(allocate(1)) {}

Register Symbols::allocate(int width) {
    // 64-bit rows take two units; their start is even, so that rows stay aligned for vectors.
    if (width == 64) program_->units += program_->units % 2;
    const int unit = program_->units;
    program_->units += width == 64 ? 2 : 1;
    if (program_->units > 0xffff) throw Fault("load", "the kernel has too many registers");
    return {uint16_t(unit), uint8_t(width)};
}

void Symbols::declare(const std::string& text) {
    const Declared made = parse_declaration(text);
    const auto place = [&](int* top) {
        const int at = (*top + made.align - 1) / made.align * made.align;
        *top = at + made.bytes;
        return uint64_t(at);
    };
    if (made.space == "shared") {
        variables_[made.name] = place(&program_->static_shared_bytes);
    } else if (made.space == "local") {
        variables_[made.name] = place(&program_->local_bytes);
    } else {
        int top = int(program_->constant_data.size());
        const uint64_t at = place(&top);
        program_->constant_data.resize(size_t(top));
        for (size_t i = 0; i < made.values.size(); ++i)
            for (int byte = 0; byte < made.element_bytes; ++byte)
                program_->constant_data.at(at + i * size_t(made.element_bytes) + size_t(byte)) =
                    uint8_t(made.values[i] >> 8 * byte);
        variables_[made.name] = kConstantWindow + at;
    }
}

void Symbols::declare_registers(const std::string& text) {
    std::istringstream words(text);
    std::string reg, type, rest;
    words >> reg >> type;
    std::getline(words, rest);
    const uint8_t width = uint8_t(width_of_type(type));
    for (const std::string& name : split_operands(rest)) {
        const size_t bracket = name.find('<');
        if (bracket == std::string::npos)
            scopes_.back().families[name] = {false, 1, width};
        else
            scopes_.back().families[name.substr(0, bracket)] = {
                true, std::stoi(name.substr(bracket + 1)), width};
    }
}

Register Symbols::find_register(const std::string& name) {
    size_t digits = name.size();
    while (digits > 0 && std::isdigit(static_cast<unsigned char>(name[digits - 1]))) --digits;
    const std::string stem = name.substr(0, digits);
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
        const auto made = scope->made.find(name);
        if (made != scope->made.end()) return made->second;
        auto family = scope->families.find(name);
        bool declared = family != scope->families.end() && !family->second.numbered;
        if (!declared && digits < name.size()) {
            family = scope->families.find(stem);
            declared = family != scope->families.end() && family->second.numbered &&
                       std::stoi(name.substr(digits)) < family->second.count;
        }
        if (declared) return scope->made[name] = allocate(family->second.width);
    }
    return {0, 0};
}

Register Symbols::reg(const std::string& name, int width) {
    const Register found = find_register(name);
    if (found.width == 0) throw Fault("load", "no register '" + name + "'");
    if (found.width != width) throw Fault("load", "register '" + name + "' has another size");
    return found;
}

Register Symbols::constant(uint64_t value, int width) {
    if (width < 64) value &= (1ull << width) - 1;
    const auto known = constants_.find({value, width});
    if (known != constants_.end()) return known->second;
    const Register made = allocate(width);
    program_->constants.push_back({made.unit, width == 64, value});
    return constants_[{value, width}] = made;
}

Register Symbols::value(const std::string& text, int width) {
    const auto special = special_registers().find(text);
    if (special != special_registers().end()) {
        const auto known = specials_.find(text);
        if (known != specials_.end()) return known->second;
        const Register made = allocate(32);
        program_->specials.push_back({made.unit, special->second});
        return specials_[text] = made;
    }
    uint64_t number = 0;
    if (parse_number(text, &number)) {
        if (width == 1) throw Fault("load", "a predicate is wanted, not '" + text + "'");
        return constant(number, width ? width : 64);
    }
    const auto variable = variables_.find(text);
    if (variable != variables_.end()) return constant(variable->second, width ? width : 64);
    const Register found = find_register(text);
    if (found.width == 0) throw Fault("load", "no register or variable '" + text + "'");
    if (width ? found.width != width : found.width == 1)
        throw Fault("load", "register '" + text + "' has another size");
    return found;
}

std::pair<Register, int64_t> Symbols::address(const std::string& text) {
    if (text.size() < 2 || text.front() != '[') throw Fault("load", "an address in [ ] is wanted");
    const std::string inside = trimmed(text.substr(1, text.size() - 2));
    const size_t sign = inside.find_first_of("+-", 1);
    const std::string base = trimmed(inside.substr(0, sign));
    int64_t offset = 0;
    if (sign != std::string::npos) {
        const std::string rest = trimmed(inside.substr(sign + 1));
        offset = inside[sign] == '-' ? -number(rest) : number(rest);
    }
    return {value(base, 0), offset};
}

int64_t Symbols::number(const std::string& text) const {
    uint64_t value = 0;
    if (!parse_number(text, &value)) throw Fault("load", "a number is wanted, not '" + text + "'");
    return int64_t(value);
}

}  // namespace ptxvm
