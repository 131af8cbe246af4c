// A port with its pool, rings, consumers and bells in one segment whose memory gets damaged: where everything lies, and
// every operation that there is.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "lanes.hpp"
#include "traffic.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace steadyflow::testing {

enum class Part { segment, bell, ring, slots, stats, pool, branches, holds };
inline constexpr std::array<const char*, 8> part_names = {"segment header", "bell",        "ring header", "slots",
                                                          "statistics",     "pool header", "branch bits", "holds"};

struct Region {
    Part part;
    std::uint64_t offset;
    std::size_t bytes;
};

struct RingShape {
    std::uint32_t buffer_size;
    std::uint32_t consumers;
};

// Where everything lies. Between the parts are gaps that nothing may touch: under the address sanitizer, touching one ends
// the process.
template <class Memory>
class HostileSegment {
public:
    static constexpr std::size_t capacity = 192;

    explicit HostileSegment(std::vector<RingShape> ring_shapes) : shapes(std::move(ring_shapes)) {
        std::size_t end = sizeof(SegmentHeader);
        regions.push_back({Part::segment, 0, end});
        std::vector<Region> gaps;
        const auto place = [&](std::size_t bytes) {
            const std::size_t at = round_up(end) + gap;
            gaps.push_back({Part::segment, end, at - end});
            end = at + bytes;
            return at;
        };
        producer_bell = place(BasicBell<Memory>::bytes());
        regions.push_back({Part::bell, producer_bell, BasicBell<Memory>::bytes()});
        std::uint32_t buffers = 1;
        for (const RingShape& shape : shapes) {
            const std::uint32_t slots = Ring::slots_for(shape.buffer_size, shape.consumers);
            rings.push_back(place(Ring::bytes(slots, shape.consumers)));
            std::uint64_t at = rings.back();
            const auto add = [&](Part part, std::size_t bytes) {
                regions.push_back({part, at, bytes});
                at += bytes;
            };
            add(Part::ring, sizeof(BasicRingHeader<Memory>));
            add(Part::stats, shape.consumers * sizeof(ConsumerStats));
            add(Part::slots, slots * sizeof(BasicSlot<Memory>));
            consumer_bells.push_back(place(BasicBell<Memory>::bytes()));
            regions.push_back({Part::bell, consumer_bells.back(), BasicBell<Memory>::bytes()});
            buffers += slots + shape.consumers;
        }
        pool = place(Pool::bytes(buffers, capacity));
        regions.push_back({Part::pool, pool, sizeof(PoolHeader)});
        const std::uint64_t branches = pool + sizeof(PoolHeader);
        const std::uint64_t holds = round_up(branches + buffers * sizeof(std::uint32_t));
        regions.push_back({Part::branches, branches, buffers * sizeof(std::uint32_t)});
        regions.push_back({Part::holds, holds, buffers * sizeof(HoldRow<Memory>)});
        place(0);
        segment = Segment::create(end);
        add_bell(*segment, producer_bell);
        for (const std::uint64_t bell : consumer_bells) add_bell(*segment, bell);
        Pool::create(*segment, pool, buffers, capacity);
        for (std::uint32_t index = 0; index < shapes.size(); ++index) {
            const auto& [buffer_size, consumers] = shapes[index];
            Ring::create(*segment, rings[index], buffer_size, Ring::slots_for(buffer_size, consumers), consumers, index, {});
        }
        for (const Region& region : regions) {
            const std::byte* memory = at(region);
            fresh_.push_back({memory, memory + region.bytes});
        }
#if defined(__SANITIZE_ADDRESS__)
        for (const Region& between : gaps) __asan_poison_memory_region(at(between), between.bytes);
#endif
    }
    ~HostileSegment() {
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(segment->template at<std::byte>(0), segment->bytes());
#endif
    }
    HostileSegment(const HostileSegment&) = delete;
    HostileSegment& operator=(const HostileSegment&) = delete;

    std::byte* at(const Region& region) const { return segment->template at<std::byte>(region.offset, region.bytes); }

    // As it was when it was created.
    void restore() {
        for (std::size_t index = 0; index < regions.size(); ++index) {
            std::memcpy(at(regions[index]), fresh_[index].data(), regions[index].bytes);
        }
    }

