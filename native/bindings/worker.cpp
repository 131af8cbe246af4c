#include "worker.hpp"

#include "output.hpp"

namespace steadyflow {

bool Target::invoke(WorkerClock& clock, BlockObject* block, ConsumerStats& stats, Nanoseconds started_ns,
                    Nanoseconds sent_ns, Nanoseconds awake_ns, Nanoseconds gil_ns) {
    note_started(stats, *this, started_ns, sent_ns, clock.free_since_ns, awake_ns, gil_ns);

    const Running running(clock, *context, started_ns);
    context->begin(*block);
    nb::object result = nb::steal(
        survive_shutdown([&] { return PyObject_CallOneArg(call.ptr(), reinterpret_cast<PyObject*>(block)); }));
    const Nanoseconds finished = monotonic_ns();
    const Nanoseconds busy = finished - started_ns - clock.inside_ns;
    stats.busy.record(busy);
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
