// The loops of a conversion, for the instruction set that the including file is compiled for; it says how to call the namespace:
// STEADYFLOW_LOOPS. No function of the standard library is called, and everything is local: a copy that uses other instructions
// must not be taken for that of somebody else.
//
// Without contraction: a fused multiply-add would give other bits than the reference. And as if nobody looked at the flags of
// floating-point exceptions, without which the loops are not vectorised (CMakeLists.txt has both).

#include "convert_strips.hpp"

namespace steadyflow::STEADYFLOW_LOOPS {
namespace {

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

constexpr bool little = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;

template <class To, class From>
constexpr To bits_as(From from) noexcept {
    static_assert(sizeof(To) == sizeof(From));
    return __builtin_bit_cast(To, from);
}

// What a sample of floats is.
template <SampleType type>
constexpr auto float_of() noexcept {
    if constexpr (type == SampleType::f32) return float{};
    else return double{};
}

template <SampleType type, bool swapped>
typename Stored<type>::Word read_word(const std::byte* place) noexcept {
    if constexpr (type == SampleType::s24) {
        constexpr bool lowest_first = little != swapped;
        const auto byte = [place](std::size_t number) { return static_cast<std::uint32_t>(place[number]); };
        return lowest_first ? byte(0) | byte(1) << 8U | byte(2) << 16U : byte(2) | byte(1) << 8U | byte(0) << 16U;
    } else {
        typename Stored<type>::Word word;
        __builtin_memcpy(&word, place, sizeof word);
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
        __builtin_memcpy(place, &stored, sizeof stored);
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
    else if constexpr (type == SampleType::f32) return static_cast<Number>(bits_as<float>(word));
    else return static_cast<Number>(bits_as<double>(word));
}

// Rounds a number that is no larger than 2^22 (float) or 2^50 (double) to the nearest integer, halves to even. Added to 1.5
// times the power of two at which the spacing of numbers is 1, it is in the lowest bits of the sum: no instruction set lacks
// that, so the loop around it is vectorised everywhere.
inline std::int32_t nearest(float number) noexcept {
    constexpr float magic = 12582912.0F;
    return bits_as<std::int32_t>(number + magic) - bits_as<std::int32_t>(magic);
}
inline std::int64_t nearest(double number) noexcept {
    constexpr double magic = 6755399441055744.0;
    return bits_as<std::int64_t>(number + magic) - bits_as<std::int64_t>(magic);
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

// A number, or 0 where it is none: by its bits, because a comparison of it with itself would be taken for a branch.
template <class Number>
Number real_or_zero(Number number, Integer<Number>& not_a_number) noexcept {
    constexpr auto without_sign = static_cast<Integer<Number>>(~(std::uint64_t{1} << (8 * sizeof(Number) - 1)));
    constexpr auto infinity = bits_as<Integer<Number>>(static_cast<Number>(__builtin_inf()));
    const auto bits = bits_as<Integer<Number>>(number);
    const auto wrong = static_cast<Integer<Number>>(-static_cast<Integer<Number>>((bits & without_sign) > infinity));
    not_a_number -= wrong;
    return bits_as<Number>(bits & ~wrong);
}

// The next number towards 0 of one above 0.
template <class Number>
constexpr Number just_below(Number number) noexcept {
    return bits_as<Number>(static_cast<Integer<Number>>(bits_as<Integer<Number>>(number) - 1));
}

// Scales numbers to the steps of an integer type, limits and rounds them, and returns how many were beyond the limits. Without a
// branch, so that the loop is vectorised. Halves go to even, so half a step above the greatest is too much, and half a step below the
// least is not: limited to what lies between, everything rounds to what there is. With `careful`, what is no number becomes 0; else
// it is among those that were beyond.
template <class Number, SampleType type, bool dither, bool careful>
Integer<Number> quantize(const Number* __restrict numbers, Integer<Number>* __restrict steps, std::size_t count,
                         [[maybe_unused]] Indices indices, [[maybe_unused]] Integer<Number>& not_a_number) noexcept {
    constexpr auto scale = static_cast<Number>(full_scale<type>);
    constexpr auto least = static_cast<Number>(-full_scale<type> - 0.5);
    constexpr auto most = just_below(static_cast<Number>(full_scale<type> - 0.5));
    Integer<Number> beyond = 0;
    Integer<Number> wrong = 0;
    for (std::size_t at = 0; at < count; ++at) {
        Number number = numbers[at] * scale;
        if constexpr (careful) number = real_or_zero(number, wrong);
        if constexpr (dither) number += triangular<Number>(indices.first + at * indices.channels);
        Number limited = number > least ? number : least;
        limited = limited < most ? limited : most;
        beyond += static_cast<Integer<Number>>(number != limited);
        steps[at] = nearest(limited);
    }
    if constexpr (careful) not_a_number = wrong;
    return beyond;
}

// Writes what `word_at` gives; of samples that lie side by side the distance is a constant, so that the loop is vectorised.
template <SampleType type, bool swapped, class WordAt>
void write_all(std::byte* __restrict place, std::size_t stride_bytes, std::size_t count, WordAt word_at) noexcept {
    if (stride_bytes == sample_bytes(type)) {
        for (std::size_t at = 0; at < count; ++at) write_word<type, swapped>(place + at * sample_bytes(type), word_at(at));
    } else {
        for (std::size_t at = 0; at < count; ++at) write_word<type, swapped>(place + at * stride_bytes, word_at(at));
    }
}

template <class Number, SampleType type, bool swapped, bool dither>
void store(const Number* __restrict numbers, std::byte* __restrict place, std::size_t stride_bytes, std::size_t count,
           Indices indices, Spoilt& spoilt) noexcept {
    using Word = typename Stored<type>::Word;
    if constexpr (Stored<type>::bits == 0) {
        using Float = decltype(float_of<type>());
        write_all<type, swapped>(place, stride_bytes, count,
                                 [=](std::size_t at) { return bits_as<Word>(static_cast<Float>(numbers[at])); });
    } else {
        alignas(64) Integer<Number> steps[strip_frames];
        Integer<Number> not_a_number = 0;
        Integer<Number> clipped = quantize<Number, type, dither, false>(numbers, steps, count, indices, not_a_number);
        if (clipped != 0) [[unlikely]] {  // what is no number is one of these, and needs to be told apart
            clipped = quantize<Number, type, dither, true>(numbers, steps, count, indices, not_a_number);
            spoilt.clipped += static_cast<std::uint64_t>(clipped);
            spoilt.not_a_number += static_cast<std::uint64_t>(not_a_number);
        }
        constexpr Integer<Number> offset = type == SampleType::u8 ? 128 : 0;
        write_all<type, swapped>(place, stride_bytes, count,
                                 [&steps](std::size_t at) { return static_cast<Word>(steps[at] + offset); });
    }
}

// Two channels that lie apart become interleaved.
template <std::size_t bytes>
void zip(const std::byte* __restrict left, const std::byte* __restrict right, std::byte* __restrict place,
         std::size_t count) noexcept {
    for (std::size_t at = 0; at < count; ++at) {
        __builtin_memcpy(place + 2 * at * bytes, left + at * bytes, bytes);
        __builtin_memcpy(place + (2 * at + 1) * bytes, right + at * bytes, bytes);
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
    if (!begun) {
        for (std::size_t at = 0; at < count; ++at) sum[at] = Number{0};
    }
}

template <class Number>
Loops<Number> loops_of(const SampleLayout& from, const SampleLayout& to, bool dither) noexcept {
    Loops<Number> loops{};
    with_type(from.type, [&]<SampleType type>() {
        loops.load = from.swapped ? &load<Number, type, true> : &load<Number, type, false>;
        loops.load_pair = from.swapped ? &load_pair<Number, type, true> : &load_pair<Number, type, false>;
    });
    with_type(to.type, [&]<SampleType type>() {
        if (dither) loops.store = to.swapped ? &store<Number, type, true, true> : &store<Number, type, false, true>;
        else loops.store = to.swapped ? &store<Number, type, true, false> : &store<Number, type, false, false>;
        loops.zip = &zip<sample_bytes(type)>;
    });
    loops.mix = &mix<Number>;
    return loops;
}

}  // namespace

Loops<float> f32_loops(const SampleLayout& from, const SampleLayout& to, bool dither) noexcept {
    return loops_of<float>(from, to, dither);
}

Loops<double> f64_loops(const SampleLayout& from, const SampleLayout& to, bool dither) noexcept {
    return loops_of<double>(from, to, dither);
}

}  // namespace steadyflow::STEADYFLOW_LOOPS
