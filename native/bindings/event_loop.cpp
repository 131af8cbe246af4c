#include "event_loop.hpp"

#include "bell_seat.hpp"
#include "delivery.hpp"
#include "send_attempt.hpp"

using namespace nb::literals;

namespace steadyflow {

// A bell's sleeper waits for bytes in a pipe, and so may an event loop, instead of in Bell::wait: it arms the bell and goes
// to its selector; a ringer that finds the bell armed writes a byte, and the selector reports the descriptor. The order of
// memory is that of Bell::wait, whose halves these are. A byte that is late, of a ring that was heard otherwise, wakes the
// loop once for nothing.
void register_event_loop(nb::module_& module) {
    nb::class_<Bell>(module, "Bell", "A bell that an event loop sleeps on. One sleeper at a time: whoever has the seat.")
        .def_prop_ro("descriptor", [](const Bell& bell) { return bell.waker().read; }, "Readable when an armed bell rang.")
        .def("take_seat", &BellSeat::take_seat, "False: another sleeper has it. Never blocks.")
        .def("leave_seat",
             [](const Bell& bell) {
                 bell.disarm();
                 BellSeat::leave_seat(bell);
             },
             "Lets others sleep on the bell.")
        .def("arm",
             [](const Bell& bell) {
                 if (bell.arm()) return true;
                 bell.disarm();
                 return false;
             },
             "Announces a sleep; False: something rang already, so look again instead. Wait-free; with the seat only.")
        .def("hear",
             [](const Bell& bell) {
                 drain(bell.waker());
                 bell.disarm();
             },
             "Ends the sleep, after the descriptor became readable. Never blocks; with the seat only.")
        .def("take", &Bell::take, "Takes what rang, as bits. Wait-free; with the seat only.");
    nb::class_<SendAttempt>(module, "SendAttempt", "A send in an event loop that found its pipeline full.")
        .def("settle", &SendAttempt::settle,
             "True: queued, False: dropped by the rule, None: no room yet. Raises what send() raises. Never waits.")
        .def_prop_ro("until_ns", &SendAttempt::until_ns, "When to look again, even if nothing rings.");
    nb::class_<Delivery>(module, "Delivery", "A block that was claimed for a module in an event loop.")
        .def_prop_ro("call", &Delivery::call, "What the target was made with.")
        .def_prop_ro("block", &Delivery::block)
        .def("begin", &Delivery::begin, "Right before the module is called with the block.")
        .def("returned", &Delivery::returned, "Right after its call has come back.")
        .def("output_for", &Delivery::output_for, "result"_a,
             "The port that a result goes to. Raises ConfigurationError.")
        .def("finish", &Delivery::finish, "The block is delivered. After its results were sent.")
        .def("fail", &Delivery::fail, "The module has failed: this block and what follows are dropped.");
}

}  // namespace steadyflow
