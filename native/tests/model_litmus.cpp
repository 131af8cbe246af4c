// The checker checked: programs whose outcomes are known, programs drawn at random against the definitions of C++20, races,
// and sleepers that nobody wakes.
//
//   model_litmus [PROGRAMS] [SEED]
//
// An outcome is written as what each thread's reads found, and then the last values of x, y and z: "1 0 |110".
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

#include "model/axioms.hpp"
#include "model/program.hpp"
#include "traffic.hpp"

using namespace steadyflow;
using namespace steadyflow::model;
using steadyflow::testing::Random;
using steadyflow::testing::situation;

namespace {

constexpr unsigned x = 0;
constexpr unsigned y = 1;
constexpr unsigned z = 2;
constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto acquire = std::memory_order_acquire;
constexpr auto release = std::memory_order_release;
constexpr auto acq_rel = std::memory_order_acq_rel;
constexpr auto seq_cst = std::memory_order_seq_cst;

std::string listed(const Outcomes& outcomes) {
    std::string text;
    for (const std::string& outcome : outcomes) text += "[" + outcome + "] ";
    return text;
}

// The definitions allow just these, and the search finds just these, with and without its reductions.
void check_outcomes(const char* what, const Program& program, const Outcomes& expected, bool small = true) {
    situation = std::string(what) + ": " + describe(program);
    CHECK_EQUAL(listed(expected), listed(Axioms(program).allowed()));
    CHECK_EQUAL(listed(expected), listed(explored(program, true)));
    if (small) CHECK_EQUAL(listed(expected), listed(explored(program, false)));
}

// Each thread reads after the other one may have written: both may miss the other's store, unless all is in one order.
void store_buffering() {
    const Outcomes without = {"0 1 |110", "1 0 |110", "1 1 |110"};
    Outcomes with = without;
    with.insert("0 0 |110");
    const auto program = [](std::memory_order stores, std::memory_order loads) {
        return Program{{store(x, 1, stores), load(y, loads)}, {store(y, 1, stores), load(x, loads)}};
    };
    check_outcomes("store buffering", program(relaxed, relaxed), with);
    check_outcomes("store buffering", program(release, acquire), with);
    check_outcomes("store buffering", program(seq_cst, acquire), with);
    check_outcomes("store buffering", program(release, seq_cst), with);
    check_outcomes("store buffering", program(seq_cst, seq_cst), without);
    const auto fenced = [](std::memory_order order) {
        return Program{{store(x, 1, relaxed), fence(order), load(y, relaxed)},
                       {store(y, 1, relaxed), fence(order), load(x, relaxed)}};
    };
    check_outcomes("store buffering with fences", fenced(acq_rel), with);
    check_outcomes("store buffering with fences", fenced(seq_cst), without);
    // One side of sequentially consistent accesses, the other with a fence: as claim() and request_wake() do it.
    check_outcomes("store buffering, fence against accesses",
                   {{store(x, 1, relaxed), fence(seq_cst), load(y, relaxed)}, {store(y, 1, seq_cst), load(x, seq_cst)}},
                   without);
    check_outcomes("store buffering, fence against accesses",
                   {{store(x, 1, relaxed), fence(seq_cst), load(y, relaxed)}, {store(y, 1, seq_cst), load(x, acquire)}},
                   with);
}

// Whoever sees the flag (y) sees what was written before it.
void message_passing() {
    for (const auto stores : {relaxed, release, seq_cst}) {
        for (const auto loads : {relaxed, acquire, seq_cst}) {
            Outcomes expected = {" 00 |110", " 01 |110", " 11 |110"};
            if (stores == relaxed || loads == relaxed) expected.insert(" 10 |110");
            check_outcomes("message passing",
                           {{store(x, 1, relaxed), store(y, 1, stores)}, {load(y, loads), load(x, relaxed)}}, expected);
        }
    }
    const auto fenced = [](std::memory_order writer, std::memory_order reader) {
        return Program{{store(x, 1, relaxed), fence(writer), store(y, 1, relaxed)},
                       {load(y, relaxed), fence(reader), load(x, relaxed)}};
    };
    const Outcomes ordered = {" 00 |110", " 01 |110", " 11 |110"};
    const Outcomes weak = {" 00 |110", " 01 |110", " 10 |110", " 11 |110"};
    check_outcomes("message passing with fences", fenced(release, acquire), ordered);
    check_outcomes("message passing with fences", fenced(seq_cst, seq_cst), ordered);
    check_outcomes("message passing with fences", fenced(acquire, acquire), weak);
    check_outcomes("message passing with fences", fenced(release, release), weak);
    check_outcomes("message passing, a fence on one side",
                   {{store(x, 1, relaxed), fence(release), store(y, 1, relaxed)}, {load(y, acquire), load(x, relaxed)}},
                   ordered);
}

// C++20 also allows 1 1 for relaxed accesses. Here loads are not delayed behind later stores, so it is not found; see
// WeakMemory.
void load_buffering() {
    check_outcomes("load buffering",
                   {{load(x, relaxed), store(y, 1, relaxed)}, {load(y, relaxed), store(x, 1, relaxed)}},
                   {"0 0 |110", "0 1 |110", "1 0 |110"});
}

// Two readers of two writers: do they agree in which order the writers came?
void independent_reads() {
    const auto program = [](std::memory_order stores, std::memory_order loads) {
        return Program{{store(x, 1, stores)},
                       {store(y, 1, stores)},
                       {load(x, loads), load(y, loads)},
                       {load(y, loads), load(x, loads)}};
    };
    Outcomes agreed;
    for (const char* first : {"00", "01", "10", "11"}) {
        for (const char* second : {"00", "01", "10", "11"}) {
            const std::string found = std::string("  ") + first + " " + second + " |110";
            if (std::string(first) != "10" || std::string(second) != "10") agreed.insert(found);
        }
    }
    Outcomes any = agreed;
    any.insert("  10 10 |110");
    check_outcomes("independent reads of independent writes", program(release, acquire), any, false);
    check_outcomes("independent reads of independent writes", program(seq_cst, seq_cst), agreed, false);
}

void coherence() {
    check_outcomes("read after read",
                   {{store(x, 1, relaxed), store(x, 2, relaxed)}, {load(x, relaxed), load(x, relaxed)}},
                   {" 00 |200", " 01 |200", " 02 |200", " 11 |200", " 12 |200", " 22 |200"});
    check_outcomes("write after write", {{store(x, 1, relaxed), store(x, 2, relaxed)}}, {" |200"});
    check_outcomes("write after read", {{load(x, relaxed), store(x, 1, relaxed)}, {store(x, 2, relaxed)}},
                   {"0  |100", "0  |200", "2  |100"});
    check_outcomes("read after write", {{store(x, 1, relaxed), load(x, relaxed)}, {store(x, 2, relaxed)}},
                   {"1  |100", "1  |200", "2  |200"});
    // Both first stores may end up last, unless all is in one order.
    const auto twice = [](std::memory_order order) {
        return Program{{store(x, 1, order), store(y, 2, order)}, {store(y, 1, order), store(x, 2, order)}};
    };
    check_outcomes("two writers of two", twice(relaxed), {"  |110", "  |120", "  |210", "  |220"});
    check_outcomes("two writers of two", twice(release), {"  |110", "  |120", "  |210", "  |220"});
    check_outcomes("two writers of two", twice(seq_cst), {"  |120", "  |210", "  |220"});
}

void read_modify_writes() {
    check_outcomes("one of two comes first", {{exchange(x, 1, relaxed)}, {exchange(x, 2, relaxed)}},
                   {"0 1 |200", "2 0 |100"});
    check_outcomes("one of two wins",
                   {{compare_exchange(x, 0, 1, relaxed, relaxed)}, {compare_exchange(x, 0, 2, relaxed, relaxed)}},
                   {"0 1 |100", "2 0 |200"});
    // Nothing comes between a successful one and what it replaced.
    check_outcomes("a store beside a compare-and-swap", {{compare_exchange(x, 0, 1, relaxed, relaxed)}, {store(x, 2, relaxed)}},
                   {"0  |200", "2  |200"});

    // What was released is passed on by whoever changes the flag, whatever his order; a store of its own ends it.
    const auto passed_on = [](Instruction between) {
        return Program{{store(x, 1, relaxed), store(y, 1, release)}, {between}, {load(y, acquire), load(x, relaxed)}};
    };
    Outcomes found = Axioms(passed_on(exchange(y, 2, relaxed))).allowed();
    CHECK_EQUAL(0, found.count(" 1 20 |120"));
    check_outcomes("a release sequence", passed_on(exchange(y, 2, relaxed)),
                   {" 0 00 |110", " 0 01 |110", " 0 11 |110", " 0 20 |110", " 0 21 |110", " 1 00 |120", " 1 01 |120",
                    " 1 11 |120", " 1 21 |120"},
                   false);
    check_outcomes("no release sequence",
                   {{store(x, 1, relaxed), store(y, 1, release), store(y, 2, relaxed)}, {load(y, acquire), load(x, relaxed)}},
                   {" 00 |120", " 01 |120", " 11 |120", " 20 |120", " 21 |120"});
}

// Sequentially consistent operations among others.
void mixed() {
    const auto contains = [](const char* what, const Program& program, const std::string& outcome, bool allowed) {
        situation = std::string(what) + ": " + describe(program);
        CHECK_EQUAL(allowed, Axioms(program).allowed().count(outcome) != 0);
        CHECK_EQUAL(allowed, explored(program, true).count(outcome) != 0);
    };
    // A relaxed flag behind a sequentially consistent store: the flag may be seen, and then not the store.
    contains("a relaxed flag", {{store(x, 1, seq_cst), store(y, 1, relaxed)}, {load(y, relaxed), load(x, seq_cst)}},
             " 10 |110", true);
    // "Happens before" through a release into a sequentially consistent operation itself is not "strongly": Z6.U.
    contains("Z6.U",
             {{store(x, 1, seq_cst), store(y, 1, release)},
              {exchange(y, 2, seq_cst), load(y, relaxed)},
              {store(y, 3, seq_cst), load(x, seq_cst)}},
             " 13 0 |130", true);
    // With an acquire of its own before it, it is.
    contains("Z6.U with an acquire before",
             {{store(x, 1, seq_cst), store(z, 1, release)},
              {load(z, acquire), store(y, 2, seq_cst)},
              {store(y, 3, seq_cst), load(x, seq_cst)}},
             " 1 0 |131", false);
    // What is put between fences is ordered, and only that.
    contains("writes to one place and fences",
             {{store(x, 1, relaxed), fence(seq_cst), store(y, 1, relaxed)},
              {store(y, 2, relaxed), fence(seq_cst), load(x, relaxed)}},
             " 0 |120", false);
    contains("writes to one place and fences",
             {{store(x, 1, relaxed), fence(acq_rel), store(y, 1, relaxed)},
              {store(y, 2, relaxed), fence(seq_cst), load(x, relaxed)}},
             " 0 |120", true);
}

// Programs drawn at random. Values repeat in some, because the reduction by equal values would never show otherwise.
class Draw {
public:
    explicit Draw(std::uint64_t seed) : random_(seed) {}

