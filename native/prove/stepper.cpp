// Kills a process at every instruction of every operation of the data plane, lets the survivors recover and go on, and
// audits what became of each block.
//
//   stepper [--sample KILLS] [--seed SEED] [--only TEXT] [--without reap|release|retire|take_over|bells]
//
// Without --sample, each operation is killed after 0, 1, 2 ... instructions, until it has ended. With it, about that
// many of these kills are made, spread evenly from a random beginning. Ends with 1 if anything was violated.
//
// Where nobody sleeps, one victim is stepped through the operation, and at each instruction a twin of it is killed; the
// memory is put back then, and the victim goes on. Where somebody does, the victim itself is killed, and the operation
// is begun anew for the next instruction.
//
// --without leaves a part out of the recovery, to show that the audit notices: then the first violation of each operation
// is enough.
#include <cinttypes>
#include <random>
#include <thread>

#include "scenarios.hpp"

using namespace steadyflow;
using namespace steadyflow::prove;

namespace {

// A survivor that sleeps longer has not been woken.
constexpr Nanoseconds patience_ns = 5'000'000'000;

struct Totals {
    std::uint64_t operations = 0;
    std::uint64_t instructions = 0;  // over all operations
    std::uint64_t stepped = 0;       // over all kills
    std::uint64_t kills = 0;
    std::uint64_t recoveries = 0;
    std::uint64_t violations = 0;
};

class Run {
public:
    Run(const Scenario& scenario, World& world, const Recovery& recovery, std::uint64_t instructions)
        : scenario_(scenario), world_(world), recovery_(recovery), instructions_(instructions) {}

    // Begins the operation, kills the victim after so many instructions, and audits. False if it had ended before.
    bool kill_from_the_beginning() {
        take_places();
        Victim victim(world_.progress, [this] { return scenario_.attach(world_); });
        start_sleeper();
        const bool in_time = victim.step(instructions_) == instructions_ && world_.progress.finished == 0;
        note_in_flight();
        audit_from_outside();
        victim.kill_it();
        finish();
        return in_time;
    }

    // The same with a twin of a victim that has run so many instructions.
    void kill_twin(Victim& victim) {
        const World::Moment moment = world_.moment();
        take_places();
        world_.put_back(moment);
        note_in_flight();
        audit_from_outside();
        victim.kill_twin();
        finish();
        world_.put_back(moment);
    }

    std::uint64_t violations() const noexcept { return violations_; }

private:
    // The survivors, as they were before the operation.
    void take_places() {
        world_.restore();
        if (!scenario_.kills_producer) world_.open_port();
    }

    void finish() {
        if (scenario_.kills_producer) {
            ++world_.ends.numbered;
            if (world_.progress.acknowledged == 0) ++world_.ends.unacknowledged;
        }
        if (scenario_.sends_meanwhile && in_half_of_all_runs(1)) world_.send(1);
        world_.recover(scenario_.kills_producer, scenario_.consumes, recovery_);
        if (scenario_.sends_meanwhile && !in_half_of_all_runs(1)) {
            while (!world_.plane.consumer_idles(0, world_.ends.consumers.front().index())) std::this_thread::yield();
            world_.send(1);
        }
        wake_sleeper();
        go_on();
        audit();
    }

    // A choice that is the same for the same instruction; `which`: one of several that do not depend on each other.
    bool in_half_of_all_runs(unsigned which) const noexcept {
        return (testing::Random::mix(instructions_) >> which & 1) == 0;
    }

    void expect(bool holds, const std::string& what) {
        if (holds) return;
        if (++violations_ > 3) return;
        std::string state;
        for (const Ring& ring : world_.rings()) state += "\n    " + testing::describe(ring);
        std::fprintf(stderr, "VIOLATION: %s (%s), killed after %" PRIu64 " instructions: %s%s\n",
                     scenario_.operation.c_str(), scenario_.victim.c_str(), instructions_, what.c_str(), state.c_str());
    }

    // --- survivors that sleep ----------------------------------------------------------------------------------------

    bool survivor_sleeps() const noexcept {
        return scenario_.sleeper == Sleeper::consumer || scenario_.sleeper == Sleeper::producer;
    }

    void start_sleeper() {
        if (!survivor_sleeps()) return;
        limit_ns_ = monotonic_ns() + patience_ns;
        if (scenario_.sleeper == Sleeper::consumer) {
            Survivor* end = &world_.ends.consumers.front();
            thread_ = std::thread([this, end] { consume_until_told(*end); });
            while (!world_.plane.consumer_sleeps(0, end->index())) std::this_thread::yield();
        } else {
            thread_ = std::thread([this] {
                world_.port->send();
                woken_ = true;
            });
            while (!world_.plane.producer_sleeps()) std::this_thread::yield();
        }
    }

