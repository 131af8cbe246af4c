// Threads that take turns by a manual clock, against a plain queue of events: who goes on, when, and in which order.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include "check.hpp"
#include "manual_time.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

constexpr Nanoseconds start_ns = 1'000;
constexpr unsigned most_steps = 40;

// What happened: who went on, and when.
using Log = std::vector<std::pair<unsigned, Nanoseconds>>;

// What a thread does at each turn: how long it sleeps then, and whom it wakes before (itself: nobody).
struct Step {
    Nanoseconds sleep_ns;
    unsigned wakes;
};
using Scripts = std::vector<std::vector<Step>>;

Scripts scripts_of(std::mt19937& random) {
    Scripts scripts(1 + random() % 5);
    for (auto& script : scripts) {
        script.resize(random() % most_steps);
        for (Step& step : script) step = {static_cast<Nanoseconds>(random() % 8), static_cast<unsigned>(random() % scripts.size())};
    }
    return scripts;
}

Log expected(const Scripts& scripts) {
    struct Thread {
        std::size_t done = 0;
        Nanoseconds due_ns = start_ns;
        bool rung = false;
        bool seated = false;  // before its first turn nobody listens for a call
        bool gone = false;
    };
    std::vector<Thread> threads(scripts.size());
    Log log;
    Nanoseconds now_ns = start_ns;
    for (;;) {
        Thread* next = nullptr;
        for (Thread& thread : threads) {
            if (thread.gone) continue;
            // Woken ones first, in their order; else the first in time.
            if (thread.rung && thread.seated) {
                next = &thread;
                break;
            }
            if (next == nullptr || thread.due_ns < next->due_ns) next = &thread;
        }
        if (next == nullptr) return log;
        if (!next->rung || !next->seated) now_ns = std::max(now_ns, next->due_ns);
        if (std::exchange(next->seated, true)) next->rung = false;
        const auto number = static_cast<unsigned>(next - threads.data());
        log.emplace_back(number, now_ns);
        if (next->done == scripts[number].size()) {
            next->gone = true;
            continue;
        }
        const Step& step = scripts[number][next->done++];
        if (step.wakes != number) threads[step.wakes].rung = !threads[step.wakes].gone;
        next->due_ns = now_ns + step.sleep_ns;
    }
}

