// The data plane allocates nothing after start: counts operator new and malloc over 100,000 blocks of each kind.
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>

#include "device_callback.hpp"
#include "intake.hpp"
#include "lanes.hpp"
#include "traffic.hpp"

// Sanitizers bring a malloc of their own, so there only operator new is counted.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS_MALLOC 0
#else
#define COUNTS_MALLOC 1
#endif

namespace {
std::atomic<std::uint64_t> allocations{0};
std::atomic<std::uint64_t> releases{0};

void* allocate(std::size_t bytes, std::size_t alignment) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    void* memory = nullptr;
    if (posix_memalign(&memory, alignment < sizeof(void*) ? sizeof(void*) : alignment, bytes == 0 ? 1 : bytes) != 0) {
        throw std::bad_alloc();
    }
    return memory;
}
void release(void* memory) noexcept {
    releases.fetch_add(1, std::memory_order_relaxed);
    std::free(memory);
}
}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new[](std::size_t bytes) { return allocate(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
    return allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
    return allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { release(memory); }
void operator delete[](void* memory) noexcept { release(memory); }
void operator delete(void* memory, std::size_t) noexcept { release(memory); }
void operator delete[](void* memory, std::size_t) noexcept { release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { release(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { release(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { release(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { release(memory); }

#if COUNTS_MALLOC
extern "C" {
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* memory, std::size_t bytes);

void* malloc(std::size_t bytes) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    return __libc_malloc(bytes);
}
void* calloc(std::size_t count, std::size_t bytes) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    return __libc_calloc(count, bytes);
}
void* realloc(void* memory, std::size_t bytes) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    return __libc_realloc(memory, bytes);
}
}
#endif

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

constexpr std::uint64_t blocks = 100'000;
constexpr std::uint32_t buffer_size = 8;

struct Counts {
    std::uint64_t allocated = allocations.load();
    std::uint64_t released = releases.load();
};

void expect_none_since(const Counts& before) {
    CHECK_EQUAL(before.allocated, allocations.load());
    CHECK_EQUAL(before.released, releases.load());
}

struct Link {
    explicit Link(Rule rule) {
        const std::uint32_t slots = Ring::slots_for(buffer_size, 1);
        const std::size_t bells = sizeof(SegmentHeader);
        const std::size_t ring_at = bells + 2 * Bell::bytes();
        const std::size_t pool_at = round_up(ring_at + Ring::bytes(slots, 1));
        const std::uint32_t buffers = slots + buffer_size + 1;
        segment = Segment::create(pool_at + BufferPool::bytes(buffers, 512));
        Ring::create(*segment, ring_at, buffer_size, slots, 1, 0, rule);
        BufferPool::create(*segment, pool_at, buffers, 512);
        pool = BufferPool(segment, pool_at);
        add_bell(*segment, bells);
        add_bell(*segment, bells + Bell::bytes());
        producer_bell = Bell(segment, bells);
        consumer_bell = Bell(segment, bells + Bell::bytes());
        producer = std::make_unique<RingProducer>(Ring(segment, ring_at), &pool);
        consumer = std::make_unique<RingConsumer>(Ring(segment, ring_at), BufferPool(segment, pool_at), producer_bell, 0, 0);
    }

    void send(std::uint64_t number, std::uint64_t origin = 0) {
        const auto buffer = pool.allocate();
        CHECK(buffer.has_value());
        std::memset(pool.payload(*buffer), static_cast<int>(number & 255), 512);
        pool.set_branches(*buffer, 1);
        BlockHeader header{};
        header.buffer = *buffer;
        header.payload_bytes = 512;
        header.frames = 128;
        CHECK(producer->publish(header, monotonic_ns(), origin));
        consumer_bell.ring(0);
    }

    void receive(Claim& claim) {
        const Nanoseconds started = monotonic_ns();
        ConsumerStats& stats = consumer->stats();
        stats.latency.record(started - claim.sent_ns);
        stats.overhead.record(started - claim.sent_ns);
        consumer->finish(claim);
        add(stats.received);
    }

    std::shared_ptr<Segment> segment;
    BufferPool pool;
    Bell producer_bell;
    Bell consumer_bell;
    std::unique_ptr<RingProducer> producer;
    std::unique_ptr<RingConsumer> consumer;
};

// Late blocks, a jitter buffer, and what is made up in place of both.
void regulated() {
    Link link({RuleKind::wait, AfterWait::fail, 0});
    Lanes lanes(std::move(*link.consumer));
    Intake intake({Late::conceal, 1'000'000, 3 * 128, 128, 1, 128, 48'000},
                  std::make_unique<Concealment>(SampleType::f32, 1, false, 48'000, 128));
    std::array<float, 128> samples{};
    Intake::Next next;
    const Counts before;
    for (std::uint64_t number = 0; number < blocks; ++number) {
        if (link.producer->has_room()) link.send(number);
        if (number % 100 == 50) intake.hold();
        if (number % 100 == 60) intake.let_go(lanes, monotonic_ns());
        const Nanoseconds now = monotonic_ns() + (number % 10 == 0 ? 1'000'000'000 : 0);
        if (!intake.take(lanes, now, false, next)) continue;
        ConsumerStats& stats = next.lane->consumer.stats();
        if (next.made_up()) {
            intake.make_up(stats, samples.data(), 1);
        } else {
            intake.remember(next.lane->consumer.pool().payload(next.claim.header.buffer), 128);
            next.lane->consumer.finish(next.claim);
            stats.cycle.note({number, next.claim.sent_ns, next.claim.sent_ns, now, now, now, now}, 1'000, 1'000);
        }
    }
    expect_none_since(before);
    CHECK(lanes.first().consumer.stats().concealed_blocks.load() > 0);
    CHECK(lanes.first().consumer.stats().cycle.cycles.load() > 0);
}

// Send, claim, finish, with every third block held as a view and some given up.
void hop() {
    Link link({RuleKind::wait, AfterWait::fail, 0});
    std::array<std::uint32_t, buffer_size> held{};
    std::size_t views = 0;
    Claim claim;
    const Counts before;
    for (std::uint64_t number = 0; number < blocks; ++number) {
        CHECK(link.producer->has_room());
        link.send(number);
        CHECK(link.consumer->peek_sent_ns() > 0);
        CHECK_EQUAL(1, link.consumer_bell.take());
        CHECK(link.consumer->claim(claim));
        if (number % 3 == 0) {
            CHECK(link.pool.hold(claim.header.buffer, 0));
            held[views++] = claim.header.buffer;
        }
        if (number % 7 == 0) link.consumer->discard(claim, Reason::failed);
        else link.receive(claim);
        if (views == held.size()) {
            for (const std::uint32_t buffer : held) link.pool.release(buffer, 0);
            views = 0;
        }
        CHECK(!link.consumer->claim(claim));
    }
    expect_none_since(before);
}

// A device's callback: cycles that are no whole blocks, xruns and gaps, into a pipeline that overflows, with a sleeper to wake.
void device() {
    Link link({RuleKind::drop_oldest, AfterWait::fail, 0});
    OutputRings rings;
    rings.set_pool(link.pool);
    rings.add("device", link.producer->ring()).consumers.add(link.consumer_bell, 0);
    DeviceStream stream(std::make_shared<DeviceAccount>(), 48'000, 20'000'000, 1'000'000);
    stream.capture_into(rings, 4, 128);
    Link played({RuleKind::drop_newest, AfterWait::fail, 0});
    stream.play_from(std::make_unique<DevicePlayback>(Lanes(std::move(*played.consumer)), nullptr, 4, 128));
    const std::array<float, 200> samples{};
    std::array<float, 200> heard{};
    double input_s = 1;
    Claim claim;
    const Counts before;
    for (std::uint64_t number = 0; number < blocks; ++number) {
        if (number % 100 == 0) input_s += 0.02;
        if (number % 10 == 0) link.consumer_bell.arm();
        if (number % 3 != 0 && played.producer->has_room()) played.send(number);
        const double current_s = input_s + samples.size() / 48e3;
        const auto result = steadyflow_device_callback(samples.data(), heard.data(), samples.size(),
                                                       std::array{StreamTimes{input_s, current_s, 0}}.data(),
                                                       number % 50 == 0 ? input_overflow : 0, &stream);
        CHECK_EQUAL(static_cast<int>(CallbackResult::go_on), result);
        input_s = current_s;
        if (number % 3 == 0 && link.consumer->claim(claim)) link.consumer->finish(claim);
    }
    stream.close();
    expect_none_since(before);
    CHECK_EQUAL(blocks, stream.account().cycles.load());
    CHECK_EQUAL(blocks / 50, stream.account().capture.count.load());
    CHECK(stream.account().played_blocks.load() > blocks / 2);
}

// Two lanes that are put into the order of their input, and bells of two who compete.
void lanes() {
    Link input({RuleKind::wait, AfterWait::fail, 0});
    Link first({RuleKind::wait, AfterWait::fail, 0});
    Link second({RuleKind::wait, AfterWait::fail, 0});
    Lanes receiver(std::move(*first.consumer));
    receiver.add(std::move(*second.consumer));
    receiver.restore_order_of(input.consumer->ring());
    ConsumerBells bells;
    bells.add(first.consumer_bell, 0);
    bells.add(second.consumer_bell, 0);
    Claim claim;
    Claim taken;
    const Counts before;
    for (std::uint64_t number = 0; number < blocks; ++number) {
        input.send(number);
        bells.ring_one();
        CHECK(input.consumer->claim(claim));
        (number % 2 == 0 ? first : second).send(number, claim.word.position());
        CHECK(receiver.peek_sent_ns() > 0);
        input.consumer->finish(claim);
        Lanes::Lane* lane = receiver.claim(taken);
        CHECK(lane != nullptr);
        lane->consumer.finish(taken);
        CHECK(!receiver.at_end());
        bells.ring_all();
    }
    expect_none_since(before);
}

// Everything that an overflow rule does: evict, supersede, drop; behind a slot that stays claimed.
void overflow() {
    Link link({RuleKind::drop_oldest, AfterWait::fail, 0});
    Claim claim;
    Claim slow;
    link.send(0);
    CHECK(link.consumer->claim(slow));
    const Counts before;
    for (std::uint64_t number = 1; number <= blocks; ++number) {
        if (!link.producer->has_room()) {
            link.producer->note_full(true);
            if (number % 3 == 0) link.producer->evict_down_to(buffer_size, Reason::oldest);
            else if (number % 3 == 1) link.producer->evict_down_to(1, Reason::superseded);
            else {
                link.producer->drop(Reason::newest, {512, 128});
                continue;
            }
        } else {
            link.producer->note_full(false);
        }
        link.send(number);
        if (number % 1000 == 0) {
            link.consumer->finish(slow);
            CHECK(link.consumer->claim(slow));
        }
        if (number % 100 == 0) CHECK(read_account(link.producer->ring()).consistent);
    }
    link.producer->end();
    CHECK(!link.consumer->at_end() || !link.consumer->claim(claim));
    link.producer->settle_tally();
    expect_none_since(before);
}

// Both ends sleep on their bells; the buffer is small, so each waits for the other again and again.
void waiting() {
    Link link({RuleKind::wait, AfterWait::fail, 0});
    std::atomic<int> phase{0};
    std::thread consumer([&] {
        Claim claim;
        phase = 1;
        while (phase.load() != 2) std::this_thread::yield();
        for (std::uint64_t received = 0; received < blocks;) {
            if (link.consumer->claim(claim)) {
                link.receive(claim);
                ++received;
            } else if (link.consumer_bell.take() == 0) {
                link.consumer_bell.wait(-1);
            }
        }
        phase = 3;
        while (phase.load() != 4) std::this_thread::yield();
    });
    while (phase.load() != 1) std::this_thread::yield();
    const Counts before;
    phase = 2;
    for (std::uint64_t number = 0; number < blocks; ++number) {
        while (!link.producer->has_room()) {
            link.producer->request_wake();
            if (!link.producer->has_room()) {
                link.producer_bell.wait(-1);
                link.producer_bell.take();
            }
            link.producer->cancel_wake();
        }
        link.send(number);
    }
    while (phase.load() != 3) std::this_thread::yield();
    expect_none_since(before);
    phase = 4;
    consumer.join();
}

}  // namespace

int main() {
    // The counters count at all.
    const Counts before;
    int* volatile kept = new int(1);  // volatile: a compiler may leave out a pair of new and delete
    delete kept;
    CHECK(allocations.load() > before.allocated);
    CHECK(releases.load() > before.released);
    hop();
    regulated();
    device();
    lanes();
    overflow();
    waiting();
    std::printf("no_allocation: none in 5 x %llu blocks\n", static_cast<unsigned long long>(blocks));
    return 0;
}