    const std::vector<RingShape> shapes;
    std::shared_ptr<Segment> segment;
    std::vector<Region> regions;
    std::uint64_t producer_bell = 0;
    std::vector<std::uint64_t> rings;
    std::vector<std::uint64_t> consumer_bells;
    std::uint64_t pool = 0;

private:
    using Ring = BasicRing<Memory>;
    using Pool = BasicBufferPool<Memory>;
    static constexpr std::size_t gap = 256;

    std::vector<std::vector<std::byte>> fresh_;
};

// Everything that is attached to such a segment. Each operation ends within its bound, or throws Corrupted.
template <class Memory>
class HostilePort {
public:
    // Throws Corrupted.
    explicit HostilePort(const HostileSegment<Memory>& where)
        : pool_(where.segment, where.pool), bell_(where.segment, where.producer_bell) {
        for (std::size_t index = 0; index < where.shapes.size(); ++index) {
            Ring ring(where.segment, where.rings[index]);
            links_.push_back(std::make_unique<Link>(ring, &pool_, Bell(where.segment, where.consumer_bells[index])));
            // More ends than the ring has are refused: where its header says so, they are damage to be noticed.
            for (std::uint32_t consumer = 0; consumer < where.shapes[index].consumers; ++consumer) {
                links_.back()->ends.emplace_back(Consumer(ring, pool_, bell_, consumer, 1 + consumer));
            }
        }
        // The others as the lanes of replicas that consume the first, competing with the ends above.
        const auto lane = [&](std::size_t index) {
            return Consumer(links_[index]->ring, pool_, bell_, 0, max_processes - 1);
        };
        lanes_.emplace(lane(1));
        for (std::size_t index = 2; index < links_.size(); ++index) lanes_->add(lane(index));
        lanes_->restore_order_of(links_[0]->ring);
    }

    // A little of everything, as modules do it: what is damaged afterwards has blocks in every state.
    void work(Random& random, unsigned rounds) {
        for (; rounds != 0; --rounds) {
            Link& link = *links_[random.below(links_.size())];
            End& end = link.ends[random.below(link.ends.size())];
            switch (random.below(5)) {
                case 0:
                case 1: send(random); break;
                case 2: claim(end); break;
                case 3: settle(end, random); break;
                default: pass(end, random); break;
            }
        }
    }

    static constexpr unsigned operations = 31;

