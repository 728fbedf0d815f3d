// The scheduler: which thread runs next, and when the barrier of the block opens.
#include "engine.h"

#include <cstdlib>
#include <random>

#include "sanitizer.h"

simt::Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

namespace {

// The order of one round of the schedule: 0 as numbered, 1 reversed, else shuffled anew, and then
// half of the warps sit out, so that some run far ahead of others.
class Schedule {
public:
    Schedule(uint64_t seed, unsigned threads) : seed_(seed), random_(seed) {
        for (unsigned i = 0; i < threads; ++i) {
            order_.push_back(seed == 1 ? threads - 1 - i : i);
        }
    }

    const std::vector<unsigned>& next_round() {
        if (seed_ < 2) {
            return order_;
        }
        for (size_t i = order_.size(); i > 1; --i) {
            std::swap(order_[i - 1], order_[random_() % i]);
        }
        resting_ = random_();
        return order_;
    }

    bool rests(unsigned thread) const {
        return seed_ >= 2 && ((resting_ >> (thread / WARP_LANES)) & 1u) != 0u;
    }

private:
    uint64_t seed_;
    std::mt19937_64 random_;
    uint64_t resting_ = 0;  // one bit for each of at most 32 warps
    std::vector<unsigned> order_;
};

Fiber& fiber_of(Thread& thread) { return thread.fibers[engine().block_number % FIBERS_PER_THREAD]; }

void thread_main() {
    Engine& e = engine();
    Thread& self = *e.running;
    fiber_of(self).arrived();
    // The launch is ordered before its threads, never the threads of one block before another's.
    sanitizer::acquire(&e.launch);
    e.body(e.body_context);
    if (self.copies.begin != self.copies.end) {
        fault("in_flight", where() + " returned with cp.async copies that it never waited for");
    }
    sanitizer::release(&e.counters);
    self.exited = true;
    self.ready = false;
    ++e.warps[self.index / WARP_LANES].absent;
    while (true) {
        e.scheduler.enter_from(fiber_of(self));
    }
}

// Shared memory of exactly the launch's size, with other rubbish in each block and each seed.
// ThreadSanitizer needs new memory for each block: nothing orders one block before the next, and
// memory that comes again would look like a race between them.
void renew_block_memory() {
    Engine& e = engine();
#if defined(SIMT_TSAN)
    const bool needed = true;
#else
    const bool needed = e.shared.begin == nullptr;
#endif
    if (needed) {
        constexpr size_t SHARED_ALIGNMENT = 1024;
        e.shared.bytes = e.launch.shared_bytes;
        e.shared.begin = guarded_memory(e.shared.bytes, SHARED_ALIGNMENT);
        e.sync_words =
            static_cast<uint64_t*>(std::calloc(2 + 2 * e.warps.size(), sizeof(uint64_t)));
        announce(e.shared);
    }
    // Knuth's MMIX generator; the top byte is random enough.
    uint64_t state = (e.launch.seed + 1) * 0x9e3779b97f4a7c15ull + e.block_number;
    for (size_t i = 0; i < e.shared.bytes; ++i) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        e.shared.begin[i] = static_cast<uint8_t>(state >> 56);
    }
    sanitizer::release(&e.launch);
}

void start_threads() {
    Engine& e = engine();
    e.arrived_at_barrier = 0;
    for (Warp& warp : e.warps) {
        warp.arrived = 0;
        warp.absent = 0;
    }
    for (Thread& thread : e.threads) {
        fiber_of(thread).start(thread_main, STACK_BYTES, name_of(thread).c_str());
        thread.ready = true;
        thread.exited = false;
        thread.waiting_for = Meeting::none;
        thread.block_barriers = 0;
        thread.warp_meetings = 0;
        thread.copies.begin = thread.copies.end = thread.copies.groups = 0;
    }
}

void run_thread(Thread& thread) {
    Engine& e = engine();
    threadIdx = {thread.index, 0, 0};
    e.running = &thread;
    fiber_of(thread).enter_from(e.scheduler);
}

// One pass over the threads; false when none could run.
bool run_round(Schedule& schedule) {
    bool alive = false;
    for (const unsigned index : schedule.next_round()) {
        Thread& thread = engine().threads[index];
        if (!thread.ready) {
            continue;
        }
        alive = true;
        if (!schedule.rests(index)) {
            run_thread(thread);
        }
    }
    return alive;
}

void run_block(Schedule& schedule) {
    renew_block_memory();
    start_threads();
    while (run_round(schedule)) {
    }
    for (const Thread& thread : engine().threads) {
        if (!thread.exited) {
            stuck();
        }
    }
    check_guards(engine().shared);
}

// All have come: everyone may go on.
void open_barrier() {
    Engine& e = engine();
    e.arrived_at_barrier = 0;
    for (Warp& warp : e.warps) {
        warp.absent = 0;
    }
    for (Thread& thread : e.threads) {
        thread.ready = true;
        thread.waiting_for = Meeting::none;
    }
}

}  // namespace

Engine& engine() {
    static Engine instance;
    return instance;
}

void wait(Meeting meeting, Site site) {
    Engine& e = engine();
    Thread& self = *e.running;
    self.waiting_for = meeting;
    self.site = site;
    self.ready = false;
    e.scheduler.enter_from(fiber_of(self));
}

void run_grid(const Launch& launch, void (*body)(void* context), void* context) {
    Engine& e = engine();
    e.launch = launch;
    e.body = body;
    e.body_context = context;
    e.threads = std::vector<Thread>(launch.block);
    e.warps = std::vector<Warp>((launch.block + WARP_LANES - 1) / WARP_LANES);
    for (unsigned i = 0; i < launch.block; ++i) {
        e.threads[i].index = i;
    }
    e.scheduler.adopt_running();
    watch_for_death();
    blockDim = {launch.block, 1, 1};
    gridDim = launch.grid;
    Schedule schedule(launch.seed, launch.block);
    const unsigned plane = launch.grid.x * launch.grid.y;
    for (unsigned number = 0; number < plane * launch.grid.z; ++number) {
        e.block_number = number;
        blockIdx = {number % launch.grid.x, number % plane / launch.grid.x, number / plane};
        run_block(schedule);
    }
    // Only now: before, it would order the blocks.
    sanitizer::acquire(&e.counters);
    e.running = nullptr;
}

}  // namespace simt

extern "C" {

uint8_t* simt_shared_memory() { return simt::engine().shared.begin; }

void simt_sync_threads(simt::Site site) {
    simt::Engine& e = simt::engine();
    simt::Thread& self = *e.running;
    // Two words by turns: with one, a thread that leaves late would see what others did after.
    uint64_t* word = e.sync_words + self.block_barriers++ % 2;
    simt::sanitizer::release(word);
    if (e.arrived_at_barrier == 0) {
        e.first_at_barrier = &self;
        self.site = site;
    } else if (e.first_at_barrier->site.line != site.line) {
        simt::fault("divergence", simt::where() + " reaches sync_threads" + simt::at(site) +
                                      ", but thread " + std::to_string(e.first_at_barrier->index) +
                                      " waits in the one" + simt::at(e.first_at_barrier->site));
    }
    if (++e.arrived_at_barrier < static_cast<int>(e.threads.size())) {
        ++e.warps[self.index / simt::WARP_LANES].absent;
        simt::wait(simt::Meeting::block_barrier, site);
    } else {
        simt::open_barrier();
    }
    simt::sanitizer::acquire(word);
}

}  // extern "C"
