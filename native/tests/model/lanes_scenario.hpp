// Replicas whose order is restored: each takes blocks from one input ring and sends into a lane of its own, and the receiver
// puts the lanes together again.
#pragma once

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lanes.hpp"
#include "plane.hpp"

namespace steadyflow::model {

class LanesScenario : public Scenario {
public:
    static constexpr unsigned replicas = 2;
    using Receiver = BasicLanes<ModelMemory>;
    // What a replica does with a block; `leave`: no more than claim it.
    enum class Look { answer, swallow, leave };

    LanesScenario(std::string name, unsigned blocks, std::array<std::vector<Look>, replicas> looks,
                  unsigned receiver_looks)
        : name_(std::move(name)), blocks_(blocks), looks_(std::move(looks)), receiver_looks_(receiver_looks) {
        const std::uint32_t input_slots = ModelRing::slots_for(blocks, replicas);
        const std::uint32_t lane_slots = ModelRing::slots_for(blocks, 1);
        std::size_t end = sizeof(SegmentHeader);
        const auto place = [&end](std::size_t bytes) {
            const std::size_t at = round_up(end);
            end = at + bytes;
            return at;
        };
        std::array<std::uint64_t, replicas + 1> places = {place(ModelRing::bytes(input_slots, replicas))};
        for (unsigned lane = 1; lane <= replicas; ++lane) places[lane] = place(ModelRing::bytes(lane_slots, 1));
        const auto segment = Segment::create(end);
        for (unsigned index = 0; index <= replicas; ++index) {
            if (index == 0) ModelRing::create(*segment, places[0], blocks, input_slots, replicas, 0, Rule{});
            else ModelRing::create(*segment, places[index], blocks, lane_slots, 1, 0, Rule{});
            std::memcpy(&images_[index], segment->at<std::byte>(places[index], sizeof(Image)), sizeof(Image));
            rings_.emplace_back(segment, places[index]);
        }
    }

    std::string name() const override { return name_; }
    unsigned threads() const override { return replicas + 1; }

    void set_up() override {
        for (std::size_t index = 0; index < rings_.size(); ++index) {
            std::memcpy(static_cast<void*>(&rings_[index].header()), &images_[index], sizeof(Image));
        }
        sender_.emplace(rings_[0], nullptr);
        for (unsigned replica = 0; replica < replicas; ++replica) {
            inputs_[replica].emplace(rings_[0], no_buffers_, no_bell_, replica, replica);
            lanes_[replica].emplace(rings_[1 + replica], nullptr);
        }
        receiver_.emplace(ModelConsumer(rings_[1], no_buffers_, no_bell_, 0, replicas));
        for (unsigned replica = 1; replica < replicas; ++replica) {
            receiver_->add(ModelConsumer(rings_[1 + replica], no_buffers_, no_bell_, 0, replicas));
        }
        receiver_->restore_order_of(rings_[0]);
        for (unsigned block = 0; block < blocks_; ++block) CHECK(sender_->publish(header(block), 1 + block));
        claims_.fill({});
        received_ = 0;
        sent_ = 0;
        last_ = -1;
    }

    void run(unsigned thread) override {
        if (thread == replicas) {
            for (unsigned look = 0; look < receiver_looks_; ++look) receive();
            return;
        }
        for (const Look look : looks_[thread]) {
            ModelClaim& claim = claims_[thread];
            if (!inputs_[thread]->claim(claim)) continue;
            if (look == Look::answer) {
                const BlockHeader answer = header(claim.header.first_frame);
                expect(lanes_[thread]->publish(answer, 1, claim.word.position()), "no room in a lane");
                ++sent_;
            }
            if (look != Look::leave) inputs_[thread]->finish(claim);
        }
        lanes_[thread]->end();
    }

    // What is left comes in order, too, and nothing was passed over.
    void finish() override {
        while (receive()) {
        }
        expect(received_ == sent_, "a block was lost between the lanes");
        expect(receiver_->at_end(), "no end");
    }

private:
    using Image = std::array<std::byte, sizeof(BasicRingHeader<ModelMemory>)>;

    static BlockHeader header(std::uint64_t number) {
        BlockHeader header{};
        header.first_frame = number;
        return header;
    }

    bool receive() {
        Receiver::Lane* lane = receiver_->claim(claims_[replicas]);
        if (lane == nullptr) return false;
        const ModelClaim& claim = claims_[replicas];
        const auto number = static_cast<int>(claim.header.first_frame);
        expect(number > last_, "the order was not restored");
        last_ = number;
        lane->consumer.finish(claim);
        ++received_;
        return true;
    }

    std::string name_;
    unsigned blocks_;
    std::array<std::vector<Look>, replicas> looks_;
    unsigned receiver_looks_;
    std::array<Image, replicas + 1> images_ = {};
    std::vector<ModelRing> rings_ = {};
    ModelPool no_buffers_ = {};
    ModelBell no_bell_ = {};
    std::optional<ModelProducer> sender_ = {};
    std::array<std::optional<ModelConsumer>, replicas> inputs_ = {};
    std::array<std::optional<ModelProducer>, replicas> lanes_ = {};
    std::optional<Receiver> receiver_ = {};
    std::array<ModelClaim, replicas + 1> claims_ = {};
    unsigned received_ = 0;
    unsigned sent_ = 0;
    int last_ = -1;
};

}  // namespace steadyflow::model
