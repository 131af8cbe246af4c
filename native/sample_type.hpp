// What one sample of audio is in memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace steadyflow {

enum class SampleType : std::uint8_t { f32, f64, s16, s24, s32, u8 };  // s24: three bytes, the lowest first

constexpr std::size_t sample_bytes(SampleType type) noexcept {
    switch (type) {
        case SampleType::f64: return 8;
        case SampleType::s16: return 2;
        case SampleType::s24: return 3;
        case SampleType::u8: return 1;
        default: return 4;
    }
}

}  // namespace steadyflow
