// What is put in place of missing frames, against a plain model in double precision, for every sample type, layout and choice.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "concealment.hpp"
#include "traffic.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

constexpr SampleType types[] = {SampleType::f32, SampleType::f64, SampleType::s16,
                                SampleType::s24, SampleType::s32, SampleType::u8};

double decode(SampleType type, const std::byte* at) {
    const auto read = [at]<class Value>(Value value) {
        std::memcpy(&value, at, sizeof value);
        return static_cast<double>(value);
    };
    switch (type) {
        case SampleType::f32: return read(float{});
        case SampleType::f64: return read(double{});
        case SampleType::s16: return read(std::int16_t{});
        case SampleType::s32: return read(std::int32_t{});
        case SampleType::u8: return read(std::uint8_t{}) - 128;
        case SampleType::s24: break;
    }
    const int value = static_cast<int>(at[0]) | static_cast<int>(at[1]) << 8 | static_cast<int>(at[2]) << 16;
    return value >= 1 << 23 ? value - (1 << 24) : value;
}

std::vector<std::byte> noise(Random& random, SampleType type, std::size_t samples) {
    std::vector<std::byte> bytes(samples * sample_bytes(type));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.below(256));
    for (std::size_t index = 0; index < samples && (type == SampleType::f32 || type == SampleType::f64); ++index) {
        const double value = static_cast<double>(random.below(2'000'001)) / 1e6 - 1;
        const auto narrow = static_cast<float>(value);
        if (type == SampleType::f64) std::memcpy(&bytes[index * 8], &value, 8);
        else std::memcpy(&bytes[index * 4], &narrow, 4);
    }
    return bytes;
}

void check(SampleType type, std::uint32_t channels, bool planar, MadeUp what, std::uint64_t seed) {
    situation = "type " + std::to_string(static_cast<int>(type)) + ", " + std::to_string(channels) + " channels, planar " +
                std::to_string(planar) + ", what " + std::to_string(static_cast<int>(what)) + ", seed " + std::to_string(seed);
    Random random(seed);
    const std::uint32_t most = 1 + static_cast<std::uint32_t>(random.below(200));
    const double rate_hz = 2'000 + static_cast<double>(random.below(4'000));
    const auto fade = static_cast<std::uint64_t>(rate_hz / 50);
    const auto second = static_cast<std::uint64_t>(rate_hz);
    Concealment concealment(type, channels, planar, rate_hz, most, what);
    std::vector<std::vector<double>> kept;  // by frame, then by channel
    std::uint64_t concealed = 0;
    const auto value_at = [&](const std::vector<std::byte>& bytes, std::uint64_t frame, std::uint64_t channel,
                              std::uint64_t frames) {
        return decode(type, &bytes[(planar ? channel * frames + frame : frame * channels + channel) * sample_bytes(type)]);
    };
    const auto gain_at = [&](std::uint64_t frame) {
        const auto fading = [&](std::uint64_t faded) {
            return std::max(0.0, 1 - static_cast<double>(faded) / static_cast<double>(fade));
        };
        switch (what) {
            case MadeUp::silence: return 0.0;
            case MadeUp::fade: return fading(frame);
            case MadeUp::repeat: break;
        }
        return frame < second - fade ? 1.0 : fading(frame - (second - fade));
    };
    for (int step = 0; step < 120; ++step) {
        const std::uint32_t frames = 1 + static_cast<std::uint32_t>(random.below(most));
        // Now and then for more than a second.
        if (random.chance(step < 60 ? 3 : 200)) {
            const auto block = noise(random, type, std::size_t{frames} * channels);
            concealment.remember(block.data(), frames);
            kept.clear();
            concealed = 0;
            const std::uint64_t skipped = frames > fade && what != MadeUp::repeat ? frames - fade : 0;
            for (std::uint64_t frame = skipped; frame < frames; ++frame) {
                kept.emplace_back();
                for (std::uint64_t channel = 0; channel < channels; ++channel) {
                    kept.back().push_back(value_at(block, frame, channel, frames));
                }
            }
            continue;
        }
        auto block = noise(random, type, std::size_t{frames} * channels);
        concealment.conceal(block.data(), frames);
        for (std::uint64_t frame = 0; frame < frames; ++frame, ++concealed) {
            const double gain = gain_at(concealed);
            for (std::uint64_t channel = 0; channel < channels; ++channel) {
                const double expected = kept.empty() ? 0 : kept[concealed % kept.size()][channel] * gain;
                const bool whole = type != SampleType::f32 && type != SampleType::f64;
                // At full or no loudness the samples are the same, or silence, to the last bit.
                if (gain == 0 || gain == 1) CHECK(value_at(block, frame, channel, frames) == expected);
                CHECK(std::abs(value_at(block, frame, channel, frames) - expected) <= (whole ? 1 : 1e-6));
            }
        }
        CHECK_EQUAL(concealed, concealment.concealed_frames());
    }
}

}  // namespace

int main() {
    for (const SampleType type : types) {
        for (const std::uint32_t channels : {1U, 2U, 5U}) {
            for (const bool planar : {false, true}) {
                for (const MadeUp what : {MadeUp::silence, MadeUp::fade, MadeUp::repeat}) {
                    for (std::uint64_t seed = 1; seed <= 20; ++seed) check(type, channels, planar, what, seed);
                }
            }
        }
    }
}
