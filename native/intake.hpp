// What an input lets through to its module, and when: late blocks, a jitter buffer, a pre-roll, what stands in for gaps.
//
// Blocks that are held back are claimed, in their order, so they are this consumer's until they are let through or
// dropped; if it dies, a reaper gives them back. Only pipelines that ask for something of this have one.
//
// Invariants
// - Blocks come out in the order in which they were claimed, each once, or are dropped with a reason.
// - Whatever is dropped here or before, the next block that is let through says DISCONTINUITY, unless made-up audio fills its
//   place. What its sender says of it stays.
// - What is made up is no block of the ring: it is counted apart, and changes no account.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "block_flags.hpp"
#include "concealment.hpp"
#include "lanes.hpp"

namespace steadyflow {

enum class Late : std::uint8_t { pass = 0, drop = 1, conceal = 2 };

struct IntakeRules {
    Late late = Late::pass;
    Nanoseconds max_age_ns = 0;        // an older block is late; 0: none is
    std::uint64_t target_frames = 0;   // nothing comes out before so many wait, nor again once it ran dry; 0: at once
    std::uint64_t preroll_frames = 0;  // so many of the newest are kept while the module does not want them
    std::uint32_t most_staged = 0;     // blocks that can be held back; 0: none, and nothing can be held
    std::uint32_t most_frames = 1;     // of a block
    double rate_hz = 0;                // for concealment
    MadeUp made_up = MadeUp::fade;     // what it puts there
};

// One thread at a time. Allocates when it is made, and never after.
class Intake {
public:
    using Lane = Lanes::Lane;

    // What comes next: a claimed block of `lane`; or, where `claim.slot` is null, so many made-up frames with the stamps in
    // `claim.header`. Nothing where `lane` is null.
    struct Next {
        Lane* lane = nullptr;
        Claim claim;
        bool made_up() const noexcept { return claim.slot == nullptr; }
    };

    // `concealment`: with Late::conceal.
    Intake(const IntakeRules& rules, std::unique_ptr<Concealment> concealment);

    // When the block that would come next was sent; -1 if none may come yet. `drain`: whatever waits may come.
    Nanoseconds peek_sent_ns(Lanes& lanes, bool drain);
    // Takes what comes next, and drops what must not come. False if there is nothing.
    bool take(Lanes& lanes, Nanoseconds now_ns, bool drain, Next& next);
    // Whether the stream has ended and nothing comes any more.
    bool at_end(Lanes& lanes);
    // Whether it goes on in other lanes when these have ended. What is kept back stays, and so have the lanes it came from to.
    void goes_on(bool elsewhere) noexcept { goes_on_ = elsewhere; }
    bool is_empty() const noexcept { return staged_blocks() == 0 && !behind_gap_ && gap_frames_ == 0; }

    // While held, nothing comes out, and the newest frames are kept. Blocks are not late for having been held.
    bool can_hold() const noexcept { return rules_.most_staged != 0; }
    void hold() noexcept;
    void let_go(Lanes& lanes, Nanoseconds now_ns);
    bool held() const noexcept { return held_; }
    Nanoseconds let_go_ns() const noexcept { return let_go_ns_; }

    // The samples of a block that is let through, for what may follow it.
    void remember(const void* samples, std::uint32_t frames) noexcept {
        if (concealment_) concealment_->remember(samples, frames);
    }
    bool conceals() const noexcept { return concealment_ != nullptr; }
    // A block that was let through could not be delivered: the next one says so.
    void note_lost() noexcept { broken_ = true; }
    // Makes up audio, in the format of the pipeline; counts it.
    void make_up(ConsumerStats& stats, void* samples, std::uint32_t frames) noexcept;

private:
    struct Staged {
        Claim claim;
        Lane* lane;
    };

    bool closed(Lanes& lanes, bool drain);
    void stage(Lanes& lanes);
    void keep_newest();
    void drop_first(Reason reason);
    bool next_claim(Lanes& lanes, Staged& staged);
    bool is_late(const Staged& staged, Nanoseconds now_ns) const noexcept;
    Nanoseconds due_from_ns(const Staged& staged) const noexcept;
    void note_late(const Staged& staged, Nanoseconds now_ns) noexcept;
    bool fill_gap(const Staged& staged, bool late, Next& next);
    void hand_behind_gap(Nanoseconds now_ns, bool drain, Next& next);
    static void call_complete(Staged& staged) noexcept;
    void stand_in(const Staged& late, Next& next);
    void drop_late(const Staged& late, Nanoseconds now_ns);
    void begin_made_up(const Staged& instead_of, std::uint64_t first_frame, std::int64_t timestamp_ns);
    void hand_made_up(std::uint32_t wanted, Next& next);
    void hand(const Staged& staged, Next& next);

    std::uint32_t staged_blocks() const noexcept { return static_cast<std::uint32_t>(last_ - first_); }
    Staged& staged(std::uint64_t index) noexcept { return staged_[index % rules_.most_staged]; }

    IntakeRules rules_;
    std::unique_ptr<Concealment> concealment_;
    std::unique_ptr<Staged[]> staged_;  // entries first_ to last_, modulo their number
    std::uint64_t first_ = 1;  // and not 0: one may be put back
    std::uint64_t last_ = 1;
    std::uint64_t staged_frames_ = 0;
    bool held_ = false;
    bool filling_;
    bool broken_ = false;  // something was dropped before the next block
    bool goes_on_ = false;
    Nanoseconds let_go_ns_ = 0;
    // Where the stream goes on, for gaps.
    bool placed_ = false;
    std::uint64_t next_frame_ = 0;
    std::uint32_t piece_frames_ = 0;      // of the latest block: gaps are filled in such pieces
    std::optional<Staged> behind_gap_;    // comes once the gap before it is filled
    bool late_behind_gap_ = false;        // and was late by then: it is dropped, and its own place filled, too
    std::uint64_t gap_frames_ = 0;
    BlockHeader stamps_{};                // of the next made-up frame
    Lane* made_up_lane_ = nullptr;
};

}  // namespace steadyflow
