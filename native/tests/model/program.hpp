// Small programs of atomic operations as data, so that they can be written down, drawn at random, run and judged.
#pragma once

#include <atomic>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "model_memory.hpp"

namespace steadyflow::model {

enum class Action : std::uint8_t { load, store, exchange, compare_exchange, fence };

struct Instruction {
    Action action;
    unsigned location = 0;
    std::memory_order order = std::memory_order_relaxed;
    int value = 0;     // stored
    int expected = 0;  // by a compare-and-swap
    std::memory_order failure = std::memory_order_relaxed;
};

inline Instruction load(unsigned location, std::memory_order order) { return {Action::load, location, order}; }
inline Instruction store(unsigned location, int value, std::memory_order order) {
    return {Action::store, location, order, value};
}
inline Instruction exchange(unsigned location, int value, std::memory_order order) {
    return {Action::exchange, location, order, value};
}
inline Instruction compare_exchange(unsigned location, int expected, int value, std::memory_order order,
                                    std::memory_order failure) {
    return {Action::compare_exchange, location, order, value, expected, failure};
}
inline Instruction fence(std::memory_order order) { return {Action::fence, 0, order}; }

inline constexpr unsigned program_locations = 3;

using Program = std::vector<std::vector<Instruction>>;  // per thread
// What can be seen of an execution: per thread what its reads found, then the last value of each location.
using Outcomes = std::set<std::string>;

inline std::string outcome(const std::vector<std::vector<int>>& reads, const std::array<int, program_locations>& last) {
    std::string text;
    for (const std::vector<int>& thread : reads) {
        for (const int value : thread) text += std::to_string(value);
        text += ' ';
    }
    text += '|';
    for (const int value : last) text += std::to_string(value);
    return text;
}

inline std::string describe(const Program& program) {
    static constexpr const char* actions[] = {"load", "store", "exchange", "compare_exchange", "fence"};
    std::string text;
    for (const auto& thread : program) {
        for (const Instruction& instruction : thread) {
            text += std::string(actions[static_cast<unsigned>(instruction.action)]) + "(";
            if (instruction.action != Action::fence) {
                text += std::string(1, static_cast<char>('x' + instruction.location)) + ", ";
            }
            if (instruction.action == Action::compare_exchange) text += std::to_string(instruction.expected) + " -> ";
            if (instruction.action != Action::fence && instruction.action != Action::load) {
                text += std::to_string(instruction.value) + ", ";
            }
            text += name(instruction.order);
            if (instruction.action == Action::compare_exchange) text += std::string(", ") + name(instruction.failure);
            text += "); ";
        }
        text += "|| ";
    }
    return text;
}

class ProgramScenario : public Scenario {
public:
    explicit ProgramScenario(Program program) : program_(std::move(program)), reads_(program_.size()) {}

    std::string name() const override { return describe(program_); }
    unsigned threads() const override { return static_cast<unsigned>(program_.size()); }
    void set_up() override {
        for (auto& reads : reads_) reads.clear();
    }
    void run(unsigned thread) override {
        for (const Instruction& instruction : program_[thread]) {
            Atomic& location = locations_[instruction.location];
            switch (instruction.action) {
                case Action::load: reads_[thread].push_back(location.load(instruction.order)); break;
                case Action::store: location.store(instruction.value, instruction.order); break;
                case Action::exchange:
                    reads_[thread].push_back(location.exchange(instruction.value, instruction.order));
                    break;
                case Action::compare_exchange: {
                    int found = instruction.expected;
                    location.compare_exchange_strong(found, instruction.value, instruction.order, instruction.failure);
                    reads_[thread].push_back(found);
                    break;
                }
                case Action::fence: ModelMemory::fence(instruction.order); break;
            }
        }
    }
    void finish() override {
        std::array<int, program_locations> last = {};
        for (unsigned index = 0; index < program_locations; ++index) last[index] = locations_[index].load();
        seen_.insert(outcome(reads_, last));
    }

    const Outcomes& seen() const noexcept { return seen_; }

private:
    using Atomic = ModelMemory::Atomic<int>;

    Program program_;
    Atomic locations_[program_locations] = {Atomic(0), Atomic(0), Atomic(0)};
    std::vector<std::vector<int>> reads_;
    Outcomes seen_ = {};
};

inline Outcomes explored(const Program& program, bool reduce) {
    Orders orders;
    ProgramScenario scenario(program);
    Explorer explorer(scenario, orders);
    Limits limits;
    limits.reduce = reduce;
    CHECK(!explorer.explore(limits).violation);
    return scenario.seen();
}

}  // namespace steadyflow::model
