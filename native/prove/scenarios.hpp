// The operations that are stepped through, each with what comes before it and who dies in it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "world.hpp"

namespace steadyflow::prove {

enum class Sleeper { nobody, consumer, producer, victim };

struct Scenario {
    std::string operation;
    std::string victim;  // who dies: producer, consumer, competing consumer, successor, coordinator
    std::vector<Branch> branches;
    std::function<void(World&)> prepare;  // by ends that survive
    // In the victim: makes its ends, and returns the operation.
    std::function<std::function<void()>(World&)> attach;
    bool kills_producer = false;
    bool consumes = false;              // the victim is consumer 0 of branch 0
    bool finishes = false;              // the operation ends with a block delivered
    Sleeper sleeper = Sleeper::nobody;  // who sleeps meanwhile
    bool may_drop = false;
    bool sends_meanwhile = false;  // a survivor sends, in half of all runs before anybody knows of the death
};

inline constexpr Rule wait_rule{RuleKind::wait, AfterWait::fail, 0};
inline constexpr Rule drop_oldest_rule{RuleKind::drop_oldest, AfterWait::fail, 0};
inline constexpr Rule drop_newest_rule{RuleKind::drop_newest, AfterWait::fail, 0};
inline constexpr Rule latest_rule{RuleKind::latest, AfterWait::fail, 0};
inline constexpr Rule then_newest_rule{RuleKind::wait, AfterWait::drop_newest, 20};
inline constexpr Rule then_oldest_rule{RuleKind::wait, AfterWait::drop_oldest, 20};

// --- what the victim does ---------------------------------------------------------------------------------------------

inline std::function<void()> sends(World& world) {
    auto port = std::make_shared<Port>(world.plane, world.ends.numbered);
    return [port, &world] {
        port->send();
        world.progress.acknowledged = 1;
    };
}

// A loan: the buffer is held while the user writes into it, becomes a block as it lies, and is let go of.
inline std::function<void()> lends(World& world) {
    auto port = std::make_shared<Port>(world.plane, world.ends.numbered);
    return [port, &world] {
        port->send_lent(victims_process);
        world.progress.acknowledged = 1;
    };
}

template <class Operation>
std::function<void()> with_producer(World& world, Operation operation) {
    auto port = std::make_shared<Port>(world.plane, world.ends.numbered);
    return [port, operation] { operation(port->producer(0)); };
}

inline std::shared_ptr<RingConsumer> victims_consumer(World& world) {
    return std::make_shared<RingConsumer>(world.plane.ring(0), world.plane.pool(), world.plane.producer_bell(), 0,
                                          victims_process);
}

template <class Operation>
std::function<void()> with_claim(World& world, Operation operation) {
    auto consumer = victims_consumer(world);
    Claim claim;
    CHECK(consumer->claim(claim));
    return [consumer, claim, operation, &world] { operation(*consumer, claim, world); };
}

inline std::function<void()> claims(World& world) {
    auto consumer = victims_consumer(world);
    return [consumer] {
        Claim claim;
        consumer->claim(claim);
    };
}

// What an open end does: claim, keep a view, give the slot back, let go of the view.
inline std::function<void()> receives(World& world) {
    auto consumer = victims_consumer(world);
    return [consumer, &world] {
        Claim claim;
        if (!consumer->claim(claim)) return;
        consumer->pool().hold(claim.header.buffer, victims_process);
        consumer->finish(claim);
        world.progress.completed = 1;
        consumer->pool().release(claim.header.buffer, victims_process);
    };
}

// --- all of them ------------------------------------------------------------------------------------------------------

inline std::vector<Scenario> scenarios() {
    std::vector<Scenario> all;
    const auto producer = [&all](std::string operation, std::vector<Branch> branches, auto prepare, auto attach,
                                 bool may_drop = false, Sleeper sleeper = Sleeper::nobody) {
        all.push_back({std::move(operation), "producer", std::move(branches), prepare, attach, true, false, false, sleeper,
                       may_drop});
    };
    const auto consumer = [&all](std::string operation, std::string victim, std::vector<Branch> branches, auto prepare,
                                 auto attach, bool finishes, bool may_drop = false,
                                 Sleeper sleeper = Sleeper::nobody) {
        all.push_back({std::move(operation), std::move(victim), std::move(branches), prepare, attach, false, true, finishes,
                       sleeper, may_drop});
    };
    const auto nothing = [](World& world) { world.survivor(0); };
    const auto full = [](World& world) {
        world.send(world.plane.branches()[0].buffer_size);
        world.survivor(0);
    };

    producer("send, first block", {{2, 1, wait_rule, 0}}, nothing, sends);
    producer("send, recycling a delivered slot", {{2, 1, wait_rule, 0}},
             [](World& world) {
                 for (int lap = 0; lap < 6; ++lap) {
                     world.send(1);
                     world.take(1);
                 }
             },
             sends);
    producer("send, past a claimed slot", {{1, 1, drop_oldest_rule, 0}},
             [](World& world) {
                 world.send(1);
                 world.claim();
                 world.send(2);
             },
             sends, true);
    producer("send to three pipelines", {{2, 1, wait_rule, 0}, {1, 1, drop_oldest_rule, 0}, {3, 2, drop_newest_rule, 0}},
             [](World& world) {
                 world.send(2);
                 world.take(2, 0);
                 world.claim(1);
                 world.take(1, 2, 1);
                 world.survivor(2, 0);
             },
             sends, true);
    producer("send, evicting the oldest", {{2, 1, drop_oldest_rule, 0}}, full, sends, true);
    producer("send, recycling an evicted slot", {{1, 1, drop_oldest_rule, 0}},
             [](World& world) {
                 world.send(4);
                 world.survivor(0);
             },
             sends, true);
    producer("send, superseding all that waits", {{4, 1, latest_rule, 0}},
             [](World& world) {
                 world.send(3);
                 world.survivor(0);
             },
             sends, true);
    producer("send, dropping the newest", {{2, 1, drop_newest_rule, 0}}, full, sends, true);
    producer("send to one that drops and one that takes", {{1, 1, drop_newest_rule, 0}, {2, 1, wait_rule, 0}},
             [](World& world) {
                 world.send(1);
                 world.take(1, 1);
                 world.survivor(0);
             },
             sends, true);
    producer("send, waiting in vain, dropping the newest", {{1, 1, then_newest_rule, 0}}, full, sends, true,
             Sleeper::victim);
    producer("send, waiting in vain, dropping the oldest", {{1, 1, then_oldest_rule, 0}}, full, sends, true,
             Sleeper::victim);
    producer("send to a sleeping consumer", {{2, 1, wait_rule, 0}}, nothing, sends, false, Sleeper::consumer);
    producer("send to competing consumers, one asleep", {{2, 2, wait_rule, 0}}, nothing, sends, false, Sleeper::consumer);
    producer("send of a block after a given-back one", {{2, 2, drop_oldest_rule, 0}},
             [](World& world) {
                 world.send(1);
                 world.claim(0, 0);
                 reap(world.rings()[0], survivors_process);
                 world.ends.consumers.clear();
                 world.send(1);
                 world.survivor(0, 1);
             },
             sends, true);
    producer("evict", {{3, 1, drop_oldest_rule, 0}}, full,
             [](World& world) {
                 return with_producer(world, [](RingProducer& end) { end.evict_down_to(1, Reason::oldest); });
             },
             true);
    producer("recycle all that is finished", {{3, 1, drop_oldest_rule, 0}},
             [](World& world) {
                 world.send(2);
                 world.take(1);
                 world.send(3);
                 world.take(1);
             },
             [](World& world) { return with_producer(world, [](RingProducer& end) { end.settle_tally(); }); }, true);
    producer("lend, write and send in place", {{2, 1, wait_rule, 0}, {1, 1, drop_oldest_rule, 0}},
             [](World& world) {
                 world.send(1);
                 world.claim(0);
                 world.survivor(1);
             },
             lends, true);
    producer("lend, write and drop", {{1, 1, drop_newest_rule, 0}}, full, lends, true);
    producer("lend and abandon", {{2, 1, wait_rule, 0}}, full,
             [](World& world) {
                 auto port = std::make_shared<Port>(world.plane, world.ends.numbered);
                 return [port] { port->abandon_loan(victims_process); };
             });
    producer("end", {{2, 1, wait_rule, 0}}, full,
             [](World& world) {
                 auto port = std::make_shared<Port>(world.plane, world.ends.numbered);
                 return [port] { port->end(); };
             });
    producer("attach", {{3, 1, drop_oldest_rule, 0}, {1, 1, wait_rule, 0}},
             [](World& world) {
                 world.send(1);
                 world.take(1, 1);
                 world.send(1);
                 world.take(1);
                 world.claim(1);
             },
             [](World& world) -> std::function<void()> {
                 return [&world] { const Port port(world.plane, world.ends.numbered); };
             },
             true);

    const std::vector<Branch> alone = {{3, 1, wait_rule, 2}};
    const auto some = [](World& world) { world.send(3); };
    consumer("claim", "consumer", alone, some, claims, false);
    consumer("claim, waking the waiting producer", "consumer", {{2, 1, wait_rule, 0}}, [](World& world) { world.send(2); },
             claims, false, false, Sleeper::producer);
    consumer("claim, lapped", "consumer", {{1, 1, drop_oldest_rule, 0}},
             [](World& world) { world.send(9); }, claims, false, true);
    consumer("claim of a repeated block", "consumer", alone,
             [](World& world) {
                 world.send(3);
                 world.claim();
                 reap(world.rings()[0], survivors_process);
                 world.ends.consumers.clear();
             },
             claims, false);
    consumer("finish", "consumer", alone, some,
             [](World& world) {
                 return with_claim(world, [](RingConsumer& end, const Claim& claim, World& known) {
                     end.finish(claim);
                     known.progress.completed = 1;
                 });
             },
             true);
    consumer("discard", "consumer", alone, some,
             [](World& world) {
                 return with_claim(world, [](RingConsumer& end, const Claim& claim, World&) {
                     end.discard(claim, Reason::failed);
                 });
             },
             false, true);
    consumer("claim, hold, finish, release", "consumer", alone, some, receives, true);
    consumer("release", "consumer", alone, some,
             [](World& world) {
                 auto end = victims_consumer(world);
                 Claim claim;
                 CHECK(end->claim(claim));
                 CHECK(end->pool().hold(claim.header.buffer, victims_process));
                 end->finish(claim);
                 world.progress.completed = 1;
                 return [end, claim] { end->pool().release(claim.header.buffer, victims_process); };
             },
             true);
    consumer("attach and claim", "consumer", alone, some,
             [](World& world) -> std::function<void()> {
                 return [&world] {
                     Claim claim;
                     RingConsumer(world.plane.ring(0), world.plane.pool(), world.plane.producer_bell(), 0, victims_process)
                         .claim(claim);
                 };
             },
             false);
    consumer("go to sleep", "consumer", alone, [](World& world) { world.open_port(); },
             [](World& world) -> std::function<void()> {
                 const Bell bell = world.plane.bell(0, 0);
                 return [bell] { bell.wait(monotonic_ns() + 20'000); };
             },
             false, false, Sleeper::victim);
    const std::vector<Branch> shared = {{3, 2, wait_rule, 2}};
    consumer("claim, hold, finish, release", "competing consumer", shared,
             [](World& world) {
                 world.send(3);
                 world.claim(0, 1);
             },
             receives, true);
    consumer("claim, hold, finish, release, full", "competing consumer", {{2, 2, drop_oldest_rule, 2}},
             [](World& world) {
                 world.send(2);
                 world.claim(0, 1);
                 world.send(4);
             },
             receives, true, true);
    consumer("claim, waking the waiting producer", "competing consumer", {{2, 2, wait_rule, 0}},
             [](World& world) {
                 world.send(1);
                 world.claim(0, 1);
                 world.send(2);
             },
             claims, false, false, Sleeper::producer);
    consumer("claim with a sleeping competitor", "competing consumer", {{2, 2, wait_rule, 0}},
             [](World& world) {
                 world.survivor(0, 1);
                 world.open_port();
             },
             [](World& world) -> std::function<void()> {
                 // Rung by nobody else: what the victim claims is published while the competitor sleeps already.
                 auto end = victims_consumer(world);
                 auto port = std::make_shared<Port>(world.plane, world.ends.numbered);
                 return [end, port, &world] {
                     port->send();
                     world.progress.acknowledged = 1;
                     Claim claim;
                     end->claim(claim);
                 };
             },
             false, false, Sleeper::consumer);
    all.back().kills_producer = true;
    consumer("go to sleep beside an idle competitor", "competing consumer", {{3, 2, wait_rule, 0}},
             [](World& world) {
                 world.survivor(0, 1);
                 world.open_port();
             },
             [](World& world) -> std::function<void()> {
                 const Bell bell = world.plane.bell(0, 0);
                 return [bell] { bell.wait(monotonic_ns() + 20'000); };
             },
             false, false, Sleeper::consumer);
    all.back().sends_meanwhile = true;

    // A successor that dies in turn: its predecessor was killed in the middle of a send.
    const std::vector<Branch> two = {{1, 1, drop_oldest_rule, 0}, {2, 1, drop_oldest_rule, 0}};
    for (const std::uint64_t instructions : {60U, 150U, 250U, 350U, 450U, 550U}) {
        all.push_back({"take over a send killed at " + std::to_string(instructions) + ", and send", "successor", two,
                       [instructions](World& world) {
                           world.send(1);
                           world.claim(0);
                           world.send(2);
                           world.take(1, 1);
                           world.port.reset();
                           Victim predecessor(world.progress, [&world] { return sends(world); });
                           predecessor.step(instructions);
                           if (world.progress.acknowledged == 0) ++world.ends.unacknowledged;
                           ++world.ends.numbered;
                           predecessor.kill_it();
                       },
                       [](World& world) -> std::function<void()> {
                           return [&world] {
                               BufferPool pool = world.plane.pool();
                               take_over(pool, std::span<const Ring>(world.rings()));
                               sends(world)();
                           };
                       },
                       true, false, false, Sleeper::nobody, true});
    }
    // The control plane itself: what it left half done is done again.
    consumer("reap", "coordinator", {{3, 2, wait_rule, 2}},
             [](World& world) {
                 world.send(3);
                 world.open_port();
             },
             [](World& world) -> std::function<void()> {
                 auto end = victims_consumer(world);
                 Claim first;
                 Claim second;
                 CHECK(end->claim(first));
                 CHECK(end->claim(second));
                 CHECK(end->pool().hold(first.header.buffer, victims_process));
                 return [&world] {
                     reap(world.rings()[0], victims_process);
                     world.plane.pool().release_process(victims_process);
                 };
             },
             false);
    const auto flushes = [](World& world) -> std::function<void()> { return [&world] { flush(world.rings()[0]); }; };
    const auto coordinator = [&all](std::string operation, std::vector<Branch> branches, auto prepare, auto attach,
                                    Sleeper sleeper) {
        all.push_back({std::move(operation), "coordinator", std::move(branches), prepare, attach, false, false, false, sleeper,
                       true});
    };
    coordinator("pause", {{2, 1, wait_rule, 0}}, [](World& world) { world.send(1); },
                [](World& world) -> std::function<void()> { return [&world] { world.rings()[0].pause(); }; }, Sleeper::nobody);
    coordinator("resume, waking the consumer", {{2, 1, wait_rule, 0}},
                [](World& world) {
                    world.survivor(0);
                    world.rings()[0].pause();
                    world.send(1);
                },
                [](World& world) -> std::function<void()> {
                    const Bell bell = world.plane.bell(0, 0);
                    return [bell, &world] {
                        world.rings()[0].resume(1);
                        bell.ring(0);
                    };
                },
                Sleeper::consumer);
    coordinator("flush beside a claimed slot", {{3, 1, wait_rule, 0}},
                [](World& world) {
                    world.send(3);
                    world.claim();
                },
                flushes, Sleeper::nobody);
    coordinator("flush beside a waiting producer", {{2, 1, wait_rule, 0}}, [](World& world) { world.send(2); }, flushes,
                Sleeper::producer);
    return all;
}

}  // namespace steadyflow::prove
