// What the probe concludes from what comes back, against a plain model: streams with holes, repeats, silence and foreign samples.
#include <array>

#include "numbers.hpp"
#include "traffic.hpp"

using namespace steadyflow::probe;
using namespace steadyflow::testing;

namespace {

constexpr std::uint32_t period_frames = 64;

void check_numbers() {
    for (const std::uint64_t position : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{modulus - 1}, std::uint64_t{modulus},
                                         std::uint64_t{1} << 40}) {
        const float sample = sample_of(position);
        CHECK(sample >= 1);
        CHECK(position_of(sample).has_value());
        CHECK_EQUAL(position % modulus, *position_of(sample));
    }
    for (std::uint32_t position = 0; position < modulus; ++position) CHECK(position_of(sample_of(position)) == position);
    for (const float none : {0.0F, -1.0F, 0.5F, 1.5F, 16'777'216.0F, 1e30F, std::numeric_limits<float>::infinity(),
                             std::numeric_limits<float>::quiet_NaN()}) {
        CHECK(!position_of(none));
    }
}

// Frame by frame, with positions that do not come round.
struct Model {
    Heard heard;
    std::vector<std::int32_t> latencies;
    std::optional<std::uint64_t> last;

    void hear(const std::vector<std::optional<std::uint64_t>>& positions, const std::vector<bool>& foreign, std::uint64_t playing) {
        bool numbered = false;
        const bool began = last.has_value();
        std::uint64_t silent = 0;
        for (std::size_t index = 0; index < positions.size(); ++index) {
            if (foreign[index]) {
                ++heard.foreign_frames;
            } else if (!positions[index]) {
                ++silent;
            } else {
                const std::uint64_t position = *positions[index];
                if (!numbered) latencies.push_back(static_cast<std::int32_t>(playing + index - position));
                numbered = true;
                if (last && position <= *last) ++heard.repeated_frames;
                if (last && position > *last + 1) {
                    ++heard.holes;
                    heard.lost_frames += position - *last - 1;
                }
                last = position;
                ++heard.frames;
            }
        }
        if (last) heard.silent_frames += silent;
        if (numbered) ++heard.cycles;
        else if (began) ++heard.silent_cycles;
    }
};

void check_streams(std::uint64_t seed) {
    situation = "a stream of seed " + std::to_string(seed);
    Random random(seed);
    Listener listener(1'000);
    Model model;
    // Near to where numbers come round, so that they do.
    const std::uint64_t began = modulus * (1 + random.below(3)) - random.below(20'000);
    std::uint64_t playing = began;
    std::uint64_t next = began;
    for (int cycle = 0; cycle < 600; ++cycle, playing += period_frames) {
        std::array<float, period_frames> samples{};
        std::vector<std::optional<std::uint64_t>> positions(period_frames);
        std::vector<bool> foreign(period_frames);
        const bool whole_silence = cycle < 3 || random.chance(20);
        for (std::uint32_t index = 0; index < period_frames; ++index) {
            if (whole_silence || random.chance(500)) continue;
            if (random.chance(2'000)) {
                samples[index] = 0.5F;
                foreign[index] = true;
                continue;
            }
            if (random.chance(1'000)) next += random.below(300);
            if (random.chance(1'000)) next -= std::min<std::uint64_t>(random.below(300), next - began);
            if (next > playing + index) next = playing + index;  // nothing comes back before it was played
            positions[index] = next;
            samples[index] = sample_of(next);
            ++next;
        }
        model.hear(positions, foreign, playing);
        listener.hear(samples.data(), period_frames, playing);
    }
    const Heard heard = listener.heard();
    CHECK_EQUAL(model.heard.cycles, heard.cycles);
    CHECK_EQUAL(model.heard.silent_cycles, heard.silent_cycles);
    CHECK_EQUAL(model.heard.frames, heard.frames);
    CHECK_EQUAL(model.heard.silent_frames, heard.silent_frames);
    CHECK_EQUAL(model.heard.foreign_frames, heard.foreign_frames);
    CHECK_EQUAL(model.heard.lost_frames, heard.lost_frames);
    CHECK_EQUAL(model.heard.holes, heard.holes);
    CHECK_EQUAL(model.heard.repeated_frames, heard.repeated_frames);
    CHECK_EQUAL(model.latencies.size(), heard.cycles);
    for (std::size_t cycle = 0; cycle < model.latencies.size(); ++cycle) {
        CHECK_EQUAL(model.latencies[cycle], listener.latencies_frames()[cycle]);
    }
}

void check_distribution() {
    CHECK_EQUAL(0, summarise({}).count);
    std::vector<std::int32_t> latencies;
    for (std::int32_t value = 1'000; value >= 1; --value) latencies.push_back(value);
    const Latencies found = summarise(latencies);
    CHECK_EQUAL(1'000, found.count);
    CHECK_EQUAL(500, found.p50);
    CHECK_EQUAL(990, found.p99);
    CHECK_EQUAL(999, found.p999);
    CHECK_EQUAL(1'000, found.max);
    CHECK(found.jitter == 1);
    CHECK_EQUAL(7, summarise({7}).p50);
    CHECK(summarise({7}).jitter == 0);
    CHECK(summarise({0, 128, 0}).jitter == 128);
}

void check_more_cycles_than_room() {
    Listener listener(2);
    const float one = sample_of(0);
    for (std::uint64_t cycle = 0; cycle < 5; ++cycle) listener.hear(&one, 1, cycle);
    CHECK_EQUAL(5, listener.heard().cycles);
    CHECK_EQUAL(2, listener.latencies_frames().size());
    CHECK_EQUAL(4, listener.heard().repeated_frames);
}

}  // namespace

int main() {
    check_numbers();
    for (std::uint64_t seed = 1; seed <= 50; ++seed) check_streams(seed);
    check_distribution();
    check_more_cycles_than_room();
}
