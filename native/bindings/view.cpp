#include "view.hpp"

#include <utility>

namespace steadyflow {
namespace {

constexpr const char* capsule_name = "steadyflow.view";

void release(PyObject* capsule) { delete static_cast<HeldBuffer*>(PyCapsule_GetPointer(capsule, capsule_name)); }

}  // namespace

nb::object new_view(const PayloadSpec& spec, std::uint32_t frames, std::unique_ptr<HeldBuffer> held) {
    nb::object array = take(spec.new_array(frames, held->payload()));
    nb::object capsule = take(PyCapsule_New(held.get(), capsule_name, release));
    [[maybe_unused]] const HeldBuffer* now_the_capsules = held.release();
    // Takes the capsule's reference in any case.
    auto* viewing = reinterpret_cast<PyArrayObject*>(array.ptr());
    if (PyArray_SetBaseObject(viewing, capsule.release().ptr()) != 0) throw nb::python_error();
    return array;
}

}  // namespace steadyflow
