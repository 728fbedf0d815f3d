// How the program ends when a kernel breaks a rule: one line on standard error.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "engine.h"
#include "sanitizer.h"

namespace simt {

namespace {

// Exit status that tells the caller "a fault, told on stderr" from a crash.
constexpr int FAULT_STATUS = 3;
[[maybe_unused]] constexpr size_t SIGNAL_STACK_BYTES = 64 * 1024;

}  // namespace

void announce(const Buffer& buffer) {
    std::fprintf(stderr, "simt-buffer %p %zu %s\n", static_cast<const void*>(buffer.begin),
                 buffer.bytes, buffer.name.c_str());
}

void fault(const char* kind, const std::string& sentence) {
    std::fprintf(stderr, "simt-fault %s %s\n", kind, sentence.c_str());
    std::fflush(stderr);
    _exit(FAULT_STATUS);
}

const char* name_of(Meeting meeting) {
    switch (meeting) {
        case Meeting::none:
            return "nothing";
        case Meeting::block_barrier:
            return "sync_threads";
        case Meeting::warp_barrier:
            return "sync_warp";
        case Meeting::shuffle:
            return "a shuffle";
        case Meeting::vote:
            return "a vote";
        case Meeting::ldmatrix:
            return "ldmatrix";
        case Meeting::mma:
            return "mma";
    }
    return "?";
}

std::string name_of(const Thread& thread) {
    return "thread " + std::to_string(thread.index) + " of block (" + std::to_string(blockIdx.x) +
           ", " + std::to_string(blockIdx.y) + ", " + std::to_string(blockIdx.z) + ")";
}

std::string where() { return name_of(*engine().running); }

std::string at(Site site) {
    const std::string file = site.file;
    const size_t slash = file.rfind('/');
    return " at " + (slash == std::string::npos ? file : file.substr(slash + 1)) + ":" +
           std::to_string(site.line);
}

void stuck() {
    const Engine& e = engine();
    const Thread* waiting = nullptr;
    for (const Thread& thread : e.threads) {
        if (!thread.exited && waiting == nullptr) {
            waiting = &thread;
        }
    }
    std::string why = "but not all that it waits for come";
    const bool block_wide = waiting->waiting_for == Meeting::block_barrier;
    for (const Thread& other : e.threads) {
        const bool same_warp = other.index / WARP_LANES == waiting->index / WARP_LANES;
        if (!block_wide && !same_warp) {
            continue;
        }
        if (other.exited) {
            why = "but thread " + std::to_string(other.index) + " has returned";
            break;
        }
        if (other.waiting_for != waiting->waiting_for) {
            why = "but thread " + std::to_string(other.index) + " waits in " +
                  name_of(other.waiting_for) + at(other.site);
            break;
        }
    }
    fault("divergence", name_of(*waiting) + " waits in " + name_of(waiting->waiting_for) +
                            at(waiting->site) + ", " + why);
}

namespace {

void tell_running_thread() {
    if (engine().running != nullptr) {
        std::fprintf(stderr, "simt-thread %s\n", where().c_str());
        std::fflush(stderr);
    }
}

// The handlers do what the letter of the law forbids a handler; the process ends in them.
#if defined(SIMT_ASAN)
// UndefinedBehaviorSanitizer aborts after its report: it has no callback of its own.
void ended(int) {
    tell_running_thread();
    _exit(1);
}
#elif !defined(SIMT_TSAN)
void ended(int signal_number) {
    const std::string who = engine().running == nullptr ? "the emulator" : where();
    const char* what = signal_number == SIGFPE    ? "divided an integer by zero"
                       : signal_number == SIGABRT ? "was aborted"
                       : signal_number == SIGILL  ? "ran an instruction that does not exist"
                                                  : "touched memory that is nobody's";
    fault("crash", who + " " + what + "; the address sanitizer names the line");
}
#endif

}  // namespace

void watch_for_death() {
    sanitizer::on_death(tell_running_thread);
#if !defined(SIMT_TSAN)
    struct sigaction action = {};
    action.sa_handler = ended;
    sigaction(SIGABRT, &action, nullptr);
#if !defined(SIMT_ASAN)
    // On a stack of its own: that of the fiber may be what overflowed.
    static char signal_stack[SIGNAL_STACK_BYTES];
    stack_t stack = {};
    stack.ss_sp = signal_stack;
    stack.ss_size = sizeof(signal_stack);
    sigaltstack(&stack, nullptr);
    action.sa_flags = SA_ONSTACK;
    for (const int signal_number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
        sigaction(signal_number, &action, nullptr);
    }
#endif
#endif
}

}  // namespace simt
