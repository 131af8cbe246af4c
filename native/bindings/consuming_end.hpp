// What the consuming end of a pipeline is made of, whoever consumes: a worker's inbox, an open end, a device.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "intake.hpp"
#include "payload.hpp"

namespace steadyflow {

// Throws Corrupted where shared memory holds no such ring.
inline RingConsumer consuming_end(std::shared_ptr<Segment> segment, std::uint64_t ring_offset, std::uint64_t pool_offset,
                                  std::shared_ptr<Segment> bell_segment, std::uint64_t producer_bell_offset,
                                  unsigned consumer, unsigned process) {
    Bell producer_bell;
    if (bell_segment) producer_bell = Bell(std::move(bell_segment), producer_bell_offset);
    BufferPool pool(segment, pool_offset);
    return RingConsumer(Ring(std::move(segment), ring_offset), std::move(pool), std::move(producer_bell), consumer, process);
}

// The rules as Python counts them out. Raises ConfigurationError where there is no such choice.
inline IntakeRules rules_of(int late, std::int64_t max_age_ns, std::uint64_t target_frames, std::uint64_t preroll_frames,
                            std::uint32_t most_staged, std::uint32_t most_frames, double rate_hz, int made_up) {
    if (late < 0 || late > 2) raise_error("ConfigurationError", "no such rule for late blocks");
    if (made_up < 0 || made_up > 2) raise_error("ConfigurationError", "no such concealment");
    return {static_cast<Late>(late), max_age_ns,  target_frames, preroll_frames,
            most_staged,             most_frames, rate_hz,       static_cast<MadeUp>(made_up)};
}

// Throws Corrupted, with the name of the pipeline, where what flows cannot be made up.
inline std::unique_ptr<Intake> make_intake(const IntakeRules& rules, const PayloadSpec& spec, const std::string& pipeline) {
    std::unique_ptr<Concealment> concealment;
    if (rules.late == Late::conceal) {
        const auto type = sample_type_of(spec);
        if (!type) throw Corrupted("only audio can be made up", pipeline);
        concealment = std::make_unique<Concealment>(*type, spec.channels, spec.planar, rules.rate_hz, spec.max_frames,
                                                    rules.made_up);
    }
    return std::make_unique<Intake>(rules, std::move(concealment));
}

}  // namespace steadyflow
