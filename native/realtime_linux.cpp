#include "realtime.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace steadyflow {

int lock_memory(bool future) noexcept {
    return mlockall(MCL_CURRENT | MCL_ONFAULT | (future ? MCL_FUTURE : 0)) == 0 ? 0 : errno;
}

int lock_range(const void* address, std::size_t bytes) noexcept { return mlock(address, bytes) == 0 ? 0 : errno; }

bool may_lock(std::size_t bytes) noexcept {
    void* tried = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (tried == MAP_FAILED) return false;
    const bool allowed = mlock2(tried, bytes, MLOCK_ONFAULT) == 0;
    munmap(tried, bytes);
    return allowed;
}

namespace {

// Written before the handler is installed, and by the handler; read by it, and by who has read its byte.
struct Guard {
    pid_t process = 0;
    pid_t thread = 0;
    int descriptor = -1;
    const volatile unsigned* depth = nullptr;
    const volatile unsigned* order = nullptr;
    std::atomic<bool> revoked{false};
    std::atomic<bool> in_module{false};
    std::atomic<unsigned> order_then{0};
    std::atomic<int> error{0};
};
Guard guard;

// Nothing here but what a signal handler may do. The signal is the process's: another thread may be the one that takes it.
void lower(int) {
    // A forked child has the handler too, and its limits are not about the thread of its parent.
    if (getpid() != guard.process || guard.revoked.load(std::memory_order_relaxed)) return;
    const int interrupted = errno;
    const sched_param none{};
    // Without the flag it would be a privilege that is asked for: to let children inherit again.
    const int error = sched_setscheduler(guard.thread, SCHED_OTHER | SCHED_RESET_ON_FORK, &none) == 0 ? 0 : errno;
    guard.in_module.store(*guard.depth != 0, std::memory_order_relaxed);
    guard.order_then.store(*guard.order, std::memory_order_relaxed);
    guard.error.store(error, std::memory_order_relaxed);
    // release: what is told is complete for whoever sees it.
    guard.revoked.store(true, std::memory_order_release);
    [[maybe_unused]] const ssize_t written = write(guard.descriptor, "", 1);
    errno = interrupted;
}

}  // namespace

int guard_against_runaway(int descriptor, const unsigned* depth, const unsigned* order) noexcept {
    if (guard.process == getpid()) return EBUSY;
    guard.process = getpid();
    guard.thread = static_cast<pid_t>(syscall(SYS_gettid));
    guard.descriptor = descriptor;
    guard.depth = depth;
    guard.order = order;
    guard.revoked.store(false, std::memory_order_relaxed);
    struct sigaction action {};
    action.sa_handler = lower;
    action.sa_flags = SA_RESTART;
    sigfillset(&action.sa_mask);
    return sigaction(SIGXCPU, &action, nullptr) == 0 ? 0 : errno;
}

Revocation last_revocation() noexcept {
    // acquire: pairs with the handler.
    if (!guard.revoked.load(std::memory_order_acquire)) return {false, false, 0, 0};
    return {true, guard.in_module.load(std::memory_order_relaxed), guard.order_then.load(std::memory_order_relaxed),
            guard.error.load(std::memory_order_relaxed)};
}

}  // namespace steadyflow
