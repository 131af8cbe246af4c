// A port and its consumers without Python: they send, wait and finish as native/bindings does, and verify everything.
// For the stress tests, in threads and in processes.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>

#include "check.hpp"
#include "account.hpp"
#include "output_rings.hpp"
#include "recovery.hpp"
#include "ring_consumer.hpp"

namespace steadyflow::testing {

// Nothing in these tests lasts so long: whoever sleeps longer has missed a wake-up.
inline constexpr Nanoseconds patience_ns = 20'000'000'000;

// SplitMix64: the same numbers everywhere for one seed.
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    std::uint64_t next() noexcept {
        state_ += 0x9e3779b97f4a7c15;
        return mix(state_);
    }
    std::uint64_t below(std::uint64_t limit) noexcept { return next() % limit; }
    bool chance(std::uint64_t one_in) noexcept { return below(one_in) == 0; }

    static constexpr std::uint64_t mix(std::uint64_t value) noexcept {
        value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
        value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
        return value ^ (value >> 31);
    }

private:
    std::uint64_t state_;
};

// How much a program of tests does: its arguments BLOCKS and SEED, as far as they are given. Printed, so that a run can be
// repeated.
struct Effort {
    std::uint64_t blocks;
    std::uint64_t seed;
};
inline Effort effort_of(const char* program, int argument_count, char** arguments, std::uint64_t blocks) {
    const auto argument = [&](int index, std::uint64_t otherwise) {
        return argument_count > index ? std::strtoull(arguments[index], nullptr, 10) : otherwise;
    };
    const Effort effort{argument(1, blocks), argument(2, std::random_device{}())};
    std::printf("%s: blocks %llu, seed %llu\n", program, static_cast<unsigned long long>(effort.blocks),
                static_cast<unsigned long long>(effort.seed));
    std::fflush(stdout);
    return effort;
}

// The payload of a block follows from its number, so that a consumer can tell a wrong byte without a second copy.
inline constexpr std::uint32_t payload_capacity = 256;
inline std::uint32_t largest_payload = payload_capacity;

inline std::uint32_t payload_bytes(std::uint64_t number) noexcept {
    return 1 + static_cast<std::uint32_t>(Random::mix(number) % largest_payload);
}
inline void fill_payload(std::byte* memory, std::uint64_t number) noexcept {
    const std::uint32_t bytes = payload_bytes(number);
    for (std::uint32_t at = 0; at < bytes; at += 8) {
        const std::uint64_t word = Random::mix(number * 1024 + at);
        std::memcpy(memory + at, &word, std::min<std::uint32_t>(8, bytes - at));
    }
}
inline bool payload_matches(const std::byte* memory, std::uint64_t number) noexcept {
    const std::uint32_t bytes = payload_bytes(number);
    for (std::uint32_t at = 0; at < bytes; at += 8) {
        const std::uint64_t word = Random::mix(number * 1024 + at);
        if (std::memcmp(memory + at, &word, std::min<std::uint32_t>(8, bytes - at)) != 0) return false;
    }
    return true;
}

inline int duplicate(int descriptor) {
    const int other = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    CHECK(other >= 0);
    return other;
}

inline void add_bell(Segment& segment, std::uint64_t offset) {
    int descriptors[2] = {-1, -1};
    CHECK_EQUAL(0, create_waker(descriptors));
    segment.add_waker(offset, std::make_shared<Waker>(descriptors[0], descriptors[1]));
}

// One pipeline of the port.
struct Branch {
    std::uint32_t buffer_size = 1;
    std::uint32_t consumers = 1;
    Rule rule = {};
    std::uint32_t views = 0;  // that each consumer may keep
};

inline std::string describe(const Rule& rule) {
    static const char* const kinds[] = {"wait", "drop_oldest", "drop_newest", "latest", "fail"};
    static const char* const thens[] = {"fail", "drop_newest", "drop_oldest"};
    std::string text = kinds[static_cast<unsigned>(rule.kind)];
    if (rule.kind == RuleKind::wait && rule.value != 0) {
        text += " " + std::to_string(rule.value) + " us then " + thens[static_cast<unsigned>(rule.then)];
    }
    return text;
}

// What the consumers of a branch report, in shared memory: one writer each.
struct alignas(cache_line) Outcome {
    Counter received;
    Counter discarded;
    Counter kept;  // blocks that were held as a view for a while
    Counter finished;
};

