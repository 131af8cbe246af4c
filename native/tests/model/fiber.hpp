// A thread of the model: runs on a stack of its own inside one thread of the system, and stops where it is told to.
//
// A fiber may be left in the middle of its work and started anew with other work; nothing on its stack is destroyed then.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <memory>

#include "../check.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/lsan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace steadyflow::model {

// What an abandoned stack owned is lost, and known to be: such memory is no leak while this lives.
struct NoLeakCheck {
    NoLeakCheck() noexcept {
#if defined(__SANITIZE_ADDRESS__)
        __lsan_disable();
#endif
    }
    ~NoLeakCheck() {
#if defined(__SANITIZE_ADDRESS__)
        __lsan_enable();
#endif
    }
    NoLeakCheck(const NoLeakCheck&) = delete;
    NoLeakCheck& operator=(const NoLeakCheck&) = delete;
};

class Fiber {
public:
    using Work = void (*)(void*);

    // The one that runs already, on the stack of the system's thread.
    Fiber() = default;

    explicit Fiber(std::size_t stack_bytes) : stack_(std::make_unique<std::byte[]>(stack_bytes)), bytes_(stack_bytes) {
        CHECK_EQUAL(0, getcontext(&fresh_));
        fresh_.uc_stack.ss_sp = stack_.get();
        fresh_.uc_stack.ss_size = bytes_;
        fresh_.uc_link = nullptr;
    }

    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    // The next switch to this fiber begins `work(argument)`, which must never return: it ends by switching away.
    void prepare(Work work, void* argument) {
        work_ = work;
        argument_ = argument;
        context_ = fresh_;
        makecontext(&context_, reinterpret_cast<void (*)()>(reinterpret_cast<void*>(&Fiber::begin)), 0);
#if defined(__SANITIZE_ADDRESS__)
        // What an abandoned run left poisoned on this stack.
        __asan_unpoison_memory_region(stack_.get(), bytes_);
        shadow_ = nullptr;
#endif
    }

    // From this fiber, which runs, to `other`; returns when somebody switches back.
    void switch_to(Fiber& other) {
        running = &other;
#if defined(__SANITIZE_ADDRESS__)
        previous = this;
        __sanitizer_start_switch_fiber(&shadow_, other.stack_.get() != nullptr ? other.stack_.get() : other.bottom_,
                                       other.bytes_);
#endif
        CHECK_EQUAL(0, swapcontext(&context_, &other.context_));
        arrived();
    }

private:
    static void begin() {
        Fiber& self = *running;
        self.arrived();
        self.work_(self.argument_);
    }

    void arrived() {
#if defined(__SANITIZE_ADDRESS__)
        const void* bottom = nullptr;
        std::size_t bytes = 0;
        __sanitizer_finish_switch_fiber(shadow_, &bottom, &bytes);
        // The stack of the system's thread is known only by having come from it.
        if (previous->stack_ == nullptr) {
            previous->bottom_ = bottom;
            previous->bytes_ = bytes;
        }
#endif
    }

    static inline Fiber* running = nullptr;
    ucontext_t context_ = {};
    ucontext_t fresh_ = {};
    std::unique_ptr<std::byte[]> stack_ = nullptr;
    std::size_t bytes_ = 0;
    Work work_ = nullptr;
    void* argument_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    static inline Fiber* previous = nullptr;
    const void* bottom_ = nullptr;
    void* shadow_ = nullptr;
#endif
};

}  // namespace steadyflow::model
