#include "convert.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

// Compiled without contraction (CMakeLists.txt): a fused multiply-add would give other bits than the reference.

namespace steadyflow {
namespace {

// Frames are taken in strips that stay in the first cache, whatever is done to them in between.
constexpr std::size_t strip_frames = 512;
constexpr std::size_t strip_samples = 8192;  // of all channels, where they are mixed

// --- one sample ---------------------------------------------------------------------------------------------------------

template <SampleType type>
struct Stored;  // what a sample is in memory
template <>
struct Stored<SampleType::u8> { using Word = std::uint8_t; static constexpr int bits = 8; };
template <>
struct Stored<SampleType::s16> { using Word = std::uint16_t; static constexpr int bits = 16; };
template <>
struct Stored<SampleType::s24> { using Word = std::uint32_t; static constexpr int bits = 24; };
template <>
struct Stored<SampleType::s32> { using Word = std::uint32_t; static constexpr int bits = 32; };
template <>
struct Stored<SampleType::f32> { using Word = std::uint32_t; static constexpr int bits = 0; };
template <>
struct Stored<SampleType::f64> { using Word = std::uint64_t; static constexpr int bits = 0; };

template <class Word>
constexpr Word other_byte_order(Word word) noexcept {
    if constexpr (sizeof(Word) == 1) return word;
    else if constexpr (sizeof(Word) == 2) return __builtin_bswap16(word);
    else if constexpr (sizeof(Word) == 4) return __builtin_bswap32(word);
    else return __builtin_bswap64(word);
}

constexpr bool little = std::endian::native == std::endian::little;

template <SampleType type, bool swapped>
typename Stored<type>::Word read_word(const std::byte* place) noexcept {
    if constexpr (type == SampleType::s24) {
        constexpr bool lowest_first = little != swapped;
        const auto byte = [place](std::size_t number) { return std::to_integer<std::uint32_t>(place[number]); };
        return lowest_first ? byte(0) | byte(1) << 8U | byte(2) << 16U : byte(2) | byte(1) << 8U | byte(0) << 16U;
    } else {
        typename Stored<type>::Word word;
        std::memcpy(&word, place, sizeof word);
        return swapped ? other_byte_order(word) : word;
    }
}

template <SampleType type, bool swapped>
void write_word(std::byte* place, typename Stored<type>::Word word) noexcept {
    if constexpr (type == SampleType::s24) {
        constexpr bool lowest_first = little != swapped;
        place[lowest_first ? 0 : 2] = static_cast<std::byte>(word);
        place[1] = static_cast<std::byte>(word >> 8U);
        place[lowest_first ? 2 : 0] = static_cast<std::byte>(word >> 16U);
    } else {
        const typename Stored<type>::Word stored = swapped ? other_byte_order(word) : word;
        std::memcpy(place, &stored, sizeof stored);
    }
}

template <SampleType type>
inline constexpr double full_scale = static_cast<double>(std::uint64_t{1} << static_cast<unsigned>(Stored<type>::bits - 1));

template <class Number, SampleType type>
Number number_of(typename Stored<type>::Word word) noexcept {
    constexpr auto step = [] {
        if constexpr (Stored<type>::bits == 0) return Number{1};
        else return static_cast<Number>(1 / full_scale<type>);
    }();
    if constexpr (type == SampleType::u8) return static_cast<Number>(static_cast<int>(word) - 128) * step;
    else if constexpr (type == SampleType::s16) return static_cast<Number>(static_cast<std::int16_t>(word)) * step;
    else if constexpr (type == SampleType::s24) {
        return static_cast<Number>(static_cast<std::int32_t>(word << 8U) >> 8) * step;
    } else if constexpr (type == SampleType::s32) return static_cast<Number>(static_cast<std::int32_t>(word)) * step;
    else if constexpr (type == SampleType::f32) return static_cast<Number>(std::bit_cast<float>(word));
    else return static_cast<Number>(std::bit_cast<double>(word));
}

// Rounds a number that is no larger than 2^22 (float) or 2^50 (double) to the nearest integer, halves to even. Added to 1.5
// times the power of two at which the spacing of numbers is 1, it is in the lowest bits of the sum: no instruction set lacks
// that, so the loop around it is vectorised everywhere.
inline std::int32_t nearest(float number) noexcept {
    constexpr float magic = 12582912.0F;
    return std::bit_cast<std::int32_t>(number + magic) - std::bit_cast<std::int32_t>(magic);
}
inline std::int64_t nearest(double number) noexcept {
    constexpr double magic = 6755399441055744.0;
    return std::bit_cast<std::int64_t>(number + magic) - std::bit_cast<std::int64_t>(magic);
}

// Triangular noise between -1 and 1 for the sample of this index: the difference of two uniform numbers of 24 bits, both from
// SplitMix64 (Steele, Lea, Flood 2014).
template <class Number>
Number triangular(std::uint64_t index) noexcept {
    std::uint64_t bits = (index + 1) * 0x9E3779B97F4A7C15U;
    bits = (bits ^ bits >> 30U) * 0xBF58476D1CE4E5B9U;
    bits = (bits ^ bits >> 27U) * 0x94D049BB133111EBU;
    bits ^= bits >> 31U;
    const auto one = static_cast<std::int32_t>(bits >> 40U);
    const auto other = static_cast<std::int32_t>(bits >> 16U & 0xFFFFFFU);
    return static_cast<Number>(one - other) * static_cast<Number>(1.0 / 16777216.0);
}

// --- a strip of one channel ---------------------------------------------------------------------------------------------

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

template <class Number, SampleType type, bool swapped>
void load(const std::byte* __restrict place, std::size_t stride_bytes, Number* __restrict numbers, std::size_t count) noexcept {
    if (stride_bytes == sample_bytes(type)) {
        for (std::size_t at = 0; at < count; ++at) {
            numbers[at] = number_of<Number, type>(read_word<type, swapped>(place + at * sample_bytes(type)));
        }
    } else {
        for (std::size_t at = 0; at < count; ++at) {
            numbers[at] = number_of<Number, type>(read_word<type, swapped>(place + at * stride_bytes));
        }
    }
}

template <class Number, SampleType type, bool swapped>
void load_pair(const std::byte* __restrict place, Number* __restrict left, Number* __restrict right, std::size_t count) noexcept {
    for (std::size_t at = 0; at < count; ++at) {
        const std::byte* frame = place + 2 * at * sample_bytes(type);
        left[at] = number_of<Number, type>(read_word<type, swapped>(frame));
        right[at] = number_of<Number, type>(read_word<type, swapped>(frame + sample_bytes(type)));
    }
}

// Integers of as many bits as the number that they are made of: their loops have as many lanes.
template <class Number>
using Integer = decltype(nearest(Number{}));

template <class Number, SampleType type, bool swapped, bool dither>
void store(const Number* __restrict numbers, std::byte* __restrict place, std::size_t stride_bytes, std::size_t count,
           [[maybe_unused]] Indices indices, [[maybe_unused]] Spoilt& spoilt) noexcept {
    using Word = typename Stored<type>::Word;
    const auto store_all = [&](std::size_t stride) {
        if constexpr (type == SampleType::f32) {
            for (std::size_t at = 0; at < count; ++at) {
                write_word<type, swapped>(place + at * stride, std::bit_cast<Word>(static_cast<float>(numbers[at])));
            }
        } else if constexpr (type == SampleType::f64) {
            for (std::size_t at = 0; at < count; ++at) {
                write_word<type, swapped>(place + at * stride, std::bit_cast<Word>(static_cast<double>(numbers[at])));
            }
        } else {
            using Count = Integer<Number>;
            constexpr auto scale = static_cast<Number>(full_scale<type>);
            constexpr auto least = static_cast<Count>(-full_scale<type>);
            constexpr auto most = static_cast<Count>(full_scale<type> - 1);
            Count clipped = 0;
            Count not_a_number = 0;
            for (std::size_t at = 0; at < count; ++at) {
                Number number = numbers[at] * scale;
                const bool real = number == number;
                number = real ? number : Number{0};
                not_a_number += static_cast<Count>(real ? 0 : 1);
                if constexpr (dither) number += triangular<Number>(indices.first + at * indices.channels);
                // One step beyond the limits is enough to know that it was beyond them.
                number = number > static_cast<Number>(least) - 1 ? number : static_cast<Number>(least) - 1;
                number = number < static_cast<Number>(most) + 1 ? number : static_cast<Number>(most) + 1;
                const Count rounded = nearest(number);
                Count limited = rounded < least ? least : rounded;
                limited = limited > most ? most : limited;
                clipped += static_cast<Count>(rounded != limited ? 1 : 0);
                if constexpr (type == SampleType::u8) limited += 128;
                write_word<type, swapped>(place + at * stride, static_cast<Word>(limited));
            }
            spoilt.clipped += static_cast<std::uint64_t>(clipped);
            spoilt.not_a_number += static_cast<std::uint64_t>(not_a_number);
        }
    };
    if (stride_bytes == sample_bytes(type)) store_all(sample_bytes(type));
    else store_all(stride_bytes);
}

// Two channels that lie apart become interleaved.
template <std::size_t bytes>
void zip(const std::byte* __restrict left, const std::byte* __restrict right, std::byte* __restrict place,
         std::size_t count) noexcept {
    for (std::size_t at = 0; at < count; ++at) {
        std::memcpy(place + 2 * at * bytes, left + at * bytes, bytes);
        std::memcpy(place + (2 * at + 1) * bytes, right + at * bytes, bytes);
    }
}

// --- which of them ------------------------------------------------------------------------------------------------------

// Calls `choose` with the type as a constant.
template <class Choose>
auto with_type(SampleType type, Choose choose) noexcept {
    switch (type) {
        case SampleType::u8: return choose.template operator()<SampleType::u8>();
        case SampleType::s16: return choose.template operator()<SampleType::s16>();
        case SampleType::s24: return choose.template operator()<SampleType::s24>();
        case SampleType::s32: return choose.template operator()<SampleType::s32>();
        case SampleType::f32: return choose.template operator()<SampleType::f32>();
        default: return choose.template operator()<SampleType::f64>();
    }
}

template <class Number>
Load<Number> load_of(const SampleLayout& from) noexcept {
    return with_type(from.type, [&]<SampleType type>() -> Load<Number> {
        return from.swapped ? &load<Number, type, true> : &load<Number, type, false>;
    });
}

template <class Number>
LoadPair<Number> load_pair_of(const SampleLayout& from) noexcept {
    return with_type(from.type, [&]<SampleType type>() -> LoadPair<Number> {
        return from.swapped ? &load_pair<Number, type, true> : &load_pair<Number, type, false>;
    });
}

template <class Number>
Store<Number> store_of(const SampleLayout& to, bool dither) noexcept {
    return with_type(to.type, [&]<SampleType type>() -> Store<Number> {
        if (dither) return to.swapped ? &store<Number, type, true, true> : &store<Number, type, false, true>;
        return to.swapped ? &store<Number, type, true, false> : &store<Number, type, false, false>;
    });
}

Zip zip_of(SampleType type) noexcept {
    return with_type(type, []<SampleType each>() -> Zip { return &zip<sample_bytes(each)>; });
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

// Sums input channels into one output channel, in their order. A coefficient of 0 takes nothing, not even what is not a number.
template <class Number>
void mix(const double* row, std::size_t channels, const Number* inputs, std::size_t apart, Number* __restrict sum,
         std::size_t count) noexcept {
    bool begun = false;
    for (std::size_t channel = 0; channel < channels; ++channel) {
        if (row[channel] == 0) continue;
        const auto coefficient = static_cast<Number>(row[channel]);
        const Number* input = inputs + channel * apart;
        if (begun) {
            for (std::size_t at = 0; at < count; ++at) sum[at] += coefficient * input[at];
        } else {
            for (std::size_t at = 0; at < count; ++at) sum[at] = coefficient * input[at];
        }
        begun = true;
    }
    if (!begun) std::fill_n(sum, count, Number{0});
}

constexpr bool needs_f64(SampleType from, SampleType to) noexcept {
    return from == SampleType::s32 || from == SampleType::f64 || to == SampleType::s24 || to == SampleType::s32 ||
           to == SampleType::f64;
}

}  // namespace

SampleConversion::SampleConversion(SampleLayout from, SampleLayout to, std::vector<double> matrix, bool dither)
    : from_(from), to_(to), matrix_(std::move(matrix)), dither_(dither), in_f32_(!needs_f64(from.type, to.type)) {}

Spoilt SampleConversion::convert(const std::byte* from, std::byte* to, std::size_t frames,
                                 std::uint64_t first_frame) const noexcept {
    return in_f32_ ? convert_by<float>(from, to, frames, first_frame) : convert_by<double>(from, to, frames, first_frame);
}

template <class Number>
Spoilt SampleConversion::convert_by(const std::byte* from, std::byte* to, std::size_t frames,
                                    std::uint64_t first_frame) const noexcept {
    const ChannelPlaces in(from_, frames);
    const ChannelPlaces out(to_, frames);
    const Load<Number> load_channel = load_of<Number>(from_);
    const LoadPair<Number> load_both = load_pair_of<Number>(from_);
    const Store<Number> store_channel = store_of<Number>(to_, dither_);
    const Zip zip_both = zip_of(to_.type);
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
        if (pairs_in) load_both(from + in.at(begin, 0), inputs, inputs + strip, count);
        else if (all_at_once) {
            for (std::size_t channel = 0; channel < from_.channels; ++channel) {
                load_channel(from + in.at(begin, channel), in.frame, inputs + channel * strip, count);
            }
        }
        for (std::size_t channel = 0; channel < to_.channels; ++channel) {
            const Number* numbers = inputs;
            if (all_at_once && !mixes) numbers += channel * strip;
            if (!all_at_once) load_channel(from + in.at(begin, channel), in.frame, inputs, count);
            if (mixes) {
                mix(matrix_.data() + channel * from_.channels, from_.channels, inputs, strip, mixed, count);
                numbers = mixed;
            }
            const Indices indices{(first_frame + begin) * to_.channels + channel, to_.channels};
            if (pairs_out) store_channel(numbers, channel == 0 ? left : right, out.sample, count, indices, spoilt);
            else store_channel(numbers, to + out.at(begin, channel), out.frame, count, indices, spoilt);
        }
        if (pairs_out) zip_both(left, right, to + out.at(begin, 0), count);
    }
    return spoilt;
}

}  // namespace steadyflow
