// One port and its consumers in the memory of the model, laid out once and begun anew in each execution: they send, wait,
// claim and finish as native/bindings does, and everything is verified.
#pragma once

#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "account.hpp"
#include "consumer_bells.hpp"
#include "explorer.hpp"
#include "model_memory.hpp"
#include "recovery.hpp"
#include "ring_consumer.hpp"
#include "ring_producer.hpp"

namespace steadyflow::model {

using ModelRing = BasicRing<ModelMemory>;
using ModelPool = BasicBufferPool<ModelMemory>;
using ModelBell = BasicBell<ModelMemory>;
using ModelProducer = BasicRingProducer<ModelMemory>;
using ModelConsumer = BasicRingConsumer<ModelMemory>;
using ModelClaim = BasicClaim<ModelMemory>;

inline void expect(bool condition, const char* what) {
    if (!condition) Explorer::running()->expect(false, what);
}

struct Shape {
    std::uint32_t buffer_size = 1;
    std::uint32_t consumers = 1;
    std::uint32_t rings = 1;
    std::uint32_t buffers = 0;  // 0: one for each slot, and the one that is being written
};

// What a block is known to have become. Written by the threads of the scenario, which run one at a time.
struct Fate {
    bool sent = false;     // send() returned
    bool refused = false;  // dropped by send()
    unsigned delivered = 0;
    unsigned repeated = 0;  // of these, flagged as such
};

class Plane {
public:
    static constexpr unsigned most_blocks = 12;
    static constexpr unsigned most_rings = 2;
    static constexpr unsigned most_consumers = 3;

    explicit Plane(Shape shape) : shape_(shape) {
        const std::uint32_t slots = ModelRing::slots_for(shape.buffer_size, shape.consumers);
        buffers_ = shape.buffers != 0 ? shape.buffers : slots * shape.rings + 1;
        CHECK(shape.rings <= most_rings && shape.consumers <= most_consumers);
        std::size_t end = sizeof(SegmentHeader);
        const auto place = [&end](std::size_t bytes) {
            const std::size_t at = round_up(end);
            end = at + bytes;
            return at;
        };
        for (std::uint32_t ring = 0; ring < shape.rings; ++ring) {
            rings_[ring] = place(ModelRing::bytes(slots, shape.consumers));
        }
        for (std::uint64_t& bell : bells_) bell = place(ModelBell::bytes());
        pool_ = place(ModelPool::bytes(buffers_, cache_line));
        segment_ = Segment::create(end);
        for (const std::uint64_t bell : bells_) segment_->add_waker(bell, std::make_shared<Waker>(-1, -1));
        for (std::uint32_t ring = 0; ring < shape.rings; ++ring) {
            ModelRing::create(*segment_, rings_[ring], shape.buffer_size, slots, shape.consumers, ring, Rule{});
            // Counters of the header are no business of the model; they begin anew all the same.
            std::memcpy(&images_[ring], segment_->at<std::byte>(rings_[ring], sizeof(Image)), sizeof(Image));
        }
        ModelPool::create(*segment_, pool_, buffers_, cache_line);
        payload_ = std::make_unique<ModelMemory::Plain<std::uint64_t>[]>(buffers_);
        // What owns memory is no thread's: nothing on the stack of a thread that is given up is destroyed.
        for (std::uint32_t ring = 0; ring < shape.rings; ++ring) all_rings_.emplace_back(segment_, rings_[ring]);
        for (std::size_t bell = 0; bell < bells_.size(); ++bell) all_bells_[bell] = ModelBell(segment_, bells_[bell]);
        all_buffers_ = ModelPool(segment_, pool_);
        for (std::uint32_t consumer = 0; consumer < shape.rings * shape.consumers; ++consumer) {
            consumer_bells_[consumer / shape.consumers].add(bell(consumer), 0);
        }
    }

    // --- Before the threads ---

