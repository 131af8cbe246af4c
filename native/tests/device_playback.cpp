// What a device plays is what was sent: every frame once and in order, silence where none waits, whatever the lengths of blocks
// and cycles; it knows when the stream has ended, and whoever dies in the middle of a block leaves it to be repeated.
#include <atomic>
#include <cstdio>
#include <deque>
#include <thread>
#include <vector>

#include "device_callback.hpp"
#include "traffic.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

constexpr double rate_hz = 48'000;
constexpr std::uint32_t most_frames = 300;

// A ring with its buffers, and both of its ends.
struct Line {
    Line(std::uint32_t buffer_size, unsigned channel_count) : channels(channel_count) {
        const std::uint32_t slots = Ring::slots_for(buffer_size, 1);
        const std::size_t pool_at = 4096 + (Ring::bytes(slots, 1) + 63) / 64 * 64;
        const std::uint32_t capacity = most_frames * channels * 4;
        segment = Segment::create(pool_at + BufferPool::bytes(slots + 1, capacity));
        Ring::create(*segment, 4096, buffer_size, slots, 1, 0, {RuleKind::drop_newest, AfterWait::fail, 0});
        BufferPool::create(*segment, pool_at, slots + 1, capacity);
        pool_offset = pool_at;
        rings.set_pool(BufferPool(segment, pool_at));
        rings.add("line", Ring(segment, 4096));
    }

    Ring ring() const { return Ring(segment, 4096); }

    std::unique_ptr<DevicePlayback> playback(const IntakeRules* rules = nullptr) const {
        RingConsumer consumer(ring(), BufferPool(segment, pool_offset), Bell(), 0, 0);
        std::unique_ptr<Intake> intake;
        if (rules != nullptr) {
            auto concealment = rules->late == Late::conceal
                                   ? std::make_unique<Concealment>(SampleType::f32, channels, false, rate_hz, most_frames)
                                   : nullptr;
            intake = std::make_unique<Intake>(*rules, std::move(concealment));
        }
        return std::make_unique<DevicePlayback>(Lanes(std::move(consumer)), std::move(intake), channels * 4, most_frames);
    }

    // Sends the next frames, of which each sample is the number; false if the ring is full.
    bool send(std::uint32_t frames, std::uint32_t claimed_frames = 0) {
        const auto buffer = rings.pool().allocate();
        CHECK(buffer.has_value());
        BlockHeader header{};
        header.buffer = *buffer;
        header.frames = claimed_frames == 0 ? frames : claimed_frames;
        header.payload_bytes = frames * channels * 4;
        header.first_frame = next;
        auto* samples = reinterpret_cast<float*>(rings.pool().payload(*buffer));
        for (std::uint32_t index = 0; index < frames * channels; ++index) {
            samples[index] = static_cast<float>((next + index / channels) % 8'388'608 + 1);
        }
        rings.decide_at_once(header);
        if (!rings.hand_over(header, monotonic_ns(), 0, [&](BufferPool&) { return *buffer; })) return false;
        next += frames;
        return true;
    }

    unsigned channels;
    std::shared_ptr<Segment> segment;
    std::size_t pool_offset = 0;
    OutputRings rings;
    std::uint64_t next = 0;
};

// One cycle of a device that only plays.
struct Device {
    CallbackResult cycle(DeviceStream& stream, std::uint32_t frames, unsigned channels) {
        samples.assign(std::size_t{frames} * channels, -1.0F);
        const double current_s = 3 + static_cast<double>(position) / rate_hz;
        position += frames;
        now_ns = 1'000'000'000 + std::llround((current_s - 3) * 1e9);
        return stream.cycle(nullptr, samples.data(), frames, {0, current_s, current_s + 0.01}, 0, now_ns);
    }

    std::uint64_t position = 0;
    Nanoseconds now_ns = 0;
    std::vector<float> samples;
};