// One port with its pool, rings and bells in one segment, with an outcome per consumer and a mark per block.
class Plane {
public:
    Plane(std::vector<Branch> branches, std::uint64_t blocks) : branches_(std::move(branches)), blocks_(blocks) {
        std::size_t end = sizeof(SegmentHeader);
        const auto place = [&end](std::size_t bytes) {
            const std::size_t at = round_up(end);
            end = at + bytes;
            return at;
        };
        producer_bell_ = place(Bell::bytes());
        std::uint32_t views = 0;
        for (const Branch& branch : branches_) {
            Places places;
            const std::uint32_t slots = Ring::slots_for(branch.buffer_size, branch.consumers);
            places.ring = place(Ring::bytes(slots, branch.consumers));
            for (std::uint32_t consumer = 0; consumer < branch.consumers; ++consumer) {
                places.bells.push_back(place(Bell::bytes()));
            }
            places.outcomes = place(branch.consumers * sizeof(Outcome));
            places.marks = place(blocks);
            places_.push_back(places);
            // Exactly what the control plane reserves: a block in every slot, every view, and the one being written.
            buffers_ += slots;
            views += branch.views * branch.consumers;
        }
        buffers_ += views + 1;
        pool_ = place(BufferPool::bytes(buffers_, payload_capacity));
        segment_ = Segment::create(end);
        for (const std::uint64_t bell : bells()) add_bell(*segment_, bell);
        BufferPool::create(*segment_, pool_, buffers_, payload_capacity);
        for (std::uint32_t index = 0; index < branches_.size(); ++index) {
            const Branch& branch = branches_[index];
            Ring::create(*segment_, places_[index].ring, branch.buffer_size,
                         Ring::slots_for(branch.buffer_size, branch.consumers), branch.consumers, index, branch.rule);
        }
    }

    // The same places in another mapping of the same memory, as a process that was given the descriptor has it.
    Plane attached(std::shared_ptr<Segment> segment) const {
        Plane other = *this;
        for (const std::uint64_t bell : bells()) {
            const auto waker = segment_->waker(bell);
            segment->add_waker(bell, std::make_shared<Waker>(duplicate(waker->read), duplicate(waker->write)));
        }
        other.segment_ = std::move(segment);
        return other;
    }

    const std::vector<Branch>& branches() const noexcept { return branches_; }
    std::uint64_t blocks() const noexcept { return blocks_; }
    const std::shared_ptr<Segment>& segment() const noexcept { return segment_; }
    Ring ring(std::size_t branch) const { return Ring(segment_, places_[branch].ring); }
    BufferPool pool() const { return BufferPool(segment_, pool_); }
    Bell producer_bell() const { return Bell(segment_, producer_bell_); }
    Bell bell(std::size_t branch, std::uint32_t consumer) const {
        return Bell(segment_, places_[branch].bells[consumer]);
    }
    bool producer_sleeps() const { return sleeps(producer_bell_); }
    bool consumer_sleeps(std::size_t branch, std::uint32_t consumer) const {
        return sleeps(places_[branch].bells[consumer]);
    }
    // Asleep, and nothing rang since.
    bool consumer_idles(std::size_t branch, std::uint32_t consumer) const {
        const std::uint64_t bell = places_[branch].bells[consumer];
        return segment_->at<BellWords>(bell)->ready.load() == 0 && sleeps(bell);
    }
    Outcome& outcome(std::size_t branch, std::uint32_t consumer) const {
        return segment_->at<Outcome>(places_[branch].outcomes, branches_[branch].consumers)[consumer];
    }
    // How often each block was delivered.
    std::atomic<std::uint8_t>* marks(std::size_t branch) const {
        return segment_->at<std::atomic<std::uint8_t>>(places_[branch].marks, blocks_);
    }

private:
    bool sleeps(std::uint64_t bell) const { return segment_->at<BellWords>(bell)->sleeping.load() != 0; }
    std::vector<std::uint64_t> bells() const {
        std::vector<std::uint64_t> offsets = {producer_bell_};
        for (const Places& places : places_) offsets.insert(offsets.end(), places.bells.begin(), places.bells.end());
        return offsets;
    }

    struct Places {
        std::uint64_t ring = 0;
        std::vector<std::uint64_t> bells = {};
        std::uint64_t outcomes = 0;
        std::uint64_t marks = 0;
    };

    std::vector<Branch> branches_;
    std::uint64_t blocks_;
    std::uint64_t producer_bell_ = 0;
    std::vector<Places> places_ = {};
    std::uint64_t pool_ = 0;
    std::uint32_t buffers_ = 0;
    std::shared_ptr<Segment> segment_ = nullptr;
};