    void begin() {
        fates_ = {};
        next_ = 0;
        looks_ = 0;
        observed_ = {};
        all_buffers_.raise_usable(buffers_);
        for (std::uint32_t index = 0; index < shape_.rings; ++index) {
            std::memcpy(segment_->at<std::byte>(rings_[index], sizeof(Image)), &images_[index], sizeof(Image));
        }
        attach_producer();
        for (std::uint32_t index = 0; index < shape_.rings * shape_.consumers; ++index) {
            attach_consumer(index);
            gone_[index] = false;
        }
    }
    void attach_consumer(unsigned index) {
        consumers_[index].emplace(ring(index / shape_.consumers), all_buffers_, bell(producers_bell),
                                  index % shape_.consumers, index);
        claims_[index].reset();
        held_[index].reset();
        last_[index] = -1;
    }
    // Also for a successor.
    void attach_producer() {
        port_.emplace(segment_, pool_);
        for (std::uint32_t index = 0; index < shape_.rings; ++index) producers_[index].emplace(ring(index), &*port_);
    }

    // --- The port ---

    ModelProducer& producer(unsigned ring = 0) { return *producers_[ring]; }
    const ModelRing& ring(unsigned index = 0) const { return all_rings_[index]; }

    // Room in every ring first, then one copy, then one slot in each ring. False if the block was not even refused.
    bool send(RuleKind rule) {
        std::uint32_t bits = 0;
        for (std::uint32_t index = 0; index < shape_.rings; ++index) {
            if (!make_room(producer(index), rule)) {
                if (rule != RuleKind::drop_newest) return false;
                CHECK_EQUAL(1, shape_.rings);
                CHECK(next_ < most_blocks);
                Fate& fate = fates_[next_++];
                producer().drop(Reason::newest, {8, 1});
                fate.refused = fate.sent = true;
                return true;
            }
            bits |= std::uint32_t{1} << index;
        }
        const auto buffer = port_->allocate();
        if (shape_.buffers != 0 && !buffer) return false;
        expect(buffer.has_value(), "no free buffer, although every ring has room");
        const unsigned number = next_++;
        CHECK(number < most_blocks);
        payload_[*buffer].write(number);
        port_->set_branches(*buffer, bits);
        BlockHeader header{};
        header.first_frame = number;
        header.buffer = *buffer;
        header.payload_bytes = 8;
        for (std::uint32_t index = 0; index < shape_.rings; ++index) {
            expect(producer(index).publish(header, 1 + number, origin_of(number)),
                   "every slot is occupied, although the ring has room");
            if (rings_bells_) consumer_bells_[index].ring_one();
            const std::uint64_t tail = ring(index).header().tail.load(std::memory_order_relaxed);
            expect(tail > 0 && tail <= origins_.size(), "a tail that does not follow the blocks");
            origins_[tail - 1] = origin_of(number);
        }
        fates_[number].sent = true;
        return true;
    }
    void end() {
        for (std::uint32_t index = 0; index < shape_.rings; ++index) {
            producer(index).end();
            if (rings_bells_) consumer_bells_[index].ring_all();
        }
    }
    // Consumers sleep on their bells.
    void ring_bells() noexcept { rings_bells_ = true; }

    // --- Consumers; with several rings, those of the first ring are numbered first ---

