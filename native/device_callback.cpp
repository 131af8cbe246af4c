#include "device_callback.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>
#include <utility>

namespace steadyflow {
namespace {

constexpr double furthest_input_s = 10;   // an input time further from now than that is none
constexpr double furthest_output_s = 10;  // and so for an output time

bool is_time(double device_s) noexcept { return std::isfinite(device_s) && device_s != 0; }

}  // namespace

// Between close() and a cycle: either the cycle sees that the stream was closed, or close() sees the cycle. The same for
// end_capture().
class DeviceStream::Visit {
public:
    explicit Visit(DeviceStream& stream) noexcept : stream_(stream) {
        // seq_cst, as the look below and both in close(): store buffering would hide each from the other.
        stream_.inside_.store(true, std::memory_order_seq_cst);
        open_ = !stream_.closed_.load(std::memory_order_seq_cst);
        captures_ = stream_.capture_ && !stream_.capture_ended_.load(std::memory_order_seq_cst);
    }
    // release: what the cycle did comes before what close() does next.
    ~Visit() { stream_.inside_.store(false, std::memory_order_release); }
    Visit(const Visit&) = delete;
    Visit& operator=(const Visit&) = delete;
    explicit operator bool() const noexcept { return open_; }
    bool captures() const noexcept { return captures_; }

private:
    DeviceStream& stream_;
    bool open_;
    bool captures_;
};

CallbackResult DeviceStream::cycle(const void* input, void* output, std::uint32_t frames, const StreamTimes& times,
                                   unsigned long flags, Nanoseconds now_ns) noexcept {
    const Visit visit(*this);
    if (!visit) {
        // What the device plays after this is its own; nothing of ours may stay in its buffer.
        if (playback_ && output != nullptr) std::memset(output, 0, std::size_t{frames} * playback_->frame_bytes());
        return CallbackResult::complete;
    }
    if (frames == 0) return CallbackResult::go_on;
    const Nanoseconds entered_ns = monotonic_ns();
    follow_clock(times, now_ns);
    note_xruns(flags, now_ns);
    try {
        if (visit.captures()) take_rings();
        const bool xrun = (flags & (input_overflow | input_underflow)) != 0;
        const Arrival arrival = arrival_of(frames, times, xrun, now_ns);
        // Playing first: it is what the device waits for.
        if (playback_ && output != nullptr) play(static_cast<std::byte*>(output), frames, times, now_ns);
        if (visit.captures() && input != nullptr) {
            capture(static_cast<const std::byte*>(input), frames, arrival, xrun);
        }
    } catch (const Corrupted& damage) {
        note_damage(damage);
        return CallbackResult::abort;
    }
    account_.note_cycle(frames, rate_hz_, entered_ns, monotonic_ns());
    return CallbackResult::go_on;
}

void DeviceStream::follow_clock(const StreamTimes& times, Nanoseconds now_ns) noexcept {
    if (!is_time(times.current_s)) {
        has_time_ = false;
        return;
    }
    // Far from where the clock was a cycle ago: it was set, or the cycle is very late. What it says is believed again when it
    // says so several times, or is back.
    const DeviceClock::Pair pair = clock_.observe(times.current_s, now_ns);
    // Several cycles at once have one time; a time that stands still for long is none.
    if (pair != DeviceClock::Pair::useless) told_ns_ = now_ns;
    has_time_ = pair != DeviceClock::Pair::stray && now_ns - told_ns_ <= clock_patience_ns_;
    account_.clock_error_ns.store(clock_.error_ns(), std::memory_order_relaxed);
}

void DeviceStream::note_xruns(unsigned long flags, Nanoseconds now_ns) noexcept {
    if ((flags & (input_overflow | input_underflow)) != 0) account_.capture.note(now_ns);
    if ((flags & (output_overflow | output_underflow)) != 0) account_.playback.note(now_ns);
}

// Frames come at the rate of the device, whenever its driver calls; so their times are found by counting them, and a late call
// moves them by little. Drivers are late now and then and lose nothing by it: what was lost stays missing.
DeviceStream::Arrival DeviceStream::arrival_of(std::uint32_t frames, const StreamTimes& times, bool xrun,
                                               Nanoseconds now_ns) noexcept {
    const double reference_s = capture_ ? times.input_s : times.current_s;
    const bool has_time =
        has_time_ && is_time(reference_s) && std::abs(times.current_s - reference_s) < furthest_input_s;
    if (!has_time) return without_time(frames, now_ns);
    const Nanoseconds measured_ns = clock_.to_monotonic_ns(reference_s);
    double stream_s = static_cast<double>(stream_frames_) / rate_hz_;
    const auto cycle_ns = static_cast<Nanoseconds>(frames / rate_hz_ * 1e9);
    frame_clock_.set_patience(std::max(cycle_ns, gap_patience_ns_));
    Arrival arrival{};
    const Nanoseconds late_ns = frame_clock_.running() ? measured_ns - frame_clock_.to_monotonic_ns(stream_s) : 0;
    const auto late_frames = static_cast<std::uint64_t>(std::llround(static_cast<double>(std::max<Nanoseconds>(late_ns, 0)) * rate_hz_ / 1e9));
    if (xrun && late_ns > cycle_ns / 2) {
        arrival.lost = late_frames;
    } else if (frame_clock_.observe(stream_s, measured_ns) == DeviceClock::Pair::jump) {
        arrival.lost = late_frames;
    }
    if (arrival.lost != 0) {
        stream_frames_ += arrival.lost;
        stream_s = static_cast<double>(stream_frames_) / rate_hz_;
        frame_clock_.move_to(stream_s, measured_ns);
    }
    timeless_ = false;
    arrival.first_ns = frame_clock_.to_monotonic_ns(stream_s);
    stream_frames_ += frames;
    account_.drift_ppm.store(frame_clock_.drift_ppm(), std::memory_order_relaxed);
    return arrival;
}

DeviceStream::Arrival DeviceStream::without_time(std::uint32_t frames, Nanoseconds now_ns) noexcept {
    if (capture_) add(account_.without_time);
    if (now_ns - told_ns_ > clock_patience_ns_) timeless_ = true;
    // Where the device has told no time, or no more, frames are as old as they are long.
    const Nanoseconds first_ns = timeless_ ? now_ns - static_cast<Nanoseconds>(frames / rate_hz_ * 1e9)
                                           : frame_clock_.to_monotonic_ns(static_cast<double>(stream_frames_) / rate_hz_);
    stream_frames_ += frames;
    return {first_ns, 0};
}

void DeviceStream::capture(const std::byte* samples, std::uint32_t frames, const Arrival& arrival, bool xrun) {
    if (arrival.lost != 0) account_.note_gap(arrival.lost);
    if (arrival.lost != 0 || xrun) count(capture_->skip(arrival.lost));
    if (resumed_ns_ != 0) bridge(arrival.first_ns);
    add(account_.captured_frames, frames);
    count(capture_->write(samples, frames, arrival.first_ns));
    account_.note_position(capture_->position(), arrival.first_ns + static_cast<Nanoseconds>(frames / rate_hz_ * 1e9));
}

// From the last frame of the stream before this one to the first of this.
void DeviceStream::bridge(Nanoseconds first_ns) {
    const auto lost = std::llround(static_cast<double>(first_ns - std::exchange(resumed_ns_, 0)) * rate_hz_ / 1e9);
    const auto frames = static_cast<std::uint64_t>(std::max(lost, 0LL));
    account_.note_gap(frames);
    count(capture_->skip(frames));
}

void DeviceStream::play(std::byte* samples, std::uint32_t frames, const StreamTimes& times, Nanoseconds now_ns) {
    const DevicePlayback::Counts counts = playback_->read(samples, frames, now_ns);
    add(account_.played_frames, counts.frames);
    add(account_.played_blocks, counts.blocks);
    add(account_.silent_frames, counts.silent);
    add(account_.misfits, counts.misfits);
    if (counts.underrun) add(account_.underruns);
    if (!playback_->ended() || drained_ns_.load(std::memory_order_relaxed) != 0) return;
    const double ahead_s = is_time(times.current_s) && is_time(times.output_s) ? times.output_s - times.current_s : 0;
    const double heard_s = std::clamp(ahead_s, 0.0, furthest_output_s) + counts.frames / rate_hz_;
    // relaxed: a time, and nothing that was written before it.
    drained_ns_.store(std::max<Nanoseconds>(now_ns + static_cast<Nanoseconds>(heard_s * 1e9), 1), std::memory_order_relaxed);
}

Nanoseconds DeviceStream::drained_ns() const noexcept { return drained_ns_.load(std::memory_order_relaxed); }

void DeviceStream::count(DeviceCapture::Counts counts) noexcept {
    add(account_.blocks, counts.blocks);
    add(account_.dropped, counts.dropped);
}

void DeviceStream::note_damage(const Corrupted& damage) noexcept {
    // Allocates, but no block follows.
    damage_.emplace(damage);
    // release: who sees it sees the text.
    damaged_.store(true, std::memory_order_release);
}

// True for the first caller, once no cycle that does not see it is under way.
bool DeviceStream::close_behind(std::atomic<bool>& gate) noexcept {
    const bool first = !gate.exchange(true, std::memory_order_seq_cst);
    // In a forked child, no thread of the device runs, and one that was inside will never leave.
    if (generation_ != fork_generation) return false;
    while (inside_.load(std::memory_order_seq_cst)) std::this_thread::yield();
    return first && !damaged_.load(std::memory_order_acquire);
}

void DeviceStream::take_rings() noexcept {
    // relaxed: most cycles find nothing. acquire: the rings were prepared before.
    if (next_rings_.load(std::memory_order_relaxed) == nullptr) [[likely]] return;
    OutputRings::Links* const next = next_rings_.exchange(nullptr, std::memory_order_acquire);
    if (next == nullptr) return;  // taken back
    capture_->exchange(*next);
    // release: whoever sees that they were taken has what there were for itself.
    rings_taken_.store(true, std::memory_order_release);
}

bool DeviceStream::exchange_rings(OutputRings::Links& links, Nanoseconds patience_ns) noexcept {
    if (!capture_) return false;
    const Nanoseconds until_ns = monotonic_ns() + patience_ns;
    rings_taken_.store(false, std::memory_order_relaxed);
    next_rings_.store(&links, std::memory_order_release);
    while (!rings_taken_.load(std::memory_order_acquire)) {
        OutputRings::Links* offered = &links;
        // Who takes them back has them; else a cycle has, and is about to say so.
        if (monotonic_ns() >= until_ns && next_rings_.compare_exchange_strong(offered, nullptr, std::memory_order_relaxed)) {
            return false;
        }
        std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    return true;
}

void DeviceStream::end_capture() noexcept {
    if (!close_behind(capture_ended_) || !capture_) return;
    try {
        count(capture_->flush());
    } catch (const Corrupted& damage) {
        note_damage(damage);
    }
}

void DeviceStream::close() noexcept {
    end_capture();
    if (!close_behind(closed_) || !playback_) return;
    try {
        playback_->close();
    } catch (const Corrupted& damage) {
        note_damage(damage);
    }
}

std::optional<Corrupted> DeviceStream::damage() const {
    if (!damaged_.load(std::memory_order_acquire)) return std::nullopt;
    return damage_;
}

extern "C" int steadyflow_device_callback(const void* input, void* output, unsigned long frames, const StreamTimes* times,
                                          unsigned long flags, void* stream) noexcept {
    const StreamTimes none{};
    auto& self = *static_cast<DeviceStream*>(stream);
    return static_cast<int>(
        self.cycle(input, output, static_cast<std::uint32_t>(frames), times == nullptr ? none : *times, flags, monotonic_ns()));
}

}  // namespace steadyflow
