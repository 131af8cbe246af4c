// Runs a scenario again and again until every execution that the memory allows has been seen.
//
// An execution is determined by its choices: which thread goes on, which message a load reads, where a store goes in the
// modification order. What matters of it is who reads from whom; the order in which its steps are carried out matters only
// where it decides that. So each such graph is to be met in few orders, best in one:
// - A store never takes anything away from another thread, which may still read what was there before. So stores and fences
//   are carried out at once. Loads are not: the later, the more there is to read.
// - Only loads of a location that another thread may yet write to are points of choice between threads. Who may yet write
//   what is found out on the way (Locations): an execution that goes beyond what was known starts the search anew.
// - Threads that cannot disturb each other's loads any more are not played against each other (persistent sets).
// - Where a load was tried first and then put off, it must read a message that was not there at the time (sleep sets).
// - Of two messages of one value, the newer one is left out if reading it only means knowing more.
// Sleeping and waking is the exception: both act on one pipe, and are played against each other in every order.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

#include "choices.hpp"
#include "fiber.hpp"
#include "locations.hpp"
#include "orders.hpp"
#include "scenario.hpp"
#include "weak_memory.hpp"

namespace steadyflow::model {

// One for each scenario: what it has learned of its footprint serves the next exploration.
class Explorer {
public:
    Explorer(Scenario& scenario, Orders& orders) : scenario_(scenario), orders_(orders), threads_(scenario.threads()) {
        CHECK(threads_ >= 1 && threads_ <= max_threads);
    }
    Explorer(const Explorer&) = delete;
    Explorer& operator=(const Explorer&) = delete;

    // The exploration that runs now; what the Memory under test calls.
    static Explorer* running() noexcept { return running_; }

    Report explore(const Limits& limits) {
        limits_ = limits;
        report_ = {};
        report_.scenario = scenario_.name();
        running_ = this;
        const auto began = std::chrono::steady_clock::now();
        while (!explore_once()) CHECK(++report_.restarts < 1000);
        if (outcome_ == Outcome::violation) {
            // Once more, step by step in words.
            report_.violation = description_;
            tracing_ = true;
            CHECK(execute() == Outcome::violation);
            tracing_ = false;
        }
        report_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
        running_ = nullptr;
        return report_;
    }

    // --- For scenarios, from their threads ---

    void expect(bool condition, const std::string& what) {
        if (!condition) violate(what);
    }
    // Waits until `other` has ended, and comes after all it did: as when a process is known to be gone.
    void join(unsigned other, const std::source_location& where = std::source_location::current()) {
        begin_step();
        note(where, "waits for the end of another thread");
        pending() = {Operation::join, nullptr, other, 0, {}, {}};
        await_turn();
        memory_.join(current_, other, steps_[other]);
    }
    // All values that an atomic had, in modification order; only the last one where one thread alone touches it.
    std::vector<std::uint64_t> values(const void* address) {
        Location& location = locations_.find(address);
        if (location.slot < 0) return {location.value};
        std::vector<std::uint64_t> found;
        for (const Message& message : memory_.messages(slot(location))) found.push_back(message.value);
        return found;
    }

    // --- For the Memory under test ---

    std::uint64_t load(const void* address, std::uint64_t initial, std::memory_order asked,
                       const std::source_location& where) {
        const std::memory_order order = orders_.effective(where, Part::load, asked);
        Location& location = step_on(address, initial);
        if (location.slot < 0 || outside()) return newest(location);
        pending() = {Operation::load, &location, 0, 0, order, order};
        await_turn();
        const unsigned read = choose_message();
        const std::uint64_t value = memory_.read(current_, steps_[current_], slot(location), read, order);
        note(where, "load", order, value);
        require_consistency(order);
        return value;
    }

    void store(const void* address, std::uint64_t initial, std::uint64_t value, std::memory_order asked,
               const std::source_location& where) {
        const std::memory_order order = orders_.effective(where, Part::store, asked);
        Location& location = step_on(address, initial);
        if (outside()) {
            set_newest(location, value);
            return;
        }
        if (orders_.loses(where)) return;
        writes(location);
        if (location.slot < 0) {
            location.value = value;
            return;
        }
        take_any_turn();
        const unsigned place = choose(Kind::message, [&](Options& options) {
            // The newest place first.
            const auto size = static_cast<unsigned>(memory_.messages(slot(location)).size());
            const unsigned known = memory_.oldest_readable(current_, slot(location));
            for (unsigned after = size; after-- > known;) {
                if (memory_.open_behind(slot(location), after)) push(options, after + 1);
            }
        });
        memory_.write(current_, steps_[current_], slot(location), place, value, order);
        note(where, "store", order, value);
        require_consistency(order);
    }

