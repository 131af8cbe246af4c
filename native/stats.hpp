// Counters and histograms of one pipeline, in shared memory.
//
// Invariants: every word has one writer (a thread of the producer or of one consumer), which adds by load and store;
// readers of any process see each word whole, and monotone. Recording is wait-free and allocates nothing.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>

#include "segment.hpp"

namespace steadyflow {

// Log-linear: exact below 64 ns, then 32 buckets per octave: at most 3.2 % wide, so the middle is within 1.6 %.
inline constexpr unsigned histogram_linear = 64;
inline constexpr unsigned histogram_octaves = 36;  // up to 2^42 ns, over an hour; longer counts in the last bucket
inline constexpr unsigned histogram_buckets = histogram_linear + histogram_octaves * 32;

constexpr unsigned histogram_bucket(std::uint64_t value) noexcept {
    if (value < histogram_linear) return static_cast<unsigned>(value);
    const unsigned exponent = static_cast<unsigned>(std::bit_width(value)) - 1;  // at least 6
    const unsigned octave = exponent - 6;
    if (octave >= histogram_octaves) return histogram_buckets - 1;
    return histogram_linear + octave * 32 + static_cast<unsigned>((value >> (exponent - 5)) & 31);
}

// Smallest value of a bucket; that of the next bucket is its exclusive end.
constexpr std::uint64_t histogram_lower(unsigned bucket) noexcept {
    if (bucket < histogram_linear) return bucket;
    const unsigned octave = (bucket - histogram_linear) / 32;
    const std::uint64_t step = (bucket - histogram_linear) % 32;
    return (std::uint64_t{32} + step) << (octave + 1);
}
static_assert(histogram_lower(histogram_bucket(1'000'000)) <= 1'000'000);
static_assert(histogram_lower(histogram_bucket(1'000'000) + 1) > 1'000'000);
static_assert(histogram_bucket(64) == 64 && histogram_lower(64) == 64);

using Counter = std::atomic<std::uint64_t>;

// relaxed: one writer, and readers need no order between counters.
template <class Atomic>
void add(Atomic& counter, std::uint64_t amount = 1) noexcept {
    counter.store(counter.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
}

struct Histogram {
    Counter sum;
    Counter max;
    Counter counts[histogram_buckets];

    void record(std::int64_t signed_value) noexcept {
        const std::uint64_t value = signed_value < 0 ? 0 : static_cast<std::uint64_t>(signed_value);
        add(counts[histogram_bucket(value)]);
        add(sum, value);
        if (value > max.load(std::memory_order_relaxed)) max.store(value, std::memory_order_relaxed);
    }
};

}  // namespace steadyflow
