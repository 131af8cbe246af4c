// The memory that ring, buffers and bell work in, as a parameter: which atomics, plain fields, fences and sleeps they use.
//
// SharedMemory is the one of the product: std::atomic, nothing in between. native/tests/model has another, under which
// every access is a step of an exhaustive search.
#pragma once

#include <atomic>
#include <type_traits>

#include "platform.hpp"

namespace steadyflow {

struct SharedMemory {
    template <class T>
    using Atomic = std::atomic<T>;

    // A field that only its current owner touches, as the slot's word says who that is.
    template <class T>
    class Plain {
        static_assert(std::is_trivially_copyable_v<T>);

    public:
        // Reads it once: what is checked and what is used are the same, whatever other processes write meanwhile.
        T read() const noexcept {
            const T copy = value_;
            std::atomic_signal_fence(std::memory_order_seq_cst);  // for the compiler: no second look at value_
            return copy;
        }
        void write(const T& value) noexcept { value_ = value; }

    private:
        T value_;
    };

    static void fence(std::memory_order order) noexcept { std::atomic_thread_fence(order); }
    static void wake(const Waker& waker) noexcept { steadyflow::wake(waker); }
    static void wait_for_wake(Waker& waker, Nanoseconds deadline_ns) noexcept {
        steadyflow::wait_for_wake(waker, deadline_ns);
    }
};

}  // namespace steadyflow
