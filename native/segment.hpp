// One shared memory segment: created once, mapped whole, never resized.
//
// Invariants
// - The first 64 bytes are a SegmentHeader; everything else is reached through at(), which checks offset, count and
//   alignment against the mapping, so no number read from shared memory becomes an address unchecked.
// - The file is sealed against shrinking, which attach() demands of what it is given: a mapping never loses its pages.
// - Whoever writes asks require_writable() first: an observer's mapping is read-only, and a store would end the process.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include "platform.hpp"
#include "realtime.hpp"

namespace steadyflow {

inline constexpr std::size_t cache_line = 64;
inline constexpr std::uint64_t segment_magic = 0x31776f6c66647473;  // "stdflow1"
inline constexpr std::uint32_t layout_version = 5;
inline constexpr unsigned max_processes = 16;
inline constexpr unsigned max_branches = 32;  // of one port

constexpr std::size_t round_up(std::size_t bytes, std::size_t unit = cache_line) noexcept {
    return (bytes + unit - 1) / unit * unit;
}

// Shared memory holds something that this layout cannot contain. Who knows the pipeline adds its name: see in_pipeline().
struct Corrupted : std::runtime_error {
    explicit Corrupted(const std::string& what, std::string pipeline_name = {})
        : std::runtime_error(what), pipeline(std::move(pipeline_name)) {}
    std::string pipeline;
};

// Calls `call`; damage that it finds gets the name of the pipeline. For what is done once, or while waiting.
template <class Call>
[[gnu::noinline, gnu::cold]] decltype(auto) in_pipeline(const std::string& name, Call call) {
    try {
        return call();
    } catch (const Corrupted& damage) {
        if (!damage.pipeline.empty()) throw;
        throw Corrupted(damage.what(), name);
    }
}

// Somebody wanted to write through a read-only mapping.
struct ReadOnly : std::logic_error {
    using std::logic_error::logic_error;
};

// The system refused memory; `error` is its errno.
struct Shortage : std::runtime_error {
    Shortage(const std::string& what, int error_number, std::size_t wanted)
        : std::runtime_error(what), error(error_number), bytes(wanted) {}
    int error;
    std::size_t bytes;
};

// This process was forked from the one that mapped the segment, and has no part in it.
struct Forked : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Reads a constant of a header once: what is checked and what is used are the same, whatever others write meanwhile.
template <class T>
T read_once(const T& shared) noexcept {
    return const_cast<const volatile T&>(shared);
}

// Of the constants of a ring or pool, and of the place where they are: a flipped bit, other contents, or a copy of those
// of another ring do not fit it. Not a secret: it finds damage, not malice.
constexpr std::uint64_t fingerprint(std::initializer_list<std::uint64_t> constants) noexcept {
    std::uint64_t mixed = layout_version;
    for (const std::uint64_t constant : constants) {
        mixed = (mixed ^ constant) * 0x9e3779b97f4a7c15;
        mixed ^= mixed >> 32;
    }
    return mixed;
}

struct alignas(cache_line) SegmentHeader {
    std::uint64_t magic;
    std::uint32_t version;
    std::uint32_t reserved;
    std::uint64_t bytes;
};
static_assert(sizeof(SegmentHeader) == cache_line);

class Segment final : Inherited {
public:
    // Allocates `bytes` (header included), but for the whole pages of `holes`: those are allocated when they are needed. The holes stand in
    // their order, and do not overlap. Throws Shortage.
    static std::shared_ptr<Segment> create(std::size_t bytes, std::span<const FileRange> holes = {}) {
        std::vector<FileRange> pages;
        std::uint64_t from = page_bytes();
        for (const FileRange& hole : holes) {
            if (hole.offset < from || hole.bytes > bytes || hole.offset > bytes - hole.bytes) {
                throw Corrupted("a hole is not inside of its segment, or before the one before it");
            }
            const FileRange whole = whole_pages(hole);
            if (whole.bytes != 0) pages.push_back(whole);
            from = hole.offset + hole.bytes;
        }
        const int descriptor = create_shared_memory("steadyflow", bytes, pages);
        if (descriptor < 0) throw Shortage("cannot allocate shared memory", -descriptor, bytes);
        auto segment = std::shared_ptr<Segment>(new Segment(descriptor, bytes, true));
        auto* header = segment->at<SegmentHeader>(0);
        header->version = layout_version;
        header->bytes = bytes;
        header->magic = segment_magic;
        return segment;
    }

