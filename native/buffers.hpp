// The buffers of one output port: payload and metadata of blocks on their way.
//
// Invariants
// - Only the port's producer allocates, and only it writes branch bits (one bit per connected pipeline).
// - holds[buffer][process] is written by that process alone: how many views it keeps of the buffer.
// - A buffer is free when it has no branch bit and every hold is zero. A consumer raises its hold while its slot is
//   still claimed, so the branch bit covers the hand-over and the buffer is never free in between.
// - A dead process is reclaimed by zeroing its column of holds.
// - The memory of buffers from `usable` on need not be there. Who raises that allocates it first.
// - given[buffer] is when its block was handed over: for whoever asks how old what is held is. Nothing depends on it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <optional>

#include "memory.hpp"
#include "segment.hpp"

namespace steadyflow {

inline constexpr std::uint32_t pool_magic = 0x6c6f6f70;  // "pool"

struct alignas(cache_line) PoolHeader {
    std::uint32_t magic;
    std::uint32_t count;
    std::uint64_t capacity_bytes;
    std::uint64_t check;  // fingerprint() of the above and of the place
    std::atomic<std::uint32_t> usable;  // so many of them may be given away, the first; by the control plane
};

template <class Memory>
struct alignas(16) HoldRow {
    typename Memory::template Atomic<std::uint8_t> process[max_processes];
};
static_assert(sizeof(HoldRow<SharedMemory>) == 16);

template <class Memory>
class BasicBufferPool {
public:
    static std::size_t bytes(std::uint32_t count, std::size_t capacity_bytes) noexcept {
        return payload_offset(count) + count * round_up(capacity_bytes);
    }

    // What holds the buffers from one of them on, in a segment: from `first` to `last`.
    static FileRange range_of(std::uint64_t offset, std::uint32_t count, std::size_t capacity_bytes, std::uint32_t first,
                              std::uint32_t last) noexcept {
        const std::uint64_t capacity = round_up(capacity_bytes);
        return {offset + payload_offset(count) + first * capacity, (last - first) * capacity};
    }

    // `usable`: how many may be used at first.
    static void create(const Segment& segment, std::uint64_t offset, std::uint32_t count, std::size_t capacity_bytes,
                       std::uint32_t usable) {
        segment.require_writable("create a buffer pool");
        auto* header = segment.at<PoolHeader>(offset);
        if (capacity_bytes > segment.bytes()) throw Corrupted("a buffer is larger than its segment");
        segment.at<std::byte>(offset, bytes(count, capacity_bytes));
        header->count = count;
        header->capacity_bytes = round_up(capacity_bytes);
        header->check = check_of(offset, count, round_up(capacity_bytes));
        header->usable.store(usable, std::memory_order_relaxed);
        header->magic = pool_magic;
    }
    static void create(const Segment& segment, std::uint64_t offset, std::uint32_t count, std::size_t capacity_bytes) {
        create(segment, offset, count, capacity_bytes, count);
    }

    BasicBufferPool() = default;
    BasicBufferPool(std::shared_ptr<Segment> segment, std::uint64_t offset) : segment_(std::move(segment)), offset_(offset) {
        auto* header = segment_->at<PoolHeader>(offset);
        if (read_once(header->magic) != pool_magic) {
            throw Corrupted("no buffer pool at offset " + std::to_string(offset));
        }
        // Copied once and used from here on, so that later writes to the header cannot move the bounds.
        count_ = read_once(header->count);
        capacity_ = read_once(header->capacity_bytes);
        // Whole lines, so that every array that is viewed in a buffer is aligned for its type.
        if (count_ == 0 || capacity_ == 0 || capacity_ % cache_line != 0 || capacity_ > segment_->bytes() / count_ ||
            read_once(header->check) != check_of(offset, count_, capacity_)) {
            throw Corrupted("impossible buffer pool: " + std::to_string(count_) + " buffers of " +
                            std::to_string(capacity_) + " bytes");
        }
        usable_ = &header->usable;
        branches_ = segment_->at<Branches>(offset + sizeof(PoolHeader), count_);
        given_ = segment_->at<Given>(offset + given_offset(count_), count_);
        holds_ = segment_->at<Holds>(offset + holds_offset(count_), count_);
        payload_ = segment_->at<std::byte>(offset + payload_offset(count_), count_ * capacity_);
    }