    bool claim(unsigned consumer) {
        CHECK(!claims_[consumer]);
        ModelClaim claim;
        if (!consumers_[consumer]->claim(claim)) return false;
        claims_[consumer] = claim;
        verify(consumer, claim);
        return true;
    }
    void finish(unsigned consumer) {
        const ModelClaim claim = *claims_[consumer];
        expect(payload_[claim.header.buffer].read() == claim.header.first_frame, "the payload changed under a claim");
        consumers_[consumer]->finish(claim);
        claims_[consumer].reset();
        Fate& fate = fates_[claim.header.first_frame];
        ++fate.delivered;
        if (claim.word.attempt() != 0) ++fate.repeated;
    }
    // Looks at the oldest block first, and takes that one or none.
    bool peek_and_receive(unsigned consumer) {
        const auto head = consumers_[consumer]->peek();
        if (head.slot == nullptr) return false;
        CHECK(looks_ < peeked_.size());
        peeked_[looks_++] = {head.word.position(), head.origin};
        ModelClaim claim;
        if (!consumers_[consumer]->claim(head, claim)) return false;
        claims_[consumer] = claim;
        verify(consumer, claim);
        finish(consumer);
        return true;
    }
    bool receive(unsigned consumer) {
        if (!claim(consumer)) return false;
        finish(consumer);
        return true;
    }
    void discard(unsigned consumer) {
        consumers_[consumer]->discard(*claims_[consumer], Reason::failed);
        claims_[consumer].reset();
    }
    // A view of the claimed block, which outlives the claim.
    void hold(unsigned consumer) {
        const std::uint32_t buffer = claims_[consumer]->header.buffer;
        expect(consumers_[consumer]->pool().hold(buffer, consumer), "one view of a buffer is too many");
        held_[consumer] = {buffer, claims_[consumer]->header.first_frame};
    }
    void look(unsigned consumer) {
        expect(payload_[held_[consumer]->buffer].read() == held_[consumer]->number, "the payload changed under a view");
    }
    void release(unsigned consumer) {
        look(consumer);
        consumers_[consumer]->pool().release(held_[consumer]->buffer, consumer);
        held_[consumer].reset();
    }
    // Until the end of the stream, asleep where there is nothing.
    void receive_all(unsigned consumer) {
        for (;;) {
            if (receive(consumer)) continue;
            if (consumers_[consumer]->at_end()) return;
            const ModelBell& own = bell(consumer);
            if (own.take() == 0) own.wait(-1);
        }
    }
    // As a worker that is there as long as the flow.
    void receive_for_ever(unsigned consumer) {
        for (;;) {
            if (receive(consumer)) continue;
            const ModelBell& own = bell(consumer);
            if (own.take() == 0) own.wait(-1);
        }
    }
    bool at_end(unsigned consumer) { return consumers_[consumer]->at_end(); }

    // --- The control plane ---

    // From outside, beside ends that work.
    void flush() {
        steadyflow::flush(ring());
        bell(producers_bell).ring(room_bit);
    }
    // As for a block that was published.
    void ring_one() { consumer_bells_[0].ring_one(); }
    // From now on the producer gives the first three buffers away only.
    void lower_usable() { all_buffers_.lower_usable(3); }
    // Who reads a buffer whose memory is gone finds something else in it.
    void give_back_unusable() {
        if (!all_buffers_.give_back_unusable()) return;
        for (std::uint32_t buffer = all_buffers_.usable(); buffer < buffers_; ++buffer) payload_[buffer].write(most_blocks);
    }
    void resume() {
        ring().resume(2);
        consumer_bells_[0].ring_all();
    }
    // After the process is known to be gone.
    void recover_consumer(unsigned consumer) {
        const unsigned ring_index = consumer / shape_.consumers;
        gone_[consumer] = true;
        reap(ring(ring_index), consumer);
        all_buffers_.release_process(consumer);
        claims_[consumer].reset();
        held_[consumer].reset();
        bell(consumer).retire();
        ring_anyway();
    }
    void recover_producer() {
        take_over(all_buffers_, std::span<const ModelRing>(all_rings_));
        attach_producer();
        // A block that its producer did not get into the ring was never sent: the next one has its number.
        if (shape_.rings == 1) next_ = static_cast<unsigned>(account().sent);
        ring_anyway();
    }
    // When both ends are gone.
    void abandon() {
        steadyflow::abandon(ring(), Reason::stopped);
        for (unsigned consumer = 0; consumer < shape_.consumers; ++consumer) claims_[consumer].reset();
    }
    Account account(unsigned index = 0) const { return read_account(ring(index)); }

    // Somebody outside reads the account, and judges it by what he saw before and by what turns out in the end.
    void observe() {
        const Account account = this->account();
        if (!account.consistent) return;
        expect(account.sent >= observed_.sent, "blocks that were sent are taken back");
        expect(account.delivered >= observed_.delivered, "deliveries are taken back");
        for (unsigned reason = 0; reason < reasons; ++reason) {
            expect(account.dropped[reason] >= observed_.dropped[reason], "drops are taken back");
        }
        expect(account.sent - fates(account) <= ring().count(), "more blocks are on their way than there are slots");
        expect(account.fill <= ring().count(), "more blocks wait than there are slots");
        observed_ = account;
    }

