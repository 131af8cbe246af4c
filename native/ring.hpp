// The ring of one pipeline: who owns which block, and what became of it.
//
// One 64-bit word per slot is the truth:   position (48 bits) | attempt (8) | owner or reason (5) | state (3)
//
//   EMPTY --producer--> READY --consumer--> CLAIMED(owner) --owner--> DONE
//                         |                     |  \--owner--> EVICTED(reason)      (failed or late at the consumer)
//                         |                     \--reaper--> READY, attempt + 1     (the owner died)
//                         \--producer, control plane--> EVICTED(reason)             (overflow rule; flush)
//   DONE, EVICTED --producer--> EMPTY, after tallying the fate and releasing the branch bit
//
// Invariants
// - Every hand-over is one compare-and-swap of that word; no other shared word decides anything. `tail` is a hint.
// - A position is used once, and positions grow in the order of sending. Slot index = position modulo slots. The producer
//   skips an index whose slot is still claimed or READY; so a block may wait for longer than one lap of the ring, while
//   positions behind it are skipped again and again. No READY slot lies before `oldest`, but for those given back.
// - READY slots never exceed buffer_size; slots = buffer_size + consumers + 1, so there is always one to write into.
// - A slot's other fields are written while it is EMPTY and read while it is CLAIMED.
// - sent = delivered + dropped + in flight, where sent = published + refused: `published` is stored after the slot is
//   READY, `refused` counts among the drops what send() dropped; a block counts from the return of send(). Each final state
//   is tallied once, DONE and EVICTED apart; a tally names the position it counted last, so a successor of a dead producer knows
//   whether that slot was counted before it became EMPTY, and finds `published` anew: what was tallied, and the slots that were not.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>

#include "consumer_stats.hpp"
#include "memory.hpp"
#include "rule.hpp"
#include "segment.hpp"

namespace steadyflow {

// Two bits of four each: one flipped bit makes no other state of it, nor do zeros or ones.
enum class SlotState : std::uint64_t { empty = 0b0011, ready = 0b0101, claimed = 0b0110, done = 0b1001, evicted = 0b1010 };
static_assert(max_processes <= 16 && reasons <= 16, "an owner or a reason has four bits");

struct SlotWord {
    std::uint64_t bits;

    static constexpr SlotWord make(SlotState state, std::uint64_t position, std::uint64_t owner = 0,
                                   std::uint64_t attempt = 0) noexcept {
        return {position << 16 | (attempt & 255) << 8 | (owner & 15) << 4 | static_cast<std::uint64_t>(state)};
    }
    constexpr SlotState state() const noexcept { return static_cast<SlotState>(bits & 15); }
    constexpr bool has_a_state() const noexcept {
        switch (state()) {
            case SlotState::empty:
            case SlotState::ready:
            case SlotState::claimed:
            case SlotState::done:
            case SlotState::evicted: return true;
        }
        return false;
    }
    constexpr unsigned owner() const noexcept { return static_cast<unsigned>(bits >> 4 & 15); }
    constexpr unsigned attempt() const noexcept { return static_cast<unsigned>(bits >> 8 & 255); }
    constexpr std::uint64_t position() const noexcept { return bits >> 16; }
    constexpr SlotWord with(SlotState state, std::uint64_t owner = 0) const noexcept {
        return make(state, position(), owner, attempt());
    }
};

inline constexpr std::uint64_t last_position = ~std::uint64_t{0} >> 16;

// What a block was made from: the position of the sending module's input block in its own ring, with 16 bits that say so.
// A receiver that restores the order may wait for a position that this names, so a damaged one must be known.
struct Origin {
    std::uint64_t bits;