    void operate(unsigned operation, Random& random) {
        Link& link = *links_[random.below(links_.size())];
        End& end = link.ends[random.below(link.ends.size())];
        const auto reason = static_cast<Reason>(random.below(reasons));
        const auto buffer = static_cast<std::uint32_t>(random.below(pool_.count()));
        const auto process = static_cast<unsigned>(random.below(max_processes));
        const std::uint64_t slots = link.ring.count();
        // How often an operation may look at memory: some times at each slot, or at each hold of each buffer.
        const std::uint64_t ring_steps = 64 + 48 * slots;
        const std::uint64_t pool_steps = 64 + 2 * pool_.count() * (1 + max_processes);
        const auto allow = [&](const char* name) { Steps::allow(name, ring_steps); };
        const auto allow_pool = [&](const char* name) { Steps::allow(name, pool_steps); };
        switch (operation) {
            case 0: Steps::allow("send", links_.size() * ring_steps + pool_steps); send(random); break;
            case 1: allow("has_room"); link.producer.has_room(); break;
            case 2: allow("evict_down_to"); link.producer.evict_down_to(1 + random.below(slots), reason); break;
            case 3: allow("flush"); flush(link.ring); break;
            case 4: allow("drop"); link.producer.drop(reason, {64, 16}); break;
            case 5: allow("publish"); link.producer.publish(BlockHeader{}, 1); break;
            case 6: allow("request_wake"); link.producer.request_wake(); break;
            case 7: allow("cancel_wake"); link.producer.cancel_wake(); break;
            case 8: allow("settle_tally"); link.producer.settle_tally(); break;
            case 9: allow("ended"); link.producer.ended(); break;
            case 10: allow("claim"); claim(end); break;
            case 11: allow("finish or discard"); settle(end, random); break;
            case 12: allow("peek_sent_ns"); CHECK(end.consumer.peek_sent_ns() >= -1); break;
            case 13: allow("at_end"); end.consumer.at_end(); break;
            case 14: allow("look_again"); end.consumer.look_again(); break;
            case 15: allow("reap"); CHECK(reap(link.ring, process) <= slots); break;
            case 16: allow("abandon"); CHECK(abandon(link.ring, reason) <= slots); break;
            case 17: allow("read_account"); account(link); break;
            case 18: allow_pool("held_buffers"); CHECK(pool_.held_buffers() <= pool_.count()); break;
            case 19: allow_pool("hold and release"); hold(buffer, process); break;
            case 20: allow_pool("release_process"); pool_.release_process(process); break;
            case 21: Steps::allow("take_over", links_.size() * ring_steps + pool_steps); succeed(); break;
            case 22: allow("ring"); link.bell.ring(static_cast<unsigned>(random.below(64))); break;
            case 23: allow("ring_anyway"); link.bell.ring_anyway(control_bit); break;
            case 24: allow("take and wait"); link.bell.take(); link.bell.wait(monotonic_ns() + 1'000); break;
            case 25: allow("peek"); CHECK(end.consumer.peek().origin <= last_position); break;
            case 26: allow("pause"); link.ring.pause(); break;
            case 27: allow("resume"); link.ring.resume(1); CHECK(!link.ring.paused()); break;
            case 28: Steps::allow("claim of lanes", lanes_steps()); claim_in_order(); break;
            case 29: Steps::allow("peek_sent_ns of lanes", lanes_steps()); CHECK(lanes_->peek_sent_ns() >= -1); break;
            default: Steps::allow("look_again of lanes", lanes_steps()); lanes_->look_again(); lanes_->at_end(); break;
        }
    }

    // Whoever looks without trust in the positions finds everything that waits.
    void drain() {
        for (const auto& link : links_) {
            End& end = link->ends.front();
            link->ring.resume(1);
            for (std::uint64_t claims = 0;; ++claims) {
                CHECK(claims <= link->ring.count());
                Steps::allow("drain", 64 + 16 * link->ring.count());
                end.consumer.look_again();
                if (!claim(end)) break;
                end.claims.clear();
            }
            for (std::uint32_t index = 0; index < link->ring.count(); ++index) {
                CHECK(load(link->ring.slot(index)).state() != SlotState::ready);
            }
        }
    }

    // One block for every ring, and a look at what waits there, without trust in positions. Throws Corrupted.
    void send_one() {
        Random random(1);
        send(random);
    }
    void look() {
        for (const auto& link : links_) {
            link->ends.front().consumer.look_again();
            CHECK(link->ends.front().consumer.peek().slot != nullptr);
        }
    }

    // When the replicas have answered all, whoever restores their order gets what is in the lanes.
    void drain_in_order() {
        Link& input = *links_.front();
        for (const auto& link : links_) link->ring.resume(1);
        for (End& end : input.ends) {
            for (const Claim& claim : end.claims) end.consumer.finish(claim);
            end.claims.clear();
            end.consumer.look_again();
            for (Claim claim; end.consumer.claim(claim);) end.consumer.finish(claim);
        }
        for (std::uint64_t claims = 0;; ++claims) {
            CHECK(claims <= lanes_steps());
            Steps::allow("drain in order", lanes_steps());
            lanes_->look_again();
            Claim claim;
            typename Lanes::Lane* lane = lanes_->claim(claim);
            if (lane == nullptr) break;
            lane->consumer.finish(claim);
        }
        for (std::size_t index = 1; index < links_.size(); ++index) {
            const Ring& ring = links_[index]->ring;
            for (std::uint32_t slot = 0; slot < ring.count(); ++slot) CHECK(load(ring.slot(slot)).state() != SlotState::ready);
        }
    }

private:
    using Ring = BasicRing<Memory>;
    using Producer = BasicRingProducer<Memory>;
    using Consumer = BasicRingConsumer<Memory>;
    using Bell = BasicBell<Memory>;
    using Claim = BasicClaim<Memory>;
    using Lanes = BasicLanes<Memory>;

    struct End {
        explicit End(Consumer made) : consumer(std::move(made)) {}
        Consumer consumer;
        std::vector<Claim> claims = {};
    };
    struct Link {
        Link(Ring made, BasicBufferPool<Memory>* pool, Bell rung) : ring(made), producer(made, pool), bell(std::move(rung)) {}
        Ring ring;
        Producer producer;
        Bell bell;
        std::vector<End> ends = {};
    };

    void send(Random& random) {
        std::uint32_t branches = 0;
        for (const auto& link : links_) {
            if (!link->producer.has_room()) link->producer.evict_down_to(link->ring.buffer_size(), Reason::oldest);
            branches |= std::uint32_t{1} << link->ring.branch();
        }
        const auto buffer = pool_.allocate();
        if (!buffer) throw Corrupted("no free buffer");
        BlockHeader header{};
        header.buffer = *buffer;
        header.payload_bytes = static_cast<std::uint32_t>(random.below(pool_.capacity() + 1));
        std::memset(pool_.payload(*buffer), 1, header.payload_bytes);
        pool_.set_branches(*buffer, branches);
        for (const auto& link : links_) {
            // As a module that is at work on what came through the first ring.
            if (!link->producer.publish(header, monotonic_ns(), origin_)) throw Corrupted("no free slot");
            link->bell.ring(0);
        }
    }

    bool claim(End& end) {
        Claim claim;
        if (!end.consumer.claim(claim)) return false;
        if (end.consumer.ring().branch() == 0) origin_ = claim.word.position();
        // Whatever the slot says, it is inside of one buffer.
        const BlockHeader& header = claim.header;
        std::array<std::byte, HostileSegment<Memory>::capacity> copy;
        const std::size_t bytes = std::size_t{header.payload_bytes} + header.metadata_bytes;
        CHECK(bytes <= copy.size());
        std::memcpy(copy.data(), end.consumer.pool().payload(header.buffer), bytes);
        CHECK(claim.sent_ns >= 0);
        end.consumer.stats().latency.record(monotonic_ns() - claim.sent_ns);
        add(end.consumer.stats().received);
        // As many as the ring was made for: one at a time.
        if (end.claims.empty()) end.claims.push_back(claim);
        else end.consumer.discard(claim, Reason::failed);
        return true;
    }

    void settle(End& end, Random& random) {
        if (end.claims.empty()) return;
        const Claim claim = end.claims.back();
        end.claims.pop_back();
        if (random.chance(3)) end.consumer.discard(claim, Reason::failed);
        else end.consumer.finish(claim);
    }

    // Claims, keeps a view for a moment, and finishes.
    void pass(End& end, Random& random) {
        if (!end.claims.empty() || !claim(end)) return;
        hold(end.claims.back().header.buffer, end.consumer.process());
        settle(end, random);
    }

    void hold(std::uint32_t buffer, unsigned process) {
        if (pool_.hold(buffer, process)) pool_.release(buffer, process);
    }

    std::uint64_t lanes_steps() const {
        std::uint64_t slots = 0;
        for (const auto& link : links_) slots += link->ring.count();
        return 256 + 64 * slots;
    }

    void claim_in_order() {
        Claim claim;
        typename Lanes::Lane* lane = lanes_->claim(claim);
        if (lane != nullptr) lane->consumer.discard(claim, Reason::failed);
    }

    // Whoever comes after the producer goes on from what is there.
    void succeed() {
        std::vector<Ring> rings;
        for (const auto& link : links_) rings.push_back(link->ring);
        take_over(pool_, std::span<const Ring>(rings));
        for (const auto& link : links_) link->producer = Producer(link->ring, &pool_);
    }

    void account(Link& link) {
        const Account account = read_account(link.ring);
        std::uint64_t fates = account.delivered;
        for (const std::uint64_t dropped : account.dropped) fates += dropped;
        CHECK(account.sent >= fates);
        CHECK(account.fill <= link.ring.count());
    }

    BasicBufferPool<Memory> pool_;
    Bell bell_;
    std::vector<std::unique_ptr<Link>> links_;
    std::optional<Lanes> lanes_ = {};
    std::uint64_t origin_ = 0;
};

}  // namespace steadyflow::testing
