// Ring, buffers and bell under every order of their memory accesses that C++20 allows; and a check of that check: each
// memory order in their source is weakened in turn, each store is left out in turn, and some scenario must notice.
//
//   model_ring [--whole | --rehearse | --search] [--only TEXT | --elsewhere TEXT]
//
// --only: the scenarios with that in their name.
// --elsewhere: those are searched by another call, and have to notice here only.
// --search: every execution, and nothing weakened.
// --whole: also the scenarios that take long, and what is listed below as never noticed, to see that it still is not.
// --rehearse: some random executions of each scenario, for sanitizers, which make a whole search long.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <string>

#include "model/scenarios.hpp"

using namespace steadyflow::model;

namespace {

// What no scenario can notice, and why it is there all the same.
struct Unnoticed {
    std::string_view file;
    std::string_view source;  // in its line
    bool lost;                // a store that is left out; else an order that is weakened
    std::string_view reason;
};
constexpr Unnoticed unnoticed[] = {
    {"ring_producer.hpp", "header.published.store", false, "for who looks from the count to the slots, as no account does"},
    {"recovery.hpp", "header.published.store", false, "as in publish()"},
    {"ring_producer.hpp", "slot.origin.store", false, "the fence in recycle() does it, but where a predecessor had tallied"},
    {"buffers.hpp", "bits & ~(std::uint32_t{1} << branch)", false, "as for the origin of a slot"},
    {"ring_producer.hpp", "header.oldest.store", true, "it only shortens the way of a consumer that was lapped"},
    {"ring_producer.hpp", "void cancel_wake()", true, "it only saves a consumer from ringing for nothing"},
    {"bell.hpp", "void disarm()", true, "it only saves a ringer from waking for nothing"},
    {"bell.hpp", "void retire()", false, "ringing the bell of the dead first, as a reaper does here, does it as well"},
};

struct Subject {
    std::unique_ptr<Scenario> scenario;
    std::unique_ptr<Explorer> explorer;
    bool takes_long = false;
    double seconds = 0;
};
using Subjects = std::vector<Subject>;

std::string source_line(const Place& place) {
    std::ifstream file{std::string(place.file)};
    std::string line;
    for (std::uint32_t number = 0; number < place.line; ++number) std::getline(file, line);
    return line;
}

const Unnoticed* listed(const Place& place, bool lost) {
    const std::string line = source_line(place);
    for (const Unnoticed& entry : unnoticed) {
        if (entry.lost == lost && place.file.ends_with(entry.file) && line.find(entry.source) != std::string::npos) {
            return &entry;
        }
    }
    return nullptr;
}

void print(const Report& report) {
    std::printf("  %-62s %8llu executions, %8llu cut short, depth %3llu, %.2f s\n", report.scenario.c_str(),
                static_cast<unsigned long long>(report.executions),
                static_cast<unsigned long long>(report.redundant + report.impossible),
                static_cast<unsigned long long>(report.deepest), report.seconds);
    std::fflush(stdout);
    if (!report.violation) return;
    std::fprintf(stderr, "%s: %s\n", report.scenario.c_str(), report.violation->c_str());
    for (const std::string& step : report.trace) std::fprintf(stderr, "  %s\n", step.c_str());
    std::fflush(nullptr);
    std::_Exit(1);
}

// Who notices, and what; empty if nobody does. First a few random executions of each, then everything, the short ones first.
std::string noticed_by(Subjects& subjects) {
    for (const bool rehearse_only : {true, false}) {
        Limits limits;
        limits.rehearse_only = rehearse_only;
        for (Subject& subject : subjects) {
            const Report report = subject.explorer->explore(limits);
            if (report.violation) return report.scenario + ": " + *report.violation;
        }
    }
    return {};
}

// Every line of the data plane that asks for more than relaxed was carried out by some scenario.
void check_coverage(const Orders& orders) {
    std::set<std::pair<std::string, unsigned>> seen;
    std::filesystem::path folder;
    for (const auto& [place, order] : orders.collected()) {
        const std::filesystem::path file(place.file);
        seen.emplace(file.filename().string(), place.line);
        if (file.filename() == "ring.hpp") folder = file.parent_path();
    }
    const auto asks_for_more = [](std::string_view line) {
        return std::ranges::any_of(std::to_array<std::string_view>({"acquire", "release", "acq_rel", "seq_cst"}),
                                   [line](std::string_view order) {
                                       return line.find("memory_order_" + std::string(order)) != line.npos;
                                   });
    };
    unsigned lines = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        const std::string name = entry.path().filename().string();
        if (!name.ends_with(".hpp") || name == "memory.hpp") continue;
        std::ifstream file(entry.path());
        std::string line;
        for (unsigned number = 1; std::getline(file, line); ++number) {
            line = line.substr(0, line.find("//"));
            if (!asks_for_more(line)) continue;
            ++lines;
            // The order may stand in the second line of its call.
            if (seen.count({name, number}) == 0 && seen.count({name, number - 1}) == 0) {
                steadyflow::testing::fail(__FILE__, __LINE__, "a memory order that no scenario comes to",
                                          "a scenario for it, or relaxed", name + ":" + std::to_string(number) + ": " + line);
            }
        }
    }
    CHECK(lines > 10);
    std::printf("model_ring: %u lines of the data plane ask for more than relaxed, each is explored\n", lines);
}

