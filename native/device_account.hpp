// What a device's callback counts and measures, in shared memory.
//
// Invariants: the callback is the only writer, and adds by load and store; anybody reads each word whole, and none of them goes
// back. Where a stream is opened anew, perhaps by another process, its account goes on. Recording is wait-free and allocates
// nothing.
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
    Counter captured_frames;
    Xruns capture;
    Xruns playback;
    // Times in the device's clock that passed without a frame of them.
    Counter gaps;
    Counter lost_frames;
    Counter largest_gap_frames;
    Counter blocks;
    Counter dropped;         // of them, those that some pipeline did not take
    Counter played_frames;
    Counter played_blocks;
    Counter underruns;       // how often nothing waited when the device wanted more
    Counter silent_frames;   // what it got instead
    Counter misfits;         // blocks that were not what their format says
    Counter without_time;    // cycles for which the device named no time
    Histogram busy;          // ns that a cycle took, from call to return
    Counter worst_cycle_ppm;  // the largest share of a cycle's own length that it took
    std::atomic<double> drift_ppm;  // by how much the device's seconds are longer than ours; 0 until known
    std::atomic<Nanoseconds> clock_error_ns;  // how far its latest reading was off
    std::atomic<Nanoseconds> last_cycle_ns;   // monotonic, when it was called; 0: never
    // Which device it is, for a stream that is opened anew: UTF-8, ended by a zero. Written before the first stream starts.
    char name[256];
    char host[64];
    // Where a stream that is opened anew goes on: the position of the frame after the latest, and when that is sampled.
    Counter next_frame;
    std::atomic<Nanoseconds> next_frame_ns;  // monotonic; 0: nothing was captured yet

    void note_gap(std::uint64_t frames_lost) noexcept {
        add(gaps);
        add(lost_frames, frames_lost);
        if (frames_lost > largest_gap_frames.load(std::memory_order_relaxed)) {
            largest_gap_frames.store(frames_lost, std::memory_order_relaxed);
        }
    }

    void note_position(std::uint64_t frame, Nanoseconds sampled_ns) noexcept {
        next_frame.store(frame, std::memory_order_relaxed);
        next_frame_ns.store(sampled_ns, std::memory_order_relaxed);
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
