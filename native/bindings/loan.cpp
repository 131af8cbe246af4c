#include "loan.hpp"

#include <nanobind/stl/optional.h>

#include <utility>

#include "output.hpp"

namespace steadyflow {

LentBlock::LentBlock(nb::object memory, PayloadView view, std::optional<std::uint32_t> buffer)
    : memory_(std::move(memory)), view_(view), buffer_(buffer) {
    array_ = take(PyArray_View(reinterpret_cast<PyArrayObject*>(memory_.ptr()), nullptr, nullptr));
}

std::optional<std::uint32_t> LentBlock::surrender(const BufferPool& pool) noexcept {
    // The port may have got another pool since, or none.
    if (!buffer_ || !pool.contains(*buffer_) || pool.payload(*buffer_) != view_.data) return std::nullopt;
    return empty() ? buffer_ : std::nullopt;
}

bool LentBlock::empty() noexcept {
    if (!array_.is_valid()) return true;
    if (Py_REFCNT(memory_.ptr()) > 2 || Py_REFCNT(array_.ptr()) > 2) return false;
    static std::byte nowhere[cache_line];
    auto* array = reinterpret_cast<PyArrayObject*>(array_.ptr());
    for (int axis = 0; axis < PyArray_NDIM(array); ++axis) PyArray_DIMS(array)[axis] = 0;
    auto* fields = reinterpret_cast<PyArrayObject_fields*>(array);
    fields->data = reinterpret_cast<char*>(nowhere);
    // A base that has no memory to share: numpy never lets the array be made writable again.
    Py_SETREF(fields->base, Py_NewRef(Py_None));
    PyArray_CLEARFLAGS(array, NPY_ARRAY_WRITEABLE);
    PyArray_UpdateFlags(array, NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_F_CONTIGUOUS);
    array_.reset();
    return true;
}

int LentBlock::traverse(visitproc visit, void* arg) const noexcept {
    Py_VISIT(memory_.ptr());
    Py_VISIT(array_.ptr());
    return 0;
}

nb::object Loan::enter() {
    if (stage_ != Stage::fresh) raise_error("StateError", "this loan has been entered before; ask for a new one with loan()");
    block_ = output_.lend(frames_);
    stage_ = Stage::entered;
    return block_.array();
}

void Loan::exit(bool failed) {
    if (stage_ != Stage::entered) raise_error("StateError", "this loan has not been entered, or is over");
    stage_ = Stage::over;
    struct Lent : LentBlock {
        explicit Lent(LentBlock&& block) : LentBlock(std::move(block)) {}
        ~Lent() { empty(); }
    } block(std::exchange(block_, LentBlock()));
    if (!failed) queued_ = output_.send_lent(block);
}

int Loan::traverse(visitproc visit, void* arg) const noexcept {
    Py_VISIT(owner_.ptr());
    return block_.traverse(visit, arg);
}

void Loan::clear() noexcept {
    // Without its owner there is no output to use.
    stage_ = Stage::over;
    block_ = LentBlock();
    owner_.reset();
}

void register_loan(nb::module_& module) {
    static PyType_Slot slots[] = {
        {Py_tp_traverse, reinterpret_cast<void*>(+[](PyObject* self, visitproc visit, void* arg) {
             Py_VISIT(Py_TYPE(self));
             return nb::inst_ready(self) ? nb::inst_ptr<Loan>(self)->traverse(visit, arg) : 0;
         })},
        {Py_tp_clear, reinterpret_cast<void*>(+[](PyObject* self) {
             nb::inst_ptr<Loan>(self)->clear();
             return 0;
         })},
        {0, nullptr},
    };
    nb::class_<Loan>(module, "Loan", nb::type_slots(slots),
                     "Memory to write one block into, as a context manager; see OutputCore.loan().")
        .def("__enter__", &Loan::enter, "Returns the array to write into; what is in it at first is undefined.")
        .def("__exit__",
             [](Loan& loan, nb::handle kind, nb::handle, nb::handle) { loan.exit(!kind.is_none()); },
             nb::arg("kind").none(), nb::arg("problem").none(), nb::arg("traceback").none(),
             "Sends the block, unless an exception is on its way.")
        .def_prop_ro("queued", &Loan::queued,
                     "What send() would have returned; None while nothing has been sent.");
}

}  // namespace steadyflow