// Any lengths of blocks and cycles, a producer that comes and goes, blocks that are not what they say.
void everything_is_played(std::uint64_t seed, std::uint64_t rounds) {
    Random random(seed);
    for (std::uint64_t round = 0; round < rounds; ++round) {
        situation = "seed " + std::to_string(seed) + ", round " + std::to_string(round);
        const auto channels = static_cast<unsigned>(1 + random.below(3));
        Line line(static_cast<std::uint32_t>(1 + random.below(8)), channels);
        const auto account = std::make_shared<DeviceAccount>();
        DeviceStream stream(account, rate_hz, 20'000'000, 1'000'000);
        stream.play_from(line.playback());
        CHECK_EQUAL(channels * 4, stream.played_frame_bytes());
        Device device;
        std::deque<float> waiting;
        std::uint64_t played = 0, silent = 0, underruns = 0, misfits = 0, blocks = 0;
        bool begun = false, dry = false;
        const auto cycle = [&] {
            const auto frames = static_cast<std::uint32_t>(1 + random.below(700));
            CHECK_EQUAL(CallbackResult::go_on, device.cycle(stream, frames, channels));
            std::uint32_t got = 0;
            for (std::uint32_t frame = 0; frame < frames; ++frame) {
                const float expected = waiting.empty() ? 0.0F : waiting.front();
                for (unsigned channel = 0; channel < channels; ++channel) {
                    CHECK_EQUAL(expected, device.samples[frame * channels + channel]);
                }
                if (waiting.empty()) continue;
                waiting.pop_front();
                ++got;
            }
            played += got;
            if (got != 0) {
                begun = true;
                dry = false;
            }
            if (got == frames || !begun || line.ring().ended()) return;
            silent += frames - got;
            underruns += dry ? 0 : 1;
            dry = true;
        };
        for (unsigned step = 0; step < 300; ++step) {
            const auto frames = static_cast<std::uint32_t>(1 + random.below(most_frames));
            const std::uint64_t first = line.next;
            if (random.chance(3)) {
                cycle();
            } else if (random.chance(12)) {
                if (line.send(frames, frames + 1)) ++misfits;
            } else if (line.send(frames)) {
                ++blocks;
                for (std::uint64_t number = first; number < first + frames; ++number) {
                    waiting.push_back(static_cast<float>(number % 8'388'608 + 1));
                }
            }
        }
        line.rings.end();
        while (stream.drained_ns() == 0) cycle();
        CHECK(waiting.empty());
        CHECK(stream.drained_ns() >= device.now_ns + 9'999'000);
        stream.close();
        CHECK_EQUAL(CallbackResult::complete, device.cycle(stream, 16, channels));
        CHECK(device.samples == std::vector<float>(std::size_t{16} * channels));  // silence, and nothing that was there
        CHECK_EQUAL(played, account->played_frames.load());
        CHECK_EQUAL(blocks, account->played_blocks.load());
        CHECK_EQUAL(silent, account->silent_frames.load());
        CHECK_EQUAL(underruns, account->underruns.load());
        CHECK_EQUAL(misfits, account->misfits.load());
        const Account fates = read_account(line.ring());
        CHECK_EQUAL(blocks, fates.delivered);
        CHECK_EQUAL(misfits, fates.dropped[static_cast<unsigned>(Reason::failed)]);
    }
    situation.clear();
}

// A consumer that dies in the middle of a block leaves it to its successor, from its first frame.
void a_successor_repeats() {
    Line line(4, 1);
    CHECK(line.send(200) && line.send(200));
    std::vector<float> samples(300);
    {
        auto dies = line.playback();
        dies->read(reinterpret_cast<std::byte*>(samples.data()), 300, 5);
        CHECK_EQUAL(300.0F, samples.back());
    }
    CHECK_EQUAL(std::uint64_t{1}, reap(line.ring(), 0));
    auto successor = line.playback();
    CHECK_EQUAL(200U, successor->read(reinterpret_cast<std::byte*>(samples.data()), 300, 6).frames);
    CHECK_EQUAL(201.0F, samples.front());
    CHECK_EQUAL(400.0F, samples[199]);
    CHECK_EQUAL(0.0F, samples[200]);
}

// A jitter buffer: silence until enough waits, and again once it ran dry; what ends is played, however little.
void fills_first() {
    Line line(8, 1);
    const IntakeRules rules{Late::pass, 0, 400, 0, 8, most_frames, rate_hz};
    auto playback = line.playback(&rules);
    std::vector<float> samples(100);
    const auto play = [&](Nanoseconds now_ns) {
        return playback->read(reinterpret_cast<std::byte*>(samples.data()), 100, now_ns).frames;
    };
    CHECK(line.send(150) && line.send(150));
    CHECK_EQUAL(0U, play(1));
    CHECK(line.send(150));
    for (unsigned cycle = 0; cycle < 4; ++cycle) CHECK_EQUAL(100U, play(2));
    CHECK_EQUAL(50U, play(3));
    CHECK(line.send(150));
    CHECK_EQUAL(0U, play(4));  // it ran dry
    line.rings.end();
    CHECK_EQUAL(100U, play(5));
    CHECK_EQUAL(50U, play(6));
    CHECK(playback->ended());
}

