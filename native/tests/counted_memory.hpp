// A Memory that counts every access, so that an operation that would never end fails after as many as it may have.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <type_traits>

#include "check.hpp"
#include "memory.hpp"

namespace steadyflow::testing {

// One thread only.
class Steps {
public:
    static void take() {
        if (++taken_ > allowed_) {
            fail(__FILE__, __LINE__, operation_, "at most " + std::to_string(allowed_) + " accesses", "more");
        }
    }
    static void allow(const char* operation, std::uint64_t count) noexcept {
        operation_ = operation;
        allowed_ = count;
        taken_ = 0;
    }
    static void allow_all() noexcept { allow("", ~std::uint64_t{0}); }

private:
    static inline const char* operation_ = "";
    static inline std::uint64_t allowed_ = ~std::uint64_t{0};
    static inline std::uint64_t taken_ = 0;
};

struct CountedMemory {
    template <class T>
    class Atomic {
    public:
        T load(std::memory_order order) const noexcept { return counted().load(order); }
        void store(T value, std::memory_order order) noexcept { counted().store(value, order); }
        T exchange(T value, std::memory_order order) noexcept { return counted().exchange(value, order); }
        T fetch_add(T value, std::memory_order order) noexcept { return counted().fetch_add(value, order); }
        T fetch_or(T value, std::memory_order order) noexcept { return counted().fetch_or(value, order); }
        template <class... Orders>
        bool compare_exchange_strong(T& expected, T value, Orders... orders) noexcept {
            return counted().compare_exchange_strong(expected, value, orders...);
        }
        template <class... Orders>
        bool compare_exchange_weak(T& expected, T value, Orders... orders) noexcept {
            return counted().compare_exchange_weak(expected, value, orders...);
        }

    private:
        const std::atomic<T>& counted() const noexcept {
            Steps::take();
            return value_;
        }
        std::atomic<T>& counted() noexcept {
            Steps::take();
            return value_;
        }

        std::atomic<T> value_;
    };

    template <class T>
    class Plain {
    public:
        T read() const noexcept {
            Steps::take();
            return value_.read();
        }
        void write(const T& value) noexcept {
            Steps::take();
            value_.write(value);
        }

    private:
        SharedMemory::Plain<T> value_;
    };

    static void fence(std::memory_order order) noexcept { SharedMemory::fence(order); }
    static void wake(const Waker& waker) noexcept { SharedMemory::wake(waker); }
    static void wait_for_wake(Waker& waker, Nanoseconds deadline_ns) noexcept {
        SharedMemory::wait_for_wake(waker, deadline_ns);
    }
};

}  // namespace steadyflow::testing
