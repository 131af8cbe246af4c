// The total order S of the sequentially consistent operations: whether one exists for what has happened so far.
//
// C++20 [atomics.order]: S must agree with "strongly happens before", and with "coherence-ordered before" between
// sequentially consistent operations, or between what lies around sequentially consistent fences. No order is chosen
// here: those demands are edges of a graph, and an order exists unless they close a cycle.
//
// Places in the modification order of one location are compared by a key: 2w for what wrote the message w, 2r + 1 for what
// read the message r. Then A is coherence-ordered before B if and only if its key is the smaller one.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "view.hpp"

namespace steadyflow::model {

class SequentialOrder {
public:
    void clear() noexcept {
        events_.clear();
        fences_.clear();
    }

    // `before` and `after`: what the thread knows without and with what the event itself acquired.
    void add_fence(unsigned thread, std::uint16_t step, const View& before, const View& after) {
        events_.push_back({thread, step, no_location, 0, false, true, before, after});
        fences_.push_back({thread, step});
    }
    void add_access(unsigned thread, std::uint16_t step, unsigned location, unsigned position, bool writes,
                    bool sequential, const View& before, const View& after) {
        events_.push_back({thread, step, location, position, writes, sequential, before, after});
    }
    // A message was put into the modification order before others.
    void shift(unsigned location, unsigned position) noexcept {
        for (Event& event : events_) {
            if (event.location == location && event.position >= position) ++event.position;
        }
    }
    // Whether a sequentially consistent fence happens before what has this view.
    bool fence_within(const View& view) const noexcept {
        return std::any_of(fences_.begin(), fences_.end(),
                           [&view](const Fence& fence) { return view.clock[fence.thread] >= fence.step; });
    }

    bool exists() const {
        nodes_.clear();
        for (const Event& event : events_) {
            if (event.sequential) nodes_.push_back(&event);
        }
        const std::size_t count = nodes_.size();
        if (count < 2) return true;
        spans_.assign(count, Spans{});
        for (std::size_t index = 0; index < count; ++index) span(*nodes_[index], spans_[index]);
        successors_.assign(count, {});
        for (std::size_t from = 0; from < count; ++from) {
            for (std::size_t to = 0; to < count; ++to) {
                if (from != to && precedes(from, to)) successors_[from].push_back(to);
            }
        }
        marks_.assign(count, Mark::fresh);
        for (std::size_t index = 0; index < count; ++index) {
            if (marks_[index] == Mark::fresh && closes_cycle(index)) return false;
        }
        return true;
    }

private:
    static constexpr unsigned no_location = max_shared;
    static constexpr std::uint16_t nowhere = std::numeric_limits<std::uint16_t>::max();

    struct Event {
        unsigned thread;
        std::uint16_t step;
        unsigned location;
        unsigned position;
        bool writes;
        bool sequential;
        View before;
        View after;
        std::uint16_t key() const noexcept { return static_cast<std::uint16_t>(2 * position + (writes ? 0 : 1)); }
    };
    struct Fence {
        unsigned thread;
        std::uint16_t step;
    };
    // Per location: the smallest key of what may stand for the event as the earlier one of a pair, and the largest key of
    // what may stand for it as the later one: the event itself, or for a fence all that happens after or before it.
    struct Spans {
        std::array<std::uint16_t, max_shared> first;
        std::array<std::uint16_t, max_shared> last;
        Spans() {
            first.fill(nowhere);
            last.fill(0);
        }
        void may_be_first(const Event& event) { first[event.location] = std::min(first[event.location], event.key()); }
        void may_be_last(const Event& event) {
            last[event.location] = std::max(last[event.location], event.key());
        }
    };
    enum class Mark : std::uint8_t { fresh, open, closed };

    void span(const Event& node, Spans& spans) const {
        if (node.location != no_location) {
            spans.may_be_first(node);
            spans.may_be_last(node);
            return;
        }
        for (const Event& event : events_) {
            if (event.location == no_location) continue;
            if (event.thread == node.thread ? event.step < node.step : node.after.clock[event.thread] >= event.step) {
                spans.may_be_last(event);
            } else if (event.thread == node.thread || event.after.clock[node.thread] >= node.step) {
                spans.may_be_first(event);
            }
        }
    }

    bool precedes(std::size_t from, std::size_t to) const {
        const Event& earlier = *nodes_[from];
        const Event& later = *nodes_[to];
        // Strongly happens before: in one thread, or through a release that follows and an acquire that went before.
        if (earlier.thread == later.thread) {
            if (earlier.step < later.step) return true;
        } else if (later.before.clock[earlier.thread] > earlier.step) {
            return true;
        }
        for (unsigned location = 0; location < max_shared; ++location) {
            if (spans_[from].first[location] < spans_[to].last[location]) return true;
        }
        return false;
    }

    bool closes_cycle(std::size_t index) const {
        marks_[index] = Mark::open;
        for (const std::size_t next : successors_[index]) {
            if (marks_[next] == Mark::open || (marks_[next] == Mark::fresh && closes_cycle(next))) return true;
        }
        marks_[index] = Mark::closed;
        return false;
    }

    std::vector<Event> events_ = {};
    std::vector<Fence> fences_ = {};
    // Kept between calls only for their memory.
    mutable std::vector<const Event*> nodes_ = {};
    mutable std::vector<Spans> spans_ = {};
    mutable std::vector<std::vector<std::size_t>> successors_ = {};
    mutable std::vector<Mark> marks_ = {};
};

}  // namespace steadyflow::model
