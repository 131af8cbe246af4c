// From the frames of a device to the blocks of an output.
//
// Invariants
// - A block is written where consumers will read it: in a buffer of the output's pool, which is this end's alone as long as
//   the device feeds the port (nobody else sends or lends there).
// - What is known to be lost is missing from the positions: the block behind a gap begins where it ends and says so.
// - A pipeline that cannot take a block drops it, by its rule or as the newest: a device waits for nobody.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>

#include "block_flags.hpp"
#include "output_rings.hpp"

namespace steadyflow {

// One thread at a time, which is the device's. Wait-free but for waking a sleeper; allocates nothing.
class DeviceCapture {
public:
    // `frame_bytes`: of one frame of all channels; `block_frames`: what a block may have, at least 1.
    DeviceCapture(OutputRings& rings, std::uint32_t frame_bytes, std::uint32_t block_frames, double rate_hz) noexcept
        : rings_(rings), frame_bytes_(frame_bytes), block_frames_(block_frames), rate_hz_(rate_hz) {}

    std::uint32_t frame_bytes() const noexcept { return frame_bytes_; }
    // The position of the frame that the device brings next.
    std::uint64_t position() const noexcept { return next_frame_ + filled_; }
    // Goes on where another stream of the same device has ended. Before the first frame.
    void resume_at(std::uint64_t frame) noexcept { next_frame_ = frame; }

    struct Counts {
        std::uint32_t blocks = 0;
        std::uint32_t dropped = 0;  // of them, those that some pipeline did not take
    };

    // Takes what one cycle brought. `first_ns`: when the first of the frames was sampled. Throws Corrupted where shared memory
    // was damaged.
    Counts write(const std::byte* samples, std::uint32_t frames, Nanoseconds first_ns) {
        Counts counts;
        for (std::uint32_t taken = 0; taken < frames;) {
            if (filled_ == 0) begin(first_ns + after(taken));
            const std::uint32_t more = std::min(frames - taken, block_frames_ - filled_);
            if (buffer_) {
                std::memcpy(rings_.pool().payload(*buffer_) + std::size_t{filled_} * frame_bytes_,
                            samples + std::size_t{taken} * frame_bytes_, std::size_t{more} * frame_bytes_);
            }
            filled_ += more;
            taken += more;
            if (filled_ == block_frames_) send(counts);
        }
        return counts;
    }

    // That many frames passed of which nothing came; 0: how many is not known. What has been collected goes as a shorter block,
    // and the next one is flagged.
    Counts skip(std::uint64_t frames) {
        Counts counts = flush();
        next_frame_ += frames;
        flags_ = flag_discontinuity | flag_gap;
        return counts;
    }

    // From the next block on other rings; what there were is in `links` then. What has been collected goes on in the buffers of
    // the first of them; what nobody listened to is passed over.
    void exchange(OutputRings::Links& links) noexcept {
        const BufferPool* const before = rings_.empty() ? nullptr : &rings_.pool();
        rings_.swap(links);
        BufferPool* const now = rings_.empty() ? nullptr : &rings_.pool();
        if (filled_ == 0 || before == now) return;
        if (before == nullptr || now == nullptr) {
            next_frame_ += filled_;
            filled_ = 0;
            return;
        }
        const auto buffer = buffer_ ? now->allocate() : std::nullopt;
        if (buffer) std::memcpy(now->payload(*buffer), before->payload(*buffer_), std::size_t{filled_} * frame_bytes_);
        buffer_ = buffer;
    }

    // Sends what has been collected.
    Counts flush() {
        Counts counts;
        if (filled_ != 0) send(counts);
        return counts;
    }

private:
    Nanoseconds after(std::uint32_t frames) const noexcept {
        return static_cast<Nanoseconds>(static_cast<double>(frames) * 1e9 / rate_hz_);
    }

    void begin(Nanoseconds first_ns) noexcept {
        // Nothing: nobody listens, or damage, or more views than the pool has room for. The block is counted as dropped.
        buffer_ = rings_.empty() ? std::nullopt : rings_.allocate(rings_.pool());
        first_ns_ = first_ns;
    }

    // Where the block lies in these buffers: as it was collected, or in a copy.
    std::uint32_t place(BufferPool& pool, std::size_t bytes) const {
        if (&pool == &rings_.pool()) return *buffer_;
        const auto copy = rings_.allocate(pool);
        if (!copy) throw Corrupted("no buffer is free, although there is room");
        std::memcpy(pool.payload(*copy), rings_.pool().payload(*buffer_), bytes);
        return *copy;
    }

    void send(Counts& counts) {
        BlockHeader header{};
        header.timestamp_ns = first_ns_;
        header.first_frame = next_frame_;
        header.payload_bytes = filled_ * frame_bytes_;
        header.frames = filled_;
        header.flags = flags_;
        next_frame_ += filled_;
        filled_ = 0;
        flags_ = 0;
        if (rings_.empty()) return;  // nobody listens
        ++counts.blocks;
        if (buffer_) {
            header.buffer = *buffer_;
            const Nanoseconds now = monotonic_ns();
            rings_.decide_at_once(header);
            if (rings_.hand_over(header, now, 0, [&](BufferPool& pool) { return place(pool, header.payload_bytes); })) return;
        } else {
            rings_.drop_everywhere(header);
        }
        ++counts.dropped;
        // Who does not get this block is told of what was before it by the next one.
        flags_ = header.flags;
    }

    OutputRings& rings_;
    std::uint32_t frame_bytes_;
    std::uint32_t block_frames_;
    double rate_hz_;
    std::optional<std::uint32_t> buffer_;  // where the block is being collected
    std::uint32_t filled_ = 0;             // frames of it so far
    Nanoseconds first_ns_ = 0;             // when its first frame was sampled
    std::uint64_t next_frame_ = 0;         // the position of its first frame
    std::uint16_t flags_ = 0;
};

}  // namespace steadyflow