    // `place`: the position of the block itself.
    static constexpr Origin make(std::uint64_t position, std::uint64_t place) noexcept {
        return {(position & last_position) | check(position & last_position, place) << 48};
    }
    constexpr std::uint64_t position() const noexcept { return bits & last_position; }
    constexpr bool fits(std::uint64_t place) const noexcept { return bits >> 48 == check(position(), place); }

private:
    static constexpr std::uint64_t check(std::uint64_t position, std::uint64_t place) noexcept {
        return (position ^ place << 20 ^ 0x5eed) * 0x9e3779b97f4a7c15 >> 48;
    }
};

// What travels with a block; one copy per pipeline.
struct BlockHeader {
    std::uint64_t sequence;
    std::int64_t timestamp_ns;
    std::uint64_t first_frame;
    std::uint32_t buffer;
    std::uint32_t payload_bytes;
    std::uint32_t frames;
    std::uint16_t flags;
    std::uint16_t metadata_bytes;
};

template <class Memory>
struct alignas(cache_line) BasicSlot {
    typename Memory::template Atomic<std::uint64_t> word;
    typename Memory::template Atomic<std::int64_t> sent_ns;  // atomic: a worker peeks at it before it claims
    typename Memory::template Atomic<std::uint64_t> origin;  // an Origin; atomic, likewise
    typename Memory::template Plain<BlockHeader> header;
};
static_assert(sizeof(BasicSlot<SharedMemory>) == cache_line);

// What became of blocks, in two copies of which one is valid: a change is written into the other, and one store makes that the
// valid one. Written by the producer alone.
template <class Record, class Memory>
struct BasicTally {
    Record records[2];
    typename Memory::template Atomic<std::uint64_t> version;

    // relaxed: for the producer, or where it is gone.
    const Record& now() const noexcept { return records[version.load(std::memory_order_relaxed) & 1]; }
};

template <class Memory>
struct BasicDeliveries {
    using Counter = typename Memory::template Atomic<std::uint64_t>;

    Counter delivered;
    Counter repeated;
    Counter last_position;  // + 1; 0: none yet
};

template <class Memory>
struct BasicDrops {
    using Counter = typename Memory::template Atomic<std::uint64_t>;

    Counter dropped[reasons];
    Counter refused;  // of the dropped ones, those that never became READY
    Counter last_position;  // + 1; 0: none yet
    // Of the dropped ones. No business of the model of the memory: they are written and read as the others are.
    std::atomic<std::uint64_t> frames[reasons];
};

// How much of its pipeline's room a block takes.
struct BlockSize {
    std::uint32_t bytes = 0;
    std::uint32_t frames = 0;
};

// The same of the block in a slot, for whoever adds up what waits or was dropped, and whether no rule may drop it.
struct SlotSize {
    std::uint64_t bits;

