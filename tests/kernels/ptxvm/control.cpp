// Control flow (PTX ISA 8.7, 9.7.12, 9.7.13.1) and the whole table of opcodes. The scheduler in
// machine.cpp carries branches, exits and block barriers out itself.
#include "opcodes.h"

namespace ptxvm {

void add_control(Opcodes& table) {
    const auto add = [&](const std::string& name, const std::string& pattern, Control control) {
        Form form{pattern, nullptr, "control", {}};
        form.detail.control = control;
        form.detail.uniform = name == "bra.uni";
        table.add(name, form);
    };
    add("bra", ":l", Control::kBranch);
    add("bra.uni", ":l", Control::kBranch);
    add("ret", ":", Control::kExit);
    add("ret.uni", ":", Control::kExit);
    add("exit", ":", Control::kExit);
    // Barrier 0 over all threads of the block; others are refused when the program is loaded.
    add("bar.sync", ":n", Control::kBlockBarrier);
    add("barrier.sync", ":n", Control::kBlockBarrier);
    add("barrier.sync.aligned", ":n", Control::kBlockBarrier);
    add("bar.cta.sync", ":n", Control::kBlockBarrier);
    add("barrier.cta.sync", ":n", Control::kBlockBarrier);
    add("barrier.cta.sync.aligned", ":n", Control::kBlockBarrier);
}

Opcodes::Opcodes() {
    add_integer(*this);
    add_logic(*this);
    add_float(*this);
    add_compare(*this);
    add_convert(*this);
    add_move(*this);
    add_warp_collectives(*this);
    add_matrix(*this);
    add_async_copy(*this);
    add_control(*this);
}

const Form* Opcodes::find(const std::string& opcode) {
    const auto known = forms_.find(opcode);
    if (known != forms_.end()) return &known->second;
    Form form;
    if (!memory_form(opcode, &form)) return nullptr;
    return &(forms_[opcode] = form);
}

}  // namespace ptxvm