    // Replaces the value by what `change` makes of it; returns what was there.
    template <class Change>
    std::uint64_t update(const void* address, std::uint64_t initial, std::memory_order asked,
                         const std::source_location& where, Change change) {
        const std::memory_order order = orders_.effective(where, Part::update, asked);
        Location& location = step_on(address, initial);
        if (!outside()) writes(location);
        if (location.slot < 0 || outside()) {
            const std::uint64_t value = newest(location);
            set_newest(location, change(value));
            return value;
        }
        pending() = {Operation::update, &location, 0, 0, order, order};
        await_turn();
        const unsigned read = choose_message();
        const std::uint64_t value = memory_.messages(slot(location))[read].value;
        memory_.update(current_, steps_[current_], slot(location), read, change(value), order);
        note(where, "read-modify-write of", order, value);
        require_consistency(order);
        return value;
    }

    bool compare_exchange(const void* address, std::uint64_t initial, std::uint64_t& expected, std::uint64_t desired,
                          std::memory_order asked_success, std::memory_order asked_failure, bool weak,
                          const std::source_location& where) {
        const std::memory_order success = orders_.effective(where, Part::update, asked_success);
        const std::memory_order failure = orders_.effective(where, Part::failure, asked_failure);
        Location& location = step_on(address, initial);
        if (!outside()) writes(location);  // it may, though it does not have to
        if (location.slot < 0 || outside()) {
            const std::uint64_t value = newest(location);
            const bool exchanges = value == expected;
            if (exchanges) set_newest(location, desired);
            expected = value;
            return exchanges;
        }
        const bool may_fail = weak && spurious_failures_ < limits_.spurious_failures;
        pending() = {may_fail ? Operation::exchange_weak : Operation::exchange, &location, 0, expected, success, failure};
        await_turn();
        const unsigned option = choose_message();
        const unsigned read = option & ~spuriously;
        const std::uint64_t value = memory_.messages(slot(location))[read].value;
        const bool exchanges = value == expected && (option & spuriously) == 0;
        if (exchanges) {
            memory_.update(current_, steps_[current_], slot(location), read, desired, success);
            note(where, "compare-and-swap of", success, value);
        } else {
            if (value == expected) ++spurious_failures_;
            memory_.read(current_, steps_[current_], slot(location), read, failure);
            note(where, "failed compare-and-swap, found", failure, value);
        }
        expected = value;
        require_consistency(exchanges ? success : failure);
        return exchanges;
    }

    void fence(std::memory_order asked, const std::source_location& where) {
        const std::memory_order order = orders_.effective(where, Part::fence, asked);
        if (outside()) return;
        begin_step();
        take_any_turn();
        // What came before the first of them in this execution was not recorded for it.
        if (order == std::memory_order_seq_cst && !fences_) {
            fences_ = true;
            outgrow();
        }
        memory_.fence(current_, steps_[current_], order);
        note(where, "fence", order, 0);
        require_consistency(order);
    }

    void read_plain(const void* address, const void* initial, std::size_t bytes, void* result,
                    const std::source_location& where) {
        Location& location = plain_step_on(address, initial, bytes);
        if (!outside()) {
            note(where, "plain read");
            if (location.writer >= 0 &&
                !memory_.happened_before(static_cast<unsigned>(location.writer), location.write_step, current_)) {
                violate("data race: " + describe(where) + " reads what " + describe(location.where) +
                        " writes at the same time");
            }
            location.read_steps[current_] = steps_[current_];
            location.where = where;
        }
        std::memcpy(result, location.bytes.data(), bytes);
    }

    void write_plain(const void* address, const void* initial, std::size_t bytes, const void* value,
                     const std::source_location& where) {
        Location& location = plain_step_on(address, initial, bytes);
        if (!outside()) {
            note(where, "plain write");
            bool ordered = location.writer < 0 || memory_.happened_before(static_cast<unsigned>(location.writer),
                                                                          location.write_step, current_);
            for (unsigned thread = 0; thread < threads_; ++thread) {
                const std::uint16_t read = location.read_steps[thread];
                if (read != 0 && !memory_.happened_before(thread, read, current_)) ordered = false;
            }
            if (!ordered) {
                violate("data race: " + describe(where) + " writes what " + describe(location.where) +
                        " uses at the same time");
            }
            location.writer = static_cast<int>(current_);
            location.write_step = steps_[current_];
            location.where = where;
        }
        std::memcpy(location.bytes.data(), value, bytes);
    }

