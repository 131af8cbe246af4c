// Rings that were added later have buffers of their own: a block goes into all of them, a ring can be ended alone, and what was
// decided for one does not depend on the others.
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../output_rings.hpp"
#include "../ring_consumer.hpp"
#include "check.hpp"

using namespace steadyflow;

namespace {

constexpr std::uint32_t capacity = 64;
constexpr std::uint32_t buffer_size = 2;

// A segment with one pool and so many rings, and their consumers.
struct Memory {
    explicit Memory(unsigned ring_count, Rule rule = {RuleKind::drop_newest, AfterWait::fail, 0}) {
        const std::uint32_t slots = Ring::slots_for(buffer_size, 1);
        const std::size_t ring_bytes = (Ring::bytes(slots, 1) + 63) / 64 * 64;
        const std::size_t pool_at = 4096 + ring_count * ring_bytes;
        const std::uint32_t count = 1 + ring_count * slots;
        segment = Segment::create(pool_at + BufferPool::bytes(count, capacity));
        BufferPool::create(*segment, pool_at, count, capacity);
        pool = BufferPool(segment, pool_at);
        for (unsigned index = 0; index < ring_count; ++index) {
            const std::uint64_t at = 4096 + index * ring_bytes;
            Ring::create(*segment, at, buffer_size, slots, 1, index, rule);
            rings.emplace_back(segment, at);
            consumers.emplace_back(rings.back(), pool, Bell(), 0, 0);
        }
    }

    void join(OutputRings& output, const std::string& name) {
        output.set_pool(pool);
        for (std::size_t index = 0; index < rings.size(); ++index) output.add(name + std::to_string(index), rings[index]);
    }

    std::shared_ptr<Segment> segment;
    BufferPool pool;
    std::vector<Ring> rings;
    std::vector<RingConsumer> consumers;
};

struct Sender {
    bool send() {
        BlockHeader header{};
        header.payload_bytes = sizeof(number);
        header.first_frame = number;
        rings.decide_at_once(header);
        const bool queued = rings.hand_over(header, monotonic_ns(), 0, [&](BufferPool& pool) {
            const auto buffer = pool.allocate();
            CHECK(buffer.has_value());
            std::memcpy(pool.payload(*buffer), &number, sizeof(number));
            ++copies;
            return *buffer;
        });
        ++number;
        return queued;
    }

