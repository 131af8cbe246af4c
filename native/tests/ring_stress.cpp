// The ring under every overflow rule: one producer, competing consumers, threads that sleep on bells.
//
//   ring_stress [blocks] [seed]      blocks of one run; the seed is printed
//
// First single-threaded schedules against a plain model, where every step is decided by the seed; then real threads.
#include <algorithm>
#include <deque>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "traffic.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

// Steps of one producer and its consumers in an order drawn from a seed, compared with a queue after each.
class Schedule {
public:
    Schedule(std::uint32_t buffer_size, std::uint32_t consumers, std::uint64_t seed)
        : plane_({{buffer_size, consumers, {}, 0}}, 1),
          port_pool_(plane_.pool()),
          producer_(plane_.ring(0), &port_pool_),
          buffer_size_(buffer_size),
          random_(seed),
          claims_(consumers) {
        for (std::uint32_t index = 0; index < consumers; ++index) attach(index);
    }

    void run(unsigned steps) {
        for (unsigned step = 0; step < steps; ++step) {
            // Phases, so that the ring is now nearly empty, now nearly full, and now nobody finishes.
            if (random_.chance(40)) {
                send_weight_ = 1 + random_.below(6);
                finish_weight_ = random_.below(4);
                rule_ = static_cast<RuleKind>(random_.below(5));
            }
            const auto consumer = static_cast<std::uint32_t>(random_.below(claims_.size()));
            const std::uint64_t choice = random_.below(send_weight_ + finish_weight_ + 4);
            if (choice < send_weight_) send();
            else if (choice < send_weight_ + finish_weight_) settle(consumer);
            else if (choice < send_weight_ + finish_weight_ + 2) claim(consumer);
            else if (random_.chance(60)) flush();
            else if (random_.chance(40)) switch_pause();
            else if (random_.chance(30)) die(consumer);
            compare();
        }
        for (std::uint32_t index = 0; index < claims_.size(); ++index) settle(index);
        if (paused_) switch_pause();
        while (!waiting_.empty()) {
            claim(0);
            settle(0);
            compare();
        }
        producer_.settle_tally();
        compare();
        for (std::uint32_t buffer = 0; buffer < port_pool_.count(); ++buffer) CHECK_EQUAL(0, port_pool_.branches(buffer));
    }

    // s: send and wait for room elsewhere, o: send and drop the oldest; A, B: claim; a, b: finish.
    void replay(const char* steps) {
        for (const char* step = steps; *step != 0; ++step) {
            rule_ = *step == 'o' ? RuleKind::drop_oldest : RuleKind::wait;
            if (*step == 's' || *step == 'o') send();
            else if (*step >= 'a') settle(static_cast<std::uint32_t>(*step - 'a'));
            else claim(static_cast<std::uint32_t>(*step - 'A'));
            compare();
        }
    }

private:
    struct Held {
        Claim claim;
        std::uint64_t number;
    };

    // The consumer's process is gone, with or without a claim; its successor begins anew.
    void die(std::uint32_t index) {
        CHECK_EQUAL(claims_[index] ? 1 : 0, reap(producer_.ring(), index));
        if (claims_[index]) {
            const std::uint64_t number = claims_[index]->number;
            waiting_.insert(std::lower_bound(waiting_.begin(), waiting_.end(), number), number);
            given_back_.insert(number);
            claims_[index].reset();
        }
        last_had_.reset();
        attach(index);
    }

    void attach(std::uint32_t index) {
        std::optional<RingConsumer> fresh;
        fresh.emplace(plane_.ring(0), plane_.pool(), Bell(), index, index);
        if (index < consumers_.size()) consumers_[index] = std::move(*fresh);
        else consumers_.push_back(std::move(*fresh));
    }

    void send() {
        CHECK_EQUAL(waiting_.size() < buffer_size_, producer_.has_room());
        if (rule_ == RuleKind::latest) {
            producer_.evict_down_to(1, Reason::superseded);
            drop_waiting(0, Reason::superseded);
        } else if (waiting_.size() >= buffer_size_) {
            switch (rule_) {
                case RuleKind::drop_oldest:
                    producer_.evict_down_to(buffer_size_, Reason::oldest);
                    drop_waiting(buffer_size_ - 1, Reason::oldest);
                    break;
                case RuleKind::drop_newest:
                    producer_.drop(Reason::newest, {});
                    ++dropped_[static_cast<unsigned>(Reason::newest)];
                    ++sent_;
                    return;
                default: return;
            }
        }
        const auto buffer = port_pool_.allocate();
        CHECK(buffer.has_value());
        port_pool_.set_branches(*buffer, 1);
        BlockHeader header{};
        header.buffer = *buffer;
        header.first_frame = sent_;
        CHECK(producer_.publish(header, 1));
        waiting_.push_back(sent_++);
    }

