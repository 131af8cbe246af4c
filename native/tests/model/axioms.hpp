// What C++20 allows a program to do, straight from the definitions: every way in which its reads could read from its writes,
// and its writes be ordered, is tried and judged by the rules of [intro.races] and [atomics.order].
//
// It shares nothing with WeakMemory and SequentialOrder, which it is there to check. It is hopeless for anything but a
// few instructions. As they do, it leaves out executions in which reads-from and program order form a cycle.
#pragma once

#include <algorithm>
#include <array>
#include <numeric>
#include <string>
#include <vector>

#include "program.hpp"

namespace steadyflow::model {

class Axioms {
public:
    explicit Axioms(const Program& program) : reads_of_thread_(program.size()) {
        // The initial values are writes that happen before everything.
        for (unsigned location = 0; location < program_locations; ++location) {
            events_.push_back({-1, 0, store(location, 0, std::memory_order_relaxed)});
        }
        for (std::size_t thread = 0; thread < program.size(); ++thread) {
            for (std::size_t index = 0; index < program[thread].size(); ++index) {
                events_.push_back({static_cast<int>(thread), index, program[thread][index]});
            }
        }
        source_.assign(events_.size(), none);
    }

    Outcomes allowed() {
        choose_source(0);
        return std::move(outcomes_);
    }

private:
    static constexpr std::size_t none = ~std::size_t{0};
    static constexpr std::size_t most_events = 16;

    struct Event {
        int thread;
        std::size_t index;
        Instruction instruction;
    };
    class Relation {
    public:
        bool operator()(std::size_t from, std::size_t to) const { return rows_[from] >> to & 1; }
        void add(std::size_t from, std::size_t to) { rows_[from] |= static_cast<std::uint16_t>(1U << to); }
        void close() {
            for (std::size_t middle = 0; middle < most_events; ++middle) {
                for (auto& row : rows_) {
                    if (row >> middle & 1) row |= rows_[middle];
                }
            }
        }
        bool reflexive_anywhere() const {
            for (std::size_t event = 0; event < most_events; ++event) {
                if ((*this)(event, event)) return true;
            }
            return false;
        }

    private:
        std::array<std::uint16_t, most_events> rows_ = {};
    };

    const Instruction& instruction(std::size_t event) const { return events_[event].instruction; }
    bool reads(std::size_t event) const {
        const Action action = instruction(event).action;
        return action == Action::load || action == Action::exchange || action == Action::compare_exchange;
    }
    bool exchanges(std::size_t event) const {
        if (instruction(event).action == Action::exchange) return true;
        return instruction(event).action == Action::compare_exchange &&
               instruction(source_[event]).value == instruction(event).expected;
    }
    bool writes(std::size_t event) const { return instruction(event).action == Action::store || exchanges(event); }
    bool is_fence(std::size_t event) const { return instruction(event).action == Action::fence; }
    std::memory_order order(std::size_t event) const {
        const bool failed = instruction(event).action == Action::compare_exchange && !exchanges(event);
        return failed ? instruction(event).failure : instruction(event).order;
    }
    bool sequential(std::size_t event) const { return order(event) == std::memory_order_seq_cst; }
    bool same_location(std::size_t one, std::size_t other) const {
        return !is_fence(one) && !is_fence(other) && instruction(one).location == instruction(other).location;
    }
    bool sequenced(std::size_t one, std::size_t other) const {
        if (events_[one].thread < 0) return events_[other].thread >= 0;
        return events_[one].thread == events_[other].thread && events_[one].index < events_[other].index;
    }

    void choose_source(std::size_t event) {
        if (event == events_.size()) {
            order_ = {};
            choose_order(0);
            return;
        }
        if (!reads(event)) {
            choose_source(event + 1);
            return;
        }
        for (std::size_t write = 0; write < events_.size(); ++write) {
            const Action action = instruction(write).action;
            if (write == event || !same_location(write, event)) continue;
            if (action != Action::store && action != Action::exchange && action != Action::compare_exchange) continue;
            source_[event] = write;
            choose_source(event + 1);
        }
        source_[event] = none;
    }

    // The modification order of each location in turn.
    void choose_order(unsigned location) {
        if (location == program_locations) {
            judge();
            return;
        }
        std::vector<std::size_t> writers;
        for (std::size_t event = program_locations; event < events_.size(); ++event) {
            if (writes(event) && instruction(event).location == location && !is_fence(event)) writers.push_back(event);
        }
        std::sort(writers.begin(), writers.end());
        do {
            order_[location] = {location};
            order_[location].insert(order_[location].end(), writers.begin(), writers.end());
            choose_order(location + 1);
        } while (std::next_permutation(writers.begin(), writers.end()));
    }

    std::size_t place(std::size_t write) const {
        const auto& order = order_[instruction(write).location];
        return static_cast<std::size_t>(std::find(order.begin(), order.end(), write) - order.begin());
    }

