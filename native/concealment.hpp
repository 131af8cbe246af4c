// What is heard in place of frames that are missing: silence, or the last block again and again, fading to silence within
// 20 ms, at once or when gaps are not filled any longer.
//
// The fade is what ITU-T G.711 Appendix I does, without its search for the pitch. Where the repetition begins, and where what
// was sent goes on, nothing is blended: that would need audio from before or after, which a block has been handed out with or
// has not come in. Allocates when it is made, and never after.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include "sample_type.hpp"

namespace steadyflow {

enum class MadeUp : std::uint8_t { silence = 0, fade = 1, repeat = 2 };

// A longer gap is left to the module: nobody takes what is made up for the music. Nor is anything repeated for longer.
inline constexpr double longest_gap_s = 1;

// One thread at a time.
class Concealment {
public:
    // `most_frames`: how long a block that is remembered may be. Planar: all frames of a channel, then those of the next.
    Concealment(SampleType type, std::uint32_t channels, bool planar, double rate_hz, std::uint32_t most_frames,
                MadeUp what = MadeUp::fade)
        : type_(type),
          channels_(channels),
          planar_(planar),
          fade_frames_(std::max<std::uint32_t>(1, static_cast<std::uint32_t>(rate_hz / 50))),
          loud_frames_(std::max<std::uint64_t>(
              what == MadeUp::repeat ? static_cast<std::uint64_t>(longest_gap_s * rate_hz) : 0, fade_frames_)),
          capacity_(what == MadeUp::silence  ? 0
                    : what == MadeUp::repeat ? most_frames
                                             : std::min(most_frames, fade_frames_)),
          memory_(new std::byte[std::size_t{capacity_} * channels * sample_bytes(type)]) {}

    // The latest audio that was there. Of a block of more than 20 ms only its end, unless whole blocks are repeated.
    void remember(const void* block, std::uint32_t frames) noexcept {
        const auto* samples = static_cast<const std::byte*>(block);
        const std::uint32_t kept = std::min(frames, capacity_);
        const std::size_t width = sample_bytes(type_);
        if (planar_) {
            for (std::size_t channel = 0; channel < channels_; ++channel) {
                std::memcpy(memory_.get() + channel * kept * width, samples + ((channel + 1) * frames - kept) * width,
                            kept * width);
            }
        } else {
            std::memcpy(memory_.get(), samples + std::size_t{frames - kept} * channels_ * width, kept * channels_ * width);
        }
        period_frames_ = kept;
        concealed_frames_ = 0;
    }

    // Goes on from what was remembered, or concealed since.
    void conceal(void* block, std::uint32_t frames) noexcept {
        switch (type_) {
            case SampleType::f32: return fill<float>(block, frames);
            case SampleType::f64: return fill<double>(block, frames);
            case SampleType::s16: return fill<std::int16_t>(block, frames);
            case SampleType::s24: return fill<Packed>(block, frames);
            case SampleType::s32: return fill<std::int32_t>(block, frames);
            case SampleType::u8: return fill<std::uint8_t>(block, frames);
        }
    }

    // How many frames were concealed since the latest that were there.
    std::uint64_t concealed_frames() const noexcept { return concealed_frames_; }

private:
    struct Packed {
        std::uint8_t bytes[3];
    };

    template <class Sample>
    static Sample scaled(Sample sample, double gain) noexcept {
        return static_cast<Sample>(static_cast<double>(sample) * gain);
    }
    static std::uint8_t scaled(std::uint8_t sample, double gain) noexcept {
        return static_cast<std::uint8_t>(128 + static_cast<int>((sample - 128) * gain));
    }
    static Packed scaled(Packed sample, double gain) noexcept {
        const auto raw = static_cast<std::uint32_t>(sample.bytes[0]) << 8 | static_cast<std::uint32_t>(sample.bytes[1]) << 16 |
                         static_cast<std::uint32_t>(sample.bytes[2]) << 24;
        const auto value = static_cast<std::int32_t>((static_cast<std::int32_t>(raw) >> 8) * gain);
        return {{static_cast<std::uint8_t>(value), static_cast<std::uint8_t>(value >> 8), static_cast<std::uint8_t>(value >> 16)}};
    }

    template <class Sample>
    void fill(void* block, std::uint32_t frames) noexcept {
        auto* out = static_cast<std::byte*>(block);
        const std::uint64_t before_fade = loud_frames_ - fade_frames_;
        for (std::uint32_t frame = 0; frame < frames; ++frame, ++concealed_frames_) {
            const bool silent = period_frames_ == 0 || concealed_frames_ >= loud_frames_;
            const std::uint64_t faded = concealed_frames_ - std::min(concealed_frames_, before_fade);
            const double gain = silent ? 0 : 1 - static_cast<double>(faded) / fade_frames_;
            const auto source = period_frames_ == 0 ? 0 : static_cast<std::uint32_t>(concealed_frames_ % period_frames_);
            for (std::uint32_t channel = 0; channel < channels_; ++channel) {
                Sample sample{};
                if (!silent) std::memcpy(&sample, memory_.get() + place(source, channel, period_frames_), sizeof sample);
                else if constexpr (sizeof(Sample) == 1) sample = 128;
                sample = scaled(sample, gain);
                std::memcpy(out + place(frame, channel, frames), &sample, sizeof sample);
            }
        }
    }

    std::size_t place(std::uint32_t frame, std::uint32_t channel, std::uint32_t frames) const noexcept {
        const std::size_t index =
            planar_ ? std::size_t{channel} * frames + frame : std::size_t{frame} * channels_ + channel;
        return index * sample_bytes(type_);
    }

    SampleType type_;
    std::uint32_t channels_;
    bool planar_;
    std::uint32_t fade_frames_;
    std::uint64_t loud_frames_;  // so long it is not silent; the last of them fade
    std::uint32_t capacity_;
    std::unique_ptr<std::byte[]> memory_;
    std::uint32_t period_frames_ = 0;
    std::uint64_t concealed_frames_ = 0;
};

}  // namespace steadyflow
