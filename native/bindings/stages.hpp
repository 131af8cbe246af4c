// Conversion of blocks, given to Python: samples, rates, and what they cost.
#pragma once

#include <stdexcept>

#include "block.hpp"
#include "python.hpp"

namespace steadyflow {

// A stage that others here call without the way through Python.
class NativeStage {
public:
    virtual ~NativeStage() = default;
    // A sequence of the blocks that come of a block.
    virtual nb::object push(const BlockObject* block) = 0;

protected:
    NativeStage() = default;
    NativeStage(const NativeStage&) = default;
    NativeStage& operator=(const NativeStage&) = default;
};

// What lets the garbage collector see the objects that a T holds: it has traverse() and clear(). After clear(), which only that
// calls, its other methods raise.
template <class T>
PyType_Slot* collected_slots() noexcept {
    static PyType_Slot slots[] = {
        {Py_tp_traverse, reinterpret_cast<void*>(+[](PyObject* self, visitproc visit, void* arg) {
             Py_VISIT(Py_TYPE(self));
             return nb::inst_ready(self) ? nb::inst_ptr<T>(self)->traverse(visit, arg) : 0;
         })},
        {Py_tp_clear, reinterpret_cast<void*>(+[](PyObject* self) {
             nb::inst_ptr<T>(self)->clear();
             return 0;
         })},
        {0, nullptr},
    };
    return slots;
}

inline void require_kept(const nb::object& held) {
    if (!held.is_valid()) throw std::logic_error("the garbage collector has taken this stage apart");
}

void register_native_stage(nb::module_& module);  // before the others
void register_sample_stage(nb::module_& module);
void register_rate_stage(nb::module_& module);
void register_stage_meter(nb::module_& module);

}  // namespace steadyflow