    // A pipe: it holds bytes or not; whoever was woken takes them before the next sleep, as platform_linux.cpp does.
    // Nothing is known to the sleeper by it: the proof must not rest on what the kernel orders.
    void wake(const void* address, const std::source_location& where) {
        Location& pipe = step_on(address, 0);
        CHECK(!outside());
        writes(pipe);
        pending() = {Operation::wake, &pipe, 0, 0, {}, {}};
        await_turn();
        pipe.filled = true;
        rouse(pipe);
        note(where, "wake");
    }
    void wait_for_wake(const void* address, const std::source_location& where) {
        Location& pipe = step_on(address, 0);
        CHECK(!outside());
        writes(pipe);
        note(where, "sleeps, if it was not called");
        pending() = {Operation::wait, &pipe, 0, 0, {}, {}};
        await_turn();
        if (pipe.rung) pipe.filled = false;
        pipe.rung = !pipe.rung;
        rouse(pipe);
        note(where, "goes on");
    }

private:
    static constexpr std::size_t stack_bytes = 128 * 1024;
    static constexpr std::uint16_t most_steps = 20'000;
    static constexpr unsigned spuriously = 0x8000;  // of a message that is chosen: fails although it need not
    static constexpr unsigned rehearsals = 400;

    using Kind = Choices::Kind;
    using Options = Choices::Options;

    // outgrown: the execution went beyond the footprint that the search had assumed.
    enum class Outcome { none, complete, redundant, impossible, violation, outgrown };
    enum class Operation : std::uint8_t { none, load, update, exchange, exchange_weak, wait, wake, join };

    struct Pending {
        Operation operation = Operation::none;
        Location* location = nullptr;
        unsigned other = 0;
        std::uint64_t expected = 0;
        std::memory_order order = {};
        std::memory_order failure = {};
        bool reads_messages() const noexcept {
            return operation == Operation::load || operation == Operation::update ||
                   operation == Operation::exchange || operation == Operation::exchange_weak;
        }
    };

    // --- The search ---

    // False if the footprint turned out larger than assumed, so that executions may have been left out.
    bool explore_once() {
        learning_ = true;
        if (limits_.reduce) {
            // The footprint of the most common executions, so that the search seldom has to start anew.
            for (std::uint64_t round = 1; round <= rehearsals; ++round) {
                choices_.be_random(round * 0x9e3779b97f4a7c15ULL);
                const Outcome outcome = execute();
                if (outcome == Outcome::outgrown) return false;
                if (outcome == Outcome::violation) return true;
            }
            if (limits_.rehearse_only) return true;
        }
        learning_ = false;
        choices_.clear();
        do {
            switch (execute()) {
                case Outcome::complete: ++report_.executions; break;
                case Outcome::redundant: ++report_.redundant; break;
                case Outcome::impossible: ++report_.impossible; break;
                case Outcome::violation: return true;
                default: return false;
            }
            if (report_.executions + report_.redundant + report_.impossible > limits_.executions) {
                steadyflow::testing::fail(__FILE__, __LINE__, "exploring " + scenario_.name(),
                                          "at most " + std::to_string(limits_.executions) + " executions", "more");
            }
        } while (choices_.advance());
        return true;
    }

    Outcome execute() {
        ++execution_;
        memory_.clear(fences_);
        choices_.begin_execution();
        spurious_failures_ = 0;
        outcome_ = Outcome::none;
        pending_.fill({});
        steps_.fill(0);
        parked_.fill(false);
        finished_.fill(false);
        put_off_.fill(false);
        current_ = nobody;
        scenario_.set_up();
        for (unsigned thread = 0; thread < threads_; ++thread) fiber(thread).prepare(&Explorer::enter, this);
        current_ = 0;
        system_fiber().switch_to(fiber(0));
        if (outcome_ == Outcome::complete) {
            current_ = nobody;
            finishing_ = true;
            fiber(nobody).prepare(&Explorer::enter, this);
            system_fiber().switch_to(fiber(nobody));
            finishing_ = false;
        }
        for (const std::uint16_t steps : steps_) report_.steps += steps;
        report_.deepest = std::max<std::uint64_t>(report_.deepest, choices_.depth());
        return outcome_;
    }