    void drop_waiting(std::size_t down_to, Reason reason) {
        while (waiting_.size() > down_to) {
            ++dropped_[static_cast<unsigned>(reason)];
            waiting_.pop_front();
        }
    }

    void claim(std::uint32_t index) {
        if (claims_[index]) return;
        Held held{};
        const bool expected = !waiting_.empty() && !paused_;
        CHECK_EQUAL(expected, consumers_[index].peek_sent_ns() >= 0);
        CHECK(!paused_ || !consumers_[index].at_end());
        const bool any = consumers_[index].claim(held.claim);
        if (any != expected) {
            fail(__FILE__, __LINE__, "claim() of consumer " + std::to_string(index), shown(expected),
                 shown(any) + ": " + describe(producer_.ring()));
        }
        if (!any) return;
        held.number = held.claim.header.sequence;
        CHECK_EQUAL(waiting_.front(), held.number);
        CHECK_EQUAL(waiting_.front(), held.claim.header.first_frame);
        const bool given_back = given_back_.count(held.number) != 0;
        CHECK_EQUAL(given_back, held.claim.word.attempt() != 0);
        // What this end had last, or else nobody had anything: then the gap is known. Competitors leave gaps all the time.
        const bool known = claims_.size() == 1 && (last_had_ || delivered_ == 0) && !given_back;
        const std::uint64_t follows = last_had_ ? *last_had_ + 1 : 0;
        CHECK_EQUAL(known && held.number != follows, (held.claim.header.flags & flag_discontinuity) != 0);
        last_had_ = held.number;
        waiting_.pop_front();
        claims_[index] = held;
    }

    void settle(std::uint32_t index) {
        if (!claims_[index]) return;
        if (random_.chance(5)) {
            consumers_[index].discard(claims_[index]->claim, Reason::failed);
            ++dropped_[static_cast<unsigned>(Reason::failed)];
        } else {
            consumers_[index].finish(claims_[index]->claim);
            add(consumers_[index].stats().received);
            ++delivered_;
            // Only what was delivered was repeated.
            repeated_ += given_back_.count(claims_[index]->number);
        }
        claims_[index].reset();
    }

    void flush() {
        CHECK_EQUAL(waiting_.size(), steadyflow::flush(producer_.ring()));
        drop_waiting(0, Reason::flushed);
    }

    void switch_pause() {
        paused_ = !paused_;
        if (paused_) producer_.ring().pause();
        else producer_.ring().resume(monotonic_ns());
        CHECK_EQUAL(paused_, producer_.ring().paused());
        CHECK_EQUAL(paused_, producer_.ring().resumed_ns() == 0);
    }

    void compare() {
        const Account account = read_account(producer_.ring());
        CHECK(account.consistent);
        CHECK_EQUAL(sent_, account.sent);
        CHECK_EQUAL(delivered_, account.delivered);
        for (unsigned reason = 0; reason < reasons; ++reason) CHECK_EQUAL(dropped_[reason], account.dropped[reason]);
        CHECK_EQUAL(repeated_, account.repeated);
        CHECK_EQUAL(waiting_.size(), account.fill);
        std::uint64_t in_flight = waiting_.size();
        for (const auto& claim : claims_) in_flight += claim ? 1 : 0;
        std::uint64_t fates = account.delivered;
        for (const std::uint64_t dropped : account.dropped) fates += dropped;
        CHECK_EQUAL(in_flight, account.sent - fates);
    }

    Plane plane_;
    BufferPool port_pool_;
    RingProducer producer_;
    std::uint64_t buffer_size_;
    Random random_;
    std::vector<RingConsumer> consumers_ = {};
    std::vector<std::optional<Held>> claims_;
    std::deque<std::uint64_t> waiting_ = {};
    bool paused_ = false;
    RuleKind rule_ = RuleKind::wait;
    std::uint64_t send_weight_ = 2;
    std::uint64_t finish_weight_ = 1;
    std::uint64_t sent_ = 0;
    std::uint64_t delivered_ = 0;
    std::set<std::uint64_t> given_back_ = {};
    std::optional<std::uint64_t> last_had_ = {};  // the number of the last block that came, of a consumer that lives
    std::uint64_t repeated_ = 0;
    std::uint64_t dropped_[reasons] = {};
};

