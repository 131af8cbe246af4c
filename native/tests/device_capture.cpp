// What a device brings reaches the consumer: every sample, at its position and with its time, whatever the lengths of cycles
// and blocks; what was lost is missing from the positions and said. Nothing is allocated on the way, and close() waits.
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <thread>
#include <vector>

#include "device_callback.hpp"
#include "traffic.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

constexpr double rate_hz = 48'000;
constexpr Nanoseconds patience_ns = 20'000'000;

// A ring with its buffers, and both of its ends.
struct Line {
    Line(std::uint32_t buffer_size, std::uint32_t block_bytes, Rule rule) {
        const std::uint32_t slots = Ring::slots_for(buffer_size, 1);
        const std::size_t ring_at = 0;
        const std::size_t pool_at = (Ring::bytes(slots, 1) + 63) / 64 * 64;
        segment = Segment::create(4096 + pool_at + BufferPool::bytes(slots + 1, block_bytes));
        const std::size_t base = 4096;
        Ring::create(*segment, base + ring_at, buffer_size, slots, 1, 0, rule);
        BufferPool::create(*segment, base + pool_at, slots + 1, block_bytes);
        rings.set_pool(BufferPool(segment, base + pool_at));
        rings.add("line", Ring(segment, base + ring_at));
        consumer.emplace(Ring(segment, base + ring_at), BufferPool(segment, base + pool_at), Bell(), 0, 0);
    }

    std::shared_ptr<Segment> segment;
    OutputRings rings;
    std::optional<RingConsumer> consumer;
};

float sample_at(std::uint64_t frame, unsigned channel) { return static_cast<float>(frame % 8'388'608 + channel); }

// A device: what it samples is the number of the frame.
struct Device {
    explicit Device(unsigned channel_count) : channels(channel_count) {}

    CallbackResult cycle(DeviceStream& stream, std::uint32_t frames, unsigned long flags = 0) {
        samples.resize(std::size_t{frames} * channels);
        for (std::uint32_t index = 0; index < frames; ++index) {
            for (unsigned channel = 0; channel < channels; ++channel) {
                samples[index * channels + channel] = sample_at(position + index, channel);
            }
        }
        const double input_s = start_s + static_cast<double>(position) / rate_hz;
        position += frames;
        const double current_s = start_s + static_cast<double>(position) / rate_hz;
        now_ns = epoch_ns + std::llround((current_s - start_s) * 1e9);
        return stream.cycle(samples.data(), nullptr, frames, {input_s, current_s, 0}, flags, now_ns);
    }

    unsigned channels;
    double start_s = 17.5;
    Nanoseconds epoch_ns = 1'000'000'000'000;
    std::uint64_t position = 0;
    Nanoseconds now_ns = 0;
    std::vector<float> samples;
};

