// The device's clock against simulated devices: what it says of the time of a frame, and of the device's rate.
#include <cmath>
#include <limits>

#include "device_clock.hpp"
#include "traffic.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

using Pair = DeviceClock::Pair;

constexpr double period_s = 128.0 / 48'000;
constexpr Nanoseconds patience_ns = 10'000'000;
constexpr Nanoseconds began_ns = 40'000'000'000'000;  // the monotonic clock of a machine that has run for some hours

// A device whose clock runs differently from ours, and whose callbacks are called late.
class Device {
public:
    Device(double began_s, double drift_ppm, std::uint64_t seed)
        : began_s_(began_s), rate_(1e9 * (1 + drift_ppm * 1e-6)), random_(seed) {}

    double time_s(std::uint64_t cycle) const { return began_s_ + static_cast<double>(cycle) * period_s; }
    // When that is on our clock.
    Nanoseconds truth_ns(std::uint64_t cycle) const {
        return began_ns + jump_ns_ + static_cast<Nanoseconds>(static_cast<double>(cycle) * period_s * rate_);
    }
    // A callback is some 30 us late, 300 at the most, and now and then a cycle or two.
    Nanoseconds called_ns(std::uint64_t cycle) {
        const double uniform = static_cast<double>(random_.next() >> 11) * 0x1p-53;
        const auto late = static_cast<Nanoseconds>(std::min(-std::log(1 - uniform) * 30e3, 300e3));
        return truth_ns(cycle) + late + (random_.chance(500) ? 4'000'000 : 0);
    }
    void jump(Nanoseconds by_ns) { jump_ns_ += by_ns; }

private:
    double began_s_;
    double rate_;
    Nanoseconds jump_ns_ = 0;
    Random random_;
};

// Times come 30 us late on the average, as the callbacks do, and drift is found to a few parts in a million.
void check_following(double began_s, double drift_ppm, std::uint64_t seed) {
    situation = "a device that began at " + std::to_string(began_s) + " s and drifts by " + std::to_string(drift_ppm) +
                " ppm; seed " + std::to_string(seed);
    Device device(began_s, drift_ppm, seed);
    DeviceClock clock(patience_ns);
    CHECK(clock.observe(device.time_s(0), device.called_ns(0)) == Pair::first);
    Nanoseconds last_ns = 0;
    for (std::uint64_t cycle = 1; cycle < 45'000; ++cycle) {  // two minutes
        CHECK(clock.observe(device.time_s(cycle), device.called_ns(cycle)) == Pair::taken);
        const Nanoseconds found_ns = clock.to_monotonic_ns(device.time_s(cycle));
        CHECK(found_ns > last_ns);
        last_ns = found_ns;
        CHECK(clock.locked() == (static_cast<double>(cycle) * period_s >= 1 / 0.128));
        if (cycle < 15'000) continue;
        const Nanoseconds off_ns = found_ns - device.truth_ns(cycle);
        CHECK(off_ns > -50'000);
        CHECK(off_ns < 150'000);
        CHECK(std::abs(clock.drift_ppm() - drift_ppm) < 15);
    }
    CHECK(std::abs(clock.drift_ppm() - drift_ppm) < 5);
}

// One late callback moves nothing; a device that has jumped is followed after a few.
void check_jumps(std::uint64_t seed) {
    situation = "a device that jumps; seed " + std::to_string(seed);
    Device device(0, 50, seed);
    DeviceClock clock(patience_ns);
    std::uint64_t cycle = 0;
    for (; cycle < 4'000; ++cycle) clock.observe(device.time_s(cycle), device.called_ns(cycle));
    const double probe_s = device.time_s(cycle);
    const Nanoseconds before_ns = clock.to_monotonic_ns(probe_s);
    CHECK(clock.observe(probe_s, device.truth_ns(cycle) + 500'000'000) == Pair::stray);
    CHECK_EQUAL(before_ns, clock.to_monotonic_ns(probe_s));
    ++cycle;
    CHECK(clock.observe(device.time_s(cycle), device.called_ns(cycle)) == Pair::taken);

    device.jump(2'000'000'000);
    unsigned strays = 0;
    for (;; ++strays) {
        ++cycle;
        const Pair pair = clock.observe(device.time_s(cycle), device.called_ns(cycle));
        if (pair == Pair::jump) break;
        CHECK(pair == Pair::stray);
    }
    CHECK_EQUAL(3, strays);
    CHECK(!clock.locked());
    const Nanoseconds off_ns = clock.to_monotonic_ns(device.time_s(cycle)) - device.truth_ns(cycle);
    CHECK(off_ns >= 0);
    CHECK(off_ns < 5'000'000);
}

// A server that calls several times at once reads its clock once.
void check_bunches() {
    situation = "cycles in bunches";
    Device device(1.8e9, -120, 3);  // seconds since 1970, as a double: a quarter of a microsecond
    DeviceClock clock(200'000'000);
    for (std::uint64_t cycle = 0; cycle < 45'000; cycle += 40) {
        const Nanoseconds now_ns = device.called_ns(cycle);
        CHECK(clock.observe(device.time_s(cycle), now_ns) != Pair::useless);
        for (unsigned more = 1; more < 40; ++more) CHECK(clock.observe(device.time_s(cycle), now_ns) == Pair::useless);
    }
    CHECK(std::abs(clock.drift_ppm() + 120) < 15);
}

void check_what_is_no_time() {
    situation = "what is no time";
    DeviceClock clock(patience_ns);
    CHECK_EQUAL(0, clock.to_monotonic_ns(0));
    for (const double no_time : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
        CHECK(clock.observe(no_time, began_ns) == Pair::useless);
    }
    CHECK(clock.observe(5, began_ns) == Pair::first);
    CHECK(clock.observe(5, began_ns + 1'000'000) == Pair::useless);
    CHECK_EQUAL(began_ns, clock.to_monotonic_ns(5));
    CHECK_EQUAL(0, clock.drift_ppm());
    // Backwards: once is a stray, and a clock that was set back is followed.
    for (const Pair expected : {Pair::stray, Pair::stray, Pair::stray, Pair::jump}) {
        CHECK(clock.observe(4, began_ns + 2'000'000) == expected);
    }
    CHECK_EQUAL(began_ns + 2'000'000, clock.to_monotonic_ns(4));
    CHECK(clock.to_monotonic_ns(1e300) > began_ns);
    CHECK(clock.to_monotonic_ns(-1e300) < began_ns);
}

}  // namespace

int main(int argument_count, char** arguments) {
    const auto [devices, seed] = effort_of("device_clock", argument_count, arguments, 20);
    Random random(seed);
    for (std::uint64_t device = 0; device < devices; ++device) {
        const double drift_ppm = static_cast<double>(random.below(401)) - 200;
        check_following(static_cast<double>(random.below(1'000'000)), drift_ppm, random.next());
        check_jumps(random.next());
    }
    check_bunches();
    check_what_is_no_time();
    std::puts("device_clock: followed");
    return 0;
}
