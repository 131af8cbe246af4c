#include "worker.hpp"

#include "output.hpp"

namespace steadyflow {

bool Target::invoke(WorkerClock& clock, BlockObject* block, ConsumerStats& stats, const Handover* handover,
                    Nanoseconds started_ns) {
    if (handover != nullptr) [[likely]] note_started(stats, *this, *handover, clock.free_since_ns);

    const Running running(clock, *context, started_ns);
    context->begin(*block);
    nb::object result = nb::steal(
        survive_shutdown([&] { return PyObject_CallOneArg(call.ptr(), reinterpret_cast<PyObject*>(block)); }));
    const Nanoseconds finished = monotonic_ns();
    const Nanoseconds busy = finished - started_ns - clock.inside_ns;
    stats.busy.record(busy);
    if (handover != nullptr) [[likely]] note_cycle(stats, *handover, block->frames, finished);
    ++context->calls;
    context->busy_ns += busy;
    clock.free_since_ns = finished;
    if (!result.is_valid()) {
        report_failure(block);
        return false;
    }
    if (result.is_none()) return true;
    try {
        output_for(result).send_object(result.ptr(), finished);
    } catch (nb::python_error& error) {
        error.restore();
        report_failure(block);
        return false;
    } catch (const Corrupted& damage) {
        set_error(damage);
        report_failure(block);
        return false;
    }
    clock.free_since_ns = monotonic_ns();
    return true;
}

void Target::note_deadline(ConsumerStats& stats, const Handover& handover, std::uint32_t frames,
                           Nanoseconds finished_ns) const noexcept {
    const auto period_ns = static_cast<Nanoseconds>(frames * ns_per_frame);
    const Nanoseconds due_in_ns = deadline_ns != 0 ? deadline_ns : period_ns;
    const Nanoseconds gil_ns = handover.gil_ns.value_or(handover.awake_ns);
    stats.cycle.note({handover.sequence, handover.sent_ns, handover.due_from_ns, handover.awake_ns, gil_ns,
                      handover.started_ns, finished_ns},
                     due_in_ns, period_ns);
}

Output& Target::output_for(nb::handle result) const {
    if (result_output == nullptr) {
        raise_error("ConfigurationError",
                    name + ": expected process() to return None, because the module has not exactly one output; got " +
                        std::string(Py_TYPE(result.ptr())->tp_name) + "; send it with self.<output>.send(...)");
    }
    return *result_output;
}

void Target::report_failure(BlockObject* block) noexcept {
    discard = Reason::failed;
    PyObject* type = nullptr;
    PyObject* value = nullptr;
    PyObject* traceback = nullptr;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != nullptr) PyException_SetTraceback(value, traceback);
    PyObject* answer = survive_shutdown([&] {
        return PyObject_CallFunctionObjArgs(on_error.ptr(), value, reinterpret_cast<PyObject*>(block), nullptr);
    });
    if (answer == nullptr) PyErr_WriteUnraisable(on_error.ptr());
    Py_XDECREF(answer);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

}  // namespace steadyflow
