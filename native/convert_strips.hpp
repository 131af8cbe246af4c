// Loops over a strip of samples: what they are called with, and where they are. They are compiled for more than one instruction
// set; convert_loops.hpp has them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "convert.hpp"

namespace steadyflow {

// Frames are taken in strips that stay in the first cache, whatever is done to them in between.
inline constexpr std::size_t strip_frames = 512;

// Which of the samples of a stream a strip of one channel is: every `channels`-th from `first` on.
struct Indices {
    std::uint64_t first = 0;
    std::uint32_t channels = 1;
};

template <class Number>
using Load = void (*)(const std::byte* place, std::size_t stride_bytes, Number* numbers, std::size_t count) noexcept;
template <class Number>
using LoadPair = void (*)(const std::byte* place, Number* left, Number* right, std::size_t count) noexcept;
template <class Number>
using Store = void (*)(const Number* numbers, std::byte* place, std::size_t stride_bytes, std::size_t count, Indices indices,
                       Spoilt& spoilt) noexcept;
using Zip = void (*)(const std::byte* left, const std::byte* right, std::byte* place, std::size_t count) noexcept;
template <class Number>
using Mix = void (*)(const double* row, std::size_t channels, const Number* inputs, std::size_t apart, Number* sum,
                     std::size_t count) noexcept;

// All loops of one conversion.
template <class Number>
struct Loops {
    Load<Number> load;
    LoadPair<Number> load_pair;
    Store<Number> store;
    Zip zip;
    Mix<Number> mix;
};

// Every machine has these.
namespace baseline {
Loops<float> f32_loops(const SampleLayout& from, const SampleLayout& to, bool dither) noexcept;
Loops<double> f64_loops(const SampleLayout& from, const SampleLayout& to, bool dither) noexcept;
}  // namespace baseline

#ifdef __x86_64__
// Only machines with AVX2 have these.
namespace avx2 {
Loops<float> f32_loops(const SampleLayout& from, const SampleLayout& to, bool dither) noexcept;
Loops<double> f64_loops(const SampleLayout& from, const SampleLayout& to, bool dither) noexcept;
}  // namespace avx2

// Only machines with the foundation, byte and word, doubleword and vector length parts of AVX-512 have these.
namespace avx512 {
Loops<float> f32_loops(const SampleLayout& from, const SampleLayout& to, bool dither) noexcept;
Loops<double> f64_loops(const SampleLayout& from, const SampleLayout& to, bool dither) noexcept;
}  // namespace avx512
#endif

}  // namespace steadyflow