void run_schedules(std::uint64_t seed) {
    // The shortest ways to a block that waits for longer than one lap of the ring, because positions behind it were
    // skipped again and again. It must be found by consumers that were lapped, and be the first one to be evicted.
    struct Replay {
        std::uint32_t buffer_size;
        std::uint32_t consumers;
        const char* steps;
    };
    for (const Replay& replay : {Replay{4, 2, "sAssBsbsBsbBssaAasAsbBsaAbsB"},
                                 Replay{4, 1, "ooooAoooaAooaAoaAoaoA"}, Replay{5, 1, "ooooAooooaAooaAooaA"},
                                 Replay{8, 1, "ooooAoooooooaAooaAoooaA"}}) {
        situation = std::string("replay of ") + replay.steps;
        Schedule(replay.buffer_size, replay.consumers, seed).replay(replay.steps);
    }
    for (const std::uint32_t buffer_size : {1U, 2U, 3U, 5U, 8U, 64U}) {
        for (std::uint32_t consumers = 1; consumers <= 4; ++consumers) {
            for (std::uint64_t round = 0; round < 12; ++round) {
                const std::uint64_t own_seed = Random::mix(seed + round * 1000 + buffer_size * 10 + consumers);
                situation = "schedule: buffer_size " + std::to_string(buffer_size) + ", " + std::to_string(consumers) +
                            " consumers, seed " + std::to_string(own_seed);
                Schedule(buffer_size, consumers, own_seed).run(2000);
            }
        }
    }
}

// What somebody outside sees while the flow runs: no fate is ever taken back, and none comes before its block.
class Observer {
public:
    explicit Observer(Ring ring) : ring_(std::move(ring)) {}

    void look() {
        const Account account = read_account(ring_);
        if (!account.consistent) return;
        CHECK(account.delivered >= seen_.delivered);
        std::uint64_t fates = account.delivered;
        for (unsigned reason = 0; reason < reasons; ++reason) {
            CHECK(account.dropped[reason] >= seen_.dropped[reason]);
            fates += account.dropped[reason];
        }
        CHECK(fates + account.fill <= account.sent);
        CHECK(account.sent >= seen_.sent);
        CHECK(account.fill <= ring_.count());
        seen_ = account;
    }

private:
    Ring ring_;
    Account seen_ = {};
};

enum class Outside { nobody, observer, rule_switcher, flusher, pauser };

// Real threads; beside them somebody may read the accounts, switch the rules, flush or pause, all the time.
void run_threads(const std::vector<Branch>& branches, Habits habits, Outside outside, std::uint64_t blocks,
                 std::uint64_t seed) {
    static const char* const beside[] = {"", ", an observer", ", switching rules", ", flushing", ", pausing"};
    const bool switching = outside == Outside::rule_switcher;
    situation = std::string("threads") + beside[static_cast<unsigned>(outside)];
    for (const Branch& branch : branches) {
        situation += "; buffer_size " + std::to_string(branch.buffer_size) + ", " + std::to_string(branch.consumers) +
                     " consumers, " + describe(branch.rule);
    }
    situation += "; lags every " + std::to_string(habits.lags_every) + " for " + std::to_string(habits.lag_blocks) +
                 ", keeps every " + std::to_string(habits.keeps_every) + "; seed " + std::to_string(seed);
    const Plane plane(branches, blocks);
    Port port(plane);
    if (switching) port.look_up_now_and_then();
    std::atomic<bool> done{false};
    std::vector<std::thread> threads;
    unsigned process = 0;
    for (std::size_t branch = 0; branch < branches.size(); ++branch) {
        for (std::uint32_t index = 0; index < branches[branch].consumers; ++index) {
            threads.emplace_back([&plane, &habits, seed, branch, index, process] {
                Consumer(plane, branch, index, process, habits, Random::mix(seed + process)).run();
            });
            ++process;
        }
    }
    std::vector<std::uint64_t> flushed(branches.size());
    std::thread controller([&] {
        if (outside == Outside::nobody) return;
        Random random(seed ^ 0xc0de);
        std::vector<Observer> observers;
        for (std::size_t branch = 0; branch < branches.size(); ++branch) observers.emplace_back(plane.ring(branch));
        while (!done.load()) {
            for (Observer& observer : observers) observer.look();
            if (outside == Outside::observer) continue;
            for (std::size_t branch = 0; branch < branches.size(); ++branch) {
                const Ring ring = plane.ring(branch);
                switch (outside) {
                    case Outside::flusher:
                        flushed[branch] += steadyflow::flush(ring);
                        plane.producer_bell().ring_anyway(room_bit);
                        break;
                    case Outside::pauser:
                        ring.pause();
                        for (std::uint64_t yields = random.below(20); yields > 0; --yields) std::this_thread::yield();
                        ring.resume(monotonic_ns());
                        for (std::uint32_t index = 0; index < branches[branch].consumers; ++index) {
                            plane.bell(branch, index).ring_anyway(0);
                        }
                        break;
                    default: {
                        const Rule rule{static_cast<RuleKind>(random.below(5)), static_cast<AfterWait>(random.below(3)),
                                        1 + random.below(100)};
                        ring.header().rule.store(rule.pack());
                    }
                }
            }
            std::this_thread::yield();
        }
    });
    send_all(port, blocks);
    for (std::thread& thread : threads) thread.join();
    done = true;
    controller.join();
    verify_accounts(plane, port, !switching);
    for (std::size_t branch = 0; branch < branches.size(); ++branch) {
        const Account account = read_account(plane.ring(branch));
        CHECK_EQUAL(flushed[branch], account.dropped[static_cast<unsigned>(Reason::flushed)]);
    }
}

