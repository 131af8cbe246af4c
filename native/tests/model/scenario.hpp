// What is explored, within which limits, and what came of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace steadyflow::model {

class Scenario {
public:
    virtual ~Scenario() = default;
    virtual std::string name() const = 0;
    virtual unsigned threads() const = 0;
    // Before the threads; the same each time. What threads leave on their stacks is never destroyed, so what owns memory
    // belongs to the scenario.
    virtual void set_up() = 0;
    virtual void run(unsigned thread) = 0;
    // After all threads have ended, with everything that they did known.
    virtual void finish() = 0;
    // Whether the thread may be killed before any of its steps; another one learns of it by Explorer::join().
    virtual bool mortal(unsigned) const { return false; }
    // Whether the thread may be asleep when all others have ended or sleep: then that is the end of the execution.
    virtual bool sleeps_in_the_end(unsigned) const { return false; }
};

struct Limits {
    std::uint64_t executions = 20'000'000;  // more end the process: a search is whole, or it has failed
    unsigned spurious_failures = 0;         // of weak compare-and-swaps, in one execution
    bool rehearse_only = false;             // some random executions: where they find something, they find it soon
    bool reduce = true;                     // false: every order of steps, to check the reductions
};

struct Report {
    std::string scenario;
    std::uint64_t executions = 0;  // that came to their end
    std::uint64_t redundant = 0;   // given up, as a part of one that is seen elsewhere
    std::uint64_t impossible = 0;  // given up, for want of an order of the sequentially consistent operations
    std::uint64_t steps = 0;
    std::uint64_t deepest = 0;  // choices in one execution
    std::uint64_t restarts = 0;
    double seconds = 0;
    std::optional<std::string> violation = {};
    std::vector<std::string> trace = {};  // the execution that shows it
};

}  // namespace steadyflow::model