    explicit operator bool() const noexcept { return payload_ != nullptr; }
    std::uint32_t count() const noexcept { return count_; }
    std::size_t capacity() const noexcept { return capacity_; }
    bool contains(std::uint32_t buffer) const noexcept { return buffer < count_; }
    std::byte* payload(std::uint32_t buffer) const noexcept { return payload_ + std::size_t{buffer} * capacity_; }
    const std::shared_ptr<Segment>& segment() const noexcept { return segment_; }

    // How many buffers may be given away. relaxed: their pages are there, for every process, before anybody can read that; nothing was
    // written to them that had to be seen.
    std::uint32_t usable() const noexcept {
        return std::clamp<std::uint32_t>(usable_->load(std::memory_order_relaxed), 1, count_);
    }

    // A free buffer, or nothing. Producer only; wait-free: at most one look at each buffer.
    std::optional<std::uint32_t> allocate() noexcept {
        const std::uint32_t usable = this->usable();
        for (std::uint32_t looked = 0; looked < usable; ++looked) {
            if (cursor_ >= usable) cursor_ = 0;
            const std::uint32_t buffer = cursor_++;
            if (is_free(buffer)) return buffer;
        }
        return std::nullopt;
    }

    // Lets more buffers be used, up to so many. Control plane only. Throws Shortage.
    void raise_usable(std::uint32_t wanted) const {
        const std::uint32_t before = usable();
        wanted = std::min(wanted, count_);
        if (wanted <= before) return;
        segment_->allocate(range_of(offset_, count_, capacity_, before, wanted));
        usable_->store(wanted, std::memory_order_relaxed);
    }
    // Lets no more than so many be given away from now on. Control plane only.
    void lower_usable(std::uint32_t wanted) const noexcept {
        usable_->store(std::clamp<std::uint32_t>(wanted, 1, usable()), std::memory_order_relaxed);
    }
    // Gives the memory of the others back, unless one of them is in use; returns whether none is. Control plane only, when the producer
    // has sent two blocks since the last lower_usable(): then it has seen that.
    bool give_back_unusable() const noexcept {
        for (std::uint32_t buffer = usable(); buffer < count_; ++buffer) {
            // acquire: pairs with clear_branch(). A view that was made before it is seen below.
            if (branches_[buffer].load(std::memory_order_acquire) != 0 || is_held(buffer)) return false;
        }
        segment_->give_back(range_of(offset_, count_, capacity_, usable(), count_));
        return true;
    }

    // relaxed: the producer is the only writer. Others read them in give_back_unusable() alone, when it gives that buffer away no more.
    void set_branches(std::uint32_t buffer, std::uint32_t bits) noexcept {
        branches_[buffer].store(bits, std::memory_order_relaxed);
    }
    void note_given(std::uint32_t buffer, Nanoseconds now_ns) noexcept {
        given_[buffer].store(now_ns, std::memory_order_relaxed);
    }
    // For how long the buffer has been held that was given first, of those that are; 0: none is. Any thread.
    Nanoseconds oldest_held_ns(Nanoseconds now_ns) const noexcept {
        Nanoseconds oldest = 0;
        for (std::uint32_t buffer = 0; buffer < count_; ++buffer) {
            if (is_held(buffer)) oldest = std::max(oldest, now_ns - given_[buffer].load(std::memory_order_relaxed));
        }
        return oldest;
    }
    void clear_branch(std::uint32_t buffer, unsigned branch) noexcept {
        const std::uint32_t bits = branches_[buffer].load(std::memory_order_relaxed);
        // release: whoever held the buffer did so before its slot was given back.
        branches_[buffer].store(bits & ~(std::uint32_t{1} << branch), std::memory_order_release);
    }
    std::uint32_t branches(std::uint32_t buffer) const noexcept {
        return branches_[buffer].load(std::memory_order_relaxed);
    }

