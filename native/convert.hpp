// Sample type, channels and memory layout of audio, converted in one pass. What the numbers mean is written down in
// docs/decisions/0005-transformation.md; the numpy reference of the tests gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sample_type.hpp"

namespace steadyflow {

// How the samples of a block lie in memory.
struct SampleLayout {
    SampleType type = SampleType::f32;
    std::uint32_t channels = 1;
    bool planar = false;   // else interleaved
    bool swapped = false;  // the other byte order than this machine's
};

// Samples that could not become what they were.
struct Spoilt {
    std::uint64_t clipped = 0;       // limited to full scale
    std::uint64_t not_a_number = 0;  // made 0
};

// Instruction sets that the loops are compiled for; each has all of those before it.
enum class LoopSet : int { baseline, avx2, avx512 };

// The last one that this machine has.
LoopSet widest_loops() noexcept;

// Wait-free, allocates nothing, any thread; several at once.
class SampleConversion {
public:
    // `matrix`: a row for each channel of `to`, a column for each of `from`; empty: channel by channel, as many on each side.
    // `dither`: adds triangular noise of one step where `to` is an integer. `loops`: of those that this machine has; the bits are the
    // same.
    SampleConversion(SampleLayout from, SampleLayout to, std::vector<double> matrix, bool dither, LoopSet loops = widest_loops());

    const SampleLayout& from() const noexcept { return from_; }
    const SampleLayout& to() const noexcept { return to_; }

    // Neither needs to be aligned; they must not overlap. `first_frame`: of the stream, for the dither.
    Spoilt convert(const std::byte* from, std::byte* to, std::size_t frames, std::uint64_t first_frame) const noexcept;

private:
    template <class Number>
    Spoilt convert_by(const std::byte* from, std::byte* to, std::size_t frames, std::uint64_t first_frame) const noexcept;

    SampleLayout from_;
    SampleLayout to_;
    std::vector<double> matrix_;
    bool dither_;
    bool in_f32_;  // else the arithmetic is in f64
    LoopSet loops_;
};

}  // namespace steadyflow