    static SlotSize make(BlockSize size, bool is_control) noexcept {
        return {std::uint64_t{is_control} << 63 | std::uint64_t{size.frames & 0x7fff'ffff} << 32 | size.bytes};
    }
    std::uint32_t bytes() const noexcept { return static_cast<std::uint32_t>(bits); }
    std::uint32_t frames() const noexcept { return static_cast<std::uint32_t>(bits >> 32 & 0x7fff'ffff); }
    bool is_control() const noexcept { return bits >> 63 != 0; }
};

inline constexpr Nanoseconds longest_pace_ns = 60'000'000'000;

// From one block to the next, with 16 bits that say so: damage stops nobody, where it would be taken for a pace.
struct Pace {
    std::uint64_t bits;

    static constexpr Pace make(Nanoseconds pace_ns) noexcept {
        if (pace_ns <= 0) return {0};
        const auto ns = static_cast<std::uint64_t>(std::min(pace_ns, longest_pace_ns));
        return {ns | check(ns) << 48};
    }
    constexpr Nanoseconds ns() const noexcept {
        if (bits == 0) [[likely]] return 0;  // asked for each block
        const std::uint64_t ns = bits & last_position;
        return bits >> 48 == check(ns) && ns <= static_cast<std::uint64_t>(longest_pace_ns) ? static_cast<Nanoseconds>(ns) : 0;
    }

private:
    static constexpr std::uint64_t check(std::uint64_t ns) noexcept { return (ns ^ 0x9ace) * 0x9e3779b97f4a7c15 >> 48; }
};

inline constexpr std::uint32_t ring_magic = 0x676e6972;  // "ring"
// Marks, and not just 1: a flipped bit neither ends nor stops a stream, nor undoes it.
inline constexpr std::uint32_t end_mark = 0x21646e65;              // "end!"
inline constexpr std::uint32_t abandoned_mark = 0x656e6f67;        // "gone"
inline constexpr std::uint64_t pause_mark = 0x6c6c697473646e61;    // "andstill"; as a time, centuries ahead

template <class Memory>
struct alignas(cache_line) BasicRingHeader {
    template <class T>
    using Atomic = typename Memory::template Atomic<T>;

    // Constants, and the words that are written once: nobody writes to this line while blocks flow.
    std::uint32_t magic;
    std::uint32_t slots;  // 0: a fused pipeline, statistics only
    std::uint32_t consumers;
    std::uint32_t branch;
    std::uint64_t views;  // of large blocks, that each consumer may keep: the pool has buffers for them
    std::uint64_t check;  // fingerprint() of the above and of the place
    Atomic<std::uint32_t> ended;      // 0 or end_mark; by the producer, or by the control plane for one that is gone
    Atomic<std::uint32_t> abandoned;  // 0 or abandoned_mark; by the control plane: nobody will ever consume, send drops
    Counter first_sequence;           // what numbers go on from, of the ring before it; by whoever comes from there, before it takes a block

    // Written by the producer.
    alignas(cache_line) Atomic<std::uint64_t> tail;
    Atomic<std::uint64_t> oldest;  // where consumers that were lapped go on
    Atomic<std::uint64_t> published;  // blocks that became READY; of a fused pipeline, all
    Counter bytes;
    Counter full_events;
    Counter blocked_ns;
    Counter blocked_since_ns;  // when the wait for room began that still lasts; 0: nobody waits
    Counter peak_fill;
    Counter loan_copies;  // blocks of loans that could not be sent where they lay
    Counter paced_ns;     // senders waited for so long because of `pace`
    alignas(cache_line) BasicTally<BasicDeliveries<Memory>, Memory> deliveries;
    alignas(cache_line) BasicTally<BasicDrops<Memory>, Memory> drops;

    // Written by the control plane.
    alignas(cache_line) Atomic<std::uint64_t> rule;
    Atomic<std::uint32_t> buffer_size;
    Atomic<std::uint32_t> epoch;  // a reaper gave slots back: cursors start again
    Atomic<std::uint32_t> window;  // its number: whoever reads peaks begins a new one
    Counter byte_limit;   // of what may wait; 0: none
    Counter frame_limit;  // likewise
    Counter alarmed;      // 0, or 1: flow control wants to be woken when it becomes full
    Counter pace;         // a Pace, for senders that can wait; 0: as they come
    Atomic<std::uint64_t> pause;  // pause_mark: consumers find nothing; else when it was last resumed, 0: never paused

    // 0, or the position whose claim wakes the waiting producer. Set by the producer, cleared by whoever wakes it: the one
    // word with two writers, and harmless, since a lost request only makes a wait last until the producer looks up.
    alignas(cache_line) Atomic<std::uint64_t> wake_position;
};

template <class Memory>
SlotWord load(const BasicSlot<Memory>& slot) noexcept {
    // acquire: whoever sees a state sees what was written before it.
    return {slot.word.load(std::memory_order_acquire)};
}

__extension__ typedef unsigned __int128 Wide;

// The mapped ring, with its constants copied out of shared memory and checked once.
template <class Memory>
class BasicRing {
public:
    using Header = BasicRingHeader<Memory>;
    using Slot = BasicSlot<Memory>;

    static std::uint32_t slots_for(std::uint32_t buffer_size, std::uint32_t consumers) noexcept {
        return buffer_size + consumers + 1;
    }
    static std::size_t bytes(std::uint32_t slots, std::uint32_t consumers) noexcept {
        return slots_offset(consumers) + slots * (sizeof(Slot) + sizeof(Counter));
    }

    static void create(const Segment& segment, std::uint64_t offset, std::uint32_t buffer_size, std::uint32_t slots,
                       std::uint32_t consumers, std::uint32_t branch, Rule rule, std::uint32_t views = 0) {
        segment.require_writable("create a ring");
        segment.at<std::byte>(offset, bytes(slots, consumers));
        auto* header = segment.at<Header>(offset);
        header->slots = slots;
        header->consumers = consumers;
        header->branch = branch;
        header->views = views;
        header->check = check_of(offset, slots, consumers, branch, views);
        header->rule.store(rule.pack(), std::memory_order_relaxed);
        header->buffer_size.store(buffer_size, std::memory_order_relaxed);
        auto* slot = segment.at<Slot>(offset + slots_offset(consumers), slots);
        for (std::uint32_t index = 0; index < slots; ++index) {
            slot[index].word.store(SlotWord::make(SlotState::empty, index).bits, std::memory_order_relaxed);
        }
        header->magic = ring_magic;
    }

    BasicRing() = default;
    BasicRing(std::shared_ptr<Segment> segment, std::uint64_t offset) : segment_(std::move(segment)), offset_(offset) {
        header_ = segment_->at<Header>(offset);
        if (read_once(header_->magic) != ring_magic) throw Corrupted("no ring at offset " + std::to_string(offset));
        // Copied once and used from here on, so that later writes to the header cannot move the bounds.
        count_ = read_once(header_->slots);
        consumers_ = read_once(header_->consumers);
        branch_ = read_once(header_->branch);
        views_ = read_once(header_->views);
        // No slots at all is a fused pipeline; else one READY, one to write into, and a claim for each consumer.
        if (consumers_ == 0 || consumers_ > max_processes || branch_ >= max_branches || count_ > segment_->bytes() ||
            (count_ != 0 && count_ < consumers_ + 2) || !has_its_constants()) {
            throw Corrupted("impossible ring: " + std::to_string(count_) + " slots, " + std::to_string(consumers_) +
                            " consumers, branch " + std::to_string(branch_));
        }
        most_waiting_ = count_ == 0 ? 1 : count_ - consumers_ - 1;
        reciprocal_ = count_ == 0 ? 0 : static_cast<std::uint64_t>((Wide{1} << 64) / count_);
        stats_ = segment_->at<ConsumerStats>(offset + sizeof(Header), consumers_);
        slots_ = segment_->at<Slot>(offset + slots_offset(consumers_), count_);
        sizes_ = segment_->at<Counter>(offset + slots_offset(consumers_) + count_ * sizeof(Slot), count_);
    }

    explicit operator bool() const noexcept { return header_ != nullptr; }
    Header& header() const noexcept { return *header_; }
    std::uint32_t count() const noexcept { return count_; }
    std::uint32_t consumers() const noexcept { return consumers_; }
    unsigned branch() const noexcept { return branch_; }
    std::uint64_t views() const noexcept { return views_; }
    Slot& slot(std::uint64_t position) const noexcept { return slots_[index_of(position)]; }
    // relaxed: it comes with the slot's word, which says whether it is of that block.
    SlotSize size(std::uint64_t position) const noexcept { return {sizes_[index_of(position)].load(std::memory_order_relaxed)}; }
    void set_size(std::uint64_t position, SlotSize size) const noexcept {
        sizes_[index_of(position)].store(size.bits, std::memory_order_relaxed);
    }
    ConsumerStats& stats(std::uint32_t consumer) const noexcept { return stats_[consumer]; }
    const std::shared_ptr<Segment>& segment() const noexcept { return segment_; }
    std::uint64_t offset() const noexcept { return offset_; }

    // Throws Corrupted if other contents were written over the header. For whoever waits in vain; nobody needs the
    // constants any more, but where they are gone, the marks beside them are, too.
    void verify() const {
        if (read_once(header_->magic) != ring_magic || !has_its_constants()) {
            throw Corrupted("the ring at offset " + std::to_string(offset_) + " was overwritten");
        }
    }

    // Throws Corrupted if a word can't be that of the slot at `index`: a state or a position that no end writes there.
    void require_possible(SlotWord word, std::uint32_t index) const {
        if (!word.has_a_state() || index_of(word.position()) != index) refuse_slot(word, index);
    }

    // The same of all slots; consumers may go on meanwhile.
    void require_possible_slots() const {
        for (std::uint32_t index = 0; index < count_; ++index) require_possible(load(slot(index)), index);
    }

    // acquire: who sees the end sees every block before it. Throws Corrupted where the word says neither yes nor no.
    bool ended() const {
        const std::uint32_t word = header_->ended.load(std::memory_order_acquire);
        if (word != 0 && word != end_mark) refuse_end(word);
        return word != 0;
    }
    // release: see ended().
    void end() const noexcept { header_->ended.store(end_mark, std::memory_order_release); }
    // relaxed: it says no more than that nobody will consume.
    bool abandoned() const noexcept { return header_->abandoned.load(std::memory_order_relaxed) == abandoned_mark; }
    void set_abandoned() const noexcept { header_->abandoned.store(abandoned_mark, std::memory_order_relaxed); }

    Rule rule() const noexcept { return Rule::unpack(header_->rule.load(std::memory_order_relaxed)); }
    // READY blocks that may wait; never more than the slots allow, whatever the shared word says.
    std::uint64_t buffer_size() const noexcept {
        const std::uint64_t wanted = header_->buffer_size.load(std::memory_order_relaxed);
        return std::clamp<std::uint64_t>(wanted, 1, most_waiting_);
    }

    // relaxed: as the rule.
    std::uint64_t byte_limit() const noexcept { return header_->byte_limit.load(std::memory_order_relaxed); }
    std::uint64_t frame_limit() const noexcept { return header_->frame_limit.load(std::memory_order_relaxed); }
    void limit(std::uint64_t bytes, std::uint64_t frames) const noexcept {
        header_->byte_limit.store(bytes, std::memory_order_relaxed);
        header_->frame_limit.store(frames, std::memory_order_relaxed);
    }
    // 0: none.
    Nanoseconds pace_ns() const noexcept { return Pace{header_->pace.load(std::memory_order_relaxed)}.ns(); }
    void set_pace(Nanoseconds pace_ns) const noexcept {
        header_->pace.store(Pace::make(pace_ns).bits, std::memory_order_relaxed);
    }
    bool alarmed() const noexcept { return header_->alarmed.load(std::memory_order_relaxed) != 0; }
    void set_alarmed(bool alarmed) const noexcept { header_->alarmed.store(alarmed ? 1 : 0, std::memory_order_relaxed); }
    // READY blocks that may wait at most, by the slots that there are.
    std::uint64_t most_waiting() const noexcept { return most_waiting_; }

    // While paused, consumers find nothing, and the rule decides what happens as the ring fills. Control plane only; whoever
    // resumes rings every consumer's bell afterwards.
    // relaxed: that bell orders the look that follows it after the resuming; pausing waits for nobody, so a block that is
    // being taken at this moment is still delivered.
    void pause() const noexcept { header_->pause.store(pause_mark, std::memory_order_relaxed); }
    void resume(Nanoseconds now_ns) const noexcept {
        header_->pause.store(static_cast<std::uint64_t>(now_ns), std::memory_order_relaxed);
    }
    bool paused() const noexcept { return header_->pause.load(std::memory_order_relaxed) == pause_mark; }
    // When it was last resumed; 0 if it was never paused.
    Nanoseconds resumed_ns() const noexcept {
        const std::uint64_t pause = header_->pause.load(std::memory_order_relaxed);
        return pause == pause_mark ? 0 : static_cast<Nanoseconds>(pause);
    }

private:
    // Out of the way of the hot path, which these are part of.
    [[noreturn, gnu::noinline, gnu::cold]] void refuse_slot(SlotWord word, std::uint32_t index) const {
        throw Corrupted("slot " + std::to_string(index) + " of " + std::to_string(count_) + " holds state " +
                        std::to_string(static_cast<unsigned>(word.state())) + " and position " +
                        std::to_string(word.position()) + ", which is not possible there");
    }
    [[noreturn, gnu::noinline, gnu::cold]] static void refuse_end(std::uint32_t word) {
        throw Corrupted("the end of the stream is marked by " + std::to_string(word) + ", expected 0 or " +
                        std::to_string(end_mark));
    }

    static std::uint64_t check_of(std::uint64_t offset, std::uint32_t slots, std::uint32_t consumers,
                                  std::uint32_t branch, std::uint64_t views) noexcept {
        return fingerprint({ring_magic, offset, slots, consumers, branch, views});
    }
    bool has_its_constants() const noexcept {
        return read_once(header_->slots) == count_ && read_once(header_->consumers) == consumers_ &&
               read_once(header_->branch) == branch_ && read_once(header_->views) == views_ &&
               read_once(header_->check) == check_of(offset_, count_, consumers_, branch_, views_);
    }
    // position % count_, without the division, which would be the slowest instruction of a hop: the quotient by way of the
    // rounded-down reciprocal is right or one too small.
    std::uint64_t index_of(std::uint64_t position) const noexcept {
        const auto quotient = static_cast<std::uint64_t>(static_cast<Wide>(position) * reciprocal_ >> 64);
        const std::uint64_t index = position - quotient * count_;
        return index < count_ ? index : index - count_;
    }

    static std::size_t slots_offset(std::uint32_t consumers) noexcept {
        return sizeof(Header) + consumers * sizeof(ConsumerStats);
    }

    std::shared_ptr<Segment> segment_;
    std::uint64_t offset_ = 0;
    Header* header_ = nullptr;
    ConsumerStats* stats_ = nullptr;
    Slot* slots_ = nullptr;
    Counter* sizes_ = nullptr;
    std::uint32_t count_ = 0;
    std::uint32_t consumers_ = 0;
    std::uint64_t reciprocal_ = 0;  // 2^64 / count_
    std::uint64_t most_waiting_ = 0;
    unsigned branch_ = 0;
    std::uint64_t views_ = 0;
};

using Slot = BasicSlot<SharedMemory>;
using RingHeader = BasicRingHeader<SharedMemory>;
using Ring = BasicRing<SharedMemory>;

}  // namespace steadyflow