inline const char* describe(SlotState state) {
    switch (state) {
        case SlotState::empty: return "empty";
        case SlotState::ready: return "ready";
        case SlotState::claimed: return "claimed";
        case SlotState::done: return "done";
        case SlotState::evicted: return "evicted";
    }
    return "in no state";
}

// The state of a ring, for a message about what should not have happened.
inline std::string describe(const Ring& ring) {
    const RingHeader& header = ring.header();
    std::string text = "published " + std::to_string(header.published.load()) + ", tail " + std::to_string(header.tail.load()) +
                       ", wake " + std::to_string(header.wake_position.load()) + ", ended " +
                       std::to_string(header.ended.load());
    for (std::uint32_t index = 0; index < ring.count(); ++index) {
        const SlotWord word = load(ring.slot(index));
        text += "; " + std::to_string(word.position()) + " " + describe(word.state()) + " " + std::to_string(word.owner());
    }
    return text;
}

enum class Sent { queued, dropped, full, timed_out };

// The sending end of the product, with what its callers do: they fill the block, and wait where there is no room.
class Port {
public:
    // `first` is the number of the next block: a successor goes on where its predecessor was.
    explicit Port(const Plane& plane, std::uint64_t first = 0)
        : bell_(plane.producer_bell()), number_(first), dropped_newest_(plane.branches().size()) {
        rings_.set_pool(plane.pool());
        for (std::size_t index = 0; index < plane.branches().size(); ++index) {
            OutputRings::Link& link = rings_.add("pipeline " + std::to_string(index), plane.ring(index));
            for (std::uint32_t consumer = 0; consumer < plane.branches()[index].consumers; ++consumer) {
                link.consumers.add(plane.bell(index, consumer), 0);
            }
        }
    }

    std::uint64_t sent() const noexcept { return number_; }
    std::uint64_t dropped_newest(std::size_t branch) const noexcept { return dropped_newest_[branch]; }
    RingProducer& producer(std::size_t branch) noexcept { return rings_.links()[branch]->producer; }
    const BufferPool& pool() const noexcept { return rings_.pool(); }

    Sent send() { return send(std::nullopt); }

    // As a loan is sent: written into a buffer that is held meanwhile, and becomes the block as it lies.
    Sent send_lent(unsigned process) {
        const std::uint32_t buffer = lend(process);
        fill_payload(pool().payload(buffer), number_);
        const Sent sent = send(buffer);
        pool().release(buffer, process);
        return sent;
    }
    // As a loan that an exception ends.
    void abandon_loan(unsigned process) { pool().release(lend(process), process); }

    void end() { rings_.end(); }
    void look_up_now_and_then() noexcept { looks_up_ = true; }

private:
    std::uint32_t allocate() {
        const auto buffer = rings_.pool().allocate();
        if (!buffer) fail(__FILE__, __LINE__, "pool.allocate()", "a free buffer", "none");
        return *buffer;
    }

    std::uint32_t lend(unsigned process) {
        const std::uint32_t buffer = allocate();
        CHECK(pool().hold(buffer, process));
        return buffer;
    }

    Sent send(std::optional<std::uint32_t> lent) {
        const Nanoseconds began = monotonic_ns();
        BlockHeader header{};
        header.first_frame = number_;
        header.timestamp_ns = static_cast<std::int64_t>(number_) * 7;
        header.payload_bytes = payload_bytes(number_);
        header.frames = static_cast<std::uint32_t>(number_ & 0xffff);
        while (const OutputRings::Obstacle obstacle = rings_.decide(header, began, false)) {
            switch (obstacle.kind) {
                case OutputRings::Obstacle::Kind::full: return Sent::full;
                case OutputRings::Obstacle::Kind::time_is_up: return Sent::timed_out;
                default: wait_for_room(obstacle.link->producer, began, obstacle.deadline_ns);
            }
        }
        const bool queued = rings_.hand_over(header, monotonic_ns(), 0, [&](BufferPool& pool) {
            const std::uint32_t buffer = lent ? *lent : allocate();
            if (!lent) fill_payload(pool.payload(buffer), number_);
            return buffer;
        });
        for (std::size_t index = 0; index < dropped_newest_.size(); ++index) {
            if (rings_.links()[index]->verdict == OutputRings::Verdict::drop_newest) ++dropped_newest_[index];
        }
        ++number_;
        return queued ? Sent::queued : Sent::dropped;
    }