    Program program() {
        palette_ = below(5);
        repeats_ = below(2) == 0;
        value_ = 0;
        left_ = 7;
        const unsigned threads = 2 + below(3);
        locations_ = 2 + (below(4) == 0 ? 1 : 0);
        Program program;
        for (unsigned index = 0; index < threads; ++index) program.push_back(thread(threads));
        return program;
    }

private:
    unsigned below(unsigned limit) { return static_cast<unsigned>(random_.below(limit)); }

    // 0: relaxed, 1: acquire or release, 2: seq_cst.
    unsigned strength() {
        switch (palette_) {
            case 0: return below(3) == 0 ? 0 : 1;
            case 1: return 1 + below(2);
            case 2: return 0;
            case 3: return below(3) == 0 ? 2 : 0;
            default: return below(3);
        }
    }
    std::memory_order for_load() { return std::array{relaxed, acquire, seq_cst}[strength()]; }
    std::memory_order for_store() { return std::array{relaxed, release, seq_cst}[strength()]; }
    std::memory_order for_update() {
        const unsigned chosen = strength();
        return chosen == 1 ? std::array{acquire, release, acq_rel}[below(3)] : chosen == 2 ? seq_cst : relaxed;
    }
    std::memory_order for_fence() {
        return palette_ == 3 ? seq_cst : std::array{acquire, release, acq_rel, seq_cst}[below(palette_ == 2 ? 2 : 4)];
    }
    int value() { return repeats_ ? 1 + static_cast<int>(below(2)) : ++value_; }

