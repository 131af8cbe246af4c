#include "platform.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <limits>

namespace steadyflow {

namespace {

// So that a thread of a process that has none pays for it with one load from a place that nobody writes to.
std::atomic<bool> any_timekeeper{false};
thread_local Timekeeper* timekeeper_of_this_thread = nullptr;

Timekeeper* timekeeper() noexcept {
    // relaxed: a thread sees what it has set itself.
    if (!any_timekeeper.load(std::memory_order_relaxed)) [[likely]] return nullptr;
    return timekeeper_of_this_thread;
}

}  // namespace

void keep_time_by(Timekeeper* timekeeper) noexcept {
    timekeeper_of_this_thread = timekeeper;
    if (timekeeper != nullptr) any_timekeeper.store(true, std::memory_order_relaxed);
}

Nanoseconds monotonic_ns() noexcept {
    if (Timekeeper* const other = timekeeper()) [[unlikely]] return other->now_ns();
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return Nanoseconds{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

Waker::~Waker() { after_fork_in_child(); }

void Waker::after_fork_in_child() noexcept {
    // Closed, they are nobody's: the numbers may soon name other files.
    for (int* descriptor : {&read, &write}) {
        if (*descriptor >= 0) close(*descriptor);
        *descriptor = -1;
    }
}

int create_waker(int (&descriptors)[2]) noexcept { return pipe2(descriptors, O_CLOEXEC | O_NONBLOCK) == 0 ? 0 : -errno; }

void drain(Waker& waker) noexcept {
    char bytes[64];
    // Nothing to read is no error: another wait took the bytes. More than 64 only end the next wait early.
    [[maybe_unused]] const ssize_t taken = read(waker.read, bytes, sizeof bytes);
    waker.rung = false;
}

Nanoseconds look_up_at(Nanoseconds deadline_ns, Nanoseconds now_ns, Nanoseconds look_up_ns) noexcept {
    if (timekeeper() != nullptr) [[unlikely]] return deadline_ns;
    return deadline_ns < 0 ? now_ns + look_up_ns : std::min(deadline_ns, now_ns + look_up_ns);
}

bool is_readable(int descriptor) noexcept { return wait_until_readable(descriptor, 0); }

bool wait_until_readable(int descriptor, Nanoseconds patience_ns) noexcept {
    pollfd readable{descriptor, POLLIN, 0};
    const timespec timeout{static_cast<time_t>(patience_ns / 1'000'000'000), static_cast<long>(patience_ns % 1'000'000'000)};
    return ppoll(&readable, 1, &timeout, nullptr) > 0;
}

void wait_for_wake(Waker& waker, Nanoseconds deadline_ns) noexcept {
    if (waker.rung) {
        drain(waker);
        // A call that came meanwhile was for this sleep, and its byte may be among those: look again before sleeping.
        return;
    }
    if (Timekeeper* const other = timekeeper()) [[unlikely]] {
        if (other->sleep(waker.read, deadline_ns)) waker.rung = true;
        return;
    }
    pollfd readable{waker.read, POLLIN, 0};
    timespec timeout{};
    if (deadline_ns >= 0) {
        const Nanoseconds left = std::max<Nanoseconds>(deadline_ns - monotonic_ns(), 0);
        timeout.tv_sec = static_cast<time_t>(left / 1'000'000'000);
        timeout.tv_nsec = static_cast<long>(left % 1'000'000'000);
    }
    if (ppoll(&readable, 1, deadline_ns >= 0 ? &timeout : nullptr, nullptr) > 0) waker.rung = true;
}

void wake(const Waker& waker) noexcept {
    // A full pipe is no error: its reader has been woken many times over.
    [[maybe_unused]] const ssize_t written = write(waker.write, "", 1);
}

namespace {

constexpr std::uint64_t unlimited = std::numeric_limits<std::uint64_t>::max();

// The number after `key` in a small file; unlimited if the file, the key or the number is not there ("max").
std::uint64_t number_in(const char* path, const char* key) noexcept {
    char text[4096];
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return unlimited;
    const ssize_t length = read(descriptor, text, sizeof(text) - 1);
    close(descriptor);
    text[length > 0 ? length : 0] = '\0';
    const char* found = std::strstr(text, key);
    if (found == nullptr) return unlimited;
    found += std::strlen(key);
    char* end = nullptr;
    const std::uint64_t number = std::strtoull(found, &end, 10);
    return end == found ? unlimited : number;
}

// What can be had without swapping, and within the limit of the control group that this process sees as its root (a
// container's). Both versions of control groups; what a file does not tell does not limit.
std::uint64_t available_memory() noexcept {
    const std::uint64_t kilobytes = number_in("/proc/meminfo", "MemAvailable:");
    std::uint64_t available = kilobytes == unlimited ? unlimited : kilobytes * 1024;
    const char* groups[2][2] = {
        {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
        {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"},
    };
    for (const auto& [limit_path, used_path] : groups) {
        const std::uint64_t limit = number_in(limit_path, "");
        const std::uint64_t used = number_in(used_path, "");
        if (limit != unlimited && used != unlimited) available = std::min(available, limit > used ? limit - used : 0);
    }
    return available;
}

}  // namespace

int allocate_pages(int descriptor, FileRange range) noexcept {
    if (range.bytes == 0) return 0;
    // fallocate of more than there is does not fail: it takes page after page, and when none is left, the kernel ends
    // processes, perhaps others than this one.
    if (range.bytes > available_memory()) return -ENOMEM;
    // fallocate reserves the pages: a shortage is an error here, not SIGBUS in the middle of a block.
    for (;;) {
        if (fallocate(descriptor, 0, static_cast<off_t>(range.offset), static_cast<off_t>(range.bytes)) == 0) return 0;
        if (errno != EINTR) return -errno;
    }
}

int create_shared_memory(const char* label, std::size_t bytes, std::span<const FileRange> holes) noexcept {
    std::uint64_t needed = bytes;
    for (const FileRange& hole : holes) needed -= hole.bytes;
    if (needed > available_memory()) return -ENOMEM;  // see allocate_pages(), which is asked part by part
    const int descriptor = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (descriptor < 0) return -errno;
    int error = ftruncate(descriptor, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
    std::uint64_t from = 0;
    for (std::size_t index = 0; index <= holes.size() && error == 0; ++index) {
        const FileRange hole = index < holes.size() ? holes[index] : FileRange{bytes, 0};
        error = -allocate_pages(descriptor, {from, hole.offset - from});
        from = hole.offset + hole.bytes;
    }
    // Opened anew, as /proc allows, it is for reading: who may write is given a descriptor that can.
    if (error == 0 && fchmod(descriptor, S_IRUSR) != 0) error = errno;
    if (error == 0 && fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) error = errno;
    if (error != 0) {
        close(descriptor);
        return -error;
    }
    return descriptor;
}

bool is_sealed(int descriptor) noexcept {
    const int seals = fcntl(descriptor, F_GET_SEALS);  // -1: not shared memory, or no descriptor at all
    return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
}

std::int64_t file_bytes(int descriptor) noexcept {
    struct stat status {};
    return fstat(descriptor, &status) == 0 ? static_cast<std::int64_t>(status.st_size) : -std::int64_t{errno};
}

void* map_shared(int descriptor, std::size_t bytes, bool writable) noexcept {
    void* address = mmap(nullptr, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, descriptor, 0);
    return address == MAP_FAILED ? nullptr : address;
}

void unmap(void* address, std::size_t bytes) noexcept { munmap(address, bytes); }

bool punch_hole(int descriptor, std::uint64_t offset, std::size_t bytes) noexcept {
    return fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                     static_cast<off_t>(bytes)) == 0;
}

std::size_t page_bytes() noexcept {
    static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return bytes;
}

void replace_by_private(void* address, std::size_t bytes) noexcept {
    constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    if (mmap(address, bytes, PROT_READ | PROT_WRITE, flags, -1, 0) == address) return;
    // The old mapping may be gone already; and with it the child could write into the memory of a running flow.
    constexpr char text[] = "steadyflow: no memory to detach a forked process from the flow of its parent\n";
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
    _exit(70);
}

}  // namespace steadyflow
