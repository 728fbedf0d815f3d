// What AddressSanitizer and ThreadSanitizer have to be told about fibers and barriers; nothing at
// all in a plain build. SIMT_ASAN or SIMT_TSAN is defined by the build of that flavour: the engine
// itself is compiled without -fsanitize, so the compiler's own macros do not say it.
#pragma once

#include <cstddef>

#if defined(SIMT_ASAN)
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(SIMT_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace simt::sanitizer {

inline void* create_fiber() {
#if defined(SIMT_TSAN)
    return __tsan_create_fiber(0);
#else
    return nullptr;
#endif
}

inline void name_fiber([[maybe_unused]] void* fiber, [[maybe_unused]] const char* name) {
#if defined(SIMT_TSAN)
    __tsan_set_fiber_name(fiber, name);
#endif
}

// The scheduler's fiber; ASan also wants to know the bounds of its stack.
inline void* running_fiber([[maybe_unused]] unsigned char** stack,
                           [[maybe_unused]] size_t* stack_bytes) {
#if defined(SIMT_TSAN)
    return __tsan_get_current_fiber();
#elif defined(SIMT_ASAN)
    pthread_attr_t attributes;
    void* lowest = nullptr;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &lowest, stack_bytes);
    pthread_attr_destroy(&attributes);
    *stack = static_cast<unsigned char*>(lowest);
    return nullptr;
#else
    return nullptr;
#endif
}

// Calls `tell` after a report, before the process ends.
inline void on_death([[maybe_unused]] void (*tell)()) {
#if defined(SIMT_ASAN)
    __sanitizer_set_death_callback(tell);
#endif
}

inline void unpoison([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#if defined(SIMT_ASAN)
    __asan_unpoison_memory_region(memory, bytes);
#endif
}

inline void before_switch([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* stack,
                          [[maybe_unused]] size_t stack_bytes, [[maybe_unused]] void* fiber) {
#if defined(SIMT_ASAN)
    __sanitizer_start_switch_fiber(fake_stack, stack, stack_bytes);
#elif defined(SIMT_TSAN)
    // Flag 1: a switch alone orders nothing between the two threads.
    __tsan_switch_to_fiber(fiber, 1);
#endif
}

inline void after_switch([[maybe_unused]] void* fake_stack) {
#if defined(SIMT_ASAN)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

// What a thread did before is seen by those that acquire the same word later.
inline void release([[maybe_unused]] void* word) {
#if defined(SIMT_TSAN)
    __tsan_release(word);
#endif
}

inline void acquire([[maybe_unused]] void* word) {
#if defined(SIMT_TSAN)
    __tsan_acquire(word);
#endif
}

}  // namespace simt::sanitizer
