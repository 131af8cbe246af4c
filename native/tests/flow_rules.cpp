// Rules that need more than one look: room that inputs of a consumer share, a pace, limits, one of n, control blocks.
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "../account.hpp"
#include "../output_rings.hpp"
#include "../ring_consumer.hpp"
#include "check.hpp"
#include "traffic.hpp"

using namespace steadyflow;
using steadyflow::testing::Random;

namespace {

constexpr std::uint32_t capacity = 64;

// A pipeline with an output and a consumer of its own.
struct Line {
    Line(std::uint32_t buffer_size, std::uint32_t most_waiting, Rule rule) {
        const std::uint32_t slots = Ring::slots_for(most_waiting, 1);
        const std::size_t pool_at = 4096 + (Ring::bytes(slots, 1) + 63) / 64 * 64;
        segment = Segment::create(pool_at + BufferPool::bytes(slots + 1, capacity));
        BufferPool::create(*segment, pool_at, slots + 1, capacity);
        Ring::create(*segment, 4096, buffer_size, slots, 1, 0, rule);
        ring = Ring(segment, 4096);
        pool = BufferPool(segment, pool_at);
        consumer = std::make_unique<RingConsumer>(ring, pool, Bell(), 0, 0);
        rings.set_pool(pool);
        rings.add("line", ring);
    }

    void share(unsigned rank, const Line& other, unsigned others_rank) {
        auto& link = *rings.links().front();
        if (!link.shared) link.shared = std::make_unique<SharedRoom>(rank);
        link.shared->add(other.ring, others_rank);
    }

    bool send(std::uint32_t frames = 1, std::uint16_t flags = 0) {
        BlockHeader header{};
        header.first_frame = number++;
        header.frames = frames;
        header.payload_bytes = frames * 2;
        header.flags = flags;
        rings.decide_at_once(header);
        return rings.hand_over(header, monotonic_ns(), 0, [](BufferPool& buffers) {
            const auto buffer = buffers.allocate();
            CHECK(buffer.has_value());
            return *buffer;
        });
    }

    // The number of the next block; -1: none waits.
    std::int64_t take() {
        Claim claim;
        if (!consumer->claim(claim)) return -1;
        consumer->finish(claim);
        return static_cast<std::int64_t>(claim.header.first_frame);
    }

    std::uint64_t dropped(Reason reason) const { return read_account(ring).dropped[static_cast<unsigned>(reason)]; }
    std::uint64_t fill() const { return read_account(ring).fill; }