std::vector<Rule> every_rule() {
    return {
        {RuleKind::wait, AfterWait::fail, 0},           {RuleKind::wait, AfterWait::fail, 50},
        {RuleKind::wait, AfterWait::drop_newest, 50},   {RuleKind::wait, AfterWait::drop_oldest, 50},
        {RuleKind::drop_oldest, AfterWait::fail, 0},    {RuleKind::drop_newest, AfterWait::fail, 0},
        {RuleKind::latest, AfterWait::fail, 0},         {RuleKind::fail, AfterWait::fail, 0},
    };
}

}  // namespace

int main(int argument_count, char** arguments) {
    const auto [blocks, seed] = effort_of("ring_stress", argument_count, arguments, 3000);

    run_schedules(seed);
    std::uint64_t runs = 0;
    const auto own_seed = [&] { return Random::mix(seed + ++runs); };
    for (const Rule& rule : every_rule()) {
        for (const std::uint32_t buffer_size : {1U, 2U, 3U, 64U}) {
            for (std::uint32_t consumers = 1; consumers <= 3; ++consumers) {
                run_threads({{buffer_size, consumers, rule, 0}}, {0, 0, 50, 0}, Outside::nobody, blocks, own_seed());
                // Several laps while one slot stays claimed, and views that outlive their slots.
                const std::uint64_t laps = 4 * Ring::slots_for(buffer_size, consumers);
                run_threads({{buffer_size, consumers, rule, 3}}, {16, laps, 50, 4}, Outside::nobody, blocks,
                            own_seed());
            }
        }
    }
    // One port into several rings: branch bits of one buffer are released one by one.
    for (const std::uint32_t buffer_size : {1U, 3U, 64U}) {
        const Rule wait{RuleKind::wait, AfterWait::fail, 0};
        const Rule oldest{RuleKind::drop_oldest, AfterWait::fail, 0};
        const Rule newest{RuleKind::drop_newest, AfterWait::fail, 0};
        const Habits habits{16, 40, 50, 4};
        run_threads({{buffer_size, 1, wait, 2}, {buffer_size, 1, oldest, 2}, {2, 1, newest, 2}}, habits, Outside::nobody,
                    blocks, own_seed());
        run_threads({{buffer_size, 2, oldest, 2}, {buffer_size, 1, wait, 2}}, habits, Outside::rule_switcher, blocks,
                    own_seed());
        run_threads({{buffer_size, 3, wait, 2}}, habits, Outside::rule_switcher, blocks, own_seed());
        run_threads({{buffer_size, 1, wait, 0}}, {0, 0, 50, 0}, Outside::observer, 10 * blocks, own_seed());
        run_threads({{buffer_size, 2, oldest, 0}}, {0, 0, 50, 0}, Outside::observer, 10 * blocks, own_seed());
        for (const Outside outside : {Outside::flusher, Outside::pauser}) {
            run_threads({{buffer_size, 1, wait, 2}}, habits, outside, 2 * blocks, own_seed());
            run_threads({{buffer_size, 2, wait, 2}, {buffer_size, 1, oldest, 2}}, habits, outside, blocks, own_seed());
            run_threads({{buffer_size, 3, {RuleKind::latest, AfterWait::fail, 0}, 0}}, {0, 0, 50, 0}, outside, blocks,
                        own_seed());
        }
    }
    std::printf("ring_stress: %llu runs in threads, all accounts closed\n", static_cast<unsigned long long>(runs));
    return 0;
}
