// Fibers. On x86-64 a switch saves only what the ABI asks a callee to keep; ucontext, which other
// processors use, enters the operating system each time to save the signal mask.
#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "sanitizer.h"

#if !defined(SIMT_UCONTEXT)
// switch(&save, load): System V AMD64 ABI, callee-saved registers rbx, rbp, r12 to r15. The
// floating-point control words are the same in all fibers.
extern "C" void simt_switch_stack(void** save, void* load);
asm(R"(
    .text
    .type simt_switch_stack, @function
simt_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_switch_stack, . - simt_switch_stack
)");
#endif

namespace simt {

namespace {

constexpr size_t PAGE_BYTES = 4096;

// A stack with a page below it that faults, so that an overflow is a crash and not corruption.
unsigned char* allocate_stack(size_t bytes) {
    void* memory = mmap(nullptr, bytes + PAGE_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, PAGE_BYTES, PROT_NONE) != 0) {
        std::perror("simt: stack of a fiber");
        std::abort();
    }
    return static_cast<unsigned char*>(memory) + PAGE_BYTES;
}

}  // namespace

void Fiber::start(void (*entry)(), size_t stack_bytes, const char* name) {
    if (stack_ == nullptr) {
        stack_ = allocate_stack(stack_bytes);
        stack_bytes_ = stack_bytes;
        sanitizer_fiber_ = sanitizer::create_fiber();
    }
    sanitizer::name_fiber(sanitizer_fiber_, name);
    // A thread that ended left its frames poisoned.
    sanitizer::unpoison(stack_, stack_bytes_);
#if defined(SIMT_UCONTEXT)
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = stack_bytes_;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#else
    uintptr_t* top = reinterpret_cast<uintptr_t*>(stack_ + stack_bytes_);
    *--top = 0;  // keeps rsp 8 past a multiple of 16 at the entry, as after a call
    *--top = reinterpret_cast<uintptr_t>(entry);
    for (int i = 0; i < 6; ++i) {
        *--top = 0;
    }
    stack_pointer_ = top;
#endif
    fake_stack_ = nullptr;
}

void Fiber::adopt_running() { sanitizer_fiber_ = sanitizer::running_fiber(&stack_, &stack_bytes_); }

void Fiber::enter_from(Fiber& from) {
    sanitizer::before_switch(&from.fake_stack_, stack_, stack_bytes_, sanitizer_fiber_);
#if defined(SIMT_UCONTEXT)
    swapcontext(&from.context_, &context_);
#else
    simt_switch_stack(&from.stack_pointer_, stack_pointer_);
#endif
    from.arrived();
}

void Fiber::arrived() { sanitizer::after_switch(fake_stack_); }

}  // namespace simt