// Takes everything that waits; checks samples and times; returns the frames.
std::uint64_t take_all(Line& line, unsigned channels, std::uint64_t& expected_frame, const Device& device,
                       std::uint64_t* gaps = nullptr) {
    std::uint64_t frames = 0;
    for (Claim claim; line.consumer->claim(claim);) {
        const BlockHeader& header = claim.header;
        CHECK_EQUAL(header.frames * channels * sizeof(float), header.payload_bytes);
        if (header.first_frame != expected_frame) {
            CHECK(gaps != nullptr);
            CHECK(header.first_frame > expected_frame);
            CHECK_EQUAL(flag_discontinuity | flag_gap, header.flags);
            ++*gaps;
        }
        const auto* samples = reinterpret_cast<const float*>(line.consumer->pool().payload(header.buffer));
        for (std::uint32_t index = 0; index < header.frames; ++index) {
            for (unsigned channel = 0; channel < channels; ++channel) {
                CHECK_EQUAL(sample_at(header.first_frame + index, channel), samples[index * channels + channel]);
            }
        }
        const Nanoseconds sampled_ns =
            device.epoch_ns + std::llround(static_cast<double>(header.first_frame) * 1e9 / rate_hz);
        CHECK(std::abs(header.timestamp_ns - sampled_ns) < 1'000);
        expected_frame = header.first_frame + header.frames;
        frames += header.frames;
        line.consumer->finish(claim);
    }
    return frames;
}

// Any lengths of cycles and blocks, and frames lost here and there.
void everything_arrives(std::uint64_t seed, std::uint64_t rounds) {
    Random random(seed);
    for (std::uint64_t round = 0; round < rounds; ++round) {
        const auto channels = static_cast<unsigned>(1 + random.below(3));
        const auto block_frames = static_cast<std::uint32_t>(1 + random.below(300));
        situation = "seed " + std::to_string(seed) + ", round " + std::to_string(round);
        Line line(64, block_frames * channels * 4, Rule{RuleKind::drop_newest, AfterWait::fail, 0});
        DeviceStream stream(std::make_shared<DeviceAccount>(), rate_hz, patience_ns, 1'000'000);
        stream.capture_into(line.rings, channels * 4, block_frames);
        Device device(channels);
        std::uint64_t expected = 0, taken = 0, lost = 0, losses = 0, gaps = 0, sent = 0;
        for (unsigned cycle = 0; cycle < 200; ++cycle) {
            const auto frames = static_cast<std::uint32_t>(1 + random.below(std::min<std::uint32_t>(block_frames * 3, 512)));
            unsigned long flags = 0;
            if (cycle > 0 && random.chance(20)) {
                // More than half of what this cycle has, and the driver says so.
                const std::uint64_t frames_lost = frames / 2 + 1 + random.below(200);
                flags = input_overflow;
                device.position += frames_lost;
                lost += frames_lost;
                ++losses;
            }
            CHECK_EQUAL(CallbackResult::go_on, device.cycle(stream, frames, flags));
            sent += frames;
            taken += take_all(line, channels, expected, device, &gaps);
        }
        stream.close();
        taken += take_all(line, channels, expected, device, &gaps);
        CHECK_EQUAL(sent, taken);
        CHECK_EQUAL(losses, gaps);
        const DeviceAccount& account = stream.account();
        CHECK_EQUAL(lost, account.lost_frames.load());
        CHECK_EQUAL(losses, account.gaps.load());
        CHECK_EQUAL(std::uint64_t{0}, account.dropped.load());
        CHECK_EQUAL(sent, account.frames.load());
        CHECK_EQUAL(CallbackResult::complete, device.cycle(stream, 16));  // closed: nothing more
        CHECK_EQUAL(std::uint64_t{0}, take_all(line, channels, expected, device));
    }
    situation.clear();
}

// What a driver is late by is not lost; and what it says to have lost without being late is of unknown length.
void late_is_not_lost() {
    Line line(8, 128 * 4, Rule{RuleKind::drop_newest, AfterWait::fail, 0});
    DeviceStream stream(std::make_shared<DeviceAccount>(), rate_hz, patience_ns, 1'000'000);
    stream.capture_into(line.rings, 4, 128);
    const std::vector<float> samples(128);
    double input_s = 7;
    const auto cycle = [&](double late_s, unsigned long flags) {
        input_s += late_s;
        const double current_s = input_s + 128 / rate_hz;
        stream.cycle(samples.data(), nullptr, 128, {input_s, current_s, 0}, flags, std::llround(current_s * 1e9));
        input_s = current_s;
        Claim claim;
        CHECK(line.consumer->claim(claim));
        line.consumer->finish(claim);
        return claim.header;
    };
    CHECK_EQUAL(0, cycle(0, 0).flags);
    CHECK_EQUAL(0, cycle(127 / rate_hz, 0).flags);
    CHECK_EQUAL(std::uint64_t{256}, cycle(-127 / rate_hz, 0).first_frame);
    const BlockHeader after = cycle(0, input_overflow);
    CHECK_EQUAL(flag_discontinuity | flag_gap, after.flags);
    CHECK_EQUAL(std::uint64_t{384}, after.first_frame);
    CHECK_EQUAL(std::uint64_t{0}, stream.account().gaps.load());
    CHECK_EQUAL(std::uint64_t{1}, stream.account().capture.count.load());
    CHECK_EQUAL(std::uint64_t{0}, stream.account().playback.count.load());
    stream.close();
}

// However late calls are, one or many: nothing is lost, and the times of the frames move by little. What is really lost is found
// by the fourth cycle after it, also where the driver says nothing, whatever its clock drifts by.
void late_calls_and_losses(std::uint64_t seed) {
    Random random(seed);
    for (const double drift_ppm : {0.0, 200.0, -200.0}) {
        situation = "drift " + std::to_string(drift_ppm) + " ppm, seed " + std::to_string(seed);
        Line line(64, 128 * 4, Rule{RuleKind::drop_newest, AfterWait::fail, 0});
        const auto account = std::make_shared<DeviceAccount>();
        DeviceStream stream(account, rate_hz, patience_ns, 1'000'000);
        stream.capture_into(line.rings, 4, 128);
        const std::vector<float> samples(128);
        const double period_s = 128 / rate_hz * (1 + drift_ppm * 1e-6);
        double sampled_s = 5;        // the first frame of the next cycle, on the monotonic clock
        double late_s = 0;           // of the call
        std::uint64_t lost = 0;      // of all frames, and
        std::uint64_t losses = 0;
        std::uint64_t pending = 0;   // for so many cycles nobody can know of the latest loss
        for (std::uint64_t cycle = 0; cycle < 200'000; ++cycle) {
            // A late call is followed by those that catch up, each at once.
            late_s = std::max(late_s - period_s, 0.0);
            if (cycle > 10'000 && pending == 0 && random.chance(400)) late_s = static_cast<double>(random.below(8)) * 1e-3;
            if (cycle > 10'000 && pending == 0 && late_s == 0 && random.chance(2'000)) {
                const std::uint64_t frames = 130 + random.below(2'000);
                sampled_s += static_cast<double>(frames) / rate_hz * (1 + drift_ppm * 1e-6);
                lost += frames;
                ++losses;
                pending = 4;
            }
            // As PortAudio does with JACK: both times are read when it is called.
            const double current_s = sampled_s + period_s + late_s;
            stream.cycle(samples.data(), nullptr, 128, {current_s - period_s, current_s, 0}, 0, std::llround(current_s * 1e9));
            if (pending != 0) --pending;
            Claim claim;
            while (line.consumer->claim(claim)) {
                const auto off_ns = claim.header.timestamp_ns - std::llround(sampled_s * 1e9);
                // The loop finds the rate first; the mean lateness stays in it, a tenth of what one call may be late by.
                if (cycle > 10'000 && pending == 0) CHECK(std::abs(off_ns) < 800'000);
                line.consumer->finish(claim);
            }
            if (pending == 0) {
                CHECK_EQUAL(losses, account->gaps.load());
                const std::uint64_t told = account->lost_frames.load();
                CHECK(told <= lost + 16 * losses && lost <= told + 16 * losses);
            }
            sampled_s += period_s;
        }
        CHECK(losses > 50);
        CHECK(std::abs(account->drift_ppm.load() - drift_ppm) < 40);
        stream.close();
    }
    situation.clear();
}

// A device's clock that is set, forwards or backwards, loses nothing.
void clock_is_set() {
    for (const double step_s : {3600.0, -3600.0}) {
        Line line(8, 128 * 4, Rule{RuleKind::drop_newest, AfterWait::fail, 0});
        DeviceStream stream(std::make_shared<DeviceAccount>(), rate_hz, patience_ns, 1'000'000);
        stream.capture_into(line.rings, 4, 128);
        const std::vector<float> samples(128);
        for (std::uint64_t cycle = 0; cycle < 12; ++cycle) {
            const double passed_s = static_cast<double>(cycle) * 128 / rate_hz;
            const double input_s = 10'000 + passed_s + (cycle < 4 ? 0 : step_s);
            const auto began_ns = 1'000'000'000 + std::llround(passed_s * 1e9);
            const auto now_ns = began_ns + std::llround(128 / rate_hz * 1e9);
            stream.cycle(samples.data(), nullptr, 128, {input_s, input_s + 128 / rate_hz, 0}, 0, now_ns);
            Claim claim;
            CHECK(line.consumer->claim(claim));
            CHECK_EQUAL(cycle * 128, claim.header.first_frame);
            CHECK_EQUAL(0, claim.header.flags);
            CHECK(std::abs(claim.header.timestamp_ns - began_ns) < 1'000);
            line.consumer->finish(claim);
        }
        CHECK_EQUAL(std::uint64_t{0}, stream.account().lost_frames.load());
        stream.close();
    }
}

// A consumer that is too slow loses the oldest blocks, and each of them is accounted for.
void full_pipelines_drop() {
    for (const RuleKind kind : {RuleKind::drop_oldest, RuleKind::drop_newest, RuleKind::wait, RuleKind::fail, RuleKind::latest}) {
        Line line(4, 128 * 4, Rule{kind, AfterWait::fail, 0});
        DeviceStream stream(std::make_shared<DeviceAccount>(), rate_hz, patience_ns, 1'000'000);
        stream.capture_into(line.rings, 4, 128);
        Device device(1);
        for (unsigned cycle = 0; cycle < 10; ++cycle) device.cycle(stream, 128);
        const bool evicts = kind == RuleKind::drop_oldest || kind == RuleKind::latest;
        const std::uint64_t kept = kind == RuleKind::latest ? 1 : 4;
        Claim claim;
        CHECK(line.consumer->claim(claim));
        CHECK_EQUAL(evicts ? (10 - kept) * 128 : std::uint64_t{0}, claim.header.first_frame);
        line.consumer->finish(claim);
        // What a rule drops in the ring is the pipeline's account; what does not get in is the device's, too.
        CHECK_EQUAL(evicts ? std::uint64_t{0} : 10 - kept, stream.account().dropped.load());
        const Account account = read_account(line.consumer->ring());
        CHECK_EQUAL(std::uint64_t{10}, account.sent);
        stream.close();
    }
}

// A device without a clock: frames are as old as they are long.
void without_time() {
    Line line(8, 128 * 4, Rule{RuleKind::drop_newest, AfterWait::fail, 0});
    DeviceStream stream(std::make_shared<DeviceAccount>(), rate_hz, patience_ns, 1'000'000);
    stream.capture_into(line.rings, 4, 96);
    const std::vector<float> samples(96);
    CHECK_EQUAL(CallbackResult::go_on, stream.cycle(samples.data(), nullptr, 96, {0, 0, 0}, 0, 5'000'000'000));
    CHECK_EQUAL(CallbackResult::go_on, stream.cycle(samples.data(), nullptr, 96, {0, 0, 0}, input_overflow, 5'002'000'000));
    Claim claim;
    CHECK(line.consumer->claim(claim));
    CHECK_EQUAL(Nanoseconds{4'998'000'000}, claim.header.timestamp_ns);
    line.consumer->finish(claim);
    CHECK(line.consumer->claim(claim));
    CHECK_EQUAL(flag_discontinuity | flag_gap, claim.header.flags);
    CHECK_EQUAL(std::uint64_t{96}, claim.header.first_frame);
    CHECK_EQUAL(std::uint64_t{2}, stream.account().without_time.load());
    CHECK_EQUAL(std::uint64_t{1}, stream.account().capture.count.load());
    CHECK_EQUAL(Nanoseconds{5'002'000'000}, stream.account().capture.last_ns.load());
    stream.close();
}

// Damage ends the stream, and is told.
void damage() {
    Line line(2, 128 * 4, Rule{RuleKind::drop_newest, AfterWait::fail, 0});
    DeviceStream stream(std::make_shared<DeviceAccount>(), rate_hz, patience_ns, 1'000'000);
    stream.capture_into(line.rings, 4, 128);
    Device device(1);
    const Ring& ring = line.consumer->ring();
    for (std::uint32_t index = 0; index < ring.count(); ++index) {
        ring.slot(index).word.store(SlotWord::make(SlotState::claimed, index, 3).bits, std::memory_order_relaxed);
    }
    CHECK(!stream.damage());
    CHECK_EQUAL(CallbackResult::abort, device.cycle(stream, 128));
    CHECK(stream.damage().has_value());
    CHECK_EQUAL(std::string("line"), stream.damage()->pipeline);
    stream.close();
}

// A cycle that runs beside close() is over when that returns; readers of the account are free to look at any time.
void closing(std::uint64_t seed) {
    Random random(seed);
    for (unsigned round = 0; round < 200; ++round) {
        Line line(8, 32 * 4, Rule{RuleKind::drop_oldest, AfterWait::fail, 0});
        DeviceStream stream(std::make_shared<DeviceAccount>(), rate_hz, patience_ns, 1'000'000);
        stream.capture_into(line.rings, 4, 32);
        std::atomic<std::uint64_t> cycles{0};
        std::thread thread([&] {
            Device device(1);
            const auto frames = static_cast<std::uint32_t>(1 + round % 50);
            while (device.cycle(stream, frames) == CallbackResult::go_on) cycles.fetch_add(1);
        });
        const std::uint64_t enough = random.below(20);
        std::uint64_t seen = 0;
        while (cycles.load() < enough) {
            const std::uint64_t now = stream.account().cycles.load(std::memory_order_relaxed);
            CHECK(now >= seen);
            seen = now;
        }
        stream.close();
        line.rings.clear();  // nobody touches them any more
        thread.join();
    }
}

// A stream that follows another one goes on in its account: at the position that the time between makes.
void goes_on() {
    Line line(64, 480 * sizeof(float), {RuleKind::drop_oldest});
    const auto account = std::make_shared<DeviceAccount>();
    Device device(1);
    std::uint64_t expected = 0;
    {
        DeviceStream stream(account, rate_hz, patience_ns, 1'000'000);
        stream.capture_into(line.rings, sizeof(float), 480);
        for (int count = 0; count < 10; ++count) device.cycle(stream, 128);
        stream.close();
    }
    CHECK_EQUAL(1280, take_all(line, 1, expected, device));
    device.position += 48'000;  // a second passes
    DeviceStream stream(account, rate_hz, patience_ns, 1'000'000);
    stream.capture_into(line.rings, sizeof(float), 480);
    for (int count = 0; count < 10; ++count) device.cycle(stream, 128);
    stream.close();
    std::uint64_t gaps = 0;
    CHECK_EQUAL(1280, take_all(line, 1, expected, device, &gaps));
    CHECK_EQUAL(1, gaps);
    CHECK_EQUAL(1280 + 48'000 + 1280, expected);
    CHECK_EQUAL(20, account->cycles.load());
    CHECK_EQUAL(48'000, account->lost_frames.load());
}

// What rings a device sends into is changed while it runs: each takes every frame from its first block to its last.
void rings_are_exchanged(std::uint64_t seed, std::uint64_t rounds) {
    Random random(seed);
    for (std::uint64_t round = 0; round < rounds; ++round) {
        situation = "seed " + std::to_string(seed) + ", exchange in round " + std::to_string(round);
        const auto block_frames = static_cast<std::uint32_t>(16 + random.below(200));
        const Rule rule{RuleKind::drop_newest, AfterWait::fail, 0};
        std::vector<std::unique_ptr<Line>> lines;
        OutputRings rings;
        DeviceStream stream(std::make_shared<DeviceAccount>(), rate_hz, patience_ns, 1'000'000);
        stream.capture_into(rings, 4, block_frames);
        Device device(1);
        std::atomic<bool> done{false};
        std::atomic<int> hurried{0};  // cycles that come at once; then they come slowly, so that nothing overflows
        std::thread driver([&] {
            while (!done.load()) {
                device.cycle(stream, static_cast<std::uint32_t>(1 + device.position % 300));
                if (hurried.fetch_sub(1) < 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
            }
        });
        struct Taken {
            std::uint64_t next = 0;
            bool begun = false;
        };
        std::vector<Taken> taken;
        const auto drain = [&](std::size_t index) {
            Claim claim;
            while (lines[index]->consumer->claim(claim)) {
                const BlockHeader& header = claim.header;
                if (taken[index].begun) CHECK_EQUAL(taken[index].next, header.first_frame);
                taken[index] = {header.first_frame + header.frames, true};
                const auto* samples =
                    reinterpret_cast<const float*>(lines[index]->consumer->pool().payload(header.buffer));
                for (std::uint32_t frame = 0; frame < header.frames; ++frame) {
                    CHECK_EQUAL(sample_at(header.first_frame + frame, 0), samples[frame]);
                }
                lines[index]->consumer->finish(claim);
            }
        };
        std::vector<std::size_t> there;
        for (unsigned step = 0; step < 30; ++step) {
            hurried.store(100);
            OutputRings::Links links = rings.links();
            std::shared_ptr<OutputRings::Link> gone;
            std::size_t gone_index = 0;
            if (!there.empty() && random.below(2) == 0) {
                const std::size_t place = random.below(there.size());
                gone_index = there[place];
                gone = OutputRings::take(links, "line " + std::to_string(gone_index));
                CHECK(gone != nullptr);
                there.erase(there.begin() + static_cast<std::ptrdiff_t>(place));
            }
            if (there.size() < 3 && random.below(3) != 0) {
                lines.push_back(std::make_unique<Line>(4096, block_frames * 4, rule));
                taken.emplace_back();
                rings.set_pool(lines.back()->consumer->pool());
                links.push_back(rings.make("line " + std::to_string(lines.size() - 1), lines.back()->consumer->ring()));
                there.push_back(lines.size() - 1);
            }
            CHECK(stream.exchange_rings(links, 5'000'000'000));
            if (gone) {
                OutputRings::end(*gone);
                drain(gone_index);
                CHECK(lines[gone_index]->consumer->at_end());
            }
            for (const std::size_t index : there) drain(index);
        }
        done.store(true);
        driver.join();
        stream.close();
        for (std::size_t index = 0; index < lines.size(); ++index) drain(index);
    }
}

// Where no cycle comes, nothing changes, and a later cycle goes on as before.
void a_device_that_stands_takes_nothing() {
    Line line(8, 64, Rule{RuleKind::drop_newest, AfterWait::fail, 0});
    DeviceStream stream(std::make_shared<DeviceAccount>(), rate_hz, patience_ns, 1'000'000);
    stream.capture_into(line.rings, 4, 16);
    Device device(1);
    OutputRings::Links none;
    CHECK(!stream.exchange_rings(none, 1'000'000));
    CHECK(none.empty());
    device.cycle(stream, 16);
    std::uint64_t expected = 0;
    CHECK_EQUAL(16U, take_all(line, 1, expected, device));
    stream.close();
}

}  // namespace

int main(int argc, char** argv) {
    const Effort effort = effort_of("device_capture", argc, argv, 60);
    everything_arrives(effort.seed, effort.blocks);
    late_is_not_lost();
    late_calls_and_losses(effort.seed);
    clock_is_set();
    full_pipelines_drop();
    without_time();
    damage();
    goes_on();
    closing(effort.seed);
    rings_are_exchanged(effort.seed, std::max<std::uint64_t>(effort.blocks / 10, 3));
    a_device_that_stands_takes_nothing();
    std::puts("device_capture: every frame arrived, or was told to be lost");
    return 0;
}
