// Nothing that is read from shared memory becomes an address unchecked: damaged and foreign segments are refused.
#include <cerrno>
#include <csignal>
#include <cstring>
#include <limits>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "held_buffer.hpp"
#include "traffic.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

constexpr std::uint64_t far_away = std::numeric_limits<std::uint64_t>::max();

int duplicate(const Segment& segment) { return testing::duplicate(segment.descriptor()); }

void offsets() {
    const auto segment = Segment::create(4096);
    CHECK_EQUAL(4096, segment->bytes());
    segment->at<std::byte>(0, 4096);
    segment->at<std::byte>(4096, 0);
    segment->at<std::uint64_t>(4088);
    segment->at<BellWords>(4032);
    CHECK_THROWS(Corrupted, segment->at<std::byte>(0, 4097));
    CHECK_THROWS(Corrupted, segment->at<std::byte>(4096));
    CHECK_THROWS(Corrupted, segment->at<std::byte>(4097, 0));
    CHECK_THROWS(Corrupted, segment->at<std::byte>(far_away, 0));
    CHECK_THROWS(Corrupted, segment->at<std::uint64_t>(4089));
    CHECK_THROWS(Corrupted, segment->at<std::uint64_t>(4));
    CHECK_THROWS(Corrupted, segment->at<std::uint64_t>(4096));
    CHECK_THROWS(Corrupted, segment->at<BellWords>(32));
    CHECK_THROWS(Corrupted, segment->at<BellWords>(4096));
    // Counts whose size in bytes wraps around.
    CHECK_THROWS(Corrupted, segment->at<std::uint64_t>(0, far_away));
    CHECK_THROWS(Corrupted, segment->at<std::uint64_t>(8, (std::uint64_t{1} << 61) + 1));
    CHECK_THROWS(Corrupted, segment->at<BellWords>(64, std::uint64_t{1} << 58));
}

