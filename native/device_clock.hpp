// From a device's time to the monotonic clock: a delay-locked loop over pairs of both readings, one pair each cycle. The
// device's time may be what its clock says, or the frames that it has delivered.
//
// F. Adriaensen, "Using a DLL to filter time", Linux Audio Conference 2005; here with steps of unequal length, because
// servers bunch their cycles. A second-order loop: it follows an offset and a rate, and averages the jitter of the callback.
// What is read in a callback is late by as long as the system took to call it, never early; so the mapping is late by the
// mean of that.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "platform.hpp"

namespace steadyflow {

// One thread at a time. Allocates nothing, never waits.
class DeviceClock {
public:
    // What a pair of readings was.
    enum class Pair {
        first,   // of a new loop
        taken,
        stray,   // too far off for the loop to follow at once: a late callback, or the first after a jump
        jump,    // the latest of several that are as far off: the loop has started anew
        useless  // the device's time has not moved on, or is no time
    };

    // `patience_ns`: how far a pair may be off before it is a stray; a few cycles.
    explicit DeviceClock(Nanoseconds patience_ns) noexcept : patience_ns_(static_cast<double>(patience_ns)) {}

    // Both clocks at one moment.
    Pair observe(double device_s, Nanoseconds now_ns) noexcept {
        if (!std::isfinite(device_s)) return Pair::useless;
        if (!running_) {
            move_to(device_s, now_ns);
            return Pair::first;
        }
        const double step_s = device_s - device_s_;
        // Of several cycles at once, the first says when.
        if (step_s == 0) return Pair::useless;
        const double predicted_ns = elapsed_ns_ + rate_ * step_s;
        const double error_ns = static_cast<double>(now_ns - origin_ns_) - predicted_ns;
        if (step_s < 0 || std::abs(error_ns) > patience_ns_) {
            // Calls that catch up with a late one are less late each; a clock that was set is as far off as before.
            if (strays_ == 0 || std::abs(error_ns - first_stray_ns_) > patience_ns_ / 2) {
                strays_ = 0;
                first_stray_ns_ = error_ns;
            }
            if (++strays_ == most_strays) {
                move_to(device_s, now_ns);
                followed_s_ = 0;  // the rate of a clock that was set may be another
                return Pair::jump;
            }
            return Pair::stray;
        }
        strays_ = 0;
        follow(device_s, step_s, predicted_ns, error_ns);
        return Pair::taken;
    }

    // Goes on from this pair, at the rate that it has found.
    void move_to(double device_s, Nanoseconds now_ns) noexcept {
        origin_ns_ = now_ns;
        elapsed_ns_ = 0;
        device_s_ = device_s;
        error_ns_ = 0;
        strays_ = 0;
        running_ = true;
    }
    void set_patience(Nanoseconds patience_ns) noexcept { patience_ns_ = static_cast<double>(patience_ns); }
    bool running() const noexcept { return running_; }

    // When that was, or will be. 0 before the first pair.
    Nanoseconds to_monotonic_ns(double device_s) const noexcept {
        const double from_origin_ns = elapsed_ns_ + rate_ * (device_s - device_s_);
        return origin_ns_ + static_cast<Nanoseconds>(std::clamp(from_origin_ns, -furthest_ns, furthest_ns));
    }

    // By how much the device's seconds are longer than ours, in parts per million; 0 until the loop has locked once.
    double drift_ppm() const noexcept { return rate_known_ ? (rate_ - nominal_rate) / nominal_rate * 1e6 : 0; }
    // Whether it has followed for long enough to know the rate.
    bool locked() const noexcept { return followed_s_ >= lock_s; }
    // How far the latest pair that was taken was off.
    Nanoseconds error_ns() const noexcept { return static_cast<Nanoseconds>(error_ns_); }

private:
    static constexpr double nominal_rate = 1e9;  // our nanoseconds in a second of the device
    static constexpr double furthest_ns = 1e18;
    // Bandwidths in Hz: first to find the rate, then to hold it. The values of PipeWire's loop.
    static constexpr double finding_hz = 0.128;
    static constexpr double holding_hz = 0.016;
    static constexpr double lock_s = 1 / finding_hz;
    static constexpr double most_omega = 0.5;  // where steps are long: beyond, the loop would overshoot
    static constexpr unsigned most_strays = 4;

    void follow(double device_s, double step_s, double predicted_ns, double error_ns) noexcept {
        const double bandwidth_hz = locked() ? holding_hz : finding_hz;
        const double omega = std::min(2 * 3.14159265358979323846 * bandwidth_hz * step_s, most_omega);
        elapsed_ns_ = predicted_ns + 1.41421356237309504880 * omega * error_ns;
        rate_ += omega * omega * error_ns / step_s;
        device_s_ = device_s;
        followed_s_ += step_s;
        rate_known_ = rate_known_ || locked();
        error_ns_ = error_ns;
    }

    double patience_ns_;
    bool running_ = false;
    Nanoseconds origin_ns_ = 0;
    double elapsed_ns_ = 0;  // since the origin, at device_s_: small numbers, so that nothing is rounded
    double device_s_ = 0;
    double rate_ = nominal_rate;
    double followed_s_ = 0;
    bool rate_known_ = false;
    double error_ns_ = 0;
    unsigned strays_ = 0;
    double first_stray_ns_ = 0;  // how far off the first of them was
};

}  // namespace steadyflow