// What is missing between two blocks, and at an underrun, is made up, and fades to silence within 20 ms.
void conceals() {
    Line line(8, 1);
    const IntakeRules rules{Late::conceal, 0, 0, 0, 0, most_frames, rate_hz};
    auto playback = line.playback(&rules);
    CHECK(line.send(200));
    line.next += 100;
    CHECK(line.send(100));
    std::vector<float> samples(400);
    CHECK_EQUAL(400U, playback->read(reinterpret_cast<std::byte*>(samples.data()), 400, 1).frames);
    CHECK_EQUAL(200.0F, samples[199]);
    CHECK(samples[200] != 0.0F && samples[299] != 0.0F);
    CHECK_EQUAL(301.0F, samples[300]);
    samples.resize(2'000);
    const auto dry = playback->read(reinterpret_cast<std::byte*>(samples.data()), 2'000, 2);
    CHECK_EQUAL(2'000U, dry.silent);
    CHECK(dry.underrun);
    CHECK(samples[0] != 0.0F);
    CHECK_EQUAL(0.0F, samples[1'999]);
}

// A pause is no underrun, and hides nothing.
void pauses() {
    Line line(4, 1);
    auto playback = line.playback();
    std::vector<float> samples(100);
    const auto play = [&] { return playback->read(reinterpret_cast<std::byte*>(samples.data()), 100, 1); };
    CHECK(line.send(150));
    CHECK_EQUAL(100U, play().frames);
    line.ring().pause();
    CHECK(line.send(100));
    CHECK_EQUAL(50U, play().frames);  // of the block that it had already
    CHECK_EQUAL(0U, play().silent);
    line.ring().resume(1);
    CHECK_EQUAL(100U, play().frames);
}

// close() and end_capture() beside a cycle: nothing is touched after they have returned.
void closing(std::uint64_t seed) {
    for (unsigned round = 0; round < 20; ++round) {
        Random random(seed + round);
        Line out(8, 1), in(64, 1);
        const auto account = std::make_shared<DeviceAccount>();
        DeviceStream stream(account, rate_hz, 20'000'000, 1'000'000);
        stream.play_from(out.playback());
        stream.capture_into(in.rings, 4, 128);
        std::atomic<std::uint64_t> cycles{0};
        std::thread device([&] {
            std::vector<float> heard(64), played(64);
            double now_s = 1;
            for (;;) {
                now_s += 64 / rate_hz;
                const auto result = stream.cycle(heard.data(), played.data(), 64, {now_s, now_s, now_s}, 0, std::llround(now_s * 1e9));
                if (result != CallbackResult::go_on) break;
                cycles.fetch_add(1);
            }
        });
        while (cycles.load() < 10) out.send(static_cast<std::uint32_t>(1 + random.below(most_frames)));
        stream.end_capture();
        in.rings.end();
        const std::uint64_t captured = account->captured_frames.load();
        const std::uint64_t seen = cycles.load();
        while (cycles.load() < seen + 10) std::this_thread::yield();
        CHECK_EQUAL(captured, account->captured_frames.load());
        stream.close();
        device.join();
        out.rings.end();
    }
}

void damage() {
    Line line(4, 1);
    const auto account = std::make_shared<DeviceAccount>();
    DeviceStream stream(account, rate_hz, 20'000'000, 1'000'000);
    stream.play_from(line.playback());
    CHECK(line.send(100));
    // A block that says it lies where no buffer is.
    for (std::uint32_t index = 0; index < line.ring().count(); ++index) {
        auto& slot = line.ring().slot(index);
        BlockHeader header = slot.header.read();
        header.buffer = 1'000'000;
        slot.header.write(header);
    }
    Device device;
    CHECK_EQUAL(CallbackResult::abort, device.cycle(stream, 64, 1));
    CHECK(stream.damage().has_value());
    stream.close();
}

}  // namespace

int main(int argc, char** argv) {
    const Effort effort = effort_of("device_playback", argc, argv, 60);
    everything_is_played(effort.seed, effort.blocks);
    a_successor_repeats();
    fills_first();
    conceals();
    pauses();
    closing(effort.seed);
    damage();
    std::puts("device_playback: every frame was played once, in order");
    return 0;
}