    const ModelBell& bell(unsigned index) const { return all_bells_[index]; }
    static constexpr unsigned producers_bell = most_consumers;

    // --- After the threads ---

    // Takes out what is left, and verifies that every block has one fate, which was counted once.
    void audit() {
        for (unsigned look = 0; look < looks_; ++look) {
            const auto& [position, origin] = peeked_[look];
            expect(position < origins_.size() && origins_[position] == origin, "the origin of another block");
        }
        const bool one_ring = shape_.rings == 1;
        for (std::uint32_t index = 0; index < shape_.rings; ++index) {
            // By a consumer that was there all the time: what it has passed over is lost to it.
            const unsigned first = index * shape_.consumers;
            unsigned consumer = first;
            while (consumer < first + shape_.consumers && (gone_[consumer] || claims_[consumer])) ++consumer;
            if (consumer == first + shape_.consumers) attach_consumer(--consumer);
            while (receive(consumer)) {
            }
            audit_slots(index);
            producer(index).settle_tally();
        }
        for (std::uint32_t buffer = 0; buffer < buffers_; ++buffer) {
            expect(port_->branches(buffer) == 0, "a branch bit was left");
        }
        expect(port_->held_buffers() == 0, "a hold was left");
        if (!one_ring) return;
        const Account account = this->account();
        expect(account.consistent, "an account that nobody changes is not consistent");
        expect(account.sent == fates(account) && account.fill == 0, "the account does not close");
        expect(observed_.sent <= account.sent && observed_.delivered <= account.delivered &&
                   observed_.repeated <= account.repeated,
               "an account showed more than there was");
        for (unsigned reason = 0; reason < reasons; ++reason) {
            expect(observed_.dropped[reason] <= account.dropped[reason], "an account showed more drops than there were");
        }
        unsigned sent = 0;
        unsigned refused = 0;
        unsigned delivered = 0;
        unsigned repeated = 0;
        for (const Fate& fate : fates_) {
            sent += fate.sent ? 1 : 0;
            refused += fate.refused ? 1 : 0;
            delivered += fate.delivered;
            repeated += fate.repeated;
            expect(fate.delivered <= 1 || fate.repeated == fate.delivered - 1 || fate.repeated == fate.delivered,
                   "a block was delivered twice");
        }
        expect(account.sent >= sent && account.sent <= next_, "blocks that were sent are not counted");
        if (!died_) {
            expect(account.sent == next_, "a block is missing in the account");
            expect(account.delivered == delivered, "deliveries are miscounted");
            expect(account.repeated == repeated, "repetitions are miscounted");
            expect(account.dropped[static_cast<unsigned>(Reason::newest)] == refused, "refused blocks are miscounted");
        }
    }
    // A thread may have been killed between a step and what the scenario notes of it.
    void somebody_dies() noexcept { died_ = true; }
    const Fate& fate(unsigned number) const { return fates_[number]; }
    unsigned numbered() const noexcept { return next_; }

private:
    using Image = std::array<std::byte, sizeof(BasicRingHeader<ModelMemory>)>;
    struct Held {
        std::uint32_t buffer;
        std::uint64_t number;
    };

    bool make_room(ModelProducer& producer, RuleKind rule) {
        if (rule == RuleKind::latest) {
            producer.evict_down_to(1, Reason::superseded);
            return true;
        }
        while (!producer.has_room()) {
            if (rule == RuleKind::drop_oldest) {
                producer.evict_down_to(producer.ring().buffer_size(), Reason::oldest);
                return true;
            }
            if (rule != RuleKind::wait) return false;
            producer.request_wake();
            const ModelBell& own = bell(producers_bell);
            if (!producer.has_room()) {
                own.wait(-1, false);
                own.take();
            }
            producer.cancel_wake();
        }
        return true;
    }