    std::vector<Instruction> thread(unsigned threads) {
        const unsigned wanted = threads == 4 ? 1 + below(2) : threads == 3 ? 2 + below(2) : 3 + below(2);
        unsigned location = below(locations_);
        const bool reads = below(2) == 0;
        std::vector<Instruction> thread;
        for (unsigned index = 0; index < wanted && left_ > 0; ++index, --left_) {
            if (below(8) != 0) location = (location + 1) % locations_;
            const bool fences = palette_ == 2 || palette_ == 3 || below(12) == 0;
            if (index != 0 && fences && below(2) == 0 && left_ > 1) {
                thread.push_back(fence(for_fence()));
                --left_;
            }
            const unsigned kind = below(10);
            if (kind < 7) {
                if ((below(5) != 0) == reads) thread.push_back(load(location, for_load()));
                else thread.push_back(store(location, value(), for_store()));
            } else if (kind < 9) {
                thread.push_back(exchange(location, value(), for_update()));
            } else {
                thread.push_back(compare_exchange(location, static_cast<int>(below(3)), value(), for_update(), for_load()));
            }
        }
        if (thread.empty()) thread.push_back(load(location, relaxed));
        return thread;
    }

    Random random_;
    unsigned palette_ = 0;
    bool repeats_ = false;
    unsigned locations_ = 2;
    int value_ = 0;
    int left_ = 0;
};

void random_programs(std::uint64_t programs, std::uint64_t seed) {
    Draw draw(seed);
    std::uint64_t outcomes = 0;
    for (std::uint64_t round = 0; round < programs; ++round) {
        const Program program = draw.program();
        situation = "program " + std::to_string(round) + ": " + describe(program);
        const Outcomes allowed = Axioms(program).allowed();
        outcomes += allowed.size();
        CHECK_EQUAL(listed(allowed), listed(explored(program, true)));
        std::size_t instructions = 0;
        for (const auto& thread : program) instructions += thread.size();
        if (instructions <= 6) CHECK_EQUAL(listed(allowed), listed(explored(program, false)));
    }
    std::printf("model_litmus: %llu programs from seed %llu, %llu outcomes, as the definitions allow them\n",
                static_cast<unsigned long long>(programs), static_cast<unsigned long long>(seed),
                static_cast<unsigned long long>(outcomes));
}

// --- Plain fields and sleepers ---

struct Fields {
    ModelMemory::Plain<std::uint64_t> plain;
    ModelMemory::Atomic<std::uint64_t> flag;
    Waker waker{-1, -1};
};

class FieldScenario : public Scenario {
public:
    using Work = std::function<void(Fields&)>;
    explicit FieldScenario(std::vector<Work> threads) : threads_(std::move(threads)) {}
    std::string name() const override { return "fields"; }
    unsigned threads() const override { return static_cast<unsigned>(threads_.size()); }
    void set_up() override {}
    void run(unsigned thread) override { threads_[thread](fields_); }
    void finish() override {}

private:
    std::unique_ptr<Fields> owned_ = std::unique_ptr<Fields>(new Fields{});
    Fields& fields_ = *owned_;
    std::vector<Work> threads_;
};

std::string violation(const char* what, std::vector<FieldScenario::Work> threads, Limits limits = {}) {
    situation = what;
    Orders orders;
    FieldScenario scenario(std::move(threads));
    Explorer explorer(scenario, orders);
    const Report report = explorer.explore(limits);
    if (report.violation) CHECK(!report.trace.empty());
    return report.violation ? report.violation->substr(0, report.violation->find(':')) : "none";
}

void races() {
    const auto writes = [](Fields& fields) { fields.plain.write(1); };
    const auto reads = [](Fields& fields) { fields.plain.read(); };
    CHECK_EQUAL("data race", violation("two writers", {writes, writes}));
    CHECK_EQUAL("data race", violation("writer and reader", {writes, reads}));
    CHECK_EQUAL("none", violation("two readers", {reads, reads}));
    for (const auto stores : {relaxed, release}) {
        for (const auto loads : {relaxed, acquire}) {
            const char* expected = stores == release && loads == acquire ? "none" : "data race";
            CHECK_EQUAL(expected, violation("written, then read",
                                            {[=](Fields& fields) {
                                                 fields.plain.write(1);
                                                 fields.flag.store(1, stores);
                                             },
                                             [=](Fields& fields) {
                                                 if (fields.flag.load(loads) == 1) fields.plain.read();
                                             }}));
            CHECK_EQUAL(expected, violation("read, then written",
                                            {[=](Fields& fields) {
                                                 fields.plain.read();
                                                 fields.flag.store(1, stores);
                                             },
                                             [=](Fields& fields) {
                                                 if (fields.flag.load(loads) == 1) fields.plain.write(1);
                                             }}));
        }
    }
    CHECK_EQUAL("none", violation("after the end of the other", {writes, [](Fields& fields) {
                                                                      Explorer::running()->join(0);
                                                                      fields.plain.write(2);
                                                                  }}));
    // An atomic that two threads touch is no race, whatever its order; an expectation that fails once is found.
    CHECK_EQUAL("seen", violation("seen", {[](Fields& fields) { fields.flag.store(1, relaxed); },
                                           [](Fields& fields) {
                                               Explorer::running()->expect(fields.flag.load(relaxed) == 0, "seen");
                                           }}));
    // A weak compare-and-swap may fail though nobody else is there.
    const auto swaps = [](Fields& fields) {
        std::uint64_t expected = 0;
        const bool exchanged = fields.flag.compare_exchange_weak(expected, 1, relaxed);
        Explorer::running()->expect(exchanged, "failed");
    };
    const auto looks = [](Fields& fields) { fields.flag.load(relaxed); };
    CHECK_EQUAL("none", violation("no spurious failure", {swaps, looks}));
    CHECK_EQUAL("failed", violation("a spurious failure", {swaps, looks}, {.spurious_failures = 1}));
}

void sleepers() {
    const auto wakes = [](Fields& fields) {
        fields.flag.store(1, seq_cst);
        ModelMemory::wake(fields.waker);
    };
    CHECK_EQUAL("none", violation("a call that comes before the sleep", {wakes, [](Fields& fields) {
                                                                              ModelMemory::wait_for_wake(fields.waker, -1);
                                                                          }}));
    CHECK_EQUAL("lost wake-up", violation("nobody calls", {[](Fields& fields) { fields.flag.store(1, seq_cst); },
                                                           [](Fields& fields) {
                                                               if (fields.flag.load(seq_cst) == 0) {
                                                                   ModelMemory::wait_for_wake(fields.waker, -1);
                                                               }
                                                           }}));
    // The kernel would order it; the proof must not need that.
    CHECK_EQUAL("unordered", violation("what is known after a call",
                                       {[](Fields& fields) {
                                            fields.flag.store(1, relaxed);
                                            ModelMemory::wake(fields.waker);
                                        },
                                        [](Fields& fields) {
                                            ModelMemory::wait_for_wake(fields.waker, -1);
                                            Explorer::running()->expect(fields.flag.load(acquire) == 1, "unordered");
                                        }}));
    const auto joins = [](unsigned other) { return [=](Fields&) { Explorer::running()->join(other); }; };
    CHECK_EQUAL("lost wake-up", violation("two who wait for each other's end", {joins(1), joins(0)}));
}

}  // namespace

int main(int argument_count, char** arguments) {
    const NoLeakCheck abandoned_stacks;
    const std::uint64_t programs = argument_count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 600;
    const std::uint64_t seed = argument_count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 20;
    store_buffering();
    message_passing();
    load_buffering();
    independent_reads();
    coherence();
    read_modify_writes();
    mixed();
    races();
    sleepers();
    random_programs(programs, seed);
    return 0;
}
