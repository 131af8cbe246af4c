// What fork() leaves of the data plane: the parent's memory out of reach, what was held as it was, no descriptor, and the
// list of what is told of forks whole, also while other threads make and drop it.
//
//   forked_children [forks]     forks while threads hold and release buffers
#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bell.hpp"
#include "check.hpp"
#include "held_buffer.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

constexpr std::size_t capacity = 8192;
constexpr std::uint32_t buffers = 4;
constexpr std::uint64_t pool_offset = sizeof(SegmentHeader);

std::shared_ptr<Segment> make_segment() {
    auto segment = Segment::create(pool_offset + round_up(BufferPool::bytes(buffers, capacity)) + Bell::bytes());
    BufferPool::create(*segment, pool_offset, buffers, capacity);
    return segment;
}

HeldBuffer::Count counter() { return std::make_shared<std::atomic<std::int64_t>>(0); }

// Runs `work` in a child, which ends with 0 if all its checks hold.
template <class Work>
void in_child(Work work) {
    std::fflush(nullptr);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        work();
        _exit(0);
    }
    int status = 0;
    CHECK_EQUAL(child, waitpid(child, &status, 0));
    CHECK(WIFEXITED(status));
    CHECK_EQUAL(0, WEXITSTATUS(status));
}

bool is_open(int descriptor) { return fcntl(descriptor, F_GETFD) >= 0; }

void check_memory() {
    situation = "memory";
    auto segment = make_segment();
    BufferPool pool(segment, pool_offset);
    const auto count = counter();
    auto held = HeldBuffer::take(pool, 1, 3, capacity, count);
    std::memset(held->payload(), 7, capacity);
    std::memset(pool.payload(2), 9, capacity);
    const std::uint32_t generation = fork_generation;
    const int descriptor = segment->descriptor();

    in_child([&] {
        CHECK_EQUAL(generation + 1, fork_generation);
        CHECK(!is_open(descriptor));
        CHECK_THROWS(Forked, segment->require_shared());
        CHECK_THROWS(Forked, segment->at<SegmentHeader>(0));
        for (std::size_t byte = 0; byte < capacity; ++byte) CHECK_EQUAL(std::byte{7}, held->payload()[byte]);
        CHECK_EQUAL(std::byte{0}, pool.payload(2)[0]);  // held by nobody, so not kept
        std::memset(pool.payload(0), 1, buffers * capacity);
        pool.set_branches(0, 1);
        held.reset();
        pool.release_process(3);
        segment.reset();
    });

    CHECK_EQUAL(generation, fork_generation);
    CHECK(is_open(descriptor));
    CHECK_EQUAL(1U, pool.held_buffers());
    CHECK_EQUAL(0U, pool.branches(0));
    CHECK_EQUAL(std::byte{7}, held->payload()[capacity - 1]);
    CHECK_EQUAL(std::byte{9}, pool.payload(2)[0]);
    CHECK_EQUAL(std::byte{0}, pool.payload(0)[0]);
    held.reset();
    CHECK_EQUAL(0, count->load());
    CHECK_EQUAL(0U, pool.held_buffers());
}

void check_bell() {
    situation = "bell";
    auto segment = make_segment();
    const std::uint64_t offset = segment->bytes() - Bell::bytes();
    int descriptors[2];
    CHECK_EQUAL(0, create_waker(descriptors));
    segment->add_waker(offset, std::make_shared<Waker>(descriptors[0], descriptors[1]));
    const Bell bell(segment, offset);

    bell.ring(5);
    wake(*segment->waker(offset));
    in_child([&] {
        CHECK(!is_open(descriptors[0]));
        CHECK(!is_open(descriptors[1]));
        CHECK_EQUAL(0U, bell.take());  // the bits are the parent's
        bell.ring(6);
        wake(*segment->waker(offset));
        wait_for_wake(*segment->waker(offset), 0);
    });
    CHECK_EQUAL(std::uint64_t{1} << 5, bell.take());
    char bytes[8];
    CHECK_EQUAL(1, read(descriptors[0], bytes, sizeof bytes));  // and so is the wake-up
}

// Grandchildren, and a segment that the child makes for itself and shares with a child of its own no more.
void check_generations() {
    situation = "generations";
    in_child([] {
        auto own = make_segment();
        BufferPool pool(own, pool_offset);
        const auto held = HeldBuffer::take(pool, 0, 0, 64, counter());
        std::memset(held->payload(), 4, 64);
        const std::uint32_t generation = fork_generation;
        in_child([&] {
            CHECK_EQUAL(generation + 1, fork_generation);
            CHECK_THROWS(Forked, own->require_shared());
            CHECK_EQUAL(std::byte{4}, held->payload()[63]);
        });
        own->require_shared();
        CHECK_EQUAL(1U, pool.held_buffers());
    });
}

void check_while_threads_work(int forks) {
    situation = "threads";
    auto segment = make_segment();
    BufferPool pool(segment, pool_offset);
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (std::uint32_t buffer = 0; buffer < buffers; ++buffer) {
        std::memset(pool.payload(buffer), static_cast<int>(buffer), capacity);
        threads.emplace_back([&, buffer] {
            const auto count = counter();
            while (!stop.load()) {
                const auto first = HeldBuffer::take(pool, buffer, buffer, capacity, count);
                auto second = HeldBuffer::take(pool, buffer, buffer, 1, count);
                CHECK(second != nullptr);
                second.reset();
                Segment::create(sizeof(SegmentHeader));
            }
        });
    }
    const auto held = HeldBuffer::take(pool, 0, buffers, capacity, counter());
    for (int number = 0; number < forks; ++number) {
        in_child([&] {
            CHECK_EQUAL(std::byte{0}, held->payload()[capacity - 1]);
            CHECK_THROWS(Forked, segment->require_shared());
            make_segment()->require_shared();
        });
    }
    stop.store(true);
    for (auto& thread : threads) thread.join();
    CHECK_EQUAL(1U, pool.held_buffers());
}

}  // namespace

int main(int count, char** arguments) {
    detach_forked_children();
    check_memory();
    check_bell();
    check_generations();
    check_while_threads_work(count > 1 ? std::stoi(arguments[1]) : 50);
}