    std::shared_ptr<Segment> segment;
    Ring ring;
    BufferPool pool;
    std::unique_ptr<RingConsumer> consumer;
    OutputRings rings;
    std::uint64_t number = 0;
};

constexpr Rule by_priority{RuleKind::drop_by_priority, AfterWait::fail, 0};

void the_least_important_gives_way() {
    Line voice(4, 8, by_priority);
    Line meter(4, 8, by_priority);
    voice.share(0, meter, 3);
    meter.share(3, voice, 0);
    for (int block = 0; block < 4; ++block) CHECK(meter.send());
    for (int block = 0; block < 4; ++block) CHECK(voice.send());
    CHECK_EQUAL(0U, meter.dropped(Reason::outranked));
    // All of the room is taken: the meter's oldest goes, one after the other, and then the voice's own.
    for (std::uint64_t block = 0; block < 4; ++block) {
        CHECK(voice.send());
        CHECK_EQUAL(block + 1, meter.dropped(Reason::outranked));
        CHECK_EQUAL(8U, voice.fill() + meter.fill());
    }
    CHECK_EQUAL(0U, voice.dropped(Reason::oldest));
    CHECK(voice.send());
    CHECK_EQUAL(1U, voice.dropped(Reason::oldest));
    CHECK_EQUAL(8U, voice.fill());
    // The order is kept.
    for (std::int64_t block = 1; block < 9; ++block) CHECK_EQUAL(block, voice.take());
    CHECK_EQUAL(-1, voice.take());
    CHECK_EQUAL(-1, meter.take());
}

void room_that_others_leave_is_lent() {
    Line voice(4, 8, by_priority);
    Line meter(4, 8, by_priority);
    voice.share(0, meter, 3);
    meter.share(3, voice, 0);
    for (int block = 0; block < 8; ++block) CHECK(meter.send());
    CHECK_EQUAL(8U, meter.fill());
    CHECK(meter.send());  // nobody is less important: its own oldest
    CHECK_EQUAL(1U, meter.dropped(Reason::oldest));
    CHECK_EQUAL(8U, meter.fill());
    // Within its own room the voice asks nobody; the next time that it needs more, all is put right.
    for (int block = 0; block < 5; ++block) CHECK(voice.send());
    CHECK_EQUAL(8U, voice.fill() + meter.fill());
}

void a_switched_rule_leaves_the_group() {
    Line voice(2, 4, by_priority);
    Line meter(2, 4, {RuleKind::drop_newest, AfterWait::fail, 0});
    voice.share(0, meter, 3);
    CHECK(meter.send());
    for (int block = 0; block < 4; ++block) CHECK(voice.send());
    CHECK_EQUAL(0U, meter.dropped(Reason::outranked));
    CHECK_EQUAL(2U, voice.dropped(Reason::oldest));
}

void one_of_n_is_kept() {
    Line line(8, 8, {RuleKind::sample, AfterWait::fail, 3});
    for (std::uint64_t block = 0; block < 30; ++block) CHECK_EQUAL(block % 3 == 0, line.send(5));
    const Account account = read_account(line.ring);
    CHECK_EQUAL(30U, account.sent);
    CHECK_EQUAL(20U, account.dropped[static_cast<unsigned>(Reason::sampled)]);
    CHECK_EQUAL(100U, account.dropped_frames[static_cast<unsigned>(Reason::sampled)]);
    CHECK_EQUAL(2U, account.dropped[static_cast<unsigned>(Reason::oldest)]);
    CHECK_EQUAL(10U, account.dropped_frames[static_cast<unsigned>(Reason::oldest)]);
    CHECK_EQUAL(40U, account.fill_frames);
    CHECK_EQUAL(80U, account.fill_bytes);
}

void a_block_that_waits_or_is_claimed_was_sent() {
    Line line(8, 8, {RuleKind::wait, AfterWait::fail, 0});
    CHECK(line.send());
    CHECK(line.send());
    // As it is for a moment, until send() counts the second one.
    line.ring.header().published.store(1, std::memory_order_relaxed);
    const Account waiting = read_account(line.ring);
    CHECK_EQUAL(2U, waiting.fill);
    CHECK_EQUAL(2U, waiting.sent);
    CHECK_EQUAL(2U, waiting.in_flight());
    Claim claim;
    CHECK(line.consumer->claim(claim));
    const Account claimed = read_account(line.ring);
    CHECK_EQUAL(1U, claimed.fill);
    CHECK_EQUAL(2U, claimed.sent);
    CHECK_EQUAL(2U, claimed.in_flight());
    line.consumer->finish(claim);
    CHECK_EQUAL(2U, read_account(line.ring).sent);
}

void a_sender_that_can_wait_keeps_the_pace() {
    Line line(8, 8, {RuleKind::wait, AfterWait::fail, 0});
    constexpr Nanoseconds pace = 1'000'000'000;
    BlockHeader header{};
    CHECK(!line.rings.decide(header, monotonic_ns(), true));
    line.ring.set_pace(pace);
    const Nanoseconds began = monotonic_ns();
    // Up to four are made up for, and then each has its time.
    for (int block = 0; block < 4; ++block) {
        CHECK(!line.rings.decide(header, began, true));
        line.send();
    }
    line.send();
    const OutputRings::Obstacle obstacle = line.rings.decide(header, began, true);
    CHECK(obstacle.kind == OutputRings::Obstacle::Kind::pace);
    CHECK(obstacle.deadline_ns > began && obstacle.deadline_ns <= began + 2 * pace);
    CHECK(!line.rings.decide(header, began, false));
    // Another pace holds for the next block, too: who was slowed down for long does not wait for that.
    line.ring.set_pace(60 * pace);
    CHECK(line.rings.decide(header, began, true).deadline_ns > began + 30 * pace);
    line.ring.set_pace(1);
    CHECK(!line.rings.decide(header, began, true));
    line.ring.set_pace(0);
    CHECK(!line.rings.decide(header, began, true));
}

void the_first_limit_wins() {
    Line line(8, 8, {RuleKind::drop_newest, AfterWait::fail, 0});
    line.ring.limit(0, 10);
    CHECK(line.send(4));
    CHECK(line.send(4));
    CHECK(!line.send(4));
    CHECK(line.send(2));
    line.ring.limit(20, 0);
    CHECK(!line.send(1));
    line.ring.limit(22, 0);
    CHECK(line.send(1));
    for (std::int64_t block : {0, 1, 3, 5}) CHECK_EQUAL(block, line.take());
    // Larger than all of the room by itself: alone.
    CHECK(line.send(16));
    CHECK(!line.send(1));
    CHECK_EQUAL(6, line.take());
}

// Against a model: two lines in one room, with control blocks, under random rules and limits.
void nothing_is_lost_without_a_word() {
    for (std::uint64_t seed = 1; seed <= 300; ++seed) {
        Random random(seed);
        Line lines[2] = {{3, 6, by_priority}, {3, 6, by_priority}};
        lines[0].share(0, lines[1], 2);
        lines[1].share(2, lines[0], 0);
        std::int64_t last[2] = {-1, -1};
        std::uint64_t control[2] = {0, 0};
        std::uint64_t taken_control[2] = {0, 0};
        for (int step = 0; step < 400; ++step) {
            const std::size_t which = random.below(2);
            Line& line = lines[which];
            switch (random.below(8)) {
                case 0: {
                    const Rule rule{static_cast<RuleKind>(random.below(rule_kinds)), AfterWait::fail, 2};
                    line.ring.header().rule.store(rule.pack());
                    break;
                }
                case 1: line.ring.limit(random.below(3) == 0 ? 24 : 0, random.below(3) == 0 ? 9 : 0); break;
                case 2:
                case 3:
                case 4: {
                    Claim claim;
                    if (!line.consumer->claim(claim)) break;
                    CHECK(static_cast<std::int64_t>(claim.header.first_frame) > last[which]);
                    last[which] = static_cast<std::int64_t>(claim.header.first_frame);
                    if ((claim.header.flags & flag_control) != 0) ++taken_control[which];
                    line.consumer->finish(claim);
                    break;
                }
                default: {
                    const bool is_control = random.below(9) == 0;
                    // A device sends none, because it cannot wait where only such blocks are.
                    BlockHeader header{};
                    header.frames = 1 + static_cast<std::uint32_t>(random.below(4));
                    header.payload_bytes = header.frames * 2;
                    header.flags = is_control ? flag_control : 0;
                    if (line.rings.decide(header, monotonic_ns(), false)) break;
                    header.first_frame = line.number++;
                    line.rings.hand_over(header, monotonic_ns(), 0, [](BufferPool& buffers) { return *buffers.allocate(); });
                    if (is_control) ++control[which];
                }
            }
            for (std::size_t index = 0; index < 2; ++index) {
                const Account account = read_account(lines[index].ring);
                std::uint64_t fates = account.delivered + account.fill;
                for (const std::uint64_t count : account.dropped) fates += count;
                CHECK_EQUAL(lines[index].number, account.sent);
                CHECK_EQUAL(account.sent, fates);
                CHECK(account.fill <= lines[index].ring.most_waiting());
            }
        }
        for (std::size_t index = 0; index < 2; ++index) {
            Claim claim;
            while (lines[index].consumer->claim(claim)) {
                if ((claim.header.flags & flag_control) != 0) ++taken_control[index];
                lines[index].consumer->finish(claim);
            }
            CHECK_EQUAL(control[index], taken_control[index]);
        }
    }
}

}  // namespace

int main() {
    the_least_important_gives_way();
    room_that_others_leave_is_lent();
    a_switched_rule_leaves_the_group();
    one_of_n_is_kept();
    a_block_that_waits_or_is_claimed_was_sent();
    a_sender_that_can_wait_keeps_the_pace();
    the_first_limit_wins();
    nothing_is_lost_without_a_word();
    std::puts("flow_rules: every rule does what it says");
    return 0;
}