    // False if the process holds this buffer 255 times already (the caller copies instead). Threads of one process may
    // race, processes don't: each has a byte of its own.
    bool hold(std::uint32_t buffer, unsigned process) const noexcept {
        auto& count = holds_[buffer].process[process];
        std::uint8_t held = count.load(std::memory_order_relaxed);
        do {
            if (held == std::numeric_limits<std::uint8_t>::max()) return false;
            // relaxed: the slot is still claimed; finishing it (release) publishes the hold.
        } while (!count.compare_exchange_weak(held, static_cast<std::uint8_t>(held + 1), std::memory_order_relaxed));
        return true;
    }
    void release(std::uint32_t buffer, unsigned process) const noexcept {
        auto& count = holds_[buffer].process[process];
        std::uint8_t held = count.load(std::memory_order_relaxed);
        // Never below zero, which damage or a reaper that took this process for dead may have made of it: 255 holds that
        // nobody releases would be a buffer lost.
        // release: all reads through the view happen before the producer sees the buffer free.
        while (held != 0 && !count.compare_exchange_weak(held, static_cast<std::uint8_t>(held - 1),
                                                         std::memory_order_release, std::memory_order_relaxed)) {
        }
    }
    void release_process(unsigned process) const noexcept {
        for (std::uint32_t buffer = 0; buffer < count_; ++buffer) {
            holds_[buffer].process[process].store(0, std::memory_order_release);
        }
    }
    std::uint32_t held_buffers() const noexcept {
        std::uint32_t held = 0;
        for (std::uint32_t buffer = 0; buffer < count_; ++buffer) held += is_held(buffer) ? 1 : 0;
        return held;
    }

    // Gives the payload's whole pages back to the system; they read as zeros from now on. Nobody uses a buffer any more.
    std::size_t give_back() const noexcept {
        return segment_->give_back(range_of(offset_, count_, capacity_, 0, count_));
    }

private:
    using Branches = typename Memory::template Atomic<std::uint32_t>;
    using Given = typename Memory::template Atomic<std::int64_t>;
    using Holds = HoldRow<Memory>;

    static std::uint64_t check_of(std::uint64_t offset, std::uint32_t count, std::uint64_t capacity_bytes) noexcept {
        return fingerprint({pool_magic, offset, count, capacity_bytes});
    }
    static std::size_t given_offset(std::uint32_t count) noexcept {
        return round_up(sizeof(PoolHeader) + count * sizeof(std::uint32_t));
    }
    static std::size_t holds_offset(std::uint32_t count) noexcept {
        return round_up(given_offset(count) + count * sizeof(std::int64_t));
    }
    static std::size_t payload_offset(std::uint32_t count) noexcept {
        return round_up(holds_offset(count) + count * sizeof(Holds));
    }
    bool is_held(std::uint32_t buffer) const noexcept {
        for (const auto& hold : holds_[buffer].process) {
            // acquire: pairs with release().
            if (hold.load(std::memory_order_acquire) != 0) return true;
        }
        return false;
    }
    bool is_free(std::uint32_t buffer) const noexcept { return branches(buffer) == 0 && !is_held(buffer); }

    std::shared_ptr<Segment> segment_;
    std::uint64_t offset_ = 0;
    std::atomic<std::uint32_t>* usable_ = nullptr;
    std::uint32_t count_ = 0;
    std::size_t capacity_ = 0;
    Branches* branches_ = nullptr;
    Given* given_ = nullptr;
    Holds* holds_ = nullptr;
    std::byte* payload_ = nullptr;
    std::uint32_t cursor_ = 0;
};

using BufferPool = BasicBufferPool<SharedMemory>;

}  // namespace steadyflow
