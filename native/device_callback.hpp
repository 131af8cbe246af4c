// The callback of a PortAudio stream, in C++: what the device's thread runs, and all that it runs. No Python, no lock, no
// allocation; its one system call is the one that wakes a sleeper.
//
// PortAudio's types are declared here: three times and four numbers, the same since its version 19, so that nothing of it is
// needed to build.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "device_account.hpp"
#include "device_capture.hpp"
#include "device_clock.hpp"
#include "device_playback.hpp"

namespace steadyflow {

// PaStreamCallbackTimeInfo: in seconds of the device's clock, of which the zero is anywhere.
struct StreamTimes {
    double input_s;    // when the first frame of the input was sampled
    double current_s;  // now
    double output_s;   // when the first frame of the output will be heard
};

// PaStreamCallbackFlags.
inline constexpr unsigned long input_underflow = 1;
inline constexpr unsigned long input_overflow = 2;
inline constexpr unsigned long output_underflow = 4;
inline constexpr unsigned long output_overflow = 8;

// PaStreamCallbackResult.
enum class CallbackResult : int { go_on = 0, complete = 1, abort = 2 };

// One open stream, from the callback's side.
class DeviceStream {
public:
    // `account`: this stream's, or one that goes on from a stream of the same device that has ended: positions go on as if the
    // time between had been captured and lost.
    // `clock_patience_ns`: how far a reading of the device's clock may be off before the clock is taken to have jumped.
    // `gap_patience_ns`: how much later than expected frames may have been sampled, or a whole cycle if that is longer, for four
    // cycles in a row, before some are taken to be lost without the driver saying so.
    DeviceStream(std::shared_ptr<DeviceAccount> account, double rate_hz, Nanoseconds clock_patience_ns,
                 Nanoseconds gap_patience_ns) noexcept
        : account_owner_(std::move(account)),
          account_(*account_owner_),
          rate_hz_(rate_hz),
          clock_patience_ns_(clock_patience_ns),
          gap_patience_ns_(gap_patience_ns),
          clock_(clock_patience_ns),
          frame_clock_(gap_patience_ns) {}
    DeviceStream(const DeviceStream&) = delete;
    DeviceStream& operator=(const DeviceStream&) = delete;

    // --- Before the stream is started. ---

    void capture_into(OutputRings& rings, std::uint32_t frame_bytes, std::uint32_t block_frames) {
        capture_.emplace(rings, frame_bytes, block_frames, rate_hz_);
        capture_->resume_at(account_.next_frame.load(std::memory_order_relaxed));
        resumed_ns_ = account_.next_frame_ns.load(std::memory_order_relaxed);
    }

    // `playback`: this stream's, or that of one which was closed before.
    void play_from(std::shared_ptr<DevicePlayback> playback) { playback_ = std::move(playback); }

    // --- The device's thread. ---

    // One cycle, of interleaved frames. Never throws: damage ends the stream, see damage().
    CallbackResult cycle(const void* input, void* output, std::uint32_t frames, const StreamTimes& times, unsigned long flags,
                         Nanoseconds now_ns) noexcept;

    // --- Any thread. ---

    const DeviceAccount& account() const noexcept { return account_; }
    // 0: nothing is captured.
    std::uint32_t captured_frame_bytes() const noexcept { return capture_ ? capture_->frame_bytes() : 0; }

    // 0: nothing is played.
    std::uint32_t played_frame_bytes() const noexcept { return playback_ ? playback_->frame_bytes() : 0; }
    // When the last frame of a stream that has ended will be heard; 0: it has not ended, or not been played to its end.
    Nanoseconds drained_ns() const noexcept;

    // From its return on no cycle captures; what was collected of a block has been sent. Playing goes on. Waits and is idempotent
    // as close().
    void end_capture() noexcept;

    // From its return on no cycle touches the ports, and none is under way; what was collected of a block has been sent. Waits
    // for a cycle that runs, which takes microseconds. Idempotent.
    void close() noexcept;

    // Lets the device's thread send into other rings from its next cycle on; what there were is in `links` then. Waits for that
    // cycle for so long; false, and nothing has changed, if none came. One caller at a time, who closes it.
    bool exchange_rings(OutputRings::Links& links, Nanoseconds patience_ns) noexcept;

    bool closed() const noexcept { return closed_.load(std::memory_order_relaxed); }

    // What ended the stream, if shared memory was found damaged.
    std::optional<Corrupted> damage() const;

private:
    class Visit;

    void follow_clock(const StreamTimes& times, Nanoseconds now_ns) noexcept;
    void note_xruns(unsigned long flags, Nanoseconds now_ns) noexcept;
    // When the first frame of a cycle was sampled, and how many are known to be missing before it.
    struct Arrival {
        Nanoseconds first_ns;
        std::uint64_t lost = 0;
    };
    Arrival arrival_of(std::uint32_t frames, const StreamTimes& times, bool xrun, Nanoseconds now_ns) noexcept;
    Arrival without_time(std::uint32_t frames, Nanoseconds now_ns) noexcept;
    void capture(const std::byte* samples, std::uint32_t frames, const Arrival& arrival, bool xrun);
    void bridge(Nanoseconds first_ns);
    void play(std::byte* samples, std::uint32_t frames, const StreamTimes& times, Nanoseconds now_ns);
    void count(DeviceCapture::Counts counts) noexcept;
    void take_rings() noexcept;
    bool close_behind(std::atomic<bool>& gate) noexcept;
    void note_damage(const Corrupted& damage) noexcept;

    std::shared_ptr<DeviceAccount> account_owner_;
    DeviceAccount& account_;
    double rate_hz_;
    Nanoseconds clock_patience_ns_;
    Nanoseconds gap_patience_ns_;
    Nanoseconds told_ns_ = 0;                // when the device's clock was last seen to go on
    DeviceClock clock_;
    std::optional<DeviceCapture> capture_;
    std::shared_ptr<DevicePlayback> playback_;
    Nanoseconds resumed_ns_ = 0;             // when the first frame was due, if the account goes on; then 0
    bool has_time_ = false;                  // the device's clock runs
    bool timeless_ = true;                   // and has not, or not for long
    DeviceClock frame_clock_;                // its time: frames / rate
    std::uint64_t stream_frames_ = 0;        // that the device has brought or wanted, or lost
    std::uint32_t generation_ = fork_generation;
    std::atomic<OutputRings::Links*> next_rings_{nullptr};  // what the next cycle takes; it leaves those that there were
    std::atomic<bool> rings_taken_{false};                  // and says so
    std::atomic<bool> inside_{false};        // a cycle is under way
    std::atomic<bool> closed_{false};
    std::atomic<bool> capture_ended_{false};
    std::atomic<Nanoseconds> drained_ns_{0};
    std::atomic<bool> damaged_{false};       // damage_ is there, and does not change any more
    std::optional<Corrupted> damage_;
};

// What PortAudio is given: PaStreamCallback. `stream` is the DeviceStream.
extern "C" int steadyflow_device_callback(const void* input, void* output, unsigned long frames, const StreamTimes* times,
                                          unsigned long flags, void* stream) noexcept;

}  // namespace steadyflow