    static void enter(void* self) { static_cast<Explorer*>(self)->run_thread(); }
    void run_thread() {
        const unsigned thread = current_;
        bool threw = false;
        try {
            if (thread == nobody) scenario_.finish();
            else scenario_.run(thread);
        } catch (const std::exception& error) {
            description_ = std::string("unexpected exception: ") + error.what();
            threw = true;
        }
        // Not in the handler, which must be left before the stack is.
        if (threw) fail();
        if (thread == nobody) end(Outcome::complete);
        finish_thread();
    }

    [[noreturn]] void end(Outcome outcome) {
        outcome_ = outcome;
        fiber(current_).switch_to(system_fiber());
        std::abort();
    }
    [[noreturn]] void finish_thread() {
        finished_[current_] = true;
        Fiber& self = fiber(current_);
        current_ = next_thread();
        self.switch_to(fiber(current_));
        std::abort();
    }
    [[noreturn]] void violate(const std::string& what) {
        description_ = what;
        fail();
    }
    // What happens in an execution that cannot be, because its sequentially consistent operations have no order, is no harm.
    [[noreturn]] void fail() { end(finishing_ || memory_.consistent() ? Outcome::violation : Outcome::impossible); }
    [[noreturn]] void outgrow() { end(Outcome::outgrown); }

    // --- One step ---

    // Before and after the threads: no step of the model, but memory as it was first, or as it ended.
    bool outside() const noexcept { return current_ == nobody; }
    Pending& pending() noexcept { return pending_[current_]; }
    static unsigned slot(const Location& location) noexcept { return static_cast<unsigned>(location.slot); }
    static void push(Options& options, unsigned option) { options.push_back(static_cast<Choices::Option>(option)); }

    void begin_step() {
        if (!outside() && ++steps_[current_] > most_steps) violate("a thread does not come to an end");
    }

    Location& step_on(const void* address, std::uint64_t initial) {
        begin_step();
        Location& location = locations_.find(address);
        if (location.execution != execution_) {
            location.execution = execution_;
            location.value = initial;
            location.filled = false;
            location.rung = false;
            if (location.slot >= 0) {
                Message first;
                first.value = initial;
                memory_.messages(slot(location)).assign(1, first);
            }
        }
        if (outside()) return location;
        if (!locations_.touch(location, current_)) outgrow();
        // Between two steps that others can see it makes no difference when it dies.
        if (location.slot >= 0 && scenario_.mortal(current_)) {
            const unsigned dies = choose(Kind::other, [](Options& options) { options.assign({0, 1}); });
            if (dies != 0) finish_thread();
        }
        return location;
    }

    Location& plain_step_on(const void* address, const void* initial, std::size_t bytes) {
        begin_step();
        Location& location = locations_.find(address);
        if (location.execution != execution_) {
            CHECK(bytes <= most_plain_bytes);
            location.execution = execution_;
            std::memcpy(location.bytes.data(), initial, bytes);
            location.writer = -1;
            location.read_steps.fill(0);
        }
        return location;
    }

    std::uint64_t newest(Location& location) {
        return location.slot < 0 ? location.value : memory_.messages(slot(location)).back().value;
    }
    void set_newest(Location& location, std::uint64_t value) {
        if (location.slot < 0) {
            location.value = value;
            return;
        }
        std::vector<Message>& messages = memory_.messages(slot(location));
        // Before the threads there is one message; after them nobody reads any more, but values() tells.
        if (finishing_) messages.emplace_back();
        messages.back().value = value;
    }

    // Notes in the footprint that the thread writes here at this step.
    void writes(Location& location) {
        std::uint16_t& last = location.last_write[current_];
        if (last >= steps_[current_]) return;
        // A rehearsal only notes it. The search had counted on the opposite.
        last = learning_ ? steps_[current_] : Locations::for_ever;
        if (!learning_) outgrow();
    }

    // --- Who goes on ---

    // Threads that may yet change what the pending operation of this one finds, as a set of bits.
    unsigned disturbers(unsigned thread) const {
        const Pending& pending = pending_[thread];
        unsigned found = 0;
        for (unsigned other = 0; other < threads_; ++other) {
            if (other == thread || finished_[other]) continue;
            bool disturbs = choices_.random() || !limits_.reduce;
            if (pending.operation == Operation::join) disturbs |= pending.other == other;
            else if (pending.location != nullptr) disturbs |= pending.location->may_write(other, steps_[other]);
            if (disturbs) found |= 1U << other;
        }
        return found;
    }

