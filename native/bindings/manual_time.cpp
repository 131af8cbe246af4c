#include "manual_time.hpp"

#include <algorithm>

#include "../manual_time.hpp"

using namespace nb::literals;

namespace steadyflow {
namespace {

// Whether the moment came. Not so: the taking of turns has ended, or nobody but those who only follow is left.
bool sleep_until(ManualTime& time, Nanoseconds moment_ns) {
    bool came = true;
    {
        const WaitWithoutGil waiting;
        if (time.now_ns() < moment_ns) {
            time.sleep(-1, moment_ns);
            came = time.now_ns() >= moment_ns;
        }
    }
    check_interruption();
    return came;
}

}  // namespace

void register_manual_time(nb::module_& module) {
    nb::class_<ManualTime>(module, "ManualTime", "A clock that stands still while threads work, and jumps to the next moment.")
        .def(nb::init<Nanoseconds>(), "now_ns"_a)
        .def_prop_ro("now_ns", &ManualTime::now_ns, "Any thread, wait-free.")
        .def("keep", [](ManualTime& time) { keep_time_by(&time); },
             "From now on the calling thread goes by this clock. It must call leave() before this object ends.")
        .def("leave",
             [](ManualTime& time) {
                 time.leave_seat();
                 keep_time_by(nullptr);
             },
             "Gives the seat of the calling thread back, if it has one, and goes by the system's clock again.")
        .def("take_seat",
             [](ManualTime& time, unsigned order, bool follows) {
                 const WaitWithoutGil waiting;
                 time.take_seat(order, follows);
             },
             "order"_a, "follows"_a = false,
             "Waits until all are seated that are expected, and it is this thread's turn. `follows`: time does not go on for it alone.")
        .def_prop_ro("is_seated", &ManualTime::is_seated, "Whether the calling thread has a seat.")
        .def("sleep_until", &sleep_until, "moment_ns"_a,
             "Passes the turn on until then, in a thread with a seat. False: it came back earlier, because turns have ended or nobody\n"
             "but those who follow is left.")
        .def("sleep_until_readable",
             [](ManualTime& time, int descriptor, Nanoseconds moment_ns) {
                 bool readable = false;
                 {
                     const WaitWithoutGil waiting;
                     readable = time.sleep(descriptor, moment_ns);
                 }
                 check_interruption();
                 return readable;
             },
             "descriptor"_a, "moment_ns"_a, "The same, until something can be read there, which is the answer.")
        .def("expect", &ManualTime::expect, "seats"_a, "So many more seats have to be taken before the first turn.")
        .def("set_limit", &ManualTime::set_limit, "limit_ns"_a, "Lets time go on as far as that. Any thread; does not wait.")
        .def("wait_until_still",
             [](ManualTime& time, double patience_s) {
                 const WaitWithoutGil waiting;
                 return time.wait_until_still(static_cast<Nanoseconds>(std::clamp(patience_s, 0.0, 1e6) * 1e9));
             },
             "patience_s"_a, "Whether everybody waits for the limit to move, or has left; waits for that. Of a thread without a seat.")
        .def("disband", &ManualTime::disband, "Ends the taking of turns: whoever waits for one returns.")
        .def_ro_static("NO_LIMIT", &ManualTime::no_limit);
}

}  // namespace steadyflow
