// One hold of one buffer: while it lives, the producer does not use the buffer again, and its mapping stays.
//
// The hold is in the column of its own process, so it goes with the process, however that ends.
#pragma once

#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "buffers.hpp"
#include "fork.hpp"

namespace steadyflow {

class HeldBuffer final : Inherited {
public:
    // Counts how many holds of one kind live; outlives what it is counted for.
    using Count = std::shared_ptr<std::atomic<std::int64_t>>;

    // Null where the process holds this buffer as often as can be counted. `bytes`: what of the payload may be looked at.
    static std::unique_ptr<HeldBuffer> take(const BufferPool& pool, std::uint32_t buffer, unsigned process,
                                            std::size_t bytes, const Count& count) {
        // Made first: where there is no memory, nothing is held.
        auto held = std::unique_ptr<HeldBuffer>(new HeldBuffer(pool, buffer, process, bytes, count));
        held->holds_ = pool.hold(buffer, process);
        if (!held->holds_) return nullptr;
        count->fetch_add(1, std::memory_order_relaxed);
        return held;
    }

    ~HeldBuffer() {
        if (!holds_) return;
        pool_.release(buffer_, process_);
        count_->fetch_sub(1, std::memory_order_relaxed);
    }

    std::uint32_t buffer() const noexcept { return buffer_; }
    std::byte* payload() const noexcept { return pool_.payload(buffer_); }

    void before_fork() noexcept override {
        // The parent may let go of the buffer before the child has run at all. Without memory, the child sees zeros.
        copy_.reset(new (std::nothrow) std::byte[bytes_]);
        if (copy_) std::memcpy(copy_.get(), payload(), bytes_);
    }
    void after_fork_in_parent() noexcept override { copy_.reset(); }
    void after_fork_in_child() noexcept override {
        // The segment, which is older, has been replaced by private memory.
        if (copy_) std::memcpy(payload(), copy_.get(), bytes_);
        copy_.reset();
        holds_ = false;
    }

private:
    HeldBuffer(const BufferPool& pool, std::uint32_t buffer, unsigned process, std::size_t bytes, const Count& count)
        : pool_(pool), buffer_(buffer), process_(process), bytes_(bytes), count_(count) {}

    BufferPool pool_;
    std::uint32_t buffer_;
    unsigned process_;
    std::size_t bytes_;
    Count count_;
    bool holds_ = false;
    std::unique_ptr<std::byte[]> copy_;
    ForkWatch watch_{*this};
};

}  // namespace steadyflow