    static std::uint64_t fates(const Account& account) {
        std::uint64_t fates = account.delivered;
        for (const std::uint64_t dropped : account.dropped) fates += dropped;
        return fates;
    }

    void ring_anyway() {
        for (const ModelBell& bell : all_bells_) bell.ring_anyway(control_bit);
    }

    static std::uint64_t origin_of(std::uint64_t number) noexcept { return 100 + number; }

    void verify(unsigned consumer, const ModelClaim& claim) {
        const auto number = static_cast<int>(claim.header.first_frame);
        expect(claim.header.first_frame < next_, "a block that was never sent");
        expect(claim.header.sequence == claim.header.first_frame, "the number in the pipeline is not the sender's");
        expect(claim.sent_ns == 1 + number, "the time of another block");
        expect(payload_[claim.header.buffer].read() == claim.header.first_frame, "the payload of another block");
        expect(claim.word.attempt() != 0 || number > last_[consumer], "blocks overtake each other");
        last_[consumer] = std::max(last_[consumer], number);
    }

    // Every position that became READY has one end, and what was given back is flagged.
    void audit_slots(std::uint32_t index) {
        for (std::uint32_t place = 0; place < ring(index).count(); ++place) {
            SlotWord before{0};
            for (const std::uint64_t bits : Explorer::running()->values(&ring(index).slot(place).word)) {
                const SlotWord word{bits};
                const SlotState was = before.state();
                const bool same = word.position() == before.position();
                bool allowed = false;
                switch (word.state()) {
                    case SlotState::empty: allowed = was != SlotState::ready && was != SlotState::claimed; break;
                    case SlotState::ready:
                        allowed = was == SlotState::empty ||
                                  (was == SlotState::claimed && same && word.attempt() == before.attempt() + 1);
                        break;
                    case SlotState::claimed: allowed = was == SlotState::ready && same; break;
                    case SlotState::done: allowed = was == SlotState::claimed && same; break;
                    case SlotState::evicted:
                        allowed = (was == SlotState::claimed || was == SlotState::ready) && same;
                        break;
                }
                expect(allowed || before.bits == 0, "a slot went from a state to one that cannot follow");
                before = word;
            }
            expect(before.state() != SlotState::ready && before.state() != SlotState::claimed, "a block was lost");
        }
    }

    Shape shape_;
    std::uint32_t buffers_ = 0;
    std::array<std::uint64_t, most_rings> rings_ = {};
    std::array<std::uint64_t, most_consumers + 1> bells_ = {};
    std::uint64_t pool_ = 0;
    std::shared_ptr<Segment> segment_ = nullptr;
    std::array<Image, most_rings> images_ = {};
    std::vector<ModelRing> all_rings_ = {};
    std::array<ModelBell, most_consumers + 1> all_bells_ = {};
    ModelPool all_buffers_ = {};
    std::array<BasicConsumerBells<ModelMemory>, most_rings> consumer_bells_ = {};
    std::unique_ptr<ModelMemory::Plain<std::uint64_t>[]> payload_ = nullptr;
    bool rings_bells_ = false;
    bool died_ = false;

    std::optional<ModelPool> port_ = {};
    std::array<std::optional<ModelProducer>, most_rings> producers_ = {};
    std::array<std::optional<ModelConsumer>, most_consumers> consumers_ = {};
    std::array<std::optional<ModelClaim>, most_consumers> claims_ = {};
    std::array<std::optional<Held>, most_consumers> held_ = {};
    std::array<int, most_consumers> last_ = {};
    std::array<bool, most_consumers> gone_ = {};
    std::array<Fate, most_blocks> fates_ = {};
    unsigned next_ = 0;
    std::array<std::uint64_t, 4 * most_blocks> origins_ = {};  // by position
    std::array<std::pair<std::uint64_t, std::uint64_t>, most_blocks> peeked_ = {};  // position, origin
    unsigned looks_ = 0;
    Account observed_ = {};
};

}  // namespace steadyflow::model
