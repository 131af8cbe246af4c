// Every object that the Memory under test was asked for, by its address: its state in the execution that runs, and what all
// executions together have shown of it, the footprint: which threads touch it, and how long each may yet write to it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <source_location>
#include <vector>

#include "../check.hpp"
#include "view.hpp"

namespace steadyflow::model {

inline constexpr std::size_t most_plain_bytes = 64;

struct Location {
    const void* address = nullptr;

    // The footprint.
    std::uint8_t touched_by = 0;  // bit per thread
    int slot = -1;                // in the views, once several threads touch it
    std::array<std::uint16_t, max_threads> last_write = {};  // the last step of each thread that may write; 0: none does

    // The state, in the execution that touched it last.
    std::uint64_t execution = 0;
    std::uint64_t value = 0;  // of an atomic without a slot
    std::array<std::byte, most_plain_bytes> bytes = {};  // of a plain field ...
    int writer = -1;                                     // ... who wrote it last, and who read it when
    std::uint16_t write_step = 0;
    std::array<std::uint16_t, max_threads> read_steps = {};
    std::source_location where = {};
    bool filled = false;  // a pipe: bytes lie in it
    bool rung = false;    // and its reader has not taken those that woke it

    bool may_write(unsigned thread, std::uint16_t step) const noexcept {
        return last_write[thread] != 0 && last_write[thread] >= step;
    }
};

class Locations {
public:
    static constexpr std::uint16_t for_ever = std::numeric_limits<std::uint16_t>::max();

    Locations() : table_(table_size) {}

    Location& find(const void* address) {
        auto key = static_cast<std::size_t>(reinterpret_cast<std::uintptr_t>(address) * 0x9e3779b97f4a7c15ULL >> 40);
        for (;; ++key) {
            Location& location = table_[key % table_size];
            if (location.address == address) return location;
            if (location.address == nullptr) {
                CHECK(++count_ < table_size / 2);
                location.address = address;
                return location;
            }
        }
    }

    // Notes that the thread touches it. False if it is the second one: then the location needs a place in the views, gets it,
    // and executions that went before were not looked at closely enough.
    bool touch(Location& location, unsigned thread) {
        const auto bit = static_cast<std::uint8_t>(1U << thread);
        if ((location.touched_by & bit) != 0) return true;
        location.touched_by |= bit;
        if (location.slot >= 0 || location.touched_by == bit) return true;
        CHECK(slots_ < max_shared);
        location.slot = static_cast<int>(slots_++);
        return false;
    }

private:
    static constexpr std::size_t table_size = 1024;

    std::vector<Location> table_;
    std::size_t count_ = 0;
    unsigned slots_ = 0;
};

}  // namespace steadyflow::model