Log got(const Scripts& scripts) {
    ManualTime time(start_ns);
    time.expect(static_cast<unsigned>(scripts.size()));
    time.go_on_until(ManualTime::no_limit);
    std::vector<std::array<int, 2>> pipes(scripts.size());
    for (auto& pair : pipes) CHECK_EQUAL(0, create_waker(*reinterpret_cast<int(*)[2]>(pair.data())));
    Log log;
    std::vector<std::thread> threads;
    for (unsigned number = 0; number < scripts.size(); ++number) {
        threads.emplace_back([&, number] {
            keep_time_by(&time);
            time.take_seat(number, false);
            log.emplace_back(number, monotonic_ns());
            for (const Step& step : scripts[number]) {
                if (step.wakes != number) CHECK_EQUAL(1, write(pipes[step.wakes][1], "", 1));
                time.sleep(pipes[number][0], monotonic_ns() + step.sleep_ns);
                char bytes[64];
                [[maybe_unused]] const ssize_t taken = read(pipes[number][0], bytes, sizeof bytes);
                log.emplace_back(number, monotonic_ns());
            }
            time.leave_seat();
            keep_time_by(nullptr);
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& [reading, writing] : pipes) {
        close(reading);
        close(writing);
    }
    return log;
}

void check_turns() {
    for (unsigned seed = 0; seed < 200; ++seed) {
        situation = "seed " + std::to_string(seed);
        std::mt19937 random(seed);
        const Scripts scripts = scripts_of(random);
        CHECK(expected(scripts) == got(scripts));
    }
}

void check_limit() {
    situation = "a limit";
    ManualTime time(start_ns);
    time.expect(1);
    std::atomic<unsigned> turns{0};
    std::thread thread([&] {
        time.take_seat(0, false);
        for (unsigned turn = 0; turn < 4; ++turn) {
            turns.fetch_add(1);
            time.sleep(-1, time.now_ns() + 10);
        }
        time.leave_seat();
    });
    const auto until = [&](Nanoseconds moment_ns) {
        time.go_on_until(moment_ns);
        while (!time.wait_until(moment_ns, 1'000'000'000)) {
        }
    };
    until(start_ns);
    CHECK_EQUAL(1U, turns.load());
    until(start_ns + 9);
    CHECK_EQUAL(1U, turns.load());
    CHECK_EQUAL(start_ns + 9, time.now_ns());
    until(start_ns + 20);
    CHECK_EQUAL(3U, turns.load());
    until(ManualTime::no_limit);
    thread.join();
    CHECK_EQUAL(4U, turns.load());
    CHECK_EQUAL(start_ns + 40, time.now_ns());
}

void check_follower() {
    situation = "one who follows";
    ManualTime time(start_ns);
    time.expect(2);
    time.go_on_until(ManualTime::no_limit);
    std::vector<Nanoseconds> looks;
    std::thread follower([&] {
        time.take_seat(1, true);
        for (;;) {
            const Nanoseconds moment_ns = time.now_ns() + 10;
            time.sleep(-1, moment_ns);
            if (time.now_ns() < moment_ns) break;
            looks.push_back(time.now_ns() - start_ns);
        }
        time.leave_seat();
    });
    std::thread leader([&] {
        time.take_seat(0, false);
        time.sleep(-1, start_ns + 35);
        time.leave_seat();
    });
    leader.join();
    follower.join();
    CHECK((looks == std::vector<Nanoseconds>{10, 20, 30}));
    CHECK_EQUAL(start_ns + 35, time.now_ns());
}

// Where nobody has anything to do at any time, time stands still, until something comes from outside.
void check_standstill() {
    situation = "a standstill";
    ManualTime time(start_ns);
    time.expect(2);
    time.go_on_until(ManualTime::no_limit);
    int pipe[2];
    CHECK_EQUAL(0, create_waker(pipe));
    std::thread leader([&] {
        time.take_seat(0, false);
        CHECK(time.sleep(pipe[0], -1));
        CHECK_EQUAL(start_ns, time.now_ns());
        time.leave_seat();
    });
    std::thread follower([&] {
        time.take_seat(1, true);
        time.sleep(-1, start_ns + 10);
        CHECK_EQUAL(start_ns, time.now_ns());
        time.leave_seat();
    });
    while (!time.wait_until(start_ns, 1'000'000'000)) {
    }
    CHECK_EQUAL(1, write(pipe[1], "", 1));
    leader.join();
    follower.join();
    close(pipe[0]);
    close(pipe[1]);
}

void check_no_seat() {
    situation = "no seat";
    ManualTime time(start_ns);
    time.sleep(-1, start_ns + 1'000'000);
    CHECK_EQUAL(start_ns, time.now_ns());
    time.go_on_until(start_ns + 5);
    time.stand_still();
    CHECK(time.wait_until(start_ns + 5, 0));
    CHECK_EQUAL(start_ns + 5, time.now_ns());
}

void check_disbanding() {
    situation = "turns that end";
    ManualTime time(start_ns);
    time.expect(2);
    std::thread sleeping([&] {
        time.take_seat(0, false);
        time.sleep(-1, ManualTime::no_limit);
        time.leave_seat();
    });
    std::thread waiting([&] {
        time.take_seat(1, false);
        time.sleep(-1, ManualTime::no_limit);
        time.leave_seat();
    });
    while (!time.wait_until(start_ns, 1'000'000'000)) {
    }
    time.disband();
    sleeping.join();
    waiting.join();
    // Who still sleeps then does so for real, and time goes on by it.
    std::thread late([&] {
        time.take_seat(2, false);
        while (time.now_ns() < start_ns + 2'000'000) time.sleep(-1, start_ns + 2'000'000);
        time.leave_seat();
    });
    late.join();
    CHECK_EQUAL(start_ns + 2'000'000, time.now_ns());
}

}  // namespace

int main() {
    check_turns();
    check_limit();
    check_follower();
    check_standstill();
    check_no_seat();
    check_disbanding();
    return 0;
}
