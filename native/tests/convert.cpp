// Conversion of samples against a plain model, one sample at a time, for every pair of types, layouts and byte orders.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "convert.hpp"
#include "traffic.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

constexpr SampleType types[] = {SampleType::f32, SampleType::f64, SampleType::s16,
                                SampleType::s24, SampleType::s32, SampleType::u8};

int bits_of(SampleType type) {
    switch (type) {
        case SampleType::u8: return 8;
        case SampleType::s16: return 16;
        case SampleType::s24: return 24;
        case SampleType::s32: return 32;
        default: return 0;
    }
}

std::size_t place(const SampleLayout& layout, std::size_t frames, std::size_t frame, std::size_t channel) {
    return (layout.planar ? channel * frames + frame : frame * layout.channels + channel) * sample_bytes(layout.type);
}

double read(const SampleLayout& layout, const std::byte* at) {
    std::byte bytes[8];
    const std::size_t count = sample_bytes(layout.type);
    for (std::size_t index = 0; index < count; ++index) bytes[index] = at[layout.swapped ? count - 1 - index : index];
    const auto as = [&]<class Value>(Value value) {
        std::memcpy(&value, bytes, sizeof value);
        return static_cast<double>(value);
    };
    switch (layout.type) {
        case SampleType::f32: return as(float{});
        case SampleType::f64: return as(double{});
        case SampleType::s16: return as(std::int16_t{}) / 32768;
        case SampleType::s32: return as(std::int32_t{}) / 2147483648.0;
        case SampleType::u8: return (as(std::uint8_t{}) - 128) / 128;
        case SampleType::s24: break;
    }
    const int value = static_cast<int>(bytes[0]) | static_cast<int>(bytes[1]) << 8 | static_cast<int>(bytes[2]) << 16;
    return (value >= 1 << 23 ? value - (1 << 24) : value) / 8388608.0;
}

// What an integer of so many bits is made of this number, and whether it was beyond the limits.
double rounded(double number, int bits, Spoilt& spoilt) {
    const double scale = std::ldexp(1.0, bits - 1);
    if (std::isnan(number)) {
        ++spoilt.not_a_number;
        return 0;
    }
    const double nearest = std::nearbyint(number * scale);
    const double limited = std::min(std::max(nearest, -scale), scale - 1);
    if (limited != nearest) ++spoilt.clipped;
    return limited / scale;
}

std::vector<std::byte> content(Random& random, const SampleLayout& layout, std::size_t samples) {
    const double extremes[] = {0.0, -0.0, 1.0, -1.0, 1.5, -1.5, 1e30, -1e30, 1e-30, 0.5 / 32768, 1.5 / 32768, 32766.5 / 32768,
                               32767.5 / 32768, -32768.5 / 32768, std::numeric_limits<double>::infinity(),
                               -std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()};
    std::vector<std::byte> bytes(samples * sample_bytes(layout.type));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.below(256));
    for (std::size_t index = 0; index < samples && bits_of(layout.type) == 0; ++index) {
        double value = static_cast<double>(random.below(2'200'001)) / 1e6 - 1.1;
        if (random.chance(4)) value = extremes[random.below(std::size(extremes))];
        const auto narrow = static_cast<float>(value);
        std::byte* at = &bytes[index * sample_bytes(layout.type)];
        if (layout.type == SampleType::f64) std::memcpy(at, &value, 8);
        else std::memcpy(at, &narrow, 4);
        if (layout.swapped) std::reverse(at, at + sample_bytes(layout.type));
    }
    return bytes;
}

