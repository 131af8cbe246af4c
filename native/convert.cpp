#include "convert.hpp"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "convert_strips.hpp"

namespace steadyflow {
namespace {

constexpr std::size_t strip_samples = 8192;  // of all channels, where they are mixed

template <class Number>
Loops<Number> loops_for(const SampleLayout& from, const SampleLayout& to, bool dither, [[maybe_unused]] LoopSet set) noexcept {
    constexpr bool in_f32 = std::is_same_v<Number, float>;
#ifdef __x86_64__
    if (set == LoopSet::avx512) {
        if constexpr (in_f32) return avx512::f32_loops(from, to, dither);
        else return avx512::f64_loops(from, to, dither);
    }
    if (set == LoopSet::avx2) {
        if constexpr (in_f32) return avx2::f32_loops(from, to, dither);
        else return avx2::f64_loops(from, to, dither);
    }
#endif
    if constexpr (in_f32) return baseline::f32_loops(from, to, dither);
    else return baseline::f64_loops(from, to, dither);
}

// Where a channel of a block begins, and how far its samples are apart.
struct ChannelPlaces {
    ChannelPlaces(const SampleLayout& layout, std::size_t frames) noexcept
        : sample(sample_bytes(layout.type)),
          channel(layout.planar ? frames * sample : sample),
          frame(layout.planar ? sample : layout.channels * sample) {}
    std::size_t at(std::size_t frame_number, std::size_t channel_number) const noexcept {
        return frame_number * frame + channel_number * channel;
    }
    std::size_t sample;
    std::size_t channel;
    std::size_t frame;
};

constexpr bool needs_f64(SampleType from, SampleType to) noexcept {
    return from == SampleType::s32 || from == SampleType::f64 || to == SampleType::s24 || to == SampleType::s32 ||
           to == SampleType::f64;
}

}  // namespace

SampleConversion::SampleConversion(SampleLayout from, SampleLayout to, std::vector<double> matrix, bool dither, LoopSet loops)
    : from_(from),
      to_(to),
      matrix_(std::move(matrix)),
      dither_(dither),
      in_f32_(!needs_f64(from.type, to.type)),
      loops_(loops) {}

LoopSet widest_loops() noexcept {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        return LoopSet::avx512;
    }
    if (__builtin_cpu_supports("avx2")) return LoopSet::avx2;
#endif
    return LoopSet::baseline;
}

Spoilt SampleConversion::convert(const std::byte* from, std::byte* to, std::size_t frames,
                                 std::uint64_t first_frame) const noexcept {
    return in_f32_ ? convert_by<float>(from, to, frames, first_frame) : convert_by<double>(from, to, frames, first_frame);
}

template <class Number>
Spoilt SampleConversion::convert_by(const std::byte* from, std::byte* to, std::size_t frames,
                                    std::uint64_t first_frame) const noexcept {
    const ChannelPlaces in(from_, frames);
    const ChannelPlaces out(to_, frames);
    const Loops<Number> loops = loops_for<Number>(from_, to_, dither_, loops_);
    const bool pairs_in = !from_.planar && from_.channels == 2;
    const bool pairs_out = !to_.planar && to_.channels == 2;
    const bool mixes = !matrix_.empty();
    const bool all_at_once = mixes || pairs_in || pairs_out;  // else channel by channel
    const std::size_t strip = all_at_once ? std::clamp<std::size_t>(strip_samples / from_.channels, 1, strip_frames) : strip_frames;

    alignas(64) Number inputs[strip_samples];
    alignas(64) Number mixed[strip_frames];
    alignas(64) std::byte left[strip_frames * sizeof(double)];
    alignas(64) std::byte right[strip_frames * sizeof(double)];
    Spoilt spoilt;

    for (std::size_t begin = 0; begin < frames; begin += strip) {
        const std::size_t count = std::min(strip, frames - begin);
        if (pairs_in) loops.load_pair(from + in.at(begin, 0), inputs, inputs + strip, count);
        else if (all_at_once) {
            for (std::size_t channel = 0; channel < from_.channels; ++channel) {
                loops.load(from + in.at(begin, channel), in.frame, inputs + channel * strip, count);
            }
        }
        for (std::size_t channel = 0; channel < to_.channels; ++channel) {
            const Number* numbers = inputs;
            if (all_at_once && !mixes) numbers += channel * strip;
            if (!all_at_once) loops.load(from + in.at(begin, channel), in.frame, inputs, count);
            if (mixes) {
                loops.mix(matrix_.data() + channel * from_.channels, from_.channels, inputs, strip, mixed, count);
                numbers = mixed;
            }
            const Indices indices{(first_frame + begin) * to_.channels + channel, to_.channels};
            if (pairs_out) loops.store(numbers, channel == 0 ? left : right, out.sample, count, indices, spoilt);
            else loops.store(numbers, to + out.at(begin, channel), out.frame, count, indices, spoilt);
        }
        if (pairs_out) loops.zip(left, right, to + out.at(begin, 0), count);
    }
    return spoilt;
}

}  // namespace steadyflow