    bool enabled(unsigned thread) const {
        const Pending& pending = pending_[thread];
        switch (pending.operation) {
            case Operation::wait: return pending.location->filled || pending.location->rung;
            case Operation::join: return finished_[pending.other];
            default: return true;
        }
    }
    // Whether anything is left that was not explored before the operation was put off.
    bool has_something_new(unsigned thread) {
        if (!pending_[thread].reads_messages()) return !put_off_[thread];
        scratch_.clear();
        list_messages(thread, scratch_);
        return !scratch_.empty();
    }

    // Before an operation whose result depends on when it is carried out.
    void await_turn() {
        if (disturbers(current_) == 0 && enabled(current_)) return;
        const unsigned self = current_;
        parked_[self] = true;
        current_ = next_thread();
        if (current_ != self) fiber(self).switch_to(fiber(current_));
    }
    // Before one whose result does not.
    void take_any_turn() {
        if (limits_.reduce) return;
        pending() = {};
        await_turn();
    }

    unsigned next_thread() {
        for (unsigned thread = 0; thread < threads_; ++thread) {
            if (!finished_[thread] && !parked_[thread]) return thread;
        }
        const unsigned chosen = choose_thread();
        parked_[chosen] = false;
        return chosen;
    }

    unsigned choose_thread() {
        unsigned live = 0;
        unsigned able = 0;
        for (unsigned thread = 0; thread < threads_; ++thread) {
            if (finished_[thread]) continue;
            live |= 1U << thread;
            if (enabled(thread)) able |= 1U << thread;
        }
        if (able == 0) {
            for (unsigned thread = 0; thread < threads_; ++thread) {
                if ((live >> thread & 1) != 0 && !scenario_.sleeps_in_the_end(thread)) {
                    violate("lost wake-up: every thread that has not ended sleeps for ever");
                }
            }
            end(memory_.consistent() ? Outcome::complete : Outcome::impossible);
        }
        const unsigned chosen = choose(Kind::thread, [this, able](Options& options) { list_threads(able, options); });
        if (limits_.reduce && !choices_.random()) {
            std::for_each(choices_.tried_begin(), choices_.tried_end(), [this](unsigned thread) { put_off(thread); });
        }
        return chosen;
    }

    // The smallest set of threads that nobody outside of it can disturb, and of those the ones that have something to try.
    void list_threads(unsigned able, Options& options) {
        std::array<unsigned, max_threads> disturbed_by = {};
        for (unsigned thread = 0; thread < threads_; ++thread) {
            if (!finished_[thread]) disturbed_by[thread] = disturbers(thread);
        }
        bool found = false;
        for (unsigned first = 0; first < threads_; ++first) {
            if ((able >> first & 1) == 0) continue;
            unsigned set = 1U << first;
            for (unsigned before = 0; before != set;) {
                before = set;
                for (unsigned thread = 0; thread < threads_; ++thread) {
                    if ((before >> thread & 1) != 0) set |= disturbed_by[thread];
                }
            }
            candidates_.clear();
            // Beginning with the one that runs: that saves switching.
            for (unsigned index = 0; index < threads_; ++index) {
                const unsigned thread = (current_ + index) % threads_;
                if ((set & able) >> thread & 1 && has_something_new(thread)) push(candidates_, thread);
            }
            if (!found || candidates_.size() < options.size()) options = candidates_;
            found = true;
        }
    }

    // What this thread could do now has been explored; from here on it must find something new.
    void put_off(unsigned thread) {
        const Pending& pending = pending_[thread];
        if (!pending.reads_messages()) {
            put_off_[thread] = true;
            return;
        }
        for (Message& message : memory_.messages(slot(*pending.location))) {
            message.explored |= static_cast<std::uint8_t>(1U << thread);
        }
    }
    // Something happened to the pipe: operations that were put off may end in another way now.
    void rouse(const Location& pipe) {
        for (unsigned thread = 0; thread < threads_; ++thread) {
            if (pending_[thread].location == &pipe) put_off_[thread] = false;
        }
    }

    // --- Which message ---

