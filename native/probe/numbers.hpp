// The numbers of frames as samples: what is played says by itself where it was, and what comes back is judged by that.
//
// A frame's position p, counted from the first one that was played, is the sample p % modulus + 1: every one of them is exact in
// 32 bits, and none is silence. Nothing here allocates after construction, waits or throws; one thread writes, another one may read
// each count whole, and latencies up to `cycles`.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace steadyflow::probe {

// Below 2^24, from where on 32-bit floats leave out integers. At 48 kHz it comes round after 349 s.
constexpr std::uint32_t modulus = (1U << 24) - 1;

inline float sample_of(std::uint64_t position) noexcept { return static_cast<float>(position % modulus + 1); }

// The position modulo `modulus`; none, if that is no number of ours. Silence is no number.
inline std::optional<std::uint32_t> position_of(float sample) noexcept {
    if (!(sample >= 1 && sample <= static_cast<float>(modulus))) return std::nullopt;
    const auto number = static_cast<std::uint32_t>(sample);
    if (static_cast<float>(number) != sample) return std::nullopt;
    return number - 1;
}

// A word that one thread writes and others read.
class Count {
public:
    void add(std::uint64_t value) noexcept { word_.store(get() + value, std::memory_order_relaxed); }
    std::uint64_t get() const noexcept { return word_.load(std::memory_order_relaxed); }

private:
    std::atomic<std::uint64_t> word_{0};
};

struct Heard {
    std::uint64_t cycles = 0;         // with at least one number
    std::uint64_t silent_cycles = 0;  // with none, after the first number
    std::uint64_t frames = 0;         // numbers
    std::uint64_t silent_frames = 0;  // after the first number
    std::uint64_t foreign_frames = 0; // neither silence nor a number
    std::uint64_t lost_frames = 0;    // numbers that were left out
    std::uint64_t holes = 0;          // places where they were
    std::uint64_t repeated_frames = 0;  // numbers that did not grow
};

// What comes back, cycle by cycle.
class Listener {
public:
    // Latencies of so many cycles are kept; of those after them, only counts.
    explicit Listener(std::size_t most_cycles) : latencies_frames_(most_cycles) {}

    // `playing` is the position of the first frame that is played in the cycle in which these samples came.
    void hear(const float* samples, std::uint32_t frames, std::uint64_t playing) noexcept;

    // May be called by another thread: each count is whole, and latencies_frames() up to `cycles` are there.
    Heard heard() const noexcept;
    // By cycle with a number, how long its first number has been on its way.
    const std::vector<std::int32_t>& latencies_frames() const noexcept { return latencies_frames_; }

private:
    void follow(std::uint32_t position) noexcept;

    std::vector<std::int32_t> latencies_frames_;
    std::optional<std::uint32_t> last_;
    std::atomic<std::uint64_t> cycles_{0};
    Count silent_cycles_, frames_, silent_frames_, foreign_frames_, lost_frames_, holes_, repeated_frames_;
};

// The distribution of some latencies.
struct Latencies {
    std::size_t count = 0;
    std::int32_t p50 = 0, p99 = 0, p999 = 0, max = 0;  // frames; nearest rank
    double jitter = 0;                                 // frames; by how much one differs from the one before, in the mean
};

// Takes a copy, in the order of time. Allocates.
Latencies summarise(std::vector<std::int32_t> latencies_frames);

}  // namespace steadyflow::probe