    // Takes over `descriptor` and maps it. Throws Corrupted if it is no segment of this layout.
    static std::shared_ptr<Segment> attach(int descriptor, bool writable) {
        const auto refuse = [descriptor](const std::string& expected, const std::string& got) {
            close(descriptor);
            throw Corrupted("the descriptor is no steadyflow segment: expected " + expected + ", got " + got);
        };
        // Before the first look at the memory: a file that may shrink takes pages away, and the look ends the process.
        if (!is_sealed(descriptor)) refuse("shared memory that is sealed against shrinking", "a file that is not");
        const std::int64_t bytes = file_bytes(descriptor);
        if (bytes < static_cast<std::int64_t>(sizeof(SegmentHeader))) {
            refuse("at least " + std::to_string(sizeof(SegmentHeader)) + " bytes", std::to_string(bytes));
        }
        auto segment = std::shared_ptr<Segment>(new Segment(descriptor, static_cast<std::size_t>(bytes), writable));
        const auto* header = segment->at<SegmentHeader>(0);
        const auto expect = [](const char* what, std::uint64_t expected, std::uint64_t got) {
            if (got == expected) return;
            throw Corrupted(std::string("the descriptor is no steadyflow segment that this version can use: expected ") +
                            what + " " + std::to_string(expected) + ", got " + std::to_string(got));
        };
        expect("magic", segment_magic, read_once(header->magic));
        expect("layout version", layout_version, read_once(header->version));
        expect("a header that says bytes", segment->bytes_, read_once(header->bytes));
        return segment;
    }

    ~Segment() {
        if (address_ != nullptr) unmap(address_, bytes_);
        if (descriptor_ >= 0) close(descriptor_);
    }

    void after_fork_in_child() noexcept override {
        replace_by_private(address_, bytes_);
        close(descriptor_);
        descriptor_ = -1;
    }
    // Throws Forked where the memory is shared with nobody any more.
    void require_shared() const {
        if (descriptor_ < 0) {
            throw Forked("this process was forked from the one that runs the flow, and has no part in its memory; make a flow "
                         "of its own here");
        }
    }

    template <class T>
    T* at(std::uint64_t offset, std::uint64_t count = 1) const {
        require_shared();
        if (offset > bytes_ || offset % alignof(T) != 0 || count > (bytes_ - offset) / sizeof(T)) {
            throw Corrupted("offset " + std::to_string(offset) + " with " + std::to_string(count) + " x " +
                            std::to_string(sizeof(T)) + " bytes lies outside the segment of " +
                            std::to_string(bytes_) + " bytes");
        }
        return reinterpret_cast<T*>(address_ + offset);
    }

    // The waker of the bell at `offset`: made by the segment's creator, passed to other processes as descriptors.
    void add_waker(std::uint64_t offset, std::shared_ptr<Waker> waker) { wakers_.emplace_back(offset, std::move(waker)); }
    bool has_waker(std::uint64_t offset) const noexcept {
        return std::any_of(wakers_.begin(), wakers_.end(), [&](const auto& known) { return known.first == offset; });
    }
    std::shared_ptr<Waker> waker(std::uint64_t offset) const {
        for (const auto& [place, waker] : wakers_) {
            if (place == offset) return waker;
        }
        throw Corrupted("no bell at offset " + std::to_string(offset));
    }

    // Throws ReadOnly. `what`: what the caller is about to do.
    void require_writable(const char* what) const {
        if (!writable_) throw ReadOnly(std::string(what) + ": this mapping is read-only; observers only read");
    }

    // Keeps the whole mapping in memory. 0, or an errno.
    int lock() const noexcept { return lock_range(address_, bytes_); }

    // Allocates what of a range was left out, or given back. Throws Shortage.
    void allocate(FileRange range) const {
        require_writable("allocate memory");
        const std::uint64_t first = range.offset / page_bytes() * page_bytes();
        const std::uint64_t last = std::min<std::uint64_t>(round_up(range.offset + range.bytes, page_bytes()), bytes_);
        if (const int error = allocate_pages(descriptor_, {first, last - first}); error != 0) {
            throw Shortage("cannot allocate shared memory", -error, range.bytes);
        }
    }
    // Gives the whole pages inside of a range back to the system; returns their bytes, 0 where it does not take them.
    std::size_t give_back(FileRange range) const noexcept {
        const FileRange pages = whole_pages(range);
        return pages.bytes != 0 && punch_hole(descriptor_, pages.offset, pages.bytes) ? pages.bytes : 0;
    }

    int descriptor() const noexcept { return descriptor_; }
    bool writable() const noexcept { return writable_; }
    std::size_t bytes() const noexcept { return bytes_; }

private:
    static FileRange whole_pages(FileRange range) noexcept {
        const std::uint64_t first = round_up(range.offset, page_bytes());
        const std::uint64_t last = (range.offset + range.bytes) / page_bytes() * page_bytes();
        return {first, last > first ? last - first : 0};
    }

    Segment(int descriptor, std::size_t bytes, bool writable)
        : descriptor_(descriptor),
          bytes_(bytes),
          writable_(writable),
          address_(static_cast<std::byte*>(map_shared(descriptor, bytes, writable))) {
        if (address_ == nullptr) {
            const int error = errno;
            close(descriptor_);
            descriptor_ = -1;
            throw Shortage("cannot map shared memory", error, bytes);
        }
    }

    int descriptor_;
    std::size_t bytes_;
    bool writable_;
    std::byte* address_;
    std::vector<std::pair<std::uint64_t, std::shared_ptr<Waker>>> wakers_;
    ForkWatch watch_{*this};
};

}  // namespace steadyflow
