// A process that is run one instruction at a time.
#pragma once

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <sched.h>
#include <string>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

#include "../tests/check.hpp"

namespace steadyflow::prove {

// What the victim tells, in memory of its own: written by the victim, read by the stepper while the victim is stopped.
struct Progress {
    volatile std::uint32_t finished;        // the operation has returned
    volatile std::uint64_t acknowledged;    // sends that have returned
    volatile std::uint64_t completed;       // blocks whose finish() or discard() has returned
};

inline Progress* shared_progress() {
    void* memory = mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return static_cast<Progress*>(memory);
}

// Stepper and victim on one core: a stop is then a switch, not a wake-up of another core.
inline void stay_on_one_core() {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<unsigned>(sched_getcpu()), &one);
    CHECK_EQUAL(0, sched_setaffinity(0, sizeof one, &one));
}

// Whether a stopped process can be given a twin at the same instruction, which makes the cost of killing at each of n
// instructions grow with n instead of its square. Elsewhere the operation is begun anew for each kill.
#if defined(__x86_64__)
inline constexpr bool has_twins = true;
// clone(2) as a fork whose child ends without a signal to its parent, and a stop.
asm(R"(
    .pushsection .text
    .type steadyflow_make_twin, @function
steadyflow_make_twin:
    movl $56, %eax
    xorl %edi, %edi
    xorl %esi, %esi
    xorl %edx, %edx
    xorl %r10d, %r10d
    xorl %r8d, %r8d
    syscall
    int3
    .size steadyflow_make_twin, .-steadyflow_make_twin
    .popsection
)");
extern "C" void steadyflow_make_twin();
#else
inline constexpr bool has_twins = false;
#endif

class Victim {
public:
    // Forks a process that makes its ends, `operation = prepare()`, and stops before the first instruction of
    // `operation`.
    Victim(Progress& progress, const std::function<std::function<void()>()>& prepare) : progress_(progress) {
        progress.finished = 0;
        progress.acknowledged = 0;
        progress.completed = 0;
        std::fflush(nullptr);
        pid_ = fork();
        CHECK(pid_ >= 0);
        if (pid_ == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            const std::function<void()> operation = prepare();
            if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) {
                std::fprintf(stderr, "stepper: expected to be allowed to trace a child (ptrace), and the system refused; "
                                     "allow it (in a container: --cap-add=SYS_PTRACE)\n");
                _exit(2);
            }
            raise(SIGSTOP);
            operation();
            progress.finished = 1;
            // Not exit: what the parent had at the fork is not the child's to destroy.
            _exit(0);
        }
        wait_for_stop(SIGSTOP);
        CHECK_EQUAL(0, ptrace(PTRACE_SETOPTIONS, pid_, nullptr, PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL));
    }
    ~Victim() {
        if (pid_ > 0) kill_it();
    }
    Victim(const Victim&) = delete;
    Victim& operator=(const Victim&) = delete;

    // Runs up to `count` instructions; returns how many it ran before the operation had ended.
    std::uint64_t step(std::uint64_t count) {
        for (std::uint64_t done = 0; done < count; ++done) {
            CHECK_EQUAL(0, ptrace(PTRACE_SINGLESTEP, pid_, nullptr, nullptr));
            wait_for_stop(SIGTRAP);
            if (progress_.finished != 0) return done;
        }
        return count;
    }

    void kill_it() {
        kill_process(pid_);
        pid_ = -1;
    }

#if defined(__x86_64__)
    // Whether it stands in the kernel's code for reading the clock, which touches nothing of ours, and begins anew when the
    // time moves on under it: as it would for ever, if each of its instructions took a millisecond.
    bool reads_the_clock() {
        user_regs_struct registers{};
        CHECK_EQUAL(0, ptrace(PTRACE_GETREGS, pid_, nullptr, &registers));
        return registers.rip >= clock_code().first && registers.rip < clock_code().second;
    }

    // Makes a process that is in the same state at the same instruction, and kills it there.
    void kill_twin() {
        user_regs_struct saved{};
        CHECK_EQUAL(0, ptrace(PTRACE_GETREGS, pid_, nullptr, &saved));
        user_regs_struct cloning = saved;
        cloning.rip = reinterpret_cast<std::uint64_t>(&steadyflow_make_twin);
        cloning.orig_rax = ~0ULL;  // no system call that would be begun anew
        CHECK_EQUAL(0, ptrace(PTRACE_SETREGS, pid_, nullptr, &cloning));
        CHECK_EQUAL(0, ptrace(PTRACE_CONT, pid_, nullptr, nullptr));
        int status = 0;
        CHECK_EQUAL(pid_, waitpid(pid_, &status, 0));
        CHECK_EQUAL(SIGTRAP | PTRACE_EVENT_CLONE << 8, status >> 8);
        unsigned long twin = 0;
        CHECK_EQUAL(0, ptrace(PTRACE_GETEVENTMSG, pid_, nullptr, &twin));
        const auto twin_pid = static_cast<pid_t>(twin);
        CHECK_EQUAL(twin_pid, waitpid(twin_pid, &status, __WALL));
        CHECK(WIFSTOPPED(status));
        CHECK_EQUAL(0, ptrace(PTRACE_SETREGS, twin_pid, nullptr, &saved));
        kill_process(twin_pid);
        CHECK_EQUAL(0, ptrace(PTRACE_CONT, pid_, nullptr, nullptr));
        wait_for_stop(SIGTRAP);
        CHECK_EQUAL(0, ptrace(PTRACE_SETREGS, pid_, nullptr, &saved));
    }
#else
    bool reads_the_clock() { return false; }
    void kill_twin() { testing::fail(__FILE__, __LINE__, "kill_twin()", "a processor that has twins", "another one"); }
#endif

private:
    // Where the vDSO lies, the same in every forked process.
    static std::pair<std::uint64_t, std::uint64_t> clock_code() {
        static const std::pair<std::uint64_t, std::uint64_t> range = [] {
            std::ifstream maps("/proc/self/maps");
            for (std::string line; std::getline(maps, line);) {
                if (line.find("[vdso]") == std::string::npos) continue;
                const std::size_t dash = line.find('-');
                return std::pair<std::uint64_t, std::uint64_t>(std::stoull(line.substr(0, dash), nullptr, 16),
                                                               std::stoull(line.substr(dash + 1), nullptr, 16));
            }
            return std::pair<std::uint64_t, std::uint64_t>(0, 0);
        }();
        return range;
    }

    static void kill_process(pid_t pid) {
        CHECK_EQUAL(0, kill(pid, SIGKILL));
        int status = 0;
        do {
            CHECK_EQUAL(pid, waitpid(pid, &status, __WALL));
        } while (WIFSTOPPED(status));
        CHECK(WIFSIGNALED(status));
    }

    void wait_for_stop(int signal) {
        int status = 0;
        CHECK_EQUAL(pid_, waitpid(pid_, &status, 0));
        if (!WIFSTOPPED(status) || WSTOPSIG(status) != signal) {
            testing::fail(__FILE__, __LINE__, "the victim", "a stop by signal " + std::to_string(signal),
                          "wait status " + std::to_string(status));
        }
    }

    Progress& progress_;
    pid_t pid_ = -1;
};

}  // namespace steadyflow::prove
