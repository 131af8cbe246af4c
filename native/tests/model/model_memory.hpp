// The Memory under which ring, buffers and bell are explored: what production code calls, handed on to the Explorer.
//
// An object holds no more than its initial value; everything that happens to it in an execution is kept by the Explorer,
// by address. Without a running exploration it is ordinary memory, so that a segment can be laid out once.
#pragma once

#include <atomic>
#include <cstdint>
#include <source_location>
#include <type_traits>

#include "explorer.hpp"
#include "platform.hpp"

namespace steadyflow::model {

struct ModelMemory {
    using Where = std::source_location;

    template <class T>
    class Atomic {
        static_assert(std::is_integral_v<T> && sizeof(T) <= sizeof(std::uint64_t));

    public:
        Atomic() = default;
        explicit Atomic(T initial) noexcept : value_(initial) {}
        Atomic(const Atomic&) = delete;
        Atomic& operator=(const Atomic&) = delete;

        T load(std::memory_order order = std::memory_order_seq_cst, Where where = Where::current()) const noexcept {
            Explorer* explorer = Explorer::running();
            return explorer == nullptr ? value_ : static_cast<T>(explorer->load(this, bits(value_), order, where));
        }
        void store(T value, std::memory_order order = std::memory_order_seq_cst,
                   Where where = Where::current()) noexcept {
            Explorer* explorer = Explorer::running();
            if (explorer == nullptr) value_ = value;
            else explorer->store(this, bits(value_), bits(value), order, where);
        }
        T exchange(T value, std::memory_order order = std::memory_order_seq_cst, Where where = Where::current()) noexcept {
            return update(order, where, [value](T) { return value; });
        }
        T fetch_add(T amount, std::memory_order order = std::memory_order_seq_cst,
                    Where where = Where::current()) noexcept {
            return update(order, where, [amount](T value) { return static_cast<T>(value + amount); });
        }
        T fetch_sub(T amount, std::memory_order order = std::memory_order_seq_cst,
                    Where where = Where::current()) noexcept {
            return update(order, where, [amount](T value) { return static_cast<T>(value - amount); });
        }
        T fetch_or(T mask, std::memory_order order = std::memory_order_seq_cst, Where where = Where::current()) noexcept {
            return update(order, where, [mask](T value) { return static_cast<T>(value | mask); });
        }
        T fetch_and(T mask, std::memory_order order = std::memory_order_seq_cst,
                    Where where = Where::current()) noexcept {
            return update(order, where, [mask](T value) { return static_cast<T>(value & mask); });
        }
        bool compare_exchange_strong(T& expected, T desired, std::memory_order success, std::memory_order failure,
                                     Where where = Where::current()) noexcept {
            return compare_exchange(expected, desired, success, failure, false, where);
        }
        bool compare_exchange_strong(T& expected, T desired, std::memory_order order = std::memory_order_seq_cst,
                                     Where where = Where::current()) noexcept {
            return compare_exchange(expected, desired, order, failure_order(order), false, where);
        }
        bool compare_exchange_weak(T& expected, T desired, std::memory_order success, std::memory_order failure,
                                   Where where = Where::current()) noexcept {
            return compare_exchange(expected, desired, success, failure, true, where);
        }
        bool compare_exchange_weak(T& expected, T desired, std::memory_order order = std::memory_order_seq_cst,
                                   Where where = Where::current()) noexcept {
            return compare_exchange(expected, desired, order, failure_order(order), true, where);
        }

    private:
        static std::uint64_t bits(T value) noexcept { return static_cast<std::make_unsigned_t<T>>(value); }

        template <class Change>
        T update(std::memory_order order, const Where& where, Change change) noexcept {
            Explorer* explorer = Explorer::running();
            if (explorer == nullptr) {
                const T before = value_;
                value_ = change(before);
                return before;
            }
            return static_cast<T>(explorer->update(this, bits(value_), order, where, [&change](std::uint64_t value) {
                return bits(change(static_cast<T>(value)));
            }));
        }
        bool compare_exchange(T& expected, T desired, std::memory_order success, std::memory_order failure, bool weak,
                              const Where& where) noexcept {
            Explorer* explorer = Explorer::running();
            CHECK(explorer != nullptr);
            std::uint64_t wanted = bits(expected);
            const bool exchanged = explorer->compare_exchange(this, bits(value_), wanted, bits(desired), success, failure,
                                                              weak, where);
            expected = static_cast<T>(wanted);
            return exchanged;
        }

        T value_;
    };

    template <class T>
    class Plain {
        static_assert(std::is_trivially_copyable_v<T>);

    public:
        Plain() = default;
        Plain(const Plain&) = delete;
        Plain& operator=(const Plain&) = delete;

        T read(Where where = Where::current()) const noexcept {
            Explorer* explorer = Explorer::running();
            T value = value_;
            if (explorer != nullptr) explorer->read_plain(this, &value_, sizeof(T), &value, where);
            return value;
        }
        void write(const T& value, Where where = Where::current()) noexcept {
            Explorer* explorer = Explorer::running();
            if (explorer == nullptr) value_ = value;
            else explorer->write_plain(this, &value_, sizeof(T), &value, where);
        }

    private:
        T value_;
    };

    static void fence(std::memory_order order, Where where = Where::current()) noexcept {
        Explorer* explorer = Explorer::running();
        if (explorer != nullptr) explorer->fence(order, where);
    }
    static void wake(const Waker& waker, Where where = Where::current()) noexcept {
        Explorer::running()->wake(&waker, where);
    }
    // Without a deadline only: what a time-out mends would never be found missing.
    static void wait_for_wake(Waker& waker, Nanoseconds deadline_ns, Where where = Where::current()) noexcept {
        CHECK(deadline_ns < 0);
        Explorer::running()->wait_for_wake(&waker, where);
    }
};

}  // namespace steadyflow::model
