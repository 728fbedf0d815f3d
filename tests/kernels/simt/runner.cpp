// The program that Python starts: a job from standard input, outputs and counters to standard
// output, a fault to standard error.
//
// Job: length of the kernel's name, the name; then 64-bit little-endian words: seed, grid x, y, z,
// block, shared bytes, number of arguments; then for each argument its kind (ParameterKind) and its
// value or size in bytes; then the bytes of the inputs in order. Answer: two 64-bit counters, then
// the bytes of the outputs in order.
#include "runner.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "engine.h"

namespace {

using simt::ParameterKind;

constexpr size_t BUFFER_ALIGNMENT = 256;  // cudaMalloc's
constexpr uint8_t OUTPUT_POISON = 0xcd;

struct Job {
    std::string entry;
    simt::Launch launch;
    std::vector<ParameterKind> kinds;
    std::vector<uint64_t> words;  // values of integers, sizes of buffers
};

// Memory of one argument.
struct Allocation {
    uint8_t* begin = nullptr;
    std::vector<uint8_t> original;  // inputs: to see that nobody wrote
};

void read_exactly(void* into, size_t bytes) {
    if (bytes != 0 && std::fread(into, 1, bytes, stdin) != bytes) {
        simt::fault("launch", "the job ended too early");
    }
}

uint64_t read_word() {
    uint64_t word = 0;
    read_exactly(&word, sizeof(word));
    return word;
}

Job read_job() {
    Job job;
    job.entry.resize(read_word());
    read_exactly(job.entry.data(), job.entry.size());
    job.launch.seed = read_word();
    job.launch.grid.x = static_cast<unsigned>(read_word());
    job.launch.grid.y = static_cast<unsigned>(read_word());
    job.launch.grid.z = static_cast<unsigned>(read_word());
    job.launch.block = static_cast<unsigned>(read_word());
    job.launch.shared_bytes = read_word();
    const uint64_t arguments = read_word();
    for (uint64_t i = 0; i < arguments; ++i) {
        job.kinds.push_back(static_cast<ParameterKind>(read_word()));
        job.words.push_back(read_word());
    }
    return job;
}

const char* name_of(ParameterKind kind) {
    switch (kind) {
        case ParameterKind::input:
            return "a pointer to const (Input)";
        case ParameterKind::integer:
            return "an int";
        case ParameterKind::output:
            return "a pointer (Output)";
    }
    return "?";
}

simt::Entry find_entry(const std::string& name) {
    for (const simt::Entry& entry : simt_entries()) {
        if (entry.name == name) {
            return entry;
        }
    }
    simt::fault("load", "the source has no such kernel");
}

void check_parameters(const Job& job, const std::vector<ParameterKind>& wanted) {
    if (job.kinds.size() != wanted.size()) {
        simt::fault("launch", "the kernel has " + std::to_string(wanted.size()) +
                                  " parameters, but got " + std::to_string(job.kinds.size()) +
                                  " arguments");
    }
    for (size_t i = 0; i < wanted.size(); ++i) {
        if (job.kinds[i] != wanted[i]) {
            simt::fault("launch", "parameter " + std::to_string(i) + " of the kernel is " +
                                      name_of(wanted[i]) + ", but got " + name_of(job.kinds[i]));
        }
    }
}

Allocation allocate(ParameterKind kind, size_t bytes) {
    Allocation allocation;
    allocation.begin = simt::guarded_memory(bytes, BUFFER_ALIGNMENT);
    if (kind == ParameterKind::input) {
        read_exactly(allocation.begin, bytes);
        allocation.original.assign(allocation.begin, allocation.begin + bytes);
    } else {
        std::memset(allocation.begin, OUTPUT_POISON, bytes);
    }
    return allocation;
}

void check_unchanged(const Allocation& allocation, const simt::Buffer& buffer) {
    for (size_t i = 0; i < allocation.original.size(); ++i) {
        if (buffer.begin[i] != allocation.original[i]) {
            simt::fault("read_only", "a store hit byte " + std::to_string(i) + " of " +
                                         buffer.name + ", which is an input");
        }
    }
}

void write_exactly(const void* from, size_t bytes) {
    if (bytes != 0 && std::fwrite(from, 1, bytes, stdout) != bytes) {
        simt::fault("launch", "the answer could not be written");
    }
}

}  // namespace

int main() {
    Job job = read_job();
    const simt::Entry entry = find_entry(job.entry);
    check_parameters(job, entry.parameters);
    std::vector<Allocation> allocations;
    std::vector<uint64_t> words = job.words;
    std::vector<simt::Buffer>& buffers = simt::engine().buffers;
    for (size_t i = 0; i < job.kinds.size(); ++i) {
        if (job.kinds[i] == ParameterKind::integer) {
            continue;
        }
        allocations.push_back(allocate(job.kinds[i], job.words[i]));
        uint8_t* begin = allocations.back().begin;
        words[i] = reinterpret_cast<uint64_t>(begin);
        const bool writable = job.kinds[i] == ParameterKind::output;
        buffers.push_back({"argument " + std::to_string(i) + (writable ? " (output)" : " (input)"),
                           begin, job.words[i], writable});
        simt::announce(buffers.back());
    }
    simt::run_grid(job.launch, entry.call, words.data());
    const simt::Counters& counters = simt::engine().counters;
    write_exactly(&counters.ldmatrix_requests, sizeof(uint64_t));
    write_exactly(&counters.ldmatrix_wavefronts, sizeof(uint64_t));
    for (size_t i = 0; i < allocations.size(); ++i) {
        simt::check_guards(buffers[i]);
        check_unchanged(allocations[i], buffers[i]);
        if (buffers[i].writable) {
            write_exactly(buffers[i].begin, buffers[i].bytes);
        }
    }
    std::fflush(stdout);
    return 0;
}