    void judge() {
        const std::size_t count = events_.size();
        Relation causes;  // program order and reads-from
        for (std::size_t event = 0; event < count; ++event) {
            if (reads(event)) {
                if (!writes(source_[event])) return;
                causes.add(source_[event], event);
                // Atomicity: nothing between a read-modify-write and what it read.
                if (exchanges(event) && place(source_[event]) + 1 != place(event)) return;
            }
            for (std::size_t later = 0; later < count; ++later) {
                if (sequenced(event, later)) causes.add(event, later);
            }
        }
        causes.close();
        if (causes.reflexive_anywhere()) return;

        Relation synchronizes;
        for (std::size_t read = 0; read < count; ++read) {
            if (!reads(read)) continue;
            // Back along the release sequences that end in what was read.
            for (std::size_t head = source_[read];; head = source_[head]) {
                for (std::size_t from = 0; from < count; ++from) {
                    if (!(from == head || (is_fence(from) && sequenced(from, head))) || !releases(order(from))) continue;
                    for (std::size_t to = 0; to < count; ++to) {
                        if (!(to == read || (is_fence(to) && sequenced(read, to))) || !acquires(order(to))) continue;
                        synchronizes.add(from, to);
                    }
                }
                if (!exchanges_write(head)) break;
            }
        }
        Relation before = synchronizes;
        for (std::size_t one = 0; one < count; ++one) {
            for (std::size_t other = 0; other < count; ++other) {
                if (sequenced(one, other)) before.add(one, other);
            }
        }
        before.close();
        if (before.reflexive_anywhere()) return;

        Relation coherence;
        for (std::size_t one = 0; one < count; ++one) {
            for (std::size_t other = 0; other < count; ++other) {
                if (one != other && same_location(one, other) && coherence_ordered(one, other)) coherence.add(one, other);
            }
        }
        coherence.close();
        for (std::size_t one = 0; one < count; ++one) {
            for (std::size_t other = 0; other < count; ++other) {
                if (before(one, other) && coherence(other, one)) return;
            }
        }
        if (!total_order_exists(before, synchronizes, coherence)) return;

        std::vector<std::vector<int>> found(reads_of_thread_);
        for (std::size_t event = 0; event < count; ++event) {
            if (reads(event)) {
                found[static_cast<std::size_t>(events_[event].thread)].push_back(instruction(source_[event]).value);
            }
        }
        std::array<int, program_locations> last = {};
        for (unsigned location = 0; location < program_locations; ++location) {
            last[location] = instruction(order_[location].back()).value;
        }
        outcomes_.insert(outcome(found, last));
    }

    bool exchanges_write(std::size_t event) const { return reads(event) && exchanges(event); }

    // One step: reads-from, modification order, or a read before the write that follows what it read.
    bool coherence_ordered(std::size_t one, std::size_t other) const {
        if (reads(other) && source_[other] == one) return true;
        if (writes(one) && writes(other) && place(one) < place(other)) return true;
        return reads(one) && writes(other) && place(source_[one]) < place(other);
    }

    bool total_order_exists(const Relation& before, const Relation& synchronizes, const Relation& coherence) const {
        const std::size_t count = events_.size();
        Relation strongly;
        for (std::size_t one = 0; one < count; ++one) {
            for (std::size_t other = 0; other < count; ++other) {
                if (sequenced(one, other)) strongly.add(one, other);
                if (synchronizes(one, other) && sequential(one) && sequential(other)) strongly.add(one, other);
                for (std::size_t from = 0; from < count; ++from) {
                    for (std::size_t to = 0; to < count; ++to) {
                        if (sequenced(one, from) && before(from, to) && sequenced(to, other)) strongly.add(one, other);
                    }
                }
            }
        }
        strongly.close();
        Relation total;
        for (std::size_t one = 0; one < count; ++one) {
            for (std::size_t other = 0; other < count; ++other) {
                if (one == other || events_[one].thread < 0 || !sequential(one) || !sequential(other)) continue;
                if (strongly(one, other)) total.add(one, other);
                for (std::size_t from = 0; from < count; ++from) {
                    for (std::size_t to = 0; to < count; ++to) {
                        if (!coherence(from, to)) continue;
                        const bool stands_first = from == one || (is_fence(one) && before(one, from));
                        const bool stands_last = to == other || (is_fence(other) && before(to, other));
                        if (stands_first && stands_last) total.add(one, other);
                    }
                }
            }
        }
        total.close();
        return !total.reflexive_anywhere();
    }

    std::vector<Event> events_ = {};
    std::vector<std::vector<int>> reads_of_thread_;
    std::vector<std::size_t> source_ = {};
    std::array<std::vector<std::size_t>, program_locations> order_ = {};
    Outcomes outcomes_ = {};
};

}  // namespace steadyflow::model
