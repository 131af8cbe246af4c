// What the parts of one worker share while they call Python modules.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "block.hpp"
#include "payload.hpp"
#include "python.hpp"
#include "ring.hpp"

namespace steadyflow {

class Output;

// The block that a module is working on: what its outputs inherit. And its place in the worker.
// Touched only by the module's worker, under the GIL.
struct ModuleContext {
    std::int64_t timestamp_ns = 0;
    std::uint64_t first_frame = 0;
    std::uint32_t frames = 0;
    std::uint16_t flags = 0;
    bool active = false;
    bool busy = false;   // on the call stack, or awaiting something
    unsigned order = 0;  // upstream first, over the whole flow; the same for the modules of a loop
    std::uint64_t origin = 0;  // the block's position in its ring; what is made of a replica's block is ordered by it
    std::uint64_t calls = 0;
    std::int64_t busy_ns = 0;
    // In an event loop, where every module is at work and free by itself, and none is on a stack.
    Nanoseconds free_since_ns = 0;
    Nanoseconds waited_ns = 0;  // for room, in the call that runs

    void begin(const BlockObject& block) noexcept {
        timestamp_ns = block.timestamp_ns;
        first_frame = block.first_frame;
        frames = block.frames;
        // What is wrong with the input is wrong with what is made of it; repetition and end belong to one pipeline.
        flags = block.flags & (flag_discontinuity | flag_gap | flag_corrupted);
        active = true;
    }
};

// Times of one worker, for the derived stamps. Touched only by the worker's thread.
struct WorkerClock {
    Nanoseconds free_since_ns = 0;  // when it last became free for another block
    Nanoseconds inside_ns = 0;      // time of the running module that belongs to others (called or waited for inside)
    unsigned depth = 0;             // modules on the call stack
    unsigned order = 0;             // ModuleContext::order of the top one
};

// Puts a module on the call stack for as long as it lives.
class Running {
public:
    Running(WorkerClock& clock, ModuleContext& context, Nanoseconds began_ns) noexcept
        : clock_(clock), context_(context), outer_order_(clock.order), outer_inside_(clock.inside_ns), began_ns_(began_ns) {
        clock_.order = context_.order;
        clock_.inside_ns = 0;
        ++clock_.depth;
        context_.busy = true;
    }
    ~Running() {
        context_.active = false;
        context_.busy = false;
        clock_.order = outer_order_;
        --clock_.depth;
        // To the module below on the stack, all of this time was inside, but not its own.
        clock_.inside_ns = clock_.depth == 0 ? 0 : outer_inside_ + (monotonic_ns() - began_ns_);
    }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

private:
    WorkerClock& clock_;
    ModuleContext& context_;
    unsigned outer_order_;
    Nanoseconds outer_inside_;
    Nanoseconds began_ns_;
};

// Set once, by any thread: everything that waits gives up.
using AbortFlag = std::shared_ptr<std::atomic<bool>>;

// When a block came to its consumer.
struct Handover {
    std::uint64_t sequence = 0;
    Nanoseconds sent_ns = 0;
    Nanoseconds due_from_ns = 0;  // sent, or the end of a pause in which it waited
    Nanoseconds awake_ns = 0;
    std::optional<Nanoseconds> gil_ns = std::nullopt;  // nothing where nobody can tell
    Nanoseconds started_ns = 0;
};

// Where a pipeline ends: the Python callable, and what becomes of its result.
struct Target {
    std::string name;              // the pipeline, for errors
    nb::object pipeline;           // the same, for Python
    PayloadSpec spec;
    nb::object format;
    nb::object decoder;            // None: arrays
    nb::object call;               // callable(Block); None for an open end
    nb::object result_port;        // the module's only output, or None
    Output* result_output = nullptr;
    nb::object context_owner;
    ModuleContext* context = nullptr;
    nb::object on_error;           // callable(exception, Block)
    Nanoseconds max_latency_ns = 0;  // 0: nobody waits for these blocks, none is late
    double ns_per_frame = 0;         // of audio that somebody waits for
    Nanoseconds deadline_ns = 0;     // after which a block has to be finished; 0: when it has been heard, if it is audio
    std::optional<Reason> discard;   // the module has failed or ended: what still comes is dropped

    PyObject* decoder_or_null() const noexcept { return decoder.is_none() ? nullptr : decoder.ptr(); }

    // Where a result of process() goes. Raises ConfigurationError if the module has not exactly one output.
    Output& output_for(nb::handle result) const;

    // Calls the module with `block` and sends its result; `handover` began now, and is null for audio that was made up, which
    // nobody sent. False if it failed; then on_error has been called.
    bool invoke(WorkerClock& clock, BlockObject* block, ConsumerStats& stats, const Handover* handover, Nanoseconds started_ns);

    // Counts how long a block took from its sending to now, if somebody waits for it.
    void note_cycle(ConsumerStats& stats, const Handover& handover, std::uint32_t frames, Nanoseconds finished_ns) const noexcept {
        if (ns_per_frame != 0 || deadline_ns != 0) note_deadline(stats, handover, frames, finished_ns);
    }

    // Hands the current Python exception to on_error.
    void report_failure(BlockObject* block) noexcept;

private:
    void note_deadline(ConsumerStats& stats, const Handover& handover, std::uint32_t frames,
                       Nanoseconds finished_ns) const noexcept;
};

// Counts what lies between a block's sending and the start of its work. `free_ns`: when its consumer became free.
inline void note_started(ConsumerStats& stats, const Target& target, const Handover& handover, Nanoseconds free_ns) noexcept {
    const Nanoseconds overhead = handover.started_ns - std::max(handover.sent_ns, free_ns);
    stats.latency.record(handover.started_ns - handover.sent_ns);
    stats.overhead.record(overhead);
    stats.wait.record(handover.awake_ns - handover.sent_ns);
    if (handover.gil_ns) stats.gil.record(*handover.gil_ns - handover.awake_ns);
    if (target.max_latency_ns != 0 && overhead > target.max_latency_ns) add(stats.late);
}

// Fills in the stamps of a block that came through a ring or from a fused sender.
inline void stamp(BlockObject& block, const BlockHeader& header, Nanoseconds sent_ns) noexcept {
    block.timestamp_ns = header.timestamp_ns;
    block.first_frame = header.first_frame;
    block.sequence = header.sequence;
    block.frames = header.frames;
    block.flags = header.flags;
    block.sent_ns = sent_ns;
}

}  // namespace steadyflow
