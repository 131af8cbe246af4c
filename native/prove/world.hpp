// A port with its pipelines, the ends that survive, and what is known about every block.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "../tests/traffic.hpp"
#include "tracing.hpp"

namespace steadyflow::prove {

using testing::Branch;
using testing::Plane;
using testing::Port;

inline constexpr unsigned survivors_process = 0;
inline constexpr unsigned victims_process = 1;
inline constexpr unsigned predecessors_process = 2;

// How often each block of a pipeline was received by survivors, by its number.
struct Ledger {
    std::vector<std::uint8_t> received = std::vector<std::uint8_t>(256);
    std::vector<std::uint8_t> repeated = std::vector<std::uint8_t>(256);  // of those, with attempt > 0
    std::uint64_t total = 0;
    std::vector<std::string> defects = {};
};

// A consuming end of the stepper's own process. Copied for each kill, so that every kill meets the same one.
class Survivor {
public:
    Survivor(const Plane& plane, std::size_t branch, std::uint32_t index)
        : branch_(branch),
          index_(index),
          consumer_(plane.ring(branch), plane.pool(), plane.producer_bell(), index, survivors_process) {}

    std::size_t branch() const noexcept { return branch_; }
    std::uint32_t index() const noexcept { return index_; }
    RingConsumer& consumer() noexcept { return consumer_; }

    bool claim(Ledger& ledger) {
        Claim claim;
        if (!consumer_.claim(claim)) return false;
        verify(claim, ledger);
        in_hand_ = claim;
        return true;
    }
    void finish(Ledger& ledger) {
        if (!in_hand_) return;
        consumer_.finish(*in_hand_);
        const std::uint64_t number = in_hand_->header.first_frame;
        ++ledger.total;
        ++ledger.received[number];
        if (in_hand_->word.attempt() != 0) ++ledger.repeated[number];
        in_hand_.reset();
    }
    bool take(Ledger& ledger) {
        finish(ledger);
        if (!claim(ledger)) return false;
        finish(ledger);
        return true;
    }

private:
    void verify(const Claim& claim, Ledger& ledger) {
        const std::uint64_t number = claim.header.first_frame;
        const std::string name = "block " + std::to_string(number);
        if (number >= ledger.received.size()) {
            ledger.defects.push_back(name + ": nobody sent that one");
            return;
        }
        if (!testing::payload_matches(consumer_.pool().payload(claim.header.buffer), number)) {
            ledger.defects.push_back(name + ": the payload is another one's");
        }
        if (claim.word.attempt() == 0) {
            if (claim.header.sequence < next_sequence_) ledger.defects.push_back(name + ": overtaken by a later one");
            next_sequence_ = claim.header.sequence + 1;
        }
    }

    std::size_t branch_;
    std::uint32_t index_;
    RingConsumer consumer_;
    std::optional<Claim> in_hand_ = {};
    std::uint64_t next_sequence_ = 0;
};

// What the survivors have; copied for each kill.
struct Ends {
    std::vector<Survivor> consumers = {};
    std::vector<Ledger> ledgers = {};
    std::uint64_t numbered = 0;        // blocks that were given a number
    std::uint64_t unacknowledged = 0;  // of those, whose send never returned: the sender was killed in it
};

// The parts of a recovery. All of them, but where the stepper shows that it would notice one that is missing.
struct Recovery {
    bool reaps = true;
    bool releases = true;
    bool retires = true;
    bool takes_over = true;
    bool rings = true;
};

class World {
public:
    explicit World(const std::vector<Branch>& branches) : plane(branches, 256), progress(*shared_progress()) {
        ends.ledgers.resize(branches.size());
        for (std::size_t branch = 0; branch < branches.size(); ++branch) rings_.push_back(plane.ring(branch));
    }
    ~World() { munmap(&progress, sizeof progress); }
    World(const World&) = delete;
    World& operator=(const World&) = delete;

    // --- for the preparation of a scenario ---------------------------------------------------------------------------

    void open_port() { port = std::make_unique<Port>(plane, ends.numbered); }
    void send(unsigned count) {
        if (!port) open_port();
        for (unsigned sent = 0; sent < count; ++sent) {
            port->send();
            ++ends.numbered;
        }
    }
    Survivor& survivor(std::size_t branch, std::uint32_t index = 0) {
        for (Survivor& each : ends.consumers) {
            if (each.branch() == branch && each.index() == index) return each;
        }
        return ends.consumers.emplace_back(plane, branch, index);
    }
    void take(unsigned count, std::size_t branch = 0, std::uint32_t index = 0) {
        for (unsigned taken = 0; taken < count; ++taken) CHECK(survivor(branch, index).take(ends.ledgers[branch]));
    }
    void claim(std::size_t branch = 0, std::uint32_t index = 0) {
        CHECK(survivor(branch, index).claim(ends.ledgers[branch]));
    }

    // --- between kills -----------------------------------------------------------------------------------------------

    void save() {
        port.reset();
        const auto* memory = plane.segment()->at<std::byte>(0, plane.segment()->bytes());
        image_.assign(memory, memory + plane.segment()->bytes());
        saved_ = ends;
    }
    void restore() {
        port.reset();
        write(image_);
        ends = saved_;
    }

    // The memory in the middle of an operation, and what the victim has told.
    struct Moment {
        std::vector<std::byte> image;
        Progress progress;
    };
    Moment moment() const {
        const auto* memory = plane.segment()->at<std::byte>(0, plane.segment()->bytes());
        return {std::vector<std::byte>(memory, memory + plane.segment()->bytes()),
                {progress.finished, progress.acknowledged, progress.completed}};
    }
    void put_back(const Moment& moment) {
        write(moment.image);
        progress.finished = moment.progress.finished;
        progress.acknowledged = moment.progress.acknowledged;
        progress.completed = moment.progress.completed;
    }

    // --- after a kill ------------------------------------------------------------------------------------------------

    // What the control plane does when a process is gone, in its order (Execution._reclaim). `producer`: it had the port's
    // producing end; `consumer`: it was the first consumer of the first pipeline.
    void recover(bool producer, bool consumer, const Recovery& recovery) {
        BufferPool pool = plane.pool();
        if (producer && recovery.takes_over) take_over(pool, std::span<const Ring>(rings_));
        if (producer && recovery.retires) plane.producer_bell().retire();
        if (consumer && recovery.retires) plane.bell(0, 0).retire();
        for (const unsigned process : {victims_process, predecessors_process}) {
            for (const Ring& ring : rings_) {
                if (recovery.reaps) reap(ring, process);
            }
            if (recovery.releases) pool.release_process(process);
        }
        // What a stop does; whoever paused is gone.
        for (const Ring& ring : rings_) {
            if (ring.paused()) ring.resume(monotonic_ns());
        }
        if (!recovery.rings) return;
        for (std::size_t branch = 0; branch < rings_.size(); ++branch) {
            for (std::uint32_t index = 0; index < rings_[branch].consumers(); ++index) {
                plane.bell(branch, index).ring_anyway(0);
            }
        }
        plane.producer_bell().ring_anyway(room_bit);
    }
    const std::vector<Ring>& rings() const noexcept { return rings_; }

    Plane plane;
    Progress& progress;
    Ends ends = {};
    std::unique_ptr<Port> port = nullptr;

private:
    void write(const std::vector<std::byte>& image) {
        std::memcpy(plane.segment()->at<std::byte>(0, image.size()), image.data(), image.size());
    }

    std::vector<Ring> rings_ = {};
    std::vector<std::byte> image_ = {};
    Ends saved_ = {};
};

}  // namespace steadyflow::prove