void check(SampleType in_type, SampleType out_type, std::uint64_t seed, LoopSet loops) {
    Random random(seed);
    const auto channels = static_cast<std::uint32_t>(1 + random.below(random.chance(4) ? 40 : 4));
    const SampleLayout from{in_type, channels, random.chance(2), random.chance(2)};
    SampleLayout to{out_type, channels, random.chance(2), random.chance(2)};
    std::vector<double> matrix;
    if (random.chance(3)) {
        to.channels = static_cast<std::uint32_t>(1 + random.below(4));
        // Powers of two: the sums are the same in any order, and in any precision that holds them.
        for (std::uint32_t index = 0; index < to.channels * channels; ++index) {
            matrix.push_back(random.chance(3) ? 0.0 : random.chance(2) ? 0.25 : 0.5);
        }
    }
    const std::size_t frames = 1 + random.below(random.chance(3) ? 2000 : 40);
    situation = "types " + std::to_string(static_cast<int>(in_type)) + " to " + std::to_string(static_cast<int>(out_type)) + ", " +
                std::to_string(channels) + " to " + std::to_string(to.channels) + " channels, " + std::to_string(frames) +
                " frames, seed " + std::to_string(seed);
    const auto input = content(random, from, frames * channels);
    // Exactly as large as it has to be, so that the address sanitizer sees what goes beyond.
    std::vector<std::byte> output(frames * to.channels * sample_bytes(out_type));
    const SampleConversion conversion(from, to, matrix, false, loops);
    const Spoilt spoilt = conversion.convert(input.data(), output.data(), frames, 0);

    const bool exact = matrix.empty() || in_type == SampleType::u8 || in_type == SampleType::s16;
    // Sums of f32 have other last bits than those of f64: one step, where they are rounded once more.
    const double tolerance = bits_of(out_type) == 0 ? 1e-6 : 1.01 * std::ldexp(1.0, 1 - bits_of(out_type));
    Spoilt expected_spoilt;
    for (std::size_t frame = 0; frame < frames; ++frame) {
        for (std::size_t channel = 0; channel < to.channels; ++channel) {
            double number = 0;
            if (matrix.empty()) number = read(from, &input[place(from, frames, frame, channel)]);
            else {
                for (std::size_t source = 0; source < channels; ++source) {
                    const double coefficient = matrix[channel * channels + source];
                    if (coefficient != 0) number += coefficient * read(from, &input[place(from, frames, frame, source)]);
                }
            }
            const double got = read(to, &output[place(to, frames, frame, channel)]);
            if (bits_of(out_type) != 0) number = rounded(number, bits_of(out_type), expected_spoilt);
            else if (out_type == SampleType::f32) number = static_cast<double>(static_cast<float>(number));
            if (std::isnan(number)) CHECK(std::isnan(got));
            else if (exact) CHECK_EQUAL(number, got);
            else CHECK(number == got || std::abs(number - got) <= tolerance * std::max(1.0, std::abs(number)));
        }
    }
    if (exact) {
        CHECK_EQUAL(expected_spoilt.clipped, spoilt.clipped);
        CHECK_EQUAL(expected_spoilt.not_a_number, spoilt.not_a_number);
    }
}

// The noise is that of the index of the sample: cutting a stream anywhere changes nothing; it is between -1 and 1 step, and
// nothing is constant any more.
void check_dither() {
    situation = "dither";
    const SampleLayout from{SampleType::f32, 2, false, false};
    const SampleLayout to{SampleType::s16, 2, true, false};
    constexpr std::size_t frames = 20'000;
    const std::vector<float> input(frames * 2, 100.25F / 32768);
    std::vector<std::int16_t> whole(frames * 2);
    const SampleConversion conversion(from, to, {}, true);
    const auto bytes = [](auto& values, std::size_t at) { return reinterpret_cast<std::byte*>(values.data() + at); };
    const auto* source = reinterpret_cast<const std::byte*>(input.data());
    (void)conversion.convert(source, bytes(whole, 0), frames, 0);
    double sum = 0;
    for (const std::int16_t value : whole) {
        CHECK(value >= 99 && value <= 102);
        sum += value;
    }
    CHECK(std::abs(sum / static_cast<double>(whole.size()) - 100.25) < 0.02);
    for (const std::size_t cut : {std::size_t{1}, std::size_t{511}, std::size_t{512}, std::size_t{7777}}) {
        std::vector<std::int16_t> one(cut * 2);
        std::vector<std::int16_t> other((frames - cut) * 2);
        (void)conversion.convert(source, bytes(one, 0), cut, 0);
        (void)conversion.convert(source, bytes(other, 0), frames - cut, cut);
        for (std::size_t channel = 0; channel < 2; ++channel) {
            for (std::size_t frame = 0; frame < frames; ++frame) {
                const std::int16_t got = frame < cut ? one[channel * cut + frame] : other[channel * (frames - cut) + frame - cut];
                CHECK_EQUAL(whole[channel * frames + frame], got);
            }
        }
    }
}

}  // namespace

int main() {
    for (const SampleType in_type : types) {
        for (const SampleType out_type : types) {
            for (std::uint64_t seed = 1; seed <= 60; ++seed) {
                for (const LoopSet loops : {LoopSet::baseline, LoopSet::avx2, LoopSet::avx512}) {
                    if (loops <= widest_loops()) check(in_type, out_type, seed, loops);
                }
            }
        }
    }
    check_dither();
    return 0;
}
