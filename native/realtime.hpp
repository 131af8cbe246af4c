// What a thread with real-time priority needs from the operating system beside that priority: memory that stays, and somebody
// who takes the priority away when the thread keeps a core to itself. Linux only; docs/decisions/0004 says why so.
#pragma once

#include <cstddef>
#include <cstdint>

namespace steadyflow {

// Keeps in memory what this process has mapped, `future`: and what it will map. Each page from its first use on: what was
// reserved and never used (the stacks of threads, pools of numeric libraries) is not filled. 0, or an errno.
int lock_memory(bool future) noexcept;

// Fills a range with its pages and keeps them in memory. 0, or an errno.
int lock_range(const void* address, std::size_t bytes) noexcept;

// Whether this process may lock so much more at once; tried with memory that is never used, and undone.
bool may_lock(std::size_t bytes) noexcept;

// The thread that was guarded has run for longer than RLIMIT_RTTIME allows without a blocking call, and was lowered.
struct Revocation {
    bool happened;
    bool in_module;  // it was calling a module
    unsigned order;  // which one
    int error;       // why lowering it failed, or 0
};

// From now on SIGXCPU, which the kernel sends by RLIMIT_RTTIME, gives the calling thread the policy SCHED_OTHER and writes
// one byte to `descriptor`. `depth` and `order` are the thread's own notes of what it calls; they outlive the process's
// real-time work. Once for each process. 0, or an errno.
int guard_against_runaway(int descriptor, const unsigned* depth, const unsigned* order) noexcept;

// What the byte was written for. Any thread.
Revocation last_revocation() noexcept;

}  // namespace steadyflow
