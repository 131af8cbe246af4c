// What one consumer of a pipeline counts and measures, in shared memory; see stats.hpp for who writes what.
#pragma once

#include "cycle_account.hpp"
#include "stats.hpp"

namespace steadyflow {

// Written by one consumer of a pipeline.
struct alignas(cache_line) ConsumerStats {
    Counter received;
    Counter late;
    Counter corrupted;
    Counter kept_copies;  // blocks copied because the module keeps more views than it may
    Counter views;        // large blocks that it was given where they lie
    Counter peak_views;   // most of them at once, since the window of that number began
    Counter window;
    Counter rescued;      // served out of turn by the starvation guard
    Counter concealed_blocks;  // made up in place of what is missing or late; delivered, and not counted as such
    Counter concealed_frames;  // in those
    Histogram latency;    // started - sent
    Histogram overhead;   // started - max(sent, consumer became free)
    Histogram wait;       // awake - sent, where the consumer slept for the block
    Histogram gil;        // GIL acquired - awake
    Histogram busy;       // finished - started, without the modules that were called inside
    CycleAccount cycle;   // of blocks that somebody waits for
};

}  // namespace steadyflow