    void consume_until_told(Survivor& end) {
        const Bell bell = world_.plane.bell(end.branch(), end.index());
        while (!told_) {
            if (end.take(world_.ends.ledgers[end.branch()])) continue;
            bell.wait(limit_ns_);
            bell.take();
            if (monotonic_ns() >= limit_ns_) break;
        }
    }

    // What waits must reach a sleeper by the recovery alone: no later block may be needed to wake it.
    void wake_sleeper() {
        if (!survivor_sleeps()) return;
        if (scenario_.sleeper == Sleeper::consumer) {
            while (read_account(world_.rings()[0]).fill != 0 && monotonic_ns() < limit_ns_) std::this_thread::yield();
            expect(monotonic_ns() < limit_ns_, "a sleeping consumer was not woken");
            told_ = true;
            world_.plane.bell(0, world_.ends.consumers.front().index()).ring_anyway(0);
        } else {
            add_successors();
            while (!woken_ && monotonic_ns() < limit_ns_) {
                drain();
                std::this_thread::yield();
            }
            expect(woken_, "a waiting producer was not woken");
            ++world_.ends.numbered;
        }
        thread_.join();
    }

    // --- going on ----------------------------------------------------------------------------------------------------

    void add_successors() {
        for (std::size_t branch = 0; branch < world_.rings().size(); ++branch) {
            for (std::uint32_t index = 0; index < world_.rings()[branch].consumers(); ++index) {
                world_.survivor(branch, index);
            }
        }
    }

    void drain() {
        for (Survivor& end : world_.ends.consumers) {
            while (end.take(world_.ends.ledgers[end.branch()])) {
            }
        }
    }

    // More than a lap, so that every slot and every buffer is used again.
    void go_on() {
        add_successors();
        // In half of all runs, what they have in hand is finished first: a successor meets what its predecessor left half
        // done in either order.
        if (in_half_of_all_runs(0)) {
            for (Survivor& end : world_.ends.consumers) end.finish(world_.ends.ledgers[end.branch()]);
        }
        if (scenario_.kills_producer) world_.open_port();
        Port& port = *world_.port;
        bool waits = false;
        std::uint32_t slots = 0;
        for (const Ring& ring : world_.rings()) {
            waits = waits || ring.rule().kind == RuleKind::wait;
            slots = std::max(slots, ring.count());
        }
        for (std::uint32_t sent = 0; sent < slots + 3; ++sent) {
            if (waits || sent % 3 == 2) drain();
            port.send();
            ++world_.ends.numbered;
        }
        port.end();
        drain();
        for (Survivor& end : world_.ends.consumers) expect(end.consumer().at_end(), "the end of the stream is not seen");
    }

    // --- audits ------------------------------------------------------------------------------------------------------

    // Blocks that the victim has claimed at its death: these may come again, and no others. And how many were sent by then:
    // those with a fate that was tallied, and those in the slots.
    void note_in_flight() {
        numbered_ = world_.ends.numbered + (scenario_.kills_producer ? 1 : 0);
        for (const Ring& ring : world_.rings()) {
            auto& numbers = in_flight_.emplace_back();
            const auto& deliveries = ring.header().deliveries.now();
            const auto& drops = ring.header().drops.now();
            std::uint64_t& sent = sent_.emplace_back(deliveries.delivered.load());
            for (const auto& dropped : drops.dropped) sent += dropped.load();
            for (std::uint32_t index = 0; index < ring.count(); ++index) {
                const Slot& slot = ring.slot(index);
                const SlotWord word = load(slot);
                const bool tallied =
                    (word.state() == SlotState::done && word.position() + 1 == deliveries.last_position.load()) ||
                    (word.state() == SlotState::evicted && word.position() + 1 == drops.last_position.load());
                if (word.state() != SlotState::empty && !tallied) ++sent;
                const bool again = word.state() == SlotState::ready && word.attempt() != 0;
                if (again || (word.state() == SlotState::claimed && word.owner() != survivors_process)) {
                    numbers.push_back(slot.header.read().first_frame);
                }
            }
        }
    }

    // What anybody reads at this very moment is true.
    void audit_from_outside() {
        const std::uint64_t acknowledged =
            world_.ends.numbered - world_.ends.unacknowledged + world_.progress.acknowledged;
        for (const Ring& ring : world_.rings()) {
            const Account account = read_account(ring);
            std::uint64_t fates = account.delivered;
            for (const std::uint64_t dropped : account.dropped) fates += dropped;
            expect(account.consistent, "nobody recycles, but the account cannot be read");
            expect(account.sent >= acknowledged, "an acknowledged block is not counted");
            expect(account.sent - fates <= ring.count(), "more blocks in flight than slots");
            expect(account.fill <= ring.buffer_size(), "more blocks wait than buffer_size");
        }
    }

