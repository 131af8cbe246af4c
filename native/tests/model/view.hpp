// What a thread knows: per location the newest message it must not look behind, per thread the last step it comes after.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace steadyflow::model {

inline constexpr unsigned max_threads = 4;
inline constexpr unsigned max_shared = 56;  // locations that several threads touch

struct View {
    std::array<std::uint8_t, max_shared> position = {};  // in the modification order of each location
    std::array<std::uint16_t, max_threads> clock = {};   // steps of each thread that happened before

    void join(const View& other) noexcept {
        for (unsigned index = 0; index < max_shared; ++index) {
            position[index] = std::max(position[index], other.position[index]);
        }
        for (unsigned index = 0; index < max_threads; ++index) clock[index] = std::max(clock[index], other.clock[index]);
    }
    bool within(const View& other) const noexcept {
        bool smaller = true;
        for (unsigned index = 0; index < max_shared; ++index) smaller &= position[index] <= other.position[index];
        for (unsigned index = 0; index < max_threads; ++index) smaller &= clock[index] <= other.clock[index];
        return smaller;
    }
    void see(unsigned location, unsigned at) noexcept {
        position[location] = std::max(position[location], static_cast<std::uint8_t>(at));
    }
    // A message was put into the modification order of `location` before others.
    void shift(unsigned location, unsigned at) noexcept {
        if (position[location] >= at) ++position[location];
    }
};

}  // namespace steadyflow::model