    void wait_for_room(RingProducer& producer, Nanoseconds began, Nanoseconds deadline) {
        producer.request_wake();
        if (!producer.has_room()) {
            // Where the rule may be switched, its new value is looked at now and then, as the bindings do.
            const Nanoseconds look_up = monotonic_ns() + 50'000'000;
            const Nanoseconds limit = began + patience_ns;
            const Nanoseconds until = deadline >= 0 ? deadline : looks_up_ ? look_up : limit;
            bell_.wait(until);
            bell_.take();
            if (monotonic_ns() >= limit) {
                fail(__FILE__, __LINE__, "wait for room", "a wake-up", "none: " + describe(producer.ring()));
            }
        }
        producer.cancel_wake();
    }

    OutputRings rings_;
    Bell bell_;
    std::uint64_t number_;
    std::vector<std::uint64_t> dropped_newest_;
    bool looks_up_ = false;
};

// How a consumer behaves; 0 is never.
struct Habits {
    std::uint64_t lags_every = 0;     // about one block of so many is kept claimed ...
    std::uint64_t lag_blocks = 0;     // ... while the producer sends so many more
    std::uint64_t discards_every = 0;
    std::uint64_t keeps_every = 0;    // about one block of so many is held as a view for a while
};

// One consuming end, as an Inbox does it: claim, or look for the end, or sleep on the bell.
class Consumer {
public:
    Consumer(const Plane& plane, std::size_t branch, std::uint32_t index, unsigned process, Habits habits,
             std::uint64_t seed)
        : consumer_(plane.ring(branch), plane.pool(), plane.producer_bell(), index, process),
          bell_(plane.bell(branch, index)),
          outcome_(plane.outcome(branch, index)),
          marks_(plane.marks(branch)),
          blocks_(plane.blocks()),
          views_(plane.branches()[branch].views),
          habits_(habits),
          random_(seed) {}

    // Until the end of the stream; everything is released then.
    void run() {
        Claim claim;
        for (;;) {
            if (consumer_.claim(claim)) {
                take(claim);
                continue;
            }
            if (consumer_.at_end()) break;
            if (bell_.take() != 0) continue;
            const Nanoseconds limit = monotonic_ns() + patience_ns;
            bell_.wait(limit);
            if (monotonic_ns() >= limit) {
                fail(__FILE__, __LINE__, "wait for a block", "a wake-up", "none: " + describe(consumer_.ring()));
            }
        }
        while (!kept_.empty()) release_oldest();
        add(outcome_.finished);
    }

private:
    struct Kept {
        std::uint64_t number;
        std::uint32_t buffer;
    };

    bool happens(std::uint64_t one_in) noexcept { return one_in != 0 && random_.chance(one_in); }

    void take(const Claim& claim) {
        const std::uint64_t number = claim.header.sequence;
        verify(claim);
        if (happens(habits_.lags_every)) lag(claim);
        if (happens(habits_.discards_every)) {
            consumer_.discard(claim, Reason::failed);
            add(outcome_.discarded);
        } else {
            if (views_ != 0 && happens(habits_.keeps_every)) keep(claim);
            CHECK_EQUAL(0, marks_[number].fetch_add(1, std::memory_order_relaxed));
            consumer_.finish(claim);
            add(outcome_.received);
        }
        if (!kept_.empty() && random_.chance(3)) release_oldest();
    }

    void verify(const Claim& claim) {
        const std::uint64_t number = claim.header.sequence;
        CHECK(number < blocks_);
        if (number < next_) {
            fail(__FILE__, __LINE__, "order at one consumer", "sequence >= " + std::to_string(next_),
                 std::to_string(number));
        }
        next_ = number + 1;
        CHECK_EQUAL(number, claim.header.first_frame);
        CHECK_EQUAL(static_cast<std::int64_t>(number) * 7, claim.header.timestamp_ns);
        CHECK_EQUAL(payload_bytes(number), claim.header.payload_bytes);
        CHECK_EQUAL(number & 0xffff, claim.header.frames);
        CHECK(claim.sent_ns > 0);
        CHECK(payload_matches(consumer_.pool().payload(claim.header.buffer), number));
    }

    // Keeps the slot claimed while the producer goes on; until it has sent enough, waits for us, or time is up.
    void lag(const Claim& claim) {
        const RingHeader& header = consumer_.ring().header();
        const std::uint64_t until = header.published.load() + habits_.lag_blocks;
        for (unsigned yields = 0; yields < 2000; ++yields) {
            if (header.published.load() >= until || header.ended.load() != 0 || header.wake_position.load() != 0) break;
            std::this_thread::yield();
        }
        CHECK(payload_matches(consumer_.pool().payload(claim.header.buffer), claim.header.sequence));
    }

