#include "numbers.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace steadyflow::probe {

void Listener::hear(const float* samples, std::uint32_t frames, std::uint64_t playing) noexcept {
    std::optional<std::int32_t> latency_frames;
    std::uint64_t silent = 0;
    for (std::uint32_t index = 0; index < frames; ++index) {
        if (samples[index] == 0) {
            ++silent;
            continue;
        }
        const std::optional<std::uint32_t> position = position_of(samples[index]);
        if (!position) {
            foreign_frames_.add(1);
            continue;
        }
        if (!latency_frames) {
            const std::uint64_t now = (playing + index) % modulus;
            latency_frames = static_cast<std::int32_t>((now + modulus - *position) % modulus);
        }
        follow(*position);
        frames_.add(1);
    }
    if (last_) silent_frames_.add(silent);
    if (!latency_frames) {
        if (last_) silent_cycles_.add(1);
        return;
    }
    const std::uint64_t cycle = cycles_.load(std::memory_order_relaxed);
    if (cycle < latencies_frames_.size()) latencies_frames_[cycle] = *latency_frames;
    // release: a reader of the count finds the latency.
    cycles_.store(cycle + 1, std::memory_order_release);
}

void Listener::follow(std::uint32_t position) noexcept {
    if (last_) {
        const std::uint32_t step = (position + modulus - *last_) % modulus;
        if (step == 0 || step > modulus / 2) {
            repeated_frames_.add(1);
        } else if (step > 1) {
            lost_frames_.add(step - 1);
            holes_.add(1);
        }
    }
    last_ = position;
}

Heard Listener::heard() const noexcept {
    Heard heard;
    heard.cycles = cycles_.load(std::memory_order_acquire);
    heard.silent_cycles = silent_cycles_.get();
    heard.frames = frames_.get();
    heard.silent_frames = silent_frames_.get();
    heard.foreign_frames = foreign_frames_.get();
    heard.lost_frames = lost_frames_.get();
    heard.holes = holes_.get();
    heard.repeated_frames = repeated_frames_.get();
    return heard;
}

Latencies summarise(std::vector<std::int32_t> latencies_frames) {
    Latencies found;
    found.count = latencies_frames.size();
    if (latencies_frames.empty()) return found;
    double changes = 0;
    for (std::size_t index = 1; index < latencies_frames.size(); ++index) {
        changes += std::abs(latencies_frames[index] - latencies_frames[index - 1]);
    }
    found.jitter = changes / static_cast<double>(std::max<std::size_t>(latencies_frames.size() - 1, 1));
    std::sort(latencies_frames.begin(), latencies_frames.end());
    const auto rank = [&](double share) {
        const auto place = static_cast<std::size_t>(std::ceil(share * static_cast<double>(latencies_frames.size())));
        return latencies_frames[std::max<std::size_t>(place, 1) - 1];
    };
    found.p50 = rank(0.5);
    found.p99 = rank(0.99);
    found.p999 = rank(0.999);
    found.max = latencies_frames.back();
    return found;
}

}  // namespace steadyflow::probe
