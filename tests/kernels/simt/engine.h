// The emulator's inside: threads, warps and the block that runs.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "fiber.h"
#include "simt.h"

namespace simt {

constexpr int WARP_LANES = 32;
// The stacks of sanitised frames are several times larger than those of plain ones.
constexpr size_t STACK_BYTES = 256 * 1024;

enum class Meeting { none, block_barrier, warp_barrier, shuffle, vote, ldmatrix, mma };
const char* name_of(Meeting meeting);

// Operands that one lane brings to a meeting of its warp.
struct Operands {
    uint32_t words[6];    // value; or a[4], b[2] of mma
    const uint8_t* row;   // ldmatrix
    int32_t products[4];  // mma: what the meeting computed for this lane
};

// A thread's asynchronous copies, oldest first. A plain array: ThreadSanitizer watches malloc, and
// would see the engine's own.
struct CopyQueue {
    static constexpr unsigned CAPACITY = 512;
    struct Item {
        PendingCopy copy;
        unsigned group;
    };
    Item items[CAPACITY];
    unsigned begin = 0, end = 0;  // ever increasing; taken modulo CAPACITY
    unsigned groups = 0;          // committed so far; the number of the open one
};

// ThreadSanitizer takes the work of one fiber as ordered. So that it sees races between
// neighbouring blocks, a CUDA thread's fiber is another one in the next block.
#if defined(SIMT_TSAN)
constexpr unsigned FIBERS_PER_THREAD = 2;
#else
constexpr unsigned FIBERS_PER_THREAD = 1;
#endif

struct Thread {
    std::array<Fiber, FIBERS_PER_THREAD> fibers;
    unsigned index = 0;
    bool ready = false;
    bool exited = false;
    Meeting waiting_for = Meeting::none;
    Site site = {"", 0};
    CopyQueue copies;
    unsigned block_barriers = 0;  // how many it has passed: picks the sync word
    unsigned warp_meetings = 0;   // the same: picks the exchange buffer
};

struct Warp {
    // Two sets by turns: a lane may bring operands to the next meeting while another still reads
    // those of this one, but never to the one after that.
    std::array<std::array<Operands, WARP_LANES>, 2> operands;
    std::array<std::array<const uint8_t*, WARP_LANES>, 2> rows;
    int arrived = 0;
    const Thread* first = nullptr;  // who came first to the meeting under way
    int absent = 0;                 // lanes that returned or wait in the block's barrier
};

// Counters that the report passes on.
struct Counters {
    uint64_t ldmatrix_requests = 0;
    uint64_t ldmatrix_wavefronts = 0;
};

struct Launch {
    Index3 grid = {1, 1, 1};
    unsigned block = 32;
    size_t shared_bytes = 0;
    uint64_t seed = 0;
};

// A named stretch of global memory, for messages.
struct Buffer {
    std::string name;
    uint8_t* begin = nullptr;
    size_t bytes = 0;
    bool writable = false;
};

struct Engine {
    Launch launch;
    std::vector<Buffer> buffers;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    Fiber scheduler;
    Thread* running = nullptr;
    void (*body)(void* context) = nullptr;
    void* body_context = nullptr;
    Buffer shared = {"shared memory", nullptr, 0, true};
    // What barriers order by: two words of the block, then two of each warp. New in each block.
    uint64_t* sync_words = nullptr;
    unsigned block_number = 0;
    int arrived_at_barrier = 0;
    const Thread* first_at_barrier = nullptr;
    Counters counters;
};

// The one engine of the process.
Engine& engine();

// Runs every block of the launch; `body` is one CUDA thread's call of the kernel.
void run_grid(const Launch& launch, void (*body)(void* context), void* context);

// Memory with guards around it; where AddressSanitizer watches it has red zones instead, which
// begin at the very next byte.
uint8_t* guarded_memory(size_t bytes, size_t alignment);
// A fault when a store hit the guards of a buffer.
void check_guards(const Buffer& buffer);

// Tells the caller where a buffer lies: sanitizers only know addresses.
void announce(const Buffer& buffer);
// Ends the process with a sentence; kinds are those of report.py.
[[noreturn]] void fault(const char* kind, const std::string& sentence);
// "thread 5 of block (0, 2, 1)", of the running thread.
std::string where();
// " at file.cu:12"
std::string at(Site site);

// "thread 5 of block (0, 2, 1)".
std::string name_of(const Thread& thread);
// Nobody can run: says why, by the first thread that waits and one that it waits for.
[[noreturn]] void stuck();
// Crashes and sanitizer reports name the thread that ran.
void watch_for_death();

// Whether 16 aligned bytes from `address` on lie in shared memory.
bool is_shared_row(const uint8_t* address);
// The fault of an access that is outside every buffer or not aligned; `access` begins the sentence.
[[noreturn]] void refuse(const uint8_t* address, const std::string& access);

// Gives the processor back until some other thread makes this one ready.
void wait(Meeting meeting, Site site);

}  // namespace simt
