// Kernels and how to call them: compiled with the kernels' defines and sanitizer.
// SIMT_SOURCE is the file in quotes; SIMT_ENTRIES(entry) says entry(name) for each of its kernels.
#include SIMT_SOURCE

#include "runner.h"

namespace {

// Describes a parameter, and turns the 64-bit word of an argument into it.
template <typename T>
struct Parameter;

template <>
struct Parameter<int> {
    static constexpr simt::ParameterKind KIND = simt::ParameterKind::integer;
    static int from(uint64_t word) { return static_cast<int>(static_cast<uint32_t>(word)); }
};

template <typename T>
struct Parameter<T*> {
    static constexpr simt::ParameterKind KIND = simt::ParameterKind::output;
    static T* from(uint64_t word) { return reinterpret_cast<T*>(word); }
};

template <typename T>
struct Parameter<const T*> {
    static constexpr simt::ParameterKind KIND = simt::ParameterKind::input;
    static const T* from(uint64_t word) { return reinterpret_cast<const T*>(word); }
};

template <typename... T>
std::vector<simt::ParameterKind> kinds_of(void (*)(T...)) {
    return {Parameter<T>::KIND...};
}

template <typename... T, size_t... i>
void call_with(void (*kernel)(T...), const uint64_t* words, std::index_sequence<i...>) {
    kernel(Parameter<T>::from(words[i])...);
}

template <typename... T>
void call(void (*kernel)(T...), const uint64_t* words) {
    call_with(kernel, words, std::index_sequence_for<T...>());
}

}  // namespace

#define SIMT_ENTRY(name) \
    {#name, kinds_of(name), [](void* words) { call(name, static_cast<const uint64_t*>(words)); }},

std::vector<simt::Entry> simt_entries() { return {SIMT_ENTRIES(SIMT_ENTRY)}; }