    void keep(const Claim& claim) {
        if (kept_.size() == views_) release_oldest();
        // While the slot is claimed: the branch bit covers the buffer until the hold does.
        CHECK(consumer_.pool().hold(claim.header.buffer, consumer_.process()));
        kept_.push_back({claim.header.sequence, claim.header.buffer});
        add(outcome_.kept);
    }

    void release_oldest() {
        const Kept kept = kept_.front();
        kept_.pop_front();
        CHECK(payload_matches(consumer_.pool().payload(kept.buffer), kept.number));
        consumer_.pool().release(kept.buffer, consumer_.process());
    }

    RingConsumer consumer_;
    Bell bell_;
    Outcome& outcome_;
    std::atomic<std::uint8_t>* marks_;
    std::uint64_t blocks_;
    std::uint32_t views_;
    Habits habits_;
    Random random_;
    std::deque<Kept> kept_ = {};
    std::uint64_t next_ = 0;
};

// Sends all blocks of the plane, again and again where the rule says no, and ends the stream.
inline void send_all(Port& port, std::uint64_t blocks) {
    while (port.sent() < blocks) {
        const Sent sent = port.send();
        if (sent == Sent::full || sent == Sent::timed_out) std::this_thread::yield();
    }
    port.end();
}

// After everybody is done: every block has one fate, counted once, and no buffer is left.
inline void verify_accounts(const Plane& plane, Port& port, bool only_one_rule) {
    for (std::size_t index = 0; index < plane.branches().size(); ++index) {
        const Branch& branch = plane.branches()[index];
        const Ring& ring = port.producer(index).ring();
        std::uint64_t received = 0;
        std::uint64_t discarded = 0;
        for (std::uint32_t consumer = 0; consumer < branch.consumers; ++consumer) {
            const Outcome& outcome = plane.outcome(index, consumer);
            CHECK_EQUAL(1, outcome.finished.load());
            received += outcome.received.load();
            discarded += outcome.discarded.load();
        }
        std::uint64_t marked = 0;
        for (std::uint64_t number = 0; number < plane.blocks(); ++number) {
            marked += plane.marks(index)[number].load(std::memory_order_relaxed);
        }
        CHECK_EQUAL(received, marked);
        // Before and after the producer has tallied what is finished: derived, so the same.
        for (int round = 0; round < 2; ++round) {
            const Account account = read_account(ring);
            CHECK(account.consistent);
            std::uint64_t dropped = 0;
            for (const std::uint64_t count : account.dropped) dropped += count;
            if (account.sent != account.delivered + dropped || account.fill != 0) {
                fail(__FILE__, __LINE__, "the account of a drained ring",
                     "sent " + std::to_string(account.sent) + " = delivered + dropped, fill 0",
                     "delivered " + std::to_string(account.delivered) + ", dropped " + std::to_string(dropped) +
                         ", fill " + std::to_string(account.fill) + ": " + describe(ring));
            }
            CHECK_EQUAL(port.sent(), account.sent);
            CHECK_EQUAL(received, account.delivered);
            CHECK_EQUAL(discarded, account.dropped[static_cast<unsigned>(Reason::failed)]);
            CHECK_EQUAL(port.dropped_newest(index), account.dropped[static_cast<unsigned>(Reason::newest)]);
            CHECK_EQUAL(0, account.repeated);
            if (only_one_rule) {
                const RuleKind kind = branch.rule.kind;
                const bool evicts = kind == RuleKind::drop_oldest ||
                                    (kind == RuleKind::wait && branch.rule.then == AfterWait::drop_oldest);
                if (!evicts) CHECK_EQUAL(0, account.dropped[static_cast<unsigned>(Reason::oldest)]);
                if (kind != RuleKind::latest) CHECK_EQUAL(0, account.dropped[static_cast<unsigned>(Reason::superseded)]);
            }
            port.producer(index).settle_tally();
        }
        CHECK(ring.header().peak_fill.load() <= branch.buffer_size);
    }
    for (std::uint32_t buffer = 0; buffer < port.pool().count(); ++buffer) {
        CHECK_EQUAL(0, port.pool().branches(buffer));
    }
    CHECK_EQUAL(0, port.pool().held_buffers());
}

}  // namespace steadyflow::testing
