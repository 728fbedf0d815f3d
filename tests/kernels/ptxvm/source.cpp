#include "source.h"

#include <algorithm>
#include <sstream>
#include <tuple>

namespace ptxvm {

std::string trimmed(const std::string& text) {
    const char* blanks = " \t\r\n";
    const size_t from = text.find_first_not_of(blanks);
    if (from == std::string::npos) return "";
    return text.substr(from, text.find_last_not_of(blanks) - from + 1);
}

std::vector<std::string> split_operands(const std::string& text, char separator) {
    std::vector<std::string> parts;
    std::string part;
    int depth = 0;
    for (char c : text) {
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        if (c == separator && depth == 0) {
            parts.push_back(trimmed(part));
            part.clear();
        } else {
            part.push_back(c);
        }
    }
    if (!trimmed(part).empty()) parts.push_back(trimmed(part));
    return parts;
}

namespace {

// Comments become blanks, so that positions and line numbers stay.
std::string without_comments(std::string text) {
    for (size_t i = 0; i + 1 < text.size(); ++i) {
        if (text[i] == '"') {
            i = text.find('"', i + 1);
            if (i == std::string::npos) break;
        } else if (text[i] == '/' && text[i + 1] == '/') {
            while (i < text.size() && text[i] != '\n') text[i++] = ' ';
        } else if (text[i] == '/' && text[i + 1] == '*') {
            const size_t end = std::min(text.find("*/", i + 2), text.size() - 2) + 2;
            for (; i < end; ++i)
                if (text[i] != '\n') text[i] = ' ';
        }
    }
    return text;
}

// .file and .loc: where instructions come from (PTX ISA 8.7, 11.5.1, 11.5.2). A location of
// inlined code names its call site, which an earlier .loc has declared.
class Locations {
public:
    void file(const std::string& line) {
        std::istringstream words(line);
        std::string skip, path;
        int number = 0;
        words >> skip >> number;
        std::getline(words, path);
        path = path.substr(path.find('"') + 1);
        path = path.substr(0, path.find('"'));
        files_[number] = path.substr(path.find_last_of('/') + 1);
    }

    int location(const std::string& line) {
        std::string words = line;
        std::replace(words.begin(), words.end(), ',', ' ');
        std::istringstream in(words);
        std::string skip, word;
        Key key{}, site{};
        in >> skip >> std::get<0>(key) >> std::get<1>(key) >> std::get<2>(key);
        while (in >> word)
            if (word == "inlined_at")
                in >> std::get<0>(site) >> std::get<1>(site) >> std::get<2>(site);
        const auto known = index_.find({key, site});
        if (known != index_.end()) return known->second;
        const auto parent = latest_.find(site);
        const std::string name = files_[std::get<0>(key)] + ":" + std::to_string(std::get<1>(key));
        SourceLine made{name, name};
        if (parent != latest_.end()) {
            const SourceLine& above = lines[size_t(parent->second)];
            made.leaf += " inlined at " + above.leaf;
            // ptx*.cuh wrap single instructions: their callers are the lines worth naming.
            if (name.rfind("ptx", 0) == 0) made.line = above.line;
        }
        lines.push_back(made);
        const int index = int(lines.size()) - 1;
        index_[{key, site}] = latest_[key] = index;
        return index;
    }

    std::vector<SourceLine> lines;

private:
    using Key = std::tuple<int, int, int>;  // file, line, column
    std::map<int, std::string> files_;
    std::map<std::pair<Key, Key>, int> index_;
    std::map<Key, int> latest_;
};

class Reader {
public:
    Reader(const std::string& ptx, const std::string& entry)
        : text_(without_comments(ptx)), entry_(entry) {}

