// The operating system's part of the data plane: clock, sleeping and waking, anonymous shared memory. Linux only.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "fork.hpp"

namespace steadyflow {

using Nanoseconds = std::int64_t;

// CLOCK_MONOTONIC, the clock of every stamp. Wait-free (vDSO), 25-35 ns. In a thread with a timekeeper: its time.
Nanoseconds monotonic_ns() noexcept;

// What a thread sleeps on, and others wake it by, also from another process: a pipe. Why not a futex: the kernel knows of
// a write to a pipe that the writer is about to sleep itself (a synchronous wake-up) and lets the reader run at once on the
// same core, also where every core is busy; docs/decisions/0002 has the figures.
struct Waker final : Inherited {
    Waker(int reading, int writing) : read(reading), write(writing) {}
    ~Waker();

    void after_fork_in_child() noexcept override;

    int read;  // -1 in a forked child, as is the other one
    int write;
    // Bytes may lie in the pipe. They are taken before the next sleep instead of after the last one, when somebody is
    // waiting for the sleeper to get on. The sleeper's own.
    bool rung = false;
    // Somebody of this process sleeps here, a thread or an event loop for its tasks. One at a time; see BellSeat.
    std::atomic<bool> taken{false};

private:
    ForkWatch watch_{*this};
};

// Who tells a thread the time and lets it sleep, in place of the system: see manual_time.hpp.
class Timekeeper {
public:
    virtual Nanoseconds now_ns() noexcept = 0;
    // Returns when `descriptor` can be read, which is the answer, or at the deadline (negative: none). May return early.
    virtual bool sleep(int descriptor, Nanoseconds deadline_ns) noexcept = 0;

protected:
    ~Timekeeper() = default;
};

// The calling thread's; null: the system. It must outlive its use.
void keep_time_by(Timekeeper* timekeeper) noexcept;

// Until when a thread sleeps at most: the deadline (negative: none), or so long from now, to look whether it has missed something.
// In a thread with a timekeeper the deadline alone: its time does not go on for a look.
Nanoseconds look_up_at(Nanoseconds deadline_ns, Nanoseconds now_ns, Nanoseconds look_up_ns) noexcept;

// Whether there is something to read. Never blocks.
bool is_readable(int descriptor) noexcept;
// Waits for that in real time. Nothing comes from descriptor -1.
bool wait_until_readable(int descriptor, Nanoseconds patience_ns) noexcept;

// Two descriptors of a new pipe, or -errno.
int create_waker(int (&descriptors)[2]) noexcept;

// Sleeps until wake(), the deadline (of monotonic_ns(); negative: no limit) or a signal. May return early.
void wait_for_wake(Waker& waker, Nanoseconds deadline_ns) noexcept;

// Takes the bytes that lie in the pipe: before the next sleep, or after a call that the sleeper has heard otherwise. One
// system call; never blocks. The sleeper's own.
void drain(Waker& waker) noexcept;

// One system call; never blocks.
void wake(const Waker& waker) noexcept;

// Part of a file: whole pages.
struct FileRange {
    std::uint64_t offset;
    std::uint64_t bytes;
};

// An anonymous shared memory file of exactly `bytes`, sealed against resizing, all of it allocated now but for `holes`, which stand in
// their order. Returns the descriptor, or -errno.
int create_shared_memory(const char* label, std::size_t bytes, std::span<const FileRange> holes) noexcept;
// Allocates a part that was left out, or given back. Returns 0, or -errno.
int allocate_pages(int descriptor, FileRange range) noexcept;

// Whether the file behind a descriptor can't lose pages that are mapped: shared memory, sealed as above.
bool is_sealed(int descriptor) noexcept;

// Size of the file behind a descriptor, or -errno.
std::int64_t file_bytes(int descriptor) noexcept;

// Maps the whole file; nullptr with errno set on failure.
void* map_shared(int descriptor, std::size_t bytes, bool writable) noexcept;
void unmap(void* address, std::size_t bytes) noexcept;

// Gives pages of such a file back to the system; they read as zeros then. False where it does not take them.
bool punch_hole(int descriptor, std::uint64_t offset, std::size_t bytes) noexcept;
std::size_t page_bytes() noexcept;

// Puts private zeros in the place of a mapping. Ends the process if there is no memory for that.
void replace_by_private(void* address, std::size_t bytes) noexcept;

}  // namespace steadyflow
