// The bell of a worker: which of its inputs may have something, and whether it sleeps.
//
// Invariants
// - Ringing sets the bit first and looks at `sleeping` afterwards; going to sleep sets `sleeping` first and looks at
//   the bits afterwards. All four accesses are sequentially consistent, so at least one side sees the other: no ring is
//   lost (store buffering is the one reordering that x86 does, and this is what it would break).
// - A bit is a hint: it may be set without a block behind it, never the other way round.
// - One sleeper at a time. Of several ringers one wakes it: the one that turns `asleep` into `called`, and that into `woken`
//   afterwards. Whoever rings between wakes it, too: that one may have been interrupted for long, by a ringer of higher
//   priority even.
// - A sleeper that has nothing to do is told from one that waits for room in the middle of its work, and takes no block.
// - A ringer that dies before the wake-up leaves a sleeper behind; whoever reaps it rings every bell by ring_anyway(), which
//   trusts neither `called` nor `woken` (which may come from a ringer that was late).
#pragma once

#include <atomic>
#include <cstdint>

#include "memory.hpp"
#include "segment.hpp"

namespace steadyflow {

inline constexpr unsigned control_bit = 63;  // a command from the control plane
inline constexpr unsigned room_bit = 62;     // one of the worker's outputs has room again
inline constexpr unsigned input_bits = 62;   // inputs beyond share the last of these

template <class Memory>
struct alignas(cache_line) BasicBellWords {
    typename Memory::template Atomic<std::uint64_t> ready;
    typename Memory::template Atomic<std::uint32_t> sleeping;
};
static_assert(sizeof(BasicBellWords<SharedMemory>) == cache_line);

template <class Memory>
class BasicBell {
public:
    BasicBell() = default;
    BasicBell(std::shared_ptr<Segment> segment, std::uint64_t offset)
        : segment_(std::move(segment)), words_(segment_->at<BasicBellWords<Memory>>(offset)), waker_(segment_->waker(offset)) {
        segment_->require_writable("ring or wait on a bell");
    }

    static constexpr std::size_t bytes() noexcept { return sizeof(BasicBellWords<Memory>); }

    explicit operator bool() const noexcept { return words_ != nullptr; }

    // Wait-free; a system call only if someone sleeps. Any thread, any process.
    void ring(unsigned bit) const noexcept {
        announce(bit);
        // seq_cst: must not move before the line above.
        std::uint32_t state = words_->sleeping.load(std::memory_order_seq_cst);
        if ((state == asleep || state == waiting) && call(state)) return;
        if (state == called) wake();
    }

    // The two halves of ringing, for several bells of which one owner is enough: every one is told, one that has nothing to
    // do is woken. Wait-free; false if this one is at work, or was called by somebody else.
    void announce(unsigned bit) const noexcept {
        // seq_cst read-modify-write: also publishes the slot written before it.
        words_->ready.fetch_or(std::uint64_t{1} << bit, std::memory_order_seq_cst);
    }
    bool wake_if_idle() const noexcept {
        // seq_cst: as in ring().
        std::uint32_t state = words_->sleeping.load(std::memory_order_seq_cst);
        return state == asleep && call(state);
    }
    // And where nobody was idle: wakes this one if its caller has not come to it yet.
    void wake_if_called() const noexcept {
        // relaxed: after the look above, which it repeats.
        if (words_->sleeping.load(std::memory_order_relaxed) == called) wake();
    }

    // The same after a process died that may have been ringing.
    void ring_anyway(unsigned bit) const noexcept {
        words_->ready.fetch_or(std::uint64_t{1} << bit, std::memory_order_seq_cst);
        if (words_->sleeping.load(std::memory_order_seq_cst) != awake) Memory::wake(*waker_);
    }

    // The owner is gone: nobody can be woken here. Control plane only, before it rings the bells of those who are left.
    // seq_cst: whoever took the dead for idle before this has announced its block to them before they are rung.
    void retire() const noexcept { words_->sleeping.store(awake, std::memory_order_seq_cst); }

    // Takes all bits; wait-free, owner only.
    std::uint64_t take() const noexcept {
        // The plain look avoids a locked instruction where nothing rang. relaxed: a bit that it misses is still there
        // when arm() looks.
        if (words_->ready.load(std::memory_order_relaxed) == 0) return 0;
        // acquire: pairs with ring(), so whoever takes a bit sees what it was rung for.
        return words_->ready.exchange(0, std::memory_order_acquire);
    }

    // Whether there is something to take. relaxed: a hint; take() is what counts.
    bool rung() const noexcept { return words_->ready.load(std::memory_order_relaxed) != 0; }

    // Announces that the owner is going to sleep until wake(). False: something rang already, so it must not. `idle`: it
    // takes a block when it is woken.
    bool arm(bool idle = true) const noexcept {
        // seq_cst: pairs with ring().
        words_->sleeping.store(idle ? asleep : waiting, std::memory_order_seq_cst);
        return words_->ready.load(std::memory_order_seq_cst) == 0;
    }

    // Ends the sleep. relaxed: a ringer that still sees `asleep` makes one superfluous system call, nothing else.
    void disarm() const noexcept { words_->sleeping.store(awake, std::memory_order_relaxed); }

    // Sleeps until a bit is set, the deadline passes or a signal arrives. Owner only; never holds the GIL.
    void wait(Nanoseconds deadline_ns, bool idle = true) const noexcept {
        if (arm(idle)) Memory::wait_for_wake(*waker_, deadline_ns);
        disarm();
    }

    // What the owner sleeps on.
    Waker& waker() const noexcept { return *waker_; }

private:
    static constexpr std::uint32_t awake = 0;
    static constexpr std::uint32_t asleep = 1;
    static constexpr std::uint32_t called = 2;
    static constexpr std::uint32_t waiting = 3;  // asleep, but not idle
    static constexpr std::uint32_t woken = 4;    // called, and the wake-up is on its way

    bool call(std::uint32_t& sleeping) const noexcept {
        // relaxed: it only settles who wakes; what there is to see is published by `ready`.
        if (!words_->sleeping.compare_exchange_strong(sleeping, called, std::memory_order_relaxed)) return false;
        wake();
        return true;
    }

    void wake() const noexcept {
        Memory::wake(*waker_);
        // relaxed: whoever does not see it makes one superfluous system call, nothing else.
        std::uint32_t sleeping = called;
        words_->sleeping.compare_exchange_strong(sleeping, woken, std::memory_order_relaxed);
    }

    std::shared_ptr<Segment> segment_;
    BasicBellWords<Memory>* words_ = nullptr;
    std::shared_ptr<Waker> waker_;
};

using BellWords = BasicBellWords<SharedMemory>;
using Bell = BasicBell<SharedMemory>;

}  // namespace steadyflow
