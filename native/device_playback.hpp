// From the blocks of an input to the frames of a device.
//
// Invariants
// - A block is taken when its first frame is played and stays claimed until its last one is: a consumer that dies in the
//   middle leaves it to be repeated.
// - The device always gets as many frames as it wants: where none wait there is silence, or what stands in for them.
// - Once the device has begun to play, silence in place of audio is an underrun, until the stream has ended or was paused.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "intake.hpp"
#include "lanes.hpp"

namespace steadyflow {

// One thread at a time, which is the device's. Wait-free but for waking a producer that waits for room; allocates when it is
// made, and never after.
class DevicePlayback {
public:
    struct Counts {
        std::uint32_t frames = 0;     // of audio, and of what stood in for gaps in it
        std::uint32_t blocks = 0;     // taken, by their first frame
        std::uint32_t silent = 0;     // frames for which there was none, since playing began
        std::uint32_t misfits = 0;    // blocks that are not what their format says; dropped
        bool underrun = false;        // it ran dry in this cycle
    };

    // `intake`: what the pipeline asks for beyond one block after the other, or null. `frame_bytes`: of all channels.
    // `most_frames`: of a block.
    DevicePlayback(Lanes lanes, std::unique_ptr<Intake> intake, std::uint32_t frame_bytes, std::uint32_t most_frames)
        : lanes_(std::move(lanes)),
          intake_(std::move(intake)),
          frame_bytes_(frame_bytes),
          most_frames_(most_frames),
          made_up_(intake_ ? new std::byte[std::size_t{most_frames} * frame_bytes] : nullptr) {}
    DevicePlayback(const DevicePlayback&) = delete;
    DevicePlayback& operator=(const DevicePlayback&) = delete;

    std::uint32_t frame_bytes() const noexcept { return frame_bytes_; }
    bool ended() const noexcept { return ended_; }

    // Fills `out`. `now_ns`: when the device asked for it. Throws Corrupted where shared memory was damaged.
    Counts read(std::byte* out, std::uint32_t frames, Nanoseconds now_ns) {
        Counts counts;
        if (now_ns - looked_ns_ >= look_again_ns) {
            looked_ns_ = now_ns;
            lanes_.look_again();
        }
        std::uint32_t filled = 0;
        while (filled < frames && (left_frames_ != 0 || take_block(now_ns, counts))) {
            const std::uint32_t more = std::min(frames - filled, left_frames_);
            std::memcpy(out + std::size_t{filled} * frame_bytes_, samples_, std::size_t{more} * frame_bytes_);
            samples_ += std::size_t{more} * frame_bytes_;
            left_frames_ -= more;
            filled += more;
            if (left_frames_ == 0) finish_block();
        }
        counts.frames = filled;
        if (filled < frames) run_dry(out + std::size_t{filled} * frame_bytes_, frames - filled, counts);
        return counts;
    }

    // Lets go of a block of which only a part was played. After the last read().
    void close() {
        if (left_frames_ != 0) finish_block();
        left_frames_ = 0;
    }

private:
    static constexpr Nanoseconds look_again_ns = 250'000'000;  // as a worker does: what damage has hidden waits no longer

    bool take_block(Nanoseconds now_ns, Counts& counts) {
        // Bounded, whatever comes in meanwhile: at most a ring full of blocks that do not fit.
        for (std::uint32_t tries = 0; tries <= lanes_.first().consumer.ring().count(); ++tries) {
            Intake::Next next;
            if (intake_) {
                if (!intake_->take(lanes_, now_ns, false, next)) return false;
            } else {
                next.lane = lanes_.claim(next.claim);
                if (next.lane == nullptr) return false;
            }
            if (begin_block(next, now_ns)) {
                playing_ = true;
                dry_ = false;
                ++counts.blocks;
                return true;
            }
            ++counts.misfits;
        }
        return false;
    }

    bool begin_block(const Intake::Next& next, Nanoseconds now_ns) {
        const BlockHeader& header = next.claim.header;
        ConsumerStats& stats = next.lane->consumer.stats();
        if (next.made_up()) {
            const std::uint32_t frames = std::min(header.frames, most_frames_);
            intake_->make_up(stats, made_up_.get(), frames);
            begin(made_up_.get(), frames, next);
            return left_frames_ != 0;
        }
        const bool fits = header.frames != 0 && header.frames <= most_frames_ &&
                          std::uint64_t{header.frames} * frame_bytes_ == header.payload_bytes;
        if (!fits) {
            next.lane->consumer.discard(next.claim, Reason::failed);
            add(stats.corrupted);
            return false;
        }
        const std::byte* samples = next.lane->consumer.pool().payload(header.buffer);
        if (intake_) intake_->remember(samples, header.frames);
        begin(samples, header.frames, next);
        // The device is free whenever it asks: what a block waits for is its turn.
        const Nanoseconds latency_ns = now_ns - next.claim.sent_ns;
        stats.latency.record(latency_ns);
        stats.overhead.record(std::min<Nanoseconds>(latency_ns, 0));
        return true;
    }

    void begin(const std::byte* samples, std::uint32_t frames, const Intake::Next& next) noexcept {
        samples_ = samples;
        left_frames_ = frames;
        current_ = next;
    }

    void finish_block() {
        if (current_.made_up()) return;
        RingConsumer& consumer = current_.lane->consumer;
        const Claim claim = std::exchange(current_.claim, Claim{});
        consumer.finish(claim);
        add(consumer.stats().received);
    }

    void run_dry(std::byte* out, std::uint32_t frames, Counts& counts) {
        std::memset(out, 0, std::size_t{frames} * frame_bytes_);
        if (!playing_) {
            ended_ = at_end();
            return;
        }
        if (lanes_.first().consumer.ring().paused()) {
            playing_ = false;
            return;
        }
        ended_ = at_end();
        if (ended_) {
            playing_ = false;
            return;
        }
        counts.silent = frames;
        counts.underrun = !dry_;
        dry_ = true;
        if (intake_ && intake_->conceals()) {
            ConsumerStats& stats = lanes_.first().consumer.stats();
            for (std::uint32_t done = 0; done < frames;) {
                const std::uint32_t piece = std::min(frames - done, most_frames_);
                intake_->make_up(stats, out + std::size_t{done} * frame_bytes_, piece);
                done += piece;
            }
        }
    }

    bool at_end() { return intake_ ? intake_->at_end(lanes_) : lanes_.at_end(); }

    Lanes lanes_;
    std::unique_ptr<Intake> intake_;
    std::uint32_t frame_bytes_;
    std::uint32_t most_frames_;
    std::unique_ptr<std::byte[]> made_up_;
    Intake::Next current_;                // the block that is being played
    const std::byte* samples_ = nullptr;  // of it, the next frame
    std::uint32_t left_frames_ = 0;       // and how many are left; 0: none is being played
    bool playing_ = false;
    bool dry_ = false;
    bool ended_ = false;
    Nanoseconds looked_ns_ = 0;
};

}  // namespace steadyflow