    void audit() {
        for (std::size_t branch = 0; branch < world_.rings().size(); ++branch) audit(branch);
        BufferPool pool = world_.plane.pool();
        for (std::size_t branch = 0; branch < world_.rings().size(); ++branch) {
            world_.port->producer(branch).settle_tally();
        }
        for (std::uint32_t buffer = 0; buffer < pool.count(); ++buffer) {
            expect(pool.branches(buffer) == 0, "buffer " + std::to_string(buffer) + " leaked: a branch bit stayed");
        }
        expect(pool.held_buffers() == 0, "a hold stayed");
    }

    void audit(std::size_t branch) {
        const Ring& ring = world_.rings()[branch];
        const Ledger& ledger = world_.ends.ledgers[branch];
        const Ends& ends = world_.ends;
        const Account account = read_account(ring);
        const std::string on = "pipeline " + std::to_string(branch) + ": ";
        for (const std::string& defect : ledger.defects) expect(false, on + defect);
        std::uint64_t dropped = 0;
        for (const std::uint64_t count : account.dropped) dropped += count;
        expect(account.consistent && account.fill == 0, on + "something still waits");
        expect(account.sent == account.delivered + dropped, on + "sent is not delivered + dropped");
        const std::uint64_t acknowledged = ends.numbered - ends.unacknowledged;
        expect(account.sent >= acknowledged && account.sent <= ends.numbered,
               on + std::to_string(account.sent) + " counted as sent, " + std::to_string(acknowledged) +
                   " acknowledged");
        // A producer that sleeps goes on whenever it is woken.
        if (scenario_.sleeper != Sleeper::producer) {
            const std::uint64_t sent = sent_[branch] + ends.numbered - numbered_;
            expect(account.sent == sent,
                   on + std::to_string(account.sent) + " counted as sent, and " + std::to_string(sent) + " were");
        }
        if (!scenario_.may_drop) expect(dropped == 0, on + "a block was dropped");
        audit_victims_part(branch, account);
        const auto& may_repeat = in_flight_[branch];
        for (std::uint64_t number = 0; number < ends.numbered; ++number) {
            const std::string name = on + "block " + std::to_string(number);
            expect(ledger.received[number] <= 1, name + " came twice");
            const bool expected = std::find(may_repeat.begin(), may_repeat.end(), number) != may_repeat.end();
            expect(ledger.repeated[number] == 0 || expected, name + " is flagged as repeated and was not in flight");
            expect(!expected || ledger.received[number] == ledger.repeated[number], name + " repeats without a flag");
        }
        expect(account.repeated <= may_repeat.size(), on + "more repeated than were in flight");
        expect(ring.header().peak_fill.load() <= ring.buffer_size(), on + "peak_fill is beyond buffer_size");
    }

    // delivered = received by survivors + finished by the victim, and the victim knows of what it has completed.
    void audit_victims_part(std::size_t branch, const Account& account) {
        const std::uint64_t by_survivors = world_.ends.ledgers[branch].total;
        expect(account.delivered >= by_survivors, "delivered less than was received");
        const std::uint64_t by_victim = account.delivered - by_survivors;
        const bool involved = branch == 0 && scenario_.finishes;
        const std::uint64_t completed = involved ? world_.progress.completed : 0;
        expect(by_victim >= completed && by_victim <= (involved ? 1U : 0U),
               "the victim has completed " + std::to_string(completed) + " blocks, and " + std::to_string(by_victim) +
                   " are counted for it");
    }

