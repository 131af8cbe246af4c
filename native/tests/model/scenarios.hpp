// What is explored: threads over the production classes, each scenario for a hand-over that the memory could spoil.
//
// Small on purpose. A mistake in a memory order shows between two or three threads with two or three operations each, and
// only that much can be searched to the end. Where a scenario begins with blocks on their way, set_up sent them.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lanes_scenario.hpp"
#include "plane_scenario.hpp"

namespace steadyflow::model {

struct Explored {
    std::unique_ptr<Scenario> scenario;
    bool takes_long;  // too long for every change: `make prove` only
};

inline std::vector<Explored> scenarios() {
    using namespace works;
    std::vector<Explored> all;
    using Threads = std::vector<PlaneScenario::Work>;
    const auto put = [&all](std::string name, Shape shape, Threads threads, bool takes_long) -> PlaneScenario& {
        auto scenario = std::make_unique<PlaneScenario>(std::move(name), shape, std::move(threads));
        PlaneScenario& added = *scenario;
        all.push_back({std::move(scenario), takes_long});
        return added;
    };
    const auto add = [&put](std::string name, Shape shape, Threads threads) -> PlaneScenario& {
        return put(std::move(name), shape, std::move(threads), false);
    };
    const auto add_long = [&put](std::string name, Shape shape, Threads threads) -> PlaneScenario& {
        return put(std::move(name), shape, std::move(threads), true);
    };
    const RuleKind oldest = RuleKind::drop_oldest;

    add("send beside claim and finish", {1, 1}, {sends(3, oldest), receives(0, 2)});
    add("send beside claim and finish, two may wait", {2, 1}, {sends(3, oldest), receives(0, 2)});
    add("refusing the newest beside claim", {1, 1}, {sends(3, RuleKind::drop_newest), receives(0, 2)});
    add("only the latest beside claim", {2, 1}, {sends(3, RuleKind::latest), receives(0, 2)});
    add("competing consumers", {1, 2}, {sends(2, oldest), receives(0, 1), receives(1, 1)});
    add_long("competing consumers, three blocks, two may wait", {2, 2}, {sends(3, oldest), receives(0, 2), receives(1, 1)});
    add("competing consumers, two blocks wait", {2, 2}, {sends(1, oldest), receives(0, 1), receives(1, 1)})
        .prepared(sends(2, oldest));
    add("a position is skipped, since a consumer lags", {1, 1},
        {sends(3, oldest), [](Plane& plane) {
             plane.finish(0);
             plane.receive(0);
             plane.receive(0);
         }})
        .prepared([](Plane& plane) {
            plane.send(RuleKind::wait);
            plane.claim(0);
        });
    add("a flush beside claim and send", {1, 1}, {sends(2, oldest), receives(0, 1), flushes})
        .prepared(sends(1, oldest));
    add("a flush makes room for whoever waits", {1, 1}, {sends(1, RuleKind::wait), flushes}).prepared(sends(1, oldest));
    add("a pause ends for a consumer that sleeps", {1, 1},
        {[](Plane& plane) { plane.resume(); }, receives_all(0)})
        .prepared([](Plane& plane) {
            plane.send(RuleKind::wait);
            plane.end();
            plane.ring().pause();
        });
    add("a pause lasts until it ends", {1, 1},
        {[](Plane& plane) { plane.ring().pause(); },
         [](Plane& plane) {
             Explorer::running()->join(0);
             expect(!plane.receive(0), "a block was found while paused");
             plane.resume();
         }})
        .prepared(sends(1, oldest));
    add("looking at a block before claiming it", {1, 1}, {sends(3, oldest), peeks_and_receives(2)})
        .prepared(sends(2, oldest));
    add("discarding beside send", {1, 1},
        {sends(3, oldest), [](Plane& plane) {
             if (plane.claim(0)) plane.discard(0);
             plane.receive(0);
         }});

    // The slot comes round again, and so does its buffer.
    add("a buffer is used again after a claim", {1, 1},
        {sends(3, oldest), [](Plane& plane) {
             plane.finish(0);
             plane.receive(0);
         }})
        .prepared(claims_the_first);
    add("a view outlives its claim, buffers are scarce", {1, 1, 1, 4},
        {sends(3, oldest), [](Plane& plane) {
             plane.hold(0);
             plane.finish(0);
             plane.release(0);
         }})
        .prepared(claims_the_first);
    const auto claims_from_the_fourth_buffer = [](Plane& plane) {
        for (unsigned block = 0; block < 3; ++block) {
            plane.send(RuleKind::wait);
            plane.receive(0);
        }
        plane.send(RuleKind::wait);
        plane.claim(0);
        plane.lower_usable();
    };
    add("memory of buffers is given back beside a claim", {1, 1, 1, 5},
        {sends(3, oldest), [](Plane& plane) { plane.finish(0); }, [](Plane& plane) { plane.give_back_unusable(); }})
        .prepared(claims_from_the_fourth_buffer);
    add("memory of buffers is given back beside a view", {1, 1, 1, 5},
        {sends(3, oldest),
         [](Plane& plane) {
             plane.hold(0);
             plane.finish(0);
             plane.release(0);
         },
         [](Plane& plane) { plane.give_back_unusable(); }})
        .prepared(claims_from_the_fourth_buffer);
    add("views of one buffer from two rings", {1, 1, 2, 4},
        {sends(2, oldest),
         [](Plane& plane) {
             plane.hold(0);
             plane.finish(0);
             plane.release(0);
         },
         [](Plane& plane) { plane.finish(1); }})
        .prepared([](Plane& plane) {
            plane.send(RuleKind::wait);
            plane.claim(0);
            plane.claim(1);
            plane.send(RuleKind::wait);
            plane.send(RuleKind::drop_oldest);
        });

    // Who sleeps must be woken: the producer for room, consumers for blocks and for the end.
    add("waiting for room", {1, 1}, {sends(1, RuleKind::wait), receives(0, 1)}).prepared(sends(1, oldest));
    add("waiting for room, two may wait", {2, 1}, {sends(1, RuleKind::wait), receives(0, 2)}).prepared(sends(2, oldest));
    add("waiting for blocks and for the end", {1, 1}, {sends_and_ends(1, oldest), receives_all(0)}).with_bells();
    add_long("both sides wait", {1, 1}, {sends_and_ends(1, RuleKind::wait), receives_all(0)})
        .prepared(sends(1, oldest))
        .with_bells();
    add("waiting for room that either of two consumers makes", {1, 2},
        {sends(1, RuleKind::wait), receives(0, 1), receives(1, 1)})
        .prepared(sends(1, oldest));
    add("waiting for room that a claim of what was given back makes", {1, 3},
        {sends(1, RuleKind::wait), [](Plane& plane) {
             plane.receive(2);
             plane.finish(1);
         }})
        .prepared([](Plane& plane) {
            for (unsigned consumer = 0; consumer < 2; ++consumer) {
                plane.send(RuleKind::wait);
                plane.claim(consumer);
            }
            plane.recover_consumer(0);
        });
    add("two idle consumers, one block", {2, 2}, {sends(1, oldest), receives_for_ever(0), receives_for_ever(1)})
        .with_bells()
        .for_ever({1, 2});
    add("two consumers wait for the end", {2, 2},
        {[](Plane& plane) { plane.end(); }, receives_all(0), receives_all(1)})
        .prepared(sends(1, oldest))
        .with_bells();
    add("whoever sees the end sees every block", {2, 1},
        {sends_and_ends(2, RuleKind::wait), [](Plane& plane) {
             if (!plane.at_end(0)) return;
             expect(plane.numbered() == 2, "the end was seen before the last block was sent");
             expect(!plane.receive(0), "the end was seen, and then a block");
         }})
        .ends_with([](Plane& plane) { expect(plane.at_end(0), "no end"); });

    // Somebody outside reads the account, which is right or says that it is not.
    const auto recycles_soon = [](Plane& plane) {
        plane.send(RuleKind::wait);
        plane.receive(0);
        plane.send(RuleKind::wait);
    };
    add("an account beside a producer that recycles", {1, 1}, {sends(3, oldest), reads_account(1)}).prepared(recycles_soon);
    add("two accounts beside a producer that recycles", {1, 1}, {sends(2, oldest), reads_account(2)}).prepared(recycles_soon);
    add("an account beside a consumer", {2, 1}, {receives(0, 2), reads_account(2)}).prepared(sends(2, oldest));
    add("an account beside refused blocks", {1, 1}, {sends(3, RuleKind::drop_newest), reads_account(2)});
    add("an account beside producer and consumer", {1, 1}, {sends(2, oldest), receives(0, 1), reads_account(1)})
        .prepared(sends(1, oldest));

    // The bell alone.
    add("a bell", {}, {rings(0), sleeps_until(0b1)});
    add("a bell that is rung twice", {}, {[](Plane& plane) {
                                              plane.bell(0).ring(0);
                                              plane.bell(0).ring(1);
                                          },
                                          sleeps_until(0b11)});
    add("a bell that two ring", {}, {rings(0), rings(1), sleeps_until(0b11)});
    add("a bell whose ringer may die", {},
        {rings(0), sleeps_until(0b10), [](Plane& plane) {
             Explorer::running()->join(0);
             plane.bell(0).ring_anyway(1);
         }})
        .dies(0);
    // As good as dead is a ringer that is interrupted for long: whoever rings meanwhile needs nobody else.
    add("a bell that one rings while another is in the middle of it", {}, {rings(0), rings(1), sleeps_until(0b10)}).dies(0);
    add("an idle consumer beside one at work, while a ringer is in the middle", {2, 2},
        {rings(1), [](Plane& plane) { plane.ring_one(); }, sleeps_until(0b1)})
        .dies(0);

    // A consumer died with a claim (and a view); what it had in hand is given back.
    add("a reaper beside producer and consumer", {1, 2},
        {sends(1, oldest), receives(1, 2), [](Plane& plane) { plane.recover_consumer(0); }})
        .prepared([](Plane& plane) {
            plane.send(RuleKind::wait);
            plane.claim(0);
        });
    add("a reaper beside a producer that drops the oldest", {1, 2},
        {sends(2, oldest), [](Plane& plane) { plane.recover_consumer(0); }})
        .prepared([](Plane& plane) {
            plane.send(RuleKind::wait);
            plane.claim(0);
            plane.send(RuleKind::wait);
        });
    add("a reaper beside a consumer that sleeps", {1, 2},
        {[](Plane& plane) {
             plane.recover_consumer(0);
             plane.end();
         },
         [](Plane& plane) {
             plane.receive_all(1);
             expect(plane.fate(0).delivered == 1, "the block that was given back did not reach the sleeper");
         }})
        .prepared([](Plane& plane) {
            plane.send(RuleKind::wait);
            plane.claim(0);
        })
        .with_bells();
    add("a consumer that died in its sleep, and one that lives", {2, 2},
        {sends(1, oldest),
         [](Plane& plane) {
             plane.recover_consumer(0);
         },
         receives_for_ever(1)})
        .prepared([](Plane& plane) { plane.bell(0).arm(); })
        .with_bells()
        .for_ever({2});
    add("two reapers' work beside a producer", {1, 3},
        {[](Plane& plane) {
             plane.producer().has_room();
             Explorer::running()->join(1);
             plane.producer().evict_down_to(1, Reason::oldest);
             expect(plane.account().fill == 0, "the producer does not know of a block that was given back");
         },
         [](Plane& plane) {
             plane.recover_consumer(0);
             plane.recover_consumer(1);
         }})
        .prepared([](Plane& plane) {
            for (unsigned consumer = 0; consumer < 2; ++consumer) {
                plane.send(RuleKind::wait);
                plane.claim(consumer);
            }
        });
    add("views of a dead process beside the producer", {1, 2, 1, 5},
        {sends(4, oldest),
         [](Plane& plane) {
             plane.hold(0);
             plane.finish(0);
             plane.look(0);
         },
         [](Plane& plane) {
             Explorer::running()->join(1);
             plane.recover_consumer(0);
         }})
        .prepared(claims_the_first);
    add("what the dead have read, before the slot comes round again", {1, 1},
        {sends(3, oldest), [](Plane& plane) { plane.claim(0); },
         [](Plane& plane) {
             Explorer::running()->join(1);
             plane.recover_consumer(0);
         }})
        .prepared(sends(1, oldest));
    add("both ends are gone", {2, 1},
        {sends(2, oldest), [](Plane& plane) { plane.claim(0); },
         [](Plane& plane) {
             Explorer::running()->join(0);
             Explorer::running()->join(1);
             plane.abandon();
             expect(plane.account().fill == 0, "blocks wait for nobody");
         }})
        .ends_with([](Plane& plane) { expect(plane.account().delivered == 0, "a block was delivered to nobody"); });
    add("a consumer that may die at any step", {1, 2},
        {sends(1, oldest),
         [](Plane& plane) {
             if (!plane.claim(0)) return;
             plane.hold(0);
             plane.finish(0);
             plane.release(0);
         },
         [](Plane& plane) {
             Explorer::running()->join(1);
             plane.recover_consumer(0);
             plane.receive(1);
         }})
        .prepared(sends(1, oldest))
        .dies(1);
    add("a producer that may die at any step", {1, 1},
        {sends(1, oldest), receives(0, 2),
         [](Plane& plane) {
             Explorer::running()->join(0);
             plane.recover_producer();
             plane.send(RuleKind::drop_oldest);
         }})
        .prepared(sends(1, oldest))
        .dies(0);
    add("a producer that may die when its slots have come round", {1, 1},
        {sends(1, oldest), receives(0, 1),
         [](Plane& plane) {
             Explorer::running()->join(0);
             plane.recover_producer();
         }})
        .prepared([](Plane& plane) {
            for (unsigned block = 0; block < 3; ++block) {
                plane.send(RuleKind::wait);
                plane.receive(0);
            }
        })
        .dies(0);
    add("a producer that may die past a claimed slot, which is finished before another one sends", {1, 1},
        {sends(1, oldest),
         [](Plane& plane) {
             Explorer::running()->join(0);
             plane.finish(0);
             plane.recover_producer();
             plane.send(RuleKind::drop_oldest);
             plane.send(RuleKind::drop_oldest);
         }})
        .prepared(claims_the_first)
        .ends_with([](Plane& plane) {
            const Account account = plane.account();
            expect(account.delivered + account.dropped[static_cast<unsigned>(Reason::oldest)] == plane.numbered(),
                   "a block was counted twice");
        })
        .dies(0);
    add("a producer that may die past a claimed slot, all of them delivered", {1, 2},
        {sends(1, oldest),
         [](Plane& plane) {
             Explorer::running()->join(0);
             plane.finish(0);
             plane.recover_producer();
             plane.send(RuleKind::drop_oldest);
             plane.send(RuleKind::drop_oldest);
         }})
        .prepared([](Plane& plane) {
            plane.send(RuleKind::wait);
            plane.claim(0);
            for (unsigned block = 1; block < 4; ++block) {
                plane.send(RuleKind::wait);
                plane.receive(1);
            }
        })
        .ends_with([](Plane& plane) {
            const Account account = plane.account();
            expect(account.delivered + account.dropped[static_cast<unsigned>(Reason::oldest)] == plane.numbered(),
                   "a block was counted twice");
        })
        .dies(0);
    add_long("a producer that may die, beside a consumer that sleeps", {1, 1},
        {[](Plane& plane) {
             Explorer::running()->join(1);
             plane.recover_producer();
             plane.end();
         },
         sends(1, oldest), receives_all(0)})
        .with_bells()
        .dies(1);

    using Look = LanesScenario::Look;
    const auto add_lanes = [&all](std::string name, unsigned blocks,
                                  std::array<std::vector<Look>, LanesScenario::replicas> looks, unsigned receiver_looks) {
        all.push_back({std::make_unique<LanesScenario>(std::move(name), blocks, std::move(looks), receiver_looks), false});
    };
    add_lanes("replicas, their order restored", 2, {{{Look::answer}, {Look::answer}}}, 2);
    add_lanes("replicas of which one swallows a block", 2, {{{Look::answer}, {Look::swallow}}}, 2);
    add_lanes("replicas of which one ends with a block in hand", 3, {{{Look::answer, Look::answer}, {Look::leave}}}, 2);
    return all;
}

}  // namespace steadyflow::model
