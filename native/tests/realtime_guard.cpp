// The guard against a thread that keeps a core to itself: what its handler does, tells and leaves alone; and that locking is
// tried without a trace. The signal is raised here; that the kernel raises it is tested with real workers.
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <sched.h>
#include <string>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.hpp"
#include "realtime.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

// Runs `work` in a child, because a process has one guard; the child ends with 0 if all its checks hold.
template <class Work>
void in_child(const char* what, Work work) {
    situation = what;
    std::fflush(nullptr);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        work();
        std::_Exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_EQUAL(0, status);
}

struct Pipe {
    Pipe() { CHECK(pipe2(ends, O_NONBLOCK) == 0); }
    // How many bytes lie in it.
    std::ptrdiff_t take() const {
        char bytes[8];
        const ssize_t taken = read(ends[0], bytes, sizeof bytes);
        return taken < 0 && errno == EAGAIN ? 0 : taken;
    }
    int ends[2] = {-1, -1};
};

void tells_what_ran() {
    const Pipe pipe;
    unsigned depth = 1;
    unsigned order = 7;
    CHECK_EQUAL(0, guard_against_runaway(pipe.ends[1], &depth, &order));
    CHECK(!last_revocation().happened);
    errno = 99;
    CHECK(raise(SIGXCPU) == 0);
    CHECK_EQUAL(99, errno);
    order = 8;
    CHECK(raise(SIGXCPU) == 0);
    CHECK_EQUAL(std::ptrdiff_t{1}, pipe.take());
    const Revocation told = last_revocation();
    CHECK(told.happened);
    CHECK(told.in_module);
    CHECK_EQUAL(7U, told.order);
    CHECK_EQUAL(0, told.error);
    CHECK_EQUAL(SCHED_OTHER, sched_getscheduler(0) & ~SCHED_RESET_ON_FORK);
}

void tells_that_nothing_ran() {
    const Pipe pipe;
    const unsigned none = 0;
    CHECK_EQUAL(0, guard_against_runaway(pipe.ends[1], &none, &none));
    CHECK(raise(SIGXCPU) == 0);
    CHECK(last_revocation().happened);
    CHECK(!last_revocation().in_module);
}

void is_one_for_each_process() {
    const Pipe pipe;
    const unsigned none = 0;
    CHECK_EQUAL(0, guard_against_runaway(pipe.ends[1], &none, &none));
    CHECK_EQUAL(EBUSY, guard_against_runaway(pipe.ends[1], &none, &none));
    // A forked child has the handler, but nothing to tell: the thread that it knows is its parent's.
    in_child("a child of a guarded process", [&] { CHECK(raise(SIGXCPU) == 0); });
    CHECK_EQUAL(std::ptrdiff_t{0}, pipe.take());
    CHECK(!last_revocation().happened);
}

// A full pipe must not hold the handler up.
void never_waits() {
    const Pipe pipe;
    const std::string filling(1 << 20, '.');
    while (write(pipe.ends[1], filling.data(), filling.size()) > 0) {
    }
    const unsigned none = 0;
    CHECK_EQUAL(0, guard_against_runaway(pipe.ends[1], &none, &none));
    CHECK(raise(SIGXCPU) == 0);
    CHECK(last_revocation().happened);
}

void tries_to_lock_without_a_trace() {
    const rlimit limit{1 << 20, 1 << 20};
    CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    const bool unlimited = may_lock(std::size_t{8} << 20);
    CHECK(may_lock(std::size_t{1} << 19));
    for (int repeated = 0; repeated < 8; ++repeated) CHECK_EQUAL(true, may_lock(std::size_t{1} << 19));
    CHECK_EQUAL(unlimited, may_lock(std::size_t{8} << 20));
}

}  // namespace

int main() {
    in_child("a call of a module", tells_what_ran);
    in_child("no call of a module", tells_that_nothing_ran);
    in_child("a second guard", is_one_for_each_process);
    in_child("a full pipe", never_waits);
    in_child("locking", tries_to_lock_without_a_trace);
    std::puts("ok");
}