    const Scenario& scenario_;
    World& world_;
    const Recovery& recovery_;
    std::uint64_t instructions_;
    std::uint64_t violations_ = 0;
    std::vector<std::vector<std::uint64_t>> in_flight_ = {};
    std::vector<std::uint64_t> sent_ = {};
    std::uint64_t numbered_ = 0;  // blocks that had a number by the death
    std::thread thread_ = {};
    Nanoseconds limit_ns_ = 0;
    std::atomic<bool> told_ = false;
    std::atomic<bool> woken_ = false;
};

// How many instructions the operation takes when nobody is killed.
std::uint64_t length_of(const Scenario& scenario, World& world) {
    world.restore();
    Victim victim(world.progress, [&] { return scenario.attach(world); });
    return victim.step(1'000'000);
}

struct Options {
    std::uint64_t sample = 0;
    std::uint64_t seed = std::random_device{}();
    std::string only = {};
    Recovery recovery = {};
    bool stops_at_first = false;
};

Totals step_through(const Scenario& scenario, const Options& options, std::mt19937_64& random) {
    testing::situation = scenario.operation + " (" + scenario.victim + ")";
    World world(scenario.branches);
    scenario.prepare(world);
    world.save();
    Totals totals;
    totals.operations = 1;
    std::uint64_t stride = 1;
    if (options.sample != 0) stride = std::max<std::uint64_t>(1, length_of(scenario, world) / options.sample);
    std::uint64_t kill_at = stride == 1 ? 0 : random() % stride;
    const auto note = [&](const Run& run, bool in_time) {
        ++totals.kills;
        ++totals.recoveries;
        if (in_time) totals.instructions = kill_at + 1;
        totals.violations += run.violations();
        return in_time && !(options.stops_at_first && totals.violations != 0);
    };
    if (has_twins && scenario.sleeper == Sleeper::nobody) {
        world.restore();
        Victim victim(world.progress, [&] { return scenario.attach(world); });
        std::uint64_t done = 0;
        for (bool goes_on = true; goes_on; kill_at += stride) {
            done += victim.step(kill_at - done);
            while (victim.reads_the_clock()) {
                done += victim.step(1);
                kill_at = done;
            }
            totals.stepped = done;
            const bool in_time = done == kill_at && world.progress.finished == 0;
            Run run(scenario, world, options.recovery, done);
            run.kill_twin(victim);
            goes_on = note(run, in_time);
        }
        return totals;
    }
    for (bool goes_on = true; goes_on; kill_at += stride) {
        testing::situation = scenario.operation + " (" + scenario.victim + "), killed after " + std::to_string(kill_at);
        Run run(scenario, world, options.recovery, kill_at);
        const bool in_time = run.kill_from_the_beginning();
        totals.stepped += kill_at;
        goes_on = note(run, in_time);
    }
    return totals;
}

void print(const char* operation, const char* victim, const Totals& totals) {
    std::printf("%-52s %-18s %12" PRIu64 " %7" PRIu64 " %10" PRIu64 " %10" PRIu64 "\n", operation, victim,
                totals.instructions, totals.kills, totals.recoveries, totals.violations);
    std::fflush(stdout);
}

int usage(const std::string& problem) {
    std::fprintf(stderr,
                 "stepper: %s\nusage: stepper [--sample KILLS] [--seed SEED] [--only TEXT] "
                 "[--without reap|release|retire|take_over|bells]\n",
                 problem.c_str());
    return 2;
}

}  // namespace

int main(int argument_count, char** arguments) {
    Options options;
    for (int index = 1; index < argument_count; index += 2) {
        const std::string option = arguments[index];
        if (index + 1 == argument_count) return usage(option + ": expected a value");
        const std::string value = arguments[index + 1];
        if (option == "--sample") options.sample = std::stoull(value);
        else if (option == "--seed") options.seed = std::stoull(value);
        else if (option == "--only") options.only = value;
        else if (option == "--without") {
            options.stops_at_first = true;
            if (value == "reap") options.recovery.reaps = false;
            else if (value == "release") options.recovery.releases = false;
            else if (value == "retire") options.recovery.retires = false;
            else if (value == "take_over") options.recovery.takes_over = false;
            else if (value == "bells") options.recovery.rings = false;
            else return usage("--without: unknown part " + value);
        } else {
            return usage("unknown option " + option);
        }
    }
    stay_on_one_core();
    testing::largest_payload = 16;  // to step through steadyflow, not through the filling of blocks
    std::printf("stepper: seed %" PRIu64 ", %s\n\n", options.seed,
                options.sample == 0 ? "every instruction"
                                    : ("about " + std::to_string(options.sample) + " kills an operation").c_str());
    std::printf("%-52s %-18s %12s %7s %10s %10s\n", "operation", "who is killed", "instructions", "kills", "recoveries",
                "violations");
    std::mt19937_64 random(options.seed);
    Totals all;
    for (const Scenario& scenario : scenarios()) {
        if (scenario.operation.find(options.only) == std::string::npos) continue;
        const Totals totals = step_through(scenario, options, random);
        print(scenario.operation.c_str(), scenario.victim.c_str(), totals);
        all.operations += totals.operations;
        all.instructions += totals.instructions;
        all.stepped += totals.stepped;
        all.kills += totals.kills;
        all.recoveries += totals.recoveries;
        all.violations += totals.violations;
    }
    std::printf("\noperations %" PRIu64 ", instructions %" PRIu64 " (%" PRIu64 " single steps), kills %" PRIu64
                ", recoveries %" PRIu64 ", violations %" PRIu64 "\n",
                all.operations, all.instructions, all.stepped, all.kills, all.recoveries, all.violations);
    return all.violations == 0 ? 0 : 1;
}