    OutputRings rings;
    std::uint64_t number = 0;
    unsigned copies = 0;
};

// Takes the next block, which has to be that one.
void expect(Memory& memory, std::size_t ring, std::uint64_t number) {
    Claim claim;
    RingConsumer& consumer = memory.consumers[ring];
    CHECK(consumer.claim(claim));
    std::uint64_t payload = 0;
    std::memcpy(&payload, consumer.pool().payload(claim.header.buffer), sizeof(payload));
    CHECK_EQUAL(number, payload);
    CHECK_EQUAL(number, claim.header.first_frame);
    consumer.finish(claim);
}

void each_group_gets_one_copy() {
    Memory first(2);
    Memory later(1);
    Sender sender;
    first.join(sender.rings, "a");
    CHECK(sender.send());
    CHECK_EQUAL(1U, sender.copies);
    later.join(sender.rings, "b");
    CHECK(sender.send());
    CHECK_EQUAL(3U, sender.copies);
    for (std::size_t ring = 0; ring < 2; ++ring) {
        expect(first, ring, 0);
        expect(first, ring, 1);
    }
    expect(later, 0, 1);
}

void a_full_group_is_no_other_ones_matter() {
    Memory first(1);
    Memory later(1);
    Sender sender;
    first.join(sender.rings, "a");
    later.join(sender.rings, "b");
    for (std::uint64_t number = 0; number < 20; ++number) {
        CHECK_EQUAL(number < buffer_size, sender.send());
        expect(later, 0, number);
    }
    expect(first, 0, 0);
    expect(first, 0, 1);
    CHECK(!first.consumers[0].at_end());
}

void a_ring_ends_alone() {
    Memory first(2);
    Memory later(1);
    Sender sender;
    first.join(sender.rings, "a");
    later.join(sender.rings, "b");
    sender.send();
    CHECK(sender.rings.remove("a0"));
    CHECK(!sender.rings.remove("a0"));
    sender.send();
    expect(first, 0, 0);
    CHECK(first.consumers[0].at_end());
    expect(first, 1, 0);
    expect(first, 1, 1);
    expect(later, 0, 0);
    CHECK(sender.rings.remove("b0"));
    CHECK(!later.consumers[0].at_end());
    expect(later, 0, 1);
    CHECK(later.consumers[0].at_end());
    sender.send();
    expect(first, 1, 2);
    CHECK(!first.consumers[1].at_end());
    CHECK(sender.rings.remove("a1"));
    CHECK(sender.rings.empty());
    CHECK(sender.send());
}

// Whatever its rule, the fullest ring says whether there is room; one that keeps the newest, or has lost its consumer, is in
// nobody's way.
void room_is_that_of_the_fullest_ring() {
    Memory empty(1);
    Memory full(2, {RuleKind::drop_oldest, AfterWait::fail, 0});
    Memory newest(1, {RuleKind::latest, AfterWait::fail, 0});
    Sender sender;
    CHECK(sender.rings.has_room({}));
    empty.join(sender.rings, "a");
    full.join(sender.rings, "b");
    newest.join(sender.rings, "c");
    for (std::uint64_t number = 0; number < buffer_size; ++number) {
        CHECK(sender.rings.has_room({}));
        CHECK_EQUAL(Nanoseconds{0}, sender.rings.seek_room({}, 1));
        CHECK_EQUAL(std::uint64_t{0}, full.rings[0].header().wake_position.load());
        sender.send();
        expect(empty, 0, number);
    }
    CHECK(!sender.rings.has_room({}));
    CHECK_EQUAL(std::uint64_t{0}, full.rings[0].header().wake_position.load());
    CHECK_EQUAL(Nanoseconds{1}, sender.rings.seek_room({}, 1));
    CHECK(full.rings[0].header().wake_position.load() != 0);
    CHECK(full.rings[1].header().wake_position.load() != 0);
    CHECK_EQUAL(std::uint64_t{0}, empty.rings[0].header().wake_position.load());
    expect(full, 0, 0);
    CHECK(!sender.rings.has_room({}));
    expect(full, 1, 0);
    CHECK(sender.rings.has_room({}));
    sender.send();
    CHECK(!sender.rings.has_room({}));
    full.rings[0].set_abandoned();
    full.rings[1].set_abandoned();
    CHECK(sender.rings.has_room({}));
}

// As where buffers are tuned, or a module is replaced: one goes and one comes between two blocks, again and again.
void rings_change_places() {
    Memory steady(1);
    Sender sender;
    steady.join(sender.rings, "steady");
    std::unique_ptr<Memory> now;
    for (std::uint64_t number = 0; number < 100; ++number) {
        auto next = std::make_unique<Memory>(2);
        if (now) {
            CHECK(sender.rings.remove("x0"));
            CHECK(sender.rings.remove("x1"));
            CHECK(now->consumers[0].at_end());
        }
        next->join(sender.rings, "x");
        now = std::move(next);
        CHECK(sender.send());
        for (std::size_t ring = 0; ring < 2; ++ring) expect(*now, ring, number);
        expect(steady, 0, number);
    }
    CHECK_EQUAL(std::size_t{3}, sender.rings.links().size());
}

}  // namespace

int main() {
    each_group_gets_one_copy();
    a_full_group_is_no_other_ones_matter();
    a_ring_ends_alone();
    room_is_that_of_the_fullest_ring();
    rings_change_places();
    return 0;
}