void creation() {
    // What the system refuses is said at start, not by SIGBUS later. The limit refuses before a page is taken; never ask
    // for more than there is without it, because that would take all memory first.
    rlimit before{};
    CHECK_EQUAL(0, getrlimit(RLIMIT_FSIZE, &before));
    const rlimit small{1 << 20, before.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    CHECK_EQUAL(0, setrlimit(RLIMIT_FSIZE, &small));
    try {
        Segment::create(2 << 20);
        CHECK(false);
    } catch (const Shortage& shortage) {
        CHECK_EQUAL(2 << 20, shortage.bytes);
        CHECK_EQUAL(EFBIG, shortage.error);
    }
    try {
        Segment::create(std::size_t{1} << 50);
        CHECK(false);
    } catch (const Shortage& shortage) {
        // Refused before the system is asked, which would take all memory and end processes.
        CHECK_EQUAL(ENOMEM, shortage.error);
    }
    CHECK_EQUAL(0, setrlimit(RLIMIT_FSIZE, &before));
    CHECK_THROWS(Shortage, Segment::create(0));
    CHECK_THROWS(Corrupted, Segment::create(8));
    const auto segment = Segment::create(8192);
    // Sealed: nobody who was given the descriptor can pull the memory away.
    CHECK_EQUAL(-1, ftruncate(segment->descriptor(), 64));
    CHECK_EQUAL(EPERM, errno);
    CHECK_EQUAL(-1, ftruncate(segment->descriptor(), 1 << 20));
}

// What the message of damage says.
template <class Call>
std::string refusal(Call call) {
    try {
        call();
    } catch (const Corrupted& damage) {
        return damage.what();
    }
    return "nothing";
}

void attaching() {
    const auto segment = Segment::create(8192);
    *segment->at<std::uint64_t>(4096) = 0x1234;
    {
        const auto other = Segment::attach(duplicate(*segment), true);
        CHECK_EQUAL(8192, other->bytes());
        CHECK_EQUAL(0x1234, *other->at<std::uint64_t>(4096));
        const auto reader = Segment::attach(duplicate(*segment), false);
        CHECK_EQUAL(0x1234, *reader->at<std::uint64_t>(4096));
    }
    auto* header = segment->at<SegmentHeader>(0);
    const SegmentHeader good = *header;
    header->magic ^= 1;
    const auto attach = [&] { Segment::attach(duplicate(*segment), true); };
    const std::string prefix = "the descriptor is no steadyflow segment that this version can use: expected ";
    const auto magic = [](std::uint64_t number) { return std::to_string(number); };
    CHECK_EQUAL(prefix + "magic " + magic(segment_magic) + ", got " + magic(segment_magic ^ 1), refusal(attach));
    *header = good;
    header->version = 1;
    CHECK_EQUAL(prefix + "layout version " + std::to_string(layout_version) + ", got 1", refusal(attach));
    *header = good;
    header->bytes = 8191;
    CHECK_EQUAL(prefix + "a header that says bytes 8192, got 8191", refusal(attach));
    header->bytes = 1 << 20;
    CHECK_EQUAL(prefix + "a header that says bytes 8192, got 1048576", refusal(attach));
    *header = good;
    attach();

    // No segments at all: too small, a pipe, a closed descriptor. Refused, and the descriptor is closed.
    const auto memory_file = [](off_t bytes, int seals) {
        const int descriptor = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        CHECK(descriptor >= 0);
        CHECK_EQUAL(0, ftruncate(descriptor, bytes));
        CHECK_EQUAL(0, fcntl(descriptor, F_ADD_SEALS, seals));
        return descriptor;
    };
    const int small = memory_file(63, F_SEAL_SHRINK);
    CHECK_EQUAL("the descriptor is no steadyflow segment: expected at least 64 bytes, got 63",
                refusal([&] { Segment::attach(small, true); }));
    CHECK_EQUAL(-1, fcntl(small, F_GETFD));
    int ends[2];
    CHECK_EQUAL(0, pipe(ends));
    CHECK_THROWS(Corrupted, Segment::attach(ends[0], true));
    close(ends[1]);
    CHECK_THROWS(Corrupted, Segment::attach(-1, true));
    const int zeros = memory_file(4096, F_SEAL_SHRINK);
    CHECK_EQUAL(prefix + "magic " + magic(segment_magic) + ", got 0", refusal([&] { Segment::attach(zeros, true); }));
    CHECK_EQUAL(-1, fcntl(zeros, F_GETFD));
    // A file that may shrink takes pages away under whoever looks at them: refused before the first look.
    const std::string unsealed =
        "the descriptor is no steadyflow segment: expected shared memory that is sealed against shrinking, got a file "
        "that is not";
    const int shrinking = memory_file(4096, F_SEAL_GROW);
    CHECK_EQUAL(unsealed, refusal([&] { Segment::attach(shrinking, true); }));
    CHECK_EQUAL(-1, fcntl(shrinking, F_GETFD));
    char name[] = "/tmp/segment_checks_XXXXXX";
    const int ordinary = mkstemp(name);
    CHECK(ordinary >= 0);
    unlink(name);
    CHECK_EQUAL(4096, pwrite(ordinary, segment->at<std::byte>(0), 4096, 0));
    CHECK_EQUAL(unsealed, refusal([&] { Segment::attach(ordinary, true); }));
    CHECK_EQUAL(-1, fcntl(ordinary, F_GETFD));
}

constexpr std::size_t pool_at = 64;
constexpr std::uint32_t pool_count = 4;
constexpr std::size_t pool_capacity = 128;

void pools() {
    const std::size_t bytes = pool_at + BufferPool::bytes(pool_count, pool_capacity);
    const auto segment = Segment::create(bytes);
    CHECK_THROWS(Corrupted, BufferPool(segment, pool_at));  // nothing created yet
    CHECK_THROWS(Corrupted, BufferPool::create(*segment, pool_at, pool_count + 1, pool_capacity));
    CHECK_THROWS(Corrupted, BufferPool::create(*segment, pool_at, pool_count, pool_capacity + 1));
    CHECK_THROWS(Corrupted, BufferPool::create(*segment, far_away - 63, pool_count, pool_capacity));
    BufferPool::create(*segment, pool_at, pool_count, pool_capacity);
    BufferPool pool(segment, pool_at);
    CHECK_EQUAL(pool_count, pool.count());
    CHECK_EQUAL(pool_capacity, pool.capacity());
    CHECK(pool.contains(pool_count - 1));
    CHECK(!pool.contains(pool_count));
    CHECK(pool.payload(pool_count - 1) + pool_capacity <= segment->at<std::byte>(0) + bytes);
    CHECK_THROWS(Corrupted, BufferPool(segment, pool_at + 64));
    CHECK_THROWS(Corrupted, BufferPool(segment, pool_at + 4));
    CHECK_THROWS(Corrupted, BufferPool(segment, round_up(bytes) + 64));

    auto* header = segment->at<PoolHeader>(pool_at);
    const auto refused = [&](std::uint32_t magic, std::uint32_t count, std::uint64_t capacity) {
        header->magic = magic;
        header->count = count;
        header->capacity_bytes = capacity;
        CHECK_THROWS(Corrupted, BufferPool(segment, pool_at));
    };
    refused(pool_magic + 1, pool_count, pool_capacity);
    refused(pool_magic, 0, pool_capacity);
    refused(pool_magic, pool_count, 0);
    refused(pool_magic, pool_count + 1, pool_capacity);
    refused(pool_magic, pool_count, pool_capacity + 64);
    refused(pool_magic, std::numeric_limits<std::uint32_t>::max(), pool_capacity);
    refused(pool_magic, pool_count, far_away);
    refused(pool_magic, pool_count, std::uint64_t{1} << 62);  // times 4 is 0
    // Not a multiple of a line: arrays would be viewed at addresses that their type does not allow.
    refused(pool_magic, pool_count, pool_capacity - 1);

    // A pool that was opened keeps its bounds, whatever is written to the header later.
    header->magic = pool_magic;
    header->count = 1 << 20;
    header->capacity_bytes = 1 << 20;
    CHECK_EQUAL(pool_count, pool.count());
    CHECK_EQUAL(pool_capacity, pool.capacity());
}

void pool_use() {
    const auto segment = Segment::create(pool_at + BufferPool::bytes(pool_count, pool_capacity));
    BufferPool::create(*segment, pool_at, pool_count, pool_capacity);
    BufferPool pool(segment, pool_at);
    for (std::uint32_t round = 0; round < pool_count; ++round) {
        const auto buffer = pool.allocate();
        CHECK(buffer.has_value());
        CHECK_EQUAL(0, pool.branches(*buffer));
        pool.set_branches(*buffer, 0b101);
    }
    CHECK(!pool.allocate().has_value());
    // Free only when the last branch and the last hold of every process are gone.
    pool.clear_branch(2, 0);
    CHECK(!pool.allocate().has_value());
    CHECK(pool.hold(2, 3));
    CHECK(pool.hold(2, 15));
    pool.clear_branch(2, 2);
    CHECK(!pool.allocate().has_value());
    CHECK_EQUAL(1, pool.held_buffers());
    pool.release(2, 3);
    CHECK(!pool.allocate().has_value());
    pool.release_process(15);
    CHECK_EQUAL(0, pool.held_buffers());
    CHECK_EQUAL(2, pool.allocate().value());
    // A hold is counted up to 255 times and refused then, so that it can't wrap around to free.
    for (unsigned held = 0; held < 255; ++held) CHECK(pool.hold(1, 0));
    CHECK(!pool.hold(1, 0));
    CHECK(pool.hold(1, 1));
    const auto count = std::make_shared<std::atomic<std::int64_t>>(0);
    CHECK(HeldBuffer::take(pool, 1, 0, 8, count) == nullptr);
    CHECK_EQUAL(0, count->load());
    CHECK(HeldBuffer::take(pool, 1, 1, 8, count) != nullptr);
    CHECK_EQUAL(0, count->load());
    for (unsigned held = 0; held < 255; ++held) pool.release(1, 0);
    pool.release(1, 1);
    CHECK_EQUAL(0, pool.held_buffers());
}

// A ring of two blocks with one consumer, and its pool.
struct Link {
    static constexpr std::size_t ring_at = 64;

    Link() {
        const std::uint32_t slots = Ring::slots_for(2, 1);
        pool_offset = round_up(ring_at + Ring::bytes(slots, 1));
        segment = Segment::create(pool_offset + BufferPool::bytes(slots + 1, pool_capacity));
        Ring::create(*segment, ring_at, 2, slots, 1, 0, {});
        BufferPool::create(*segment, pool_offset, slots + 1, pool_capacity);
        pool = BufferPool(segment, pool_offset);
    }
    Ring ring() const { return Ring(segment, ring_at); }
    RingProducer producer() { return RingProducer(ring(), &pool); }
    RingConsumer consumer() const { return RingConsumer(ring(), BufferPool(segment, pool_offset), Bell(), 0, 0); }

    std::shared_ptr<Segment> segment;
    std::uint64_t pool_offset = 0;
    BufferPool pool;
};

void rings() {
    Link link;
    const auto& segment = link.segment;
    CHECK_EQUAL(4, link.ring().count());
    CHECK_EQUAL(2, link.ring().buffer_size());
    CHECK_THROWS(Corrupted, Ring(segment, Link::ring_at + 64));
    CHECK_THROWS(Corrupted, Ring(segment, Link::ring_at + 8));
    CHECK_THROWS(Corrupted, Ring(segment, far_away - 63));
    CHECK_THROWS(Corrupted, Ring::create(*segment, Link::ring_at, 2, 1 << 20, 1, 0, {}));
    CHECK_THROWS(Corrupted, Ring::create(*segment, far_away - 63, 2, 4, 1, 0, {}));
    CHECK_THROWS(Corrupted, RingConsumer(link.ring(), link.pool, Bell(), 1, 0));
    CHECK_THROWS(Corrupted, RingConsumer(link.ring(), link.pool, Bell(), 0, max_processes));

    RingHeader& header = link.ring().header();
    const auto restore = [&] {
        header.magic = ring_magic;
        header.slots = 4;
        header.consumers = 1;
        header.branch = 0;
    };
    header.magic = ring_magic ^ 1;
    CHECK_THROWS(Corrupted, link.ring());
    restore();
    for (const std::uint32_t slots : {5U, 1000U, 1U << 30, 0xffffffffU}) {
        header.slots = slots;
        // Beyond the segment's end, or so far that the pool behind it would be taken for slots: only the former can be
        // seen from here.
        if (slots > 5) CHECK_THROWS(Corrupted, link.ring());
    }
    // Too few slots to hold one block and one claim for each consumer: neither end opens.
    for (const std::uint32_t slots : {0U, 1U, 2U}) {
        restore();
        header.slots = slots;
        CHECK_THROWS(Corrupted, link.producer());
        CHECK_THROWS(Corrupted, link.consumer());
    }
    restore();
    for (const std::uint32_t consumers : {0U, max_processes + 1, 0xffffffffU}) {
        header.consumers = consumers;
        CHECK_THROWS(Corrupted, link.ring());
    }
    restore();
    header.branch = max_branches;
    CHECK_THROWS(Corrupted, link.ring());
    restore();

    // Words that change while the flow runs are clamped.
    header.buffer_size.store(0xffffffff);
    CHECK_EQUAL(2, link.ring().buffer_size());
    header.buffer_size.store(0);
    CHECK_EQUAL(1, link.ring().buffer_size());
    header.rule.store(far_away);
    CHECK(link.ring().rule().kind == RuleKind::wait);
    CHECK(link.ring().rule().then == AfterWait::fail);
    const Rule rule{RuleKind::wait, AfterWait::drop_oldest, std::uint64_t{1} << 40};
    CHECK_EQUAL(std::uint64_t{1} << 40, Rule::unpack(rule.pack()).value);
    CHECK(Rule::unpack(rule.pack()).then == AfterWait::drop_oldest);
}

void bells() {
    const auto segment = Segment::create(4096);
    CHECK_THROWS(Corrupted, Bell(segment, 64));  // nobody made it
    add_bell(*segment, 64);
    CHECK_THROWS(Corrupted, Bell(segment, 128));
    CHECK_THROWS(Corrupted, Bell(segment, 96));
    CHECK_THROWS(Corrupted, Bell(segment, 4096));
    const Bell bell(segment, 64);
    CHECK_EQUAL(0, bell.take());
    bell.ring(0);
    bell.ring(control_bit);
    bell.wait(-1);  // rung before: does not sleep
    CHECK_EQUAL(std::uint64_t{1} | std::uint64_t{1} << control_bit, bell.take());
    CHECK_EQUAL(0, bell.take());
    const Nanoseconds deadline = monotonic_ns() + 2'000'000;
    while (monotonic_ns() < deadline) bell.wait(deadline);  // nobody rings: ends by itself, perhaps early
    bell.wait(monotonic_ns() - 1);
    bell.ring_anyway(3);
    CHECK_EQUAL(8, bell.take());
    // Many more rings than a pipe holds, and nobody reads: never blocks.
    for (unsigned round = 0; round < 200'000; ++round) wake(*segment->waker(64));
    bell.wait(-1);
}

void block_headers() {
    // Whatever a damaged slot says, the consumer reads nothing outside the block's own buffer.
    const auto refused = [](BlockHeader damaged) {
        Link link;
        RingProducer producer = link.producer();
        RingConsumer consumer = link.consumer();
        CHECK(producer.publish(damaged, 1));
        Claim claim;
        CHECK_THROWS(Corrupted, consumer.claim(claim));
    };
    BlockHeader block{};
    block.payload_bytes = pool_capacity;
    {
        Link link;
        RingProducer producer = link.producer();
        RingConsumer consumer = link.consumer();
        CHECK(producer.publish(block, 1));
        Claim claim;
        CHECK(consumer.claim(claim));
        consumer.finish(claim);
        // A slot that was given up for dead, or finished twice.
        CHECK_THROWS(Corrupted, consumer.finish(claim));
    }
    BlockHeader damaged = block;
    damaged.buffer = 5;
    refused(damaged);
    damaged.buffer = 0xffffffff;
    refused(damaged);
    damaged = block;
    damaged.payload_bytes = pool_capacity + 1;
    refused(damaged);
    damaged.payload_bytes = 0xffffffff;
    refused(damaged);
    damaged = block;
    damaged.metadata_bytes = 1;
    refused(damaged);
    damaged.payload_bytes = 0xffffffff;
    damaged.metadata_bytes = 0xffff;  // their sum wraps around in 32 bits
    refused(damaged);
}

// An observer has a descriptor that was opened for reading: the system refuses every way to write, and the classes refuse
// before it would have to.
void observers() {
    Link link;
    const std::string path = "/proc/self/fd/" + std::to_string(link.segment->descriptor());
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    CHECK(descriptor >= 0);
    const std::size_t bytes = link.segment->bytes();
    CHECK(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0) == MAP_FAILED);
    CHECK_EQUAL(EACCES, errno);
    void* mapped = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
    CHECK(mapped != MAP_FAILED);
    CHECK_EQUAL(-1, mprotect(mapped, bytes, PROT_READ | PROT_WRITE));
    CHECK_EQUAL(EACCES, errno);
    munmap(mapped, bytes);
    CHECK_EQUAL(-1, pwrite(descriptor, "x", 1, 0));
    CHECK_EQUAL(EBADF, errno);
    CHECK_EQUAL(-1, ftruncate(descriptor, 0));
    CHECK_EQUAL(-1, fcntl(descriptor, F_ADD_SEALS, F_SEAL_WRITE));
    CHECK_EQUAL(EPERM, errno);

    RingProducer producer = link.producer();
    CHECK(producer.publish(BlockHeader{}, 1));
    const auto seen = Segment::attach(descriptor, false);
    CHECK(!seen->writable());
    CHECK(link.segment->writable());
    const Ring ring(seen, Link::ring_at);
    BufferPool pool(seen, link.pool_offset);
    CHECK_EQUAL(1, read_account(ring).sent);
    CHECK_EQUAL(1, read_account(ring).fill);
    CHECK_EQUAL(0, pool.held_buffers());
    CHECK_THROWS(ReadOnly, RingProducer(ring, &pool));
    CHECK_THROWS(ReadOnly, RingConsumer(ring, pool, Bell(), 0, 0));
    CHECK_THROWS(ReadOnly, RingConsumer(link.ring(), pool, Bell(), 0, 0));
    CHECK_THROWS(ReadOnly, RingProducer(link.ring(), &pool));
    CHECK_THROWS(ReadOnly, Ring::create(*seen, Link::ring_at, 2, 4, 1, 0, {}));
    CHECK_THROWS(ReadOnly, BufferPool::create(*seen, link.pool_offset, 1, pool_capacity));
    add_bell(*seen, 0);
    CHECK_THROWS(ReadOnly, Bell(seen, 0));
}

// A position finds its slot without a division: always the one that the division would find.
void positions() {
    constexpr std::uint64_t seed = 20;
    Random random(seed);
    for (const std::uint32_t count : {3u, 4u, 5u, 7u, 64u, 65u, 66u, 127u, 1000u, 4099u}) {
        situation = "a ring of " + std::to_string(count) + " slots, seed " + std::to_string(seed);
        const auto segment = Segment::create(Ring::bytes(count, 1));
        Ring::create(*segment, 0, 1, count, 1, 0, {});
        const Ring ring(segment, 0);
        const auto check = [&](std::uint64_t position) {
            CHECK_EQUAL(static_cast<std::ptrdiff_t>(position % count), &ring.slot(position) - &ring.slot(0));
        };
        for (int round = 0; round < 20'000; ++round) {
            check(random.next() & last_position);
            const std::uint64_t lap = (random.next() & last_position) / count * count;
            check(lap);
            check(lap + count - 1);
            if (lap != 0) check(lap - 1);
        }
        for (std::uint64_t position = last_position - count; position <= last_position; ++position) check(position);
    }
    situation.clear();
}

}  // namespace

int main() {
    offsets();
    creation();
    attaching();
    pools();
    pool_use();
    rings();
    bells();
    block_headers();
    observers();
    positions();
    std::puts("segment_checks: everything impossible was refused");
    return 0;
}