    Source read() {
        // Compilers write .file behind the code that refers to it.
        for (size_t from = 0; (from = text_.find(".file", from)) != std::string::npos; ++from) {
            at_ = from;
            locations_.file(until("\n"));
        }
        at_ = 0;
        while (skip_blanks(), at_ < text_.size()) module_item();
        if (!found_) fail("the module has no entry '" + entry_ + "'");
        source_.lines = locations_.lines;
        return std::move(source_);
    }

private:
    [[noreturn]] void fail(const std::string& what) const {
        throw Fault("load", "PTX line " + std::to_string(line()) + ": " + what);
    }
    int line() const {
        return 1 + int(std::count(text_.begin(), text_.begin() + long(std::min(at_, text_.size())),
                                  '\n'));
    }
    void skip_blanks() {
        while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
    }
    bool starts(const char* word) const {
        return text_.compare(at_, std::char_traits<char>::length(word), word) == 0;
    }
    std::string until(const char* stops) {
        const size_t end = std::min(text_.find_first_of(stops, at_), text_.size());
        std::string part = text_.substr(at_, end - at_);
        at_ = end;
        return part;
    }
    void skip_braces() {
        int depth = 0;
        do {
            if (at_ >= text_.size()) fail("a brace is never closed");
            depth += (text_[at_] == '{') - (text_[at_] == '}');
            ++at_;
        } while (depth > 0);
    }

    void module_item() {
        if (starts(".version") || starts(".target") || starts(".address_size") || starts(".file"))
            until("\n");
        else if (starts(".section")) {
            until("{");
            skip_braces();
        } else
            declaration_or_function();
    }

    void declaration_or_function() {
        const std::string head = until(";({=");
        if (head.find(".entry") == std::string::npos && head.find(".func") == std::string::npos) {
            if (at_ < text_.size() && text_[at_] != ';') {
                std::string rest = until(";");
                source_.module_declarations.push_back(trimmed(head + rest));
            } else {
                source_.module_declarations.push_back(trimmed(head));
            }
            ++at_;
            return;
        }
        std::istringstream words(head);
        std::string name, word;
        while (words >> word) name = word;
        const std::string parameters = text_[at_] == '(' ? (++at_, until(")")) : "";
        const std::string directives = (text_[at_] == ')' ? (++at_, until("{;")) : "");
        if (text_[at_] == ';') {
            ++at_;
            return;
        }
        if (name != entry_ || head.find(".entry") == std::string::npos) {
            skip_braces();
            return;
        }
        found_ = true;
        source_.parameters = parameters;
        source_.directives = directives;
        ++at_;
        body();
    }

    void body() {
        int depth = 1, location = -1;
        while (depth > 0) {
            skip_blanks();
            if (at_ >= text_.size()) fail("the body of the entry is never closed");
            if (starts(".loc ") || starts(".loc\t")) {
                location = locations_.location(until("\n"));
                continue;
            }
            Statement made{Statement::Kind::kInstruction, "", "", "", line_counter(), location};
            if (text_[at_] == '{' || text_[at_] == '}') {
                depth += text_[at_] == '{' ? 1 : -1;
                made.kind = text_[at_++] == '{' ? Statement::Kind::kOpenScope
                                                : Statement::Kind::kCloseScope;
            } else {
                statement(&made);
            }
            source_.body.push_back(std::move(made));
        }
    }

    // Lines are counted as the body is read, not from the top for each statement.
    int line_counter() {
        for (; counted_ < at_; ++counted_) lines_ += text_[counted_] == '\n';
        return lines_;
    }

    void statement(Statement* made) {
        const size_t from = at_;
        std::string word = until(" \t\r\n;:");
        if (text_[at_] == ':' && text_.compare(at_, 2, "::") != 0) {
            ++at_;
            made->kind = Statement::Kind::kLabel;
            made->rest = word;
            return;
        }
        at_ = from;
        std::string all = until(";");
        ++at_;
        if (all[0] == '.') {
            made->kind = Statement::Kind::kDeclaration;
            made->rest = trimmed(all);
            return;
        }
        if (all[0] == '@') {
            const size_t end = all.find_first_of(" \t\n");
            if (end == std::string::npos) fail("a guard without an instruction");
            made->guard = all.substr(1, end - 1);
            all = trimmed(all.substr(end));
        }
        const size_t end = std::min(all.find_first_of(" \t\n"), all.size());
        made->opcode = all.substr(0, end);
        made->rest = trimmed(all.substr(end));
    }

    std::string text_, entry_;
    size_t at_ = 0, counted_ = 0;
    int lines_ = 1;
    bool found_ = false;
    Source source_;
    Locations locations_;
};

}  // namespace

Source read_source(const std::string& ptx, const std::string& entry) {
    return Reader(ptx, entry).read();
}

}  // namespace ptxvm