    unsigned choose_message() {
        const unsigned option = choose(Kind::message, [this](Options& options) { list_messages(current_, options); });
        for (Message& message : memory_.messages(slot(*pending().location))) {
            message.explored &= static_cast<std::uint8_t>(~(1U << current_));
        }
        return option;
    }

    void list_messages(unsigned thread, Options& options) {
        const Pending& pending = pending_[thread];
        const unsigned place = slot(*pending.location);
        const std::vector<Message>& messages = memory_.messages(place);
        const unsigned oldest = memory_.oldest_readable(thread, place);
        for (unsigned index = oldest; index < messages.size(); ++index) {
            const Message& message = messages[index];
            if ((message.explored >> thread & 1) != 0) continue;
            const bool exchange = pending.operation == Operation::exchange || pending.operation == Operation::exchange_weak;
            if (pending.operation == Operation::load || (exchange && message.value != pending.expected)) {
                if (!covered(thread, place, oldest, index, exchange ? pending.failure : pending.order)) push(options, index);
                continue;
            }
            if (memory_.open_behind(place, index)) push(options, index);
            if (pending.operation == Operation::exchange_weak) push(options, index | spuriously);
        }
    }
    // Whether reading an older message of the same value leaves the thread at least as free.
    bool covered(unsigned thread, unsigned place, unsigned oldest, unsigned index, std::memory_order order) {
        if (!limits_.reduce) return false;
        const std::vector<Message>& messages = memory_.messages(place);
        for (unsigned older = oldest; older < index; ++older) {
            if (messages[older].value == messages[index].value && memory_.as_free(thread, place, older, index, order)) {
                return true;
            }
        }
        return false;
    }

    template <class List>
    unsigned choose(Kind kind, List list) {
        const Choices::Option* option = choices_.choose(kind, list);
        if (option == nullptr) end(Outcome::redundant);
        return *option;
    }

    // After an access that may have closed a cycle. What is repeated was found consistent before.
    void require_consistency(std::memory_order order) {
        if ((order != std::memory_order_seq_cst && !fences_) || !choices_.on_new_ground()) return;
        if (!memory_.consistent()) end(Outcome::impossible);
    }

    // --- Words ---

    static std::string describe(const std::source_location& where) {
        const std::string_view file = where.file_name();
        return std::string(file.substr(file.rfind('/') + 1)) + ":" + std::to_string(where.line());
    }
    void note(const std::source_location& where, const char* what) {
        if (tracing_) report_.trace.push_back("thread " + std::to_string(current_) + "  " + describe(where) + "  " + what);
    }
    void note(const std::source_location& where, const char* what, std::memory_order order, std::uint64_t value) {
        if (!tracing_) return;
        report_.trace.push_back("thread " + std::to_string(current_) + "  " + describe(where) + "  " + what + " " +
                                std::to_string(value) + " (" + name(order) + ")");
    }

    // The stacks serve one exploration after the other.
    static constexpr unsigned nobody = max_threads;
    static Fiber& system_fiber() {
        static Fiber fiber;
        return fiber;
    }
    static Fiber& fiber(unsigned thread) {
        static std::array<std::unique_ptr<Fiber>, max_threads + 1> fibers;
        if (!fibers[thread]) fibers[thread] = std::make_unique<Fiber>(stack_bytes);
        return *fibers[thread];
    }
    static inline Explorer* running_ = nullptr;

    Scenario& scenario_;
    Orders& orders_;
    unsigned threads_;
    Limits limits_ = {};
    Report report_ = {};
    Choices choices_ = {};
    // Kept for their memory.
    Options scratch_ = {};
    Options candidates_ = {};

    // What is known of all executions.
    Locations locations_ = {};
    bool fences_ = false;    // some thread uses sequentially consistent ones
    bool learning_ = true;   // a larger footprint is noted only
    bool tracing_ = false;

    // The execution that runs.
    std::uint64_t execution_ = 0;
    WeakMemory memory_ = {};
    Outcome outcome_ = Outcome::none;
    std::string description_ = {};
    unsigned current_ = nobody;
    bool finishing_ = false;
    unsigned spurious_failures_ = 0;
    std::array<Pending, max_threads> pending_ = {};
    std::array<std::uint16_t, max_threads> steps_ = {};
    std::array<bool, max_threads> parked_ = {};
    std::array<bool, max_threads> finished_ = {};
    std::array<bool, max_threads> put_off_ = {};
};

}  // namespace steadyflow::model
