// What is kept of a consumer's cycles: counts and shares against a plain model, and a worst block that is whole at every look,
// also where its writer was killed in the middle.
#include <sys/wait.h>

#include <csignal>
#include <cstring>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include "cycle_account.hpp"
#include "traffic.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

// Every stamp follows from the first, so a mixture of two blocks is seen.
Cycle cycle_taking(Nanoseconds took_ns) {
    return {static_cast<std::uint64_t>(took_ns), 1'000, 2'000, 2'000 + took_ns / 4, 2'000 + took_ns / 3, 2'000 + took_ns / 2,
            2'000 + took_ns};
}

void check_whole(const Cycle& cycle) {
    const Cycle whole = cycle_taking(static_cast<Nanoseconds>(cycle.sequence));
    CHECK_EQUAL(whole.awake_ns, cycle.awake_ns);
    CHECK_EQUAL(whole.gil_ns, cycle.gil_ns);
    CHECK_EQUAL(whole.started_ns, cycle.started_ns);
    CHECK_EQUAL(whole.finished_ns, cycle.finished_ns);
}

void check_against_a_list(std::uint64_t seed) {
    situation = "seed " + std::to_string(seed);
    Random random(seed);
    const auto account = std::make_unique<CycleAccount>();
    CHECK(!account->worst_cycle());
    CHECK_EQUAL(0, account->latest().count);
    std::vector<std::uint32_t> shares;
    Nanoseconds worst = -1;
    std::uint64_t missed = 0;
    for (int block = 0; block < 300; ++block) {
        const auto took = static_cast<Nanoseconds>(random.below(4'000));
        const Nanoseconds deadline = 1'000 + static_cast<Nanoseconds>(random.below(2'000));
        account->note(cycle_taking(took), deadline, 2'500);
        shares.push_back(static_cast<std::uint32_t>(static_cast<double>(took) / static_cast<double>(deadline) * 1e6));
        missed += took > deadline ? 1 : 0;
        worst = std::max(worst, took);
        const CycleAccount::Recent latest = account->latest();
        CHECK_EQUAL(shares.size(), latest.cycles);
        CHECK_EQUAL(std::min<std::size_t>(shares.size(), recent_cycles), latest.count);
        for (unsigned place = 0; place < latest.count; ++place) {
            CHECK_EQUAL(shares[shares.size() - latest.count + place], latest.shares_ppm[place]);
        }
        CHECK_EQUAL(missed, account->missed.load());
        CHECK_EQUAL(worst, account->worst_cycle()->sequence);
        check_whole(*account->worst_cycle());
    }
}

void check_impossible_times() {
    situation = "times that cannot be";
    const auto account = std::make_unique<CycleAccount>();
    account->note({0, 9'000, 9'000, 9'000, 9'000, 9'000, 1'000}, 0, 0);  // finished before it was sent; no deadline, no period
    CHECK_EQUAL(0, account->latest().shares_ppm[0]);
    CHECK_EQUAL(0, account->missed.load());
    account->note(cycle_taking(1'000'000'000'000), 1, 1);
    CHECK_EQUAL(4'000'000'000U, account->latest().shares_ppm[1]);
}

void check_beside_a_reader() {
    situation = "a reader beside the writer";
    const auto account = std::make_unique<CycleAccount>();
    std::atomic<bool> done{false};
    std::thread writer([&] {
        for (Nanoseconds took = 1; took < 300'000; ++took) account->note(cycle_taking(took), 1'000, 1'000);
        done.store(true);
    });
    std::uint64_t last = 0;
    while (!done.load()) {
        if (const auto worst = account->worst_cycle()) {
            check_whole(*worst);
            CHECK(worst->sequence >= last);
            last = worst->sequence;
        }
    }
    writer.join();
    CHECK_EQUAL(299'999, account->worst_cycle()->sequence);
}

void check_kills() {
    situation = "writers that are killed";
    const auto segment = Segment::create(sizeof(SegmentHeader) + 2 * sizeof(CycleAccount));
    auto* account = segment->at<CycleAccount>(round_up(sizeof(SegmentHeader)));
    for (int round = 0; round < 40; ++round) {
        const auto before = account->worst_cycle();
        const auto from = static_cast<Nanoseconds>(before ? before->sequence + 1 : 1);
        const pid_t writer = fork();
        CHECK(writer >= 0);
        if (writer == 0) {
            for (Nanoseconds took = from;; ++took) account->note(cycle_taking(took), 1'000, 1'000);
        }
        while (!account->worst_cycle() || account->worst_cycle()->sequence < static_cast<std::uint64_t>(from)) {
        }
        CHECK_EQUAL(0, kill(writer, SIGKILL));
        CHECK_EQUAL(writer, waitpid(writer, nullptr, 0));
        const auto worst = account->worst_cycle();
        CHECK(worst.has_value());
        check_whole(*worst);
        // A successor goes on with what is there.
        const auto next = static_cast<Nanoseconds>(worst->sequence) + 2;
        account->note(cycle_taking(next), 1'000, 1'000);
        CHECK_EQUAL(next, account->worst_cycle()->sequence);
    }
}

}  // namespace

int main() {
    for (std::uint64_t seed = 1; seed <= 50; ++seed) check_against_a_list(seed);
    check_impossible_times();
    check_beside_a_reader();
    check_kills();
}