class Mutations {
public:
    Mutations(Orders& orders, Subjects& subjects, bool also_listed)
        : orders_(orders), subjects_(subjects), also_listed_(also_listed) {}

    void run() {
        // A copy: the mutants may reach further places.
        const auto places = orders_.collected();
        orders_.collect(false);
        for (const auto& [place, order] : places) {
            for (const std::memory_order to : weaker(place.part, order)) {
                const Weakening weakening{place, order, to};
                orders_.weaken(weakening);
                judge(weakening.name(), place, false);
                orders_.weaken({});
            }
            if (place.part != Part::store) continue;
            orders_.lose(place);
            judge(place.name() + ", left out", place, true);
            orders_.lose({});
        }
        CHECK_EQUAL(0, missed_);
        std::printf("model_ring: %u mutations noticed, %u listed as not to be noticed\n", noticed_, listed_);
    }

private:
    void judge(const std::string& name, const Place& place, bool lost) {
        const Unnoticed* entry = listed(place, lost);
        if (entry != nullptr) ++listed_;
        if (entry != nullptr && !also_listed_) return;
        const std::string by = noticed_by(subjects_);
        if (entry == nullptr && !by.empty()) {
            ++noticed_;
            std::printf("  %s\n      %s\n", name.c_str(), by.c_str());
        } else if (entry == nullptr) {
            ++missed_;
            std::printf("  %s: NOT NOTICED\n      %s\n", name.c_str(), source_line(place).c_str());
        } else if (by.empty()) {
            std::printf("  %s: not noticed, %s\n", name.c_str(), std::string(entry->reason).c_str());
        } else {
            ++missed_;
            std::printf("  %s: NOTICED, though listed as not to be: %s\n", name.c_str(), by.c_str());
        }
        std::fflush(stdout);
    }

    Orders& orders_;
    Subjects& subjects_;
    bool also_listed_;
    unsigned noticed_ = 0;
    unsigned missed_ = 0;
    unsigned listed_ = 0;
};

}  // namespace

int main(int argument_count, char** arguments) {
    const NoLeakCheck abandoned_stacks;
    bool whole = false;
    bool search = false;
    Limits limits;
    std::string only;
    std::string elsewhere;
    for (int index = 1; index < argument_count; ++index) {
        const std::string_view argument = arguments[index];
        if (argument == "--whole") whole = true;
        else if (argument == "--rehearse") limits.rehearse_only = true;
        else if (argument == "--search") search = true;
        else if (argument == "--only" && index + 1 < argument_count) only = arguments[++index];
        else if (argument == "--elsewhere" && index + 1 < argument_count) elsewhere = arguments[++index];
        else {
            std::fprintf(stderr, "model_ring: unknown argument %s; see the beginning of its source\n", arguments[index]);
            return 2;
        }
    }

    Orders orders;
    orders.collect(true);
    Subjects subjects;
    for (auto& [scenario, takes_long] : scenarios()) {
        const std::string name = scenario->name();
        if ((takes_long && !whole) || name.find(only) == name.npos) continue;
        auto explorer = std::make_unique<Explorer>(*scenario, orders);
        subjects.push_back({std::move(scenario), std::move(explorer), takes_long});
    }
    std::uint64_t executions = 0;
    for (Subject& subject : subjects) {
        if (!elsewhere.empty() && subject.scenario->name().find(elsewhere) != std::string::npos) {
            subject.seconds = std::numeric_limits<double>::max();  // it notices last
            continue;
        }
        const Report report = subject.explorer->explore(limits);
        print(report);
        subject.seconds = report.seconds;
        executions += report.executions;
    }
    if (limits.rehearse_only) {
        std::printf("model_ring: %zu scenarios rehearsed at random, 0 violations\n", subjects.size());
        return 0;
    }
    std::printf("model_ring: %zu scenarios, %llu executions, 0 violations\n", subjects.size(),
                static_cast<unsigned long long>(executions));
    if (search) return 0;
    if (only.empty()) check_coverage(orders);
    // The others have to notice everything, for every change; with these, each mutant that nobody notices would take long.
    std::erase_if(subjects, [](const Subject& subject) { return subject.takes_long; });
    std::stable_sort(subjects.begin(), subjects.end(),
                     [](const Subject& one, const Subject& other) { return one.seconds < other.seconds; });
    Mutations(orders, subjects, whole).run();
    return 0;
}
