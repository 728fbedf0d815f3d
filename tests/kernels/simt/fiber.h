// One stack per CUDA thread and the switch between them, told to the sanitizers.
#pragma once

#include <cstddef>

// SIMT_UCONTEXT forces what other processors than x86-64 use, so that a test can run it here.
#if !defined(__x86_64__) && !defined(SIMT_UCONTEXT)
#define SIMT_UCONTEXT
#endif
#if defined(SIMT_UCONTEXT)
#include <ucontext.h>
#endif

namespace simt {

// A context that can be left and entered again. The scheduler's own has no stack of ours.
class Fiber {
public:
    // The next enter_from runs `entry`, which never returns. The stack is made at the first start.
    void start(void (*entry)(), size_t stack_bytes, const char* name);
    // Leaves the running fiber `from` and continues this one.
    void enter_from(Fiber& from);
    // The first thing that `entry` does, and what follows every enter_from that comes back.
    void arrived();
    // Takes the operating system's thread as it is: the scheduler.
    void adopt_running();

private:
#if defined(SIMT_UCONTEXT)
    ucontext_t context_;
#else
    void* stack_pointer_ = nullptr;
#endif
    unsigned char* stack_ = nullptr;
    size_t stack_bytes_ = 0;
    void* sanitizer_fiber_ = nullptr;  // ThreadSanitizer: its thread of this fiber
    void* fake_stack_ = nullptr;       // AddressSanitizer: kept while away
};

}  // namespace simt
