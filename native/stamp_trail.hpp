// What blocks said about their frames, kept while the frames wait to come out in other blocks: time, and what is wrong with them.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <stdexcept>

#include "block_flags.hpp"

namespace steadyflow {

// Positions are counted in frames of what came in since it last broke off, so that they are exact as floating-point numbers, and are
// asked for in their order. One thread; allocates.
class StampTrail {
public:
    explicit StampTrail(double ns_per_frame) noexcept : ns_per_frame_(ns_per_frame) {}

    // Blocks come in the order of their frames.
    void add(std::uint64_t position, std::uint32_t frames, std::int64_t timestamp_ns, std::uint16_t flags) {
        const auto begin = static_cast<double>(position);
        if ((flags & lasting) != 0) faults_.push_back({begin, begin + frames, static_cast<std::uint16_t>(flags & lasting)});
        stamps_.push_back({begin, timestamp_ns});
    }

    // The time of a position, by the block that it lies in; the nearest that a block can have, where a damaged one said anything.
    std::int64_t timestamp_ns(double position) {
        if (stamps_.empty()) throw std::logic_error("StampTrail: no block has come");
        while (stamps_.size() > 1 && stamps_[1].begin <= position) stamps_.pop_front();
        const Stamp& stamp = stamps_.front();
        const double later = std::nearbyint((position - stamp.begin) * ns_per_frame_);
        constexpr auto least = std::numeric_limits<std::int64_t>::min();
        constexpr auto most = std::numeric_limits<std::int64_t>::max();
        if (!(later > static_cast<double>(least))) return least;
        if (later >= static_cast<double>(most)) return most;
        std::int64_t sum = 0;
        if (__builtin_add_overflow(stamp.timestamp_ns, static_cast<std::int64_t>(later), &sum)) return later < 0 ? least : most;
        return sum;
    }

    // What is wrong with any frame of a range.
    std::uint16_t flags(double begin, double end) {
        while (!faults_.empty() && faults_.front().end <= begin) faults_.pop_front();
        std::uint16_t found = 0;
        for (const Fault& fault : faults_) {
            if (fault.begin < end) found = static_cast<std::uint16_t>(found | fault.flags);
        }
        return found;
    }

    // Of how many blocks the time is kept.
    std::size_t size() const noexcept { return stamps_.size(); }

    // What comes next does not follow.
    void clear() noexcept {
        stamps_.clear();
        faults_.clear();
    }

private:
    // Said of every block that has some of the frames; the others are said of the place before a block, or of the end.
    static constexpr std::uint16_t lasting = flag_gap | flag_corrupted | flag_repeated;

    struct Stamp {
        double begin;
        std::int64_t timestamp_ns;
    };
    struct Fault {
        double begin;
        double end;
        std::uint16_t flags;
    };

    double ns_per_frame_;
    std::deque<Stamp> stamps_;
    std::deque<Fault> faults_;
};

}  // namespace steadyflow
