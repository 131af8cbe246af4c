// The ring between processes: consumers, and in some runs the producer too, are forked children that map the segment
// anew by its descriptor, at another address.
//
//   ring_processes [blocks] [seed]      blocks of one run; the seed is printed

#include <sys/wait.h>
#include <unistd.h>

#include "traffic.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

// The same places in a mapping of its own, as a worker has it that was given the descriptor.
Plane map_again(const Plane& plane) {
    const Plane mapped = plane.attached(Segment::attach(duplicate(plane.segment()->descriptor()), true));
    CHECK(mapped.segment()->at<std::byte>(0) != plane.segment()->at<std::byte>(0));
    return mapped;
}

template <class Work>
pid_t start(Work work) {
    std::fflush(nullptr);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        work();
        // Not exit: what the parent had at the fork is not the child's to destroy.
        _exit(0);
    }
    return child;
}

void join(pid_t child) {
    int status = 0;
    CHECK_EQUAL(child, waitpid(child, &status, 0));
    CHECK(WIFEXITED(status));
    CHECK_EQUAL(0, WEXITSTATUS(status));
}

void run(const Branch& branch, Habits habits, std::uint64_t blocks, std::uint64_t seed) {
    situation = "processes; buffer_size " + std::to_string(branch.buffer_size) + ", " +
                std::to_string(branch.consumers) + " consumers, " + describe(branch.rule) + "; lags every " +
                std::to_string(habits.lags_every) + "; seed " + std::to_string(seed);
    const Plane plane({branch}, blocks);
    std::vector<pid_t> children;
    for (std::uint32_t index = 0; index < branch.consumers; ++index) {
        children.push_back(start([&] {
            // Process 0 is the parent's: the holds of a child are in a column of their own.
            Consumer(map_again(plane), 0, index, index + 1, habits, Random::mix(seed + index)).run();
        }));
    }
    Port port(plane);
    send_all(port, blocks);
    for (const pid_t child : children) join(child);
    verify_accounts(plane, port, true);
}

// The producer is a child, too; the parent consumes, then takes over the dead producer's end and reads the account.
void run_with_producer_apart(const Branch& branch, std::uint64_t blocks, std::uint64_t seed) {
    situation = "producer in a process of its own; buffer_size " + std::to_string(branch.buffer_size) + ", " +
                describe(branch.rule) + "; seed " + std::to_string(seed);
    const Plane plane({branch}, blocks);
    const pid_t child = start([&] {
        Port port(map_again(plane));
        send_all(port, blocks);
        CHECK_EQUAL(blocks, port.sent());
    });
    Consumer(plane, 0, 0, 0, {16, 40, 50, 4}, seed).run();
    join(child);
    const Ring ring = plane.ring(0);
    const Account account = read_account(ring);
    std::uint64_t dropped = 0;
    for (const std::uint64_t count : account.dropped) dropped += count;
    CHECK_EQUAL(blocks, account.sent);
    CHECK_EQUAL(account.sent, account.delivered + dropped);
    CHECK_EQUAL(plane.outcome(0, 0).received.load(), account.delivered);
    // A successor finds everything that it needs in shared memory.
    BufferPool pool = plane.pool();
    RingProducer successor(ring, &pool);
    CHECK(successor.has_room());
    successor.settle_tally();
    for (std::uint32_t buffer = 0; buffer < pool.count(); ++buffer) CHECK_EQUAL(0, pool.branches(buffer));
    CHECK_EQUAL(0, pool.held_buffers());
    CHECK_EQUAL(account.delivered, read_account(ring).delivered);
}

}  // namespace

int main(int argument_count, char** arguments) {
    const auto [blocks, seed] = effort_of("ring_processes", argument_count, arguments, 3000);
    std::uint64_t runs = 0;
    const auto own_seed = [&] { return Random::mix(seed + ++runs); };
    const std::vector<Rule> rules = {
        {RuleKind::wait, AfterWait::fail, 0},        {RuleKind::wait, AfterWait::drop_newest, 50},
        {RuleKind::wait, AfterWait::drop_oldest, 50}, {RuleKind::drop_oldest, AfterWait::fail, 0},
        {RuleKind::drop_newest, AfterWait::fail, 0}, {RuleKind::latest, AfterWait::fail, 0},
        {RuleKind::fail, AfterWait::fail, 0},
    };
    for (const Rule& rule : rules) {
        for (const std::uint32_t buffer_size : {1U, 2U, 3U, 64U}) {
            for (std::uint32_t consumers = 1; consumers <= 3; ++consumers) {
                const std::uint64_t laps = 4 * Ring::slots_for(buffer_size, consumers);
                run({buffer_size, consumers, rule, 3}, {16, laps, 50, 4}, blocks, own_seed());
            }
            run_with_producer_apart({buffer_size, 1, rule, 3}, blocks, own_seed());
        }
    }
    std::printf("ring_processes: %llu runs between processes, all accounts closed\n",
                static_cast<unsigned long long>(runs));
    return 0;
}
