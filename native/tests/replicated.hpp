// What the tests of replicas work on: source -> replicas -> receivers in one segment.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lanes.hpp"
#include "traffic.hpp"

namespace steadyflow::testing {

struct Shape {
    std::uint32_t replicas;
    std::uint32_t receivers;
    std::uint32_t input_size;
    std::uint32_t lane_size;  // of each lane
};

inline std::string describe(const Shape& shape) {
    return std::to_string(shape.replicas) + " replicas, " + std::to_string(shape.receivers) + " receivers, input of " +
           std::to_string(shape.input_size) + ", lanes of " + std::to_string(shape.lane_size);
}

// The memory of source -> replicas -> receivers. Processes are numbered: replicas first, then receivers.
class Works {
public:
    explicit Works(const Shape& shape) : shape_(shape) {
        std::size_t end = sizeof(SegmentHeader);
        const auto place = [&end](std::size_t bytes) {
            const std::size_t at = round_up(end);
            end = at + bytes;
            return at;
        };
        const std::uint32_t input_slots = Ring::slots_for(shape.input_size, shape.replicas);
        const std::uint32_t lane_slots = Ring::slots_for(shape.lane_size, shape.receivers);
        source_bell_ = place(Bell::bytes());
        input_ring_ = place(Ring::bytes(input_slots, shape.replicas));
        input_pool_ = place(BufferPool::bytes(input_slots + 1, 64));
        for (std::uint32_t replica = 0; replica < shape.replicas; ++replica) {
            replica_bells_.push_back(place(Bell::bytes()));
            lane_rings_.push_back(place(Ring::bytes(lane_slots, shape.receivers)));
            lane_pools_.push_back(place(BufferPool::bytes(lane_slots + 1, 64)));
        }
        for (std::uint32_t receiver = 0; receiver < shape.receivers; ++receiver) {
            receiver_bells_.push_back(place(Bell::bytes()));
        }
        segment_ = Segment::create(end);
        for (const std::uint64_t bell : bells()) add_bell(*segment_, bell);
        Ring::create(*segment_, input_ring_, shape.input_size, input_slots, shape.replicas, 0, {});
        BufferPool::create(*segment_, input_pool_, input_slots + 1, 64);
        for (std::uint32_t replica = 0; replica < shape.replicas; ++replica) {
            Ring::create(*segment_, lane_rings_[replica], shape.lane_size, lane_slots, shape.receivers, 0, {});
            BufferPool::create(*segment_, lane_pools_[replica], lane_slots + 1, 64);
        }
    }

    // The same in another process, which maps the memory anew by its descriptor.
    Works mapped_again() const {
        Works other = *this;
        other.segment_ = Segment::attach(duplicate(segment_->descriptor()), true);
        for (const std::uint64_t bell : bells()) {
            const auto waker = segment_->waker(bell);
            other.segment_->add_waker(bell, std::make_shared<Waker>(duplicate(waker->read), duplicate(waker->write)));
        }
        return other;
    }

    const Shape& shape() const noexcept { return shape_; }
    Ring input() const { return Ring(segment_, input_ring_); }
    BufferPool input_pool() const { return BufferPool(segment_, input_pool_); }
    Ring lane(std::uint32_t replica) const { return Ring(segment_, lane_rings_[replica]); }
    BufferPool lane_pool(std::uint32_t replica) const { return BufferPool(segment_, lane_pools_[replica]); }
    Bell source_bell() const { return Bell(segment_, source_bell_); }
    Bell replica_bell(std::uint32_t replica) const { return Bell(segment_, replica_bells_[replica]); }
    Bell receiver_bell(std::uint32_t receiver) const { return Bell(segment_, receiver_bells_[receiver]); }
    // As the source rings them.
    ConsumerBells replicas_bells() const {
        ConsumerBells bells;
        for (std::uint32_t replica = 0; replica < shape_.replicas; ++replica) bells.add(replica_bell(replica), 0);
        return bells;
    }
    std::atomic<std::uint32_t>& sleeping(std::uint32_t replica) const {
        return segment_->at<BellWords>(replica_bells_[replica])->sleeping;
    }
    bool is_asleep(std::uint32_t replica) const { return sleeping(replica).load() != 0; }

    RingConsumer replica_input(std::uint32_t replica) const {
        return RingConsumer(input(), input_pool(), source_bell(), replica, replica);
    }
    Lanes receiver(std::uint32_t index, bool ordered) const {
        const auto end = [&](std::uint32_t replica) {
            return RingConsumer(lane(replica), lane_pool(replica), replica_bell(replica), index, shape_.replicas + index);
        };
        Lanes lanes(end(0));
        for (std::uint32_t replica = 1; replica < shape_.replicas; ++replica) lanes.add(end(replica));
        if (ordered) lanes.restore_order_of(input());
        return lanes;
    }

private:
    std::vector<std::uint64_t> bells() const {
        std::vector<std::uint64_t> offsets = {source_bell_};
        offsets.insert(offsets.end(), replica_bells_.begin(), replica_bells_.end());
        offsets.insert(offsets.end(), receiver_bells_.begin(), receiver_bells_.end());
        return offsets;
    }

    Shape shape_;
    std::uint64_t source_bell_ = 0;
    std::uint64_t input_ring_ = 0;
    std::uint64_t input_pool_ = 0;
    std::vector<std::uint64_t> replica_bells_ = {};
    std::vector<std::uint64_t> lane_rings_ = {};
    std::vector<std::uint64_t> lane_pools_ = {};
    std::vector<std::uint64_t> receiver_bells_ = {};
    std::shared_ptr<Segment> segment_ = nullptr;
};

// One sending end with its buffers.
class Sender {
public:
    Sender(Ring ring, BufferPool pool)
        : pool_(std::make_unique<BufferPool>(std::move(pool))), producer_(std::move(ring), pool_.get()) {}

    RingProducer& producer() noexcept { return producer_; }
    const BufferPool& pool() const noexcept { return *pool_; }

    // The caller has made room. `number` and `part` say which block it is.
    void publish(std::uint64_t number, std::uint32_t part, std::uint64_t origin) {
        const auto buffer = pool_->allocate();
        CHECK(buffer.has_value());
        pool_->set_branches(*buffer, 1);
        BlockHeader header{};
        header.buffer = *buffer;
        header.first_frame = number;
        header.frames = part;
        CHECK(producer_.publish(header, monotonic_ns(), origin));
    }

private:
    std::unique_ptr<BufferPool> pool_;
    RingProducer producer_;
};

}  // namespace steadyflow::testing
