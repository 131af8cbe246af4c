#include "intake.hpp"

#include <algorithm>
#include <utility>

namespace steadyflow {
namespace {

constexpr std::int64_t latest_stamp_ns = std::int64_t{1} << 62;  // a damaged one may be any number

}  // namespace

Intake::Intake(const IntakeRules& rules, std::unique_ptr<Concealment> concealment)
    : rules_(rules),
      concealment_(std::move(concealment)),
      staged_(rules.most_staged == 0 ? nullptr : std::make_unique<Staged[]>(rules.most_staged)),
      filling_(rules.target_frames != 0 && rules.most_staged != 0) {}

void Intake::hold() noexcept {
    held_ = true;
    if (!behind_gap_) return;
    if (gap_frames_ == 0) call_complete(*behind_gap_);
    // It was taken from what is kept back, or nothing was: there is room for it.
    staged(--first_) = *std::exchange(behind_gap_, std::nullopt);
    staged_frames_ += staged(first_).claim.header.frames;
    gap_frames_ = 0;
}

void Intake::let_go(Lanes& lanes, Nanoseconds now_ns) {
    if (!held_) return;
    stage(lanes);  // what nobody has looked at yet is newer than what is kept
    held_ = false;
    let_go_ns_ = now_ns;
    filling_ = rules_.target_frames != 0;
}

Nanoseconds Intake::peek_sent_ns(Lanes& lanes, bool drain) {
    if (behind_gap_) return behind_gap_->claim.sent_ns;
    if (closed(lanes, drain)) return -1;
    if (staged_blocks() != 0) return staged(first_).claim.sent_ns;
    const Nanoseconds sent = lanes.peek_sent_ns();
    if (sent < 0 && rules_.target_frames != 0) filling_ = true;  // it ran dry
    return sent;
}

bool Intake::take(Lanes& lanes, Nanoseconds now_ns, bool drain, Next& next) {
    next = {};
    if (behind_gap_) {
        hand_behind_gap(now_ns, drain, next);
        return true;
    }
    if (closed(lanes, drain)) return false;
    Staged taken{};
    while (next_claim(lanes, taken)) {
        if (drain) {
            hand(taken, next);
            return true;
        }
        const bool late = is_late(taken, now_ns);
        if (fill_gap(taken, late, next)) return true;
        if (!late) {
            hand(taken, next);
            return true;
        }
        drop_late(taken, now_ns);
        if (!concealment_) continue;
        stand_in(taken, next);
        return true;
    }
    if (rules_.target_frames != 0) filling_ = true;  // it ran dry
    return false;
}

bool Intake::at_end(Lanes& lanes) {
    if (behind_gap_) return false;
    if (held_ && lanes.at_end()) {
        while (staged_blocks() != 0) drop_first(Reason::unwanted);
    }
    return staged_blocks() == 0 && lanes.at_end();
}

void Intake::make_up(ConsumerStats& stats, void* samples, std::uint32_t frames) noexcept {
    concealment_->conceal(samples, frames);
    add(stats.concealed_blocks);
    add(stats.concealed_frames, frames);
}

// Whether nothing may come out now; takes in what waits meanwhile.
bool Intake::closed(Lanes& lanes, bool drain) {
    if (drain || (!held_ && !filling_)) return false;
    stage(lanes);
    if (held_) return true;
    // What will never be more is enough; so is what cannot become more.
    const bool filled = staged_frames_ >= rules_.target_frames || staged_blocks() == rules_.most_staged;
    if (filled || (staged_blocks() != 0 && !goes_on_ && lanes.at_end())) filling_ = false;
    return filling_;
}

void Intake::stage(Lanes& lanes) {
    if (held_) keep_newest();
    // A look has an end, however fast somebody sends: the bell has rung again by then.
    for (std::uint32_t taken = 0; taken <= rules_.most_staged; ++taken) {
        if (!held_ && (staged_blocks() == rules_.most_staged || staged_frames_ >= rules_.target_frames)) return;
        if (staged_blocks() == rules_.most_staged) {
            if (lanes.peek_sent_ns() < 0) return;  // nothing that would take its place
            drop_first(Reason::unwanted);
        }
        Staged& place = staged(last_);
        place.lane = lanes.claim(place.claim);
        if (place.lane == nullptr) return;
        ++last_;
        staged_frames_ += place.claim.header.frames;
        if (held_) keep_newest();
    }
}

void Intake::keep_newest() {
    while (staged_blocks() != 0 && staged_frames_ - staged(first_).claim.header.frames >= rules_.preroll_frames) {
        drop_first(Reason::unwanted);
    }
}

void Intake::drop_first(Reason reason) {
    const Staged dropped = staged(first_++);
    staged_frames_ -= dropped.claim.header.frames;
    broken_ = true;
    placed_ = false;  // nobody misses it
    dropped.lane->consumer.discard(dropped.claim, reason);
}

bool Intake::next_claim(Lanes& lanes, Staged& taken) {
    if (staged_blocks() != 0) {
        taken = staged(first_++);
        staged_frames_ -= taken.claim.header.frames;
        return true;
    }
    taken.lane = lanes.claim(taken.claim);
    return taken.lane != nullptr;
}

bool Intake::is_late(const Staged& taken, Nanoseconds now_ns) const noexcept {
    if (rules_.late == Late::pass || rules_.max_age_ns == 0) return false;
    return now_ns - due_from_ns(taken) > rules_.max_age_ns;
}

// A pause, or its own module that held it, makes no block late.
Nanoseconds Intake::due_from_ns(const Staged& taken) const noexcept {
    return std::max({taken.claim.sent_ns, taken.lane->consumer.ring().resumed_ns(), let_go_ns_});
}

void Intake::drop_late(const Staged& late, Nanoseconds now_ns) {
    late.lane->consumer.discard(late.claim, Reason::late);
    note_late(late, now_ns);
    // What was dropped before it is missing, with what stands in for it or without.
    if (!concealment_ || (late.claim.header.flags & flag_discontinuity) != 0) broken_ = true;
}

// Hands out what is heard in place of a late block.
void Intake::stand_in(const Staged& late, Next& next) {
    begin_made_up(late, late.claim.header.first_frame, late.claim.header.timestamp_ns);
    hand_made_up(late.claim.header.frames, next);
}

// A missed deadline, too; but nobody worked on it, so it was no load.
void Intake::note_late(const Staged& taken, Nanoseconds now_ns) noexcept {
    const Claim& claim = taken.claim;
    taken.lane->consumer.stats().cycle.note(
        {claim.header.sequence, claim.sent_ns, due_from_ns(taken), now_ns, now_ns, now_ns, now_ns}, rules_.max_age_ns, 0);
}

// Where frames are missing before this block: hands out the first of what stands in for them, and keeps the block.
bool Intake::fill_gap(const Staged& taken, bool late, Next& next) {
    if (!concealment_ || !placed_ || piece_frames_ == 0) return false;
    const BlockHeader& header = taken.claim.header;
    const std::uint64_t missing = header.first_frame - next_frame_;
    if (header.first_frame <= next_frame_ || static_cast<double>(missing) > longest_gap_s * rules_.rate_hz) return false;
    const auto before_ns = static_cast<Nanoseconds>(static_cast<double>(missing) * 1e9 / rules_.rate_hz);
    begin_made_up(taken, next_frame_, std::clamp<std::int64_t>(header.timestamp_ns, before_ns, latest_stamp_ns) - before_ns);
    behind_gap_ = taken;
    late_behind_gap_ = late;
    gap_frames_ = missing;
    hand_made_up(static_cast<std::uint32_t>(std::min<std::uint64_t>(missing, piece_frames_)), next);
    return true;
}

// What was dropped before it has been filled in; what its sender says of it stays.
void Intake::call_complete(Staged& taken) noexcept {
    taken.claim.header.flags = RingConsumer::sent_flags(taken.claim);
}

// The next piece of the gap or, once it is filled, what comes behind it.
void Intake::hand_behind_gap(Nanoseconds now_ns, bool drain, Next& next) {
    if (gap_frames_ != 0 && !drain) {
        return hand_made_up(static_cast<std::uint32_t>(std::min<std::uint64_t>(gap_frames_, piece_frames_)), next);
    }
    Staged taken = *std::exchange(behind_gap_, std::nullopt);
    gap_frames_ = 0;
    if (drain) return hand(taken, next);
    call_complete(taken);
    if (!late_behind_gap_) return hand(taken, next);
    drop_late(taken, now_ns);
    stand_in(taken, next);
}

void Intake::begin_made_up(const Staged& instead_of, std::uint64_t first_frame, std::int64_t timestamp_ns) {
    stamps_ = instead_of.claim.header;
    stamps_.first_frame = first_frame;
    stamps_.timestamp_ns = std::clamp<std::int64_t>(timestamp_ns, 0, latest_stamp_ns);
    made_up_lane_ = instead_of.lane;
}

void Intake::hand_made_up(std::uint32_t wanted, Next& next) {
    // What a block says of its length is not checked yet.
    const std::uint32_t frames = std::clamp<std::uint32_t>(wanted, 1, rules_.most_frames);
    next.lane = made_up_lane_;
    next.claim.header = stamps_;
    next.claim.header.frames = frames;
    next.claim.header.metadata_bytes = 0;
    next.claim.header.flags = flag_gap;
    if (broken_) next.claim.header.flags |= flag_discontinuity;
    stamps_.first_frame += frames;
    stamps_.timestamp_ns += static_cast<Nanoseconds>(frames * 1e9 / rules_.rate_hz);
    gap_frames_ -= std::min<std::uint64_t>(gap_frames_, frames);
    placed_ = true;
    next_frame_ = stamps_.first_frame;
    broken_ = false;
}

void Intake::hand(const Staged& taken, Next& next) {
    next.lane = taken.lane;
    next.claim = taken.claim;
    if (broken_) next.claim.header.flags |= flag_discontinuity;
    broken_ = false;
    placed_ = true;
    piece_frames_ = taken.claim.header.frames;
    next_frame_ = taken.claim.header.first_frame + taken.claim.header.frames;
}

}  // namespace steadyflow
