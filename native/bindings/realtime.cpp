#include "realtime.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <memory>
#include <optional>
#include <utility>

#include "inbox.hpp"
#include "../realtime.hpp"

using namespace nb::literals;

namespace steadyflow {
namespace {

int guard(int descriptor, const Inbox& inbox) {
    // Never let go: the handler reads it until the process ends.
    static const auto* const kept = new std::shared_ptr<WorkerClock>(inbox.clock());
    return guard_against_runaway(descriptor, &(*kept)->depth, &(*kept)->order);
}

std::optional<std::pair<std::optional<unsigned>, int>> revocation() {
    const Revocation told = last_revocation();
    if (!told.happened) return std::nullopt;
    return std::pair(told.in_module ? std::optional(told.order) : std::nullopt, told.error);
}

}  // namespace

void register_realtime(nb::module_& module) {
    module.def("lock_memory", &lock_memory, "future"_a,
               "Keeps what is mapped in memory, each page from its first use on; `future`: also what will be mapped. Returns\n"
               "0 or an errno.");
    module.def("may_lock", &may_lock, "bytes"_a,
               "Whether so much more memory may be locked at once. Tried with memory that is never used, and undone.");
    module.def("guard_against_runaway", &guard, "descriptor"_a, "inbox"_a,
               "From now on SIGXCPU lowers the calling thread to SCHED_OTHER and writes one byte to the descriptor. Once for\n"
               "each process. Returns 0 or an errno.");
    module.def("last_revocation", &revocation,
               "What that byte is written for: the `order` of the module that was running, or None; and 0, or the errno with\n"
               "which lowering failed. None if it did not happen.");
}

}  // namespace steadyflow
