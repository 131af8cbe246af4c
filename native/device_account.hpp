// What a device's callback counts and measures.
//
// Invariants: the callback is the only writer, and adds by load and store; any thread of the process reads each word whole, and
// none of them goes back. Recording is wait-free and allocates nothing.
#pragma once

#include <atomic>
#include <cstdint>

#include "platform.hpp"
#include "stats.hpp"

namespace steadyflow {

// Deadlines that the device missed in one direction, as its driver tells.
struct Xruns {
    Counter count;
    std::atomic<Nanoseconds> last_ns;  // monotonic; 0: none yet

    void note(Nanoseconds now_ns) noexcept {
        add(count);
        last_ns.store(now_ns, std::memory_order_relaxed);
    }
};

struct DeviceAccount {
    Counter cycles;
    Counter frames;
    Xruns capture;
    Xruns playback;
    // Times in the device's clock that passed without a frame of them.
    Counter gaps;
    Counter lost_frames;
    Counter largest_gap_frames;
    Counter blocks;
    Counter dropped;         // of them, those that some pipeline did not take
    Counter without_time;    // cycles for which the device named no time
    Histogram busy;          // ns that a cycle took, from call to return
    Counter worst_cycle_ppm;  // the largest share of a cycle's own length that it took
    std::atomic<double> drift_ppm;  // by how much the device's seconds are longer than ours; 0 until known
    std::atomic<Nanoseconds> clock_error_ns;  // how far its latest reading was off
    std::atomic<Nanoseconds> last_cycle_ns;   // monotonic, when it was called; 0: never

    void note_gap(std::uint64_t frames_lost) noexcept {
        add(gaps);
        add(lost_frames, frames_lost);
        if (frames_lost > largest_gap_frames.load(std::memory_order_relaxed)) {
            largest_gap_frames.store(frames_lost, std::memory_order_relaxed);
        }
    }

    void note_cycle(std::uint32_t cycle_frames, double rate_hz, Nanoseconds began_ns, Nanoseconds ended_ns) noexcept {
        add(cycles);
        add(frames, cycle_frames);
        busy.record(ended_ns - began_ns);
        last_cycle_ns.store(began_ns, std::memory_order_relaxed);
        const double share = static_cast<double>(ended_ns - began_ns) * rate_hz / (1e9 * cycle_frames);
        const auto ppm = static_cast<std::uint64_t>(share > 0 ? share * 1e6 : 0);
        if (ppm > worst_cycle_ppm.load(std::memory_order_relaxed)) worst_cycle_ppm.store(ppm, std::memory_order_relaxed);
    }
};

}  // namespace steadyflow
