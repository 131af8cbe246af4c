#include "stages.hpp"

#include <nanobind/stl/vector.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "../convert.hpp"
#include "block.hpp"
#include "payload.hpp"

using namespace nb::literals;

namespace steadyflow {
namespace {

// From here on a conversion takes long enough that others may want the lock meanwhile, and longer than taking it back costs
// where nobody does.
constexpr std::uint64_t samples_without_gil = 65'536;

// Gives up the GIL while the processor works. Not a wait: an event loop may do it.
class WorkWithoutGil {
public:
    WorkWithoutGil() noexcept {
        waiting_threads.fetch_add(1);
        state_ = PyEval_SaveThread();
    }
    ~WorkWithoutGil() {
        survive_shutdown([this] { PyEval_RestoreThread(state_); });
        waiting_threads.fetch_sub(1);
    }
    WorkWithoutGil(const WorkWithoutGil&) = delete;
    WorkWithoutGil& operator=(const WorkWithoutGil&) = delete;

private:
    PyThreadState* state_;
};

SampleLayout layout_of(const PayloadSpec& spec, bool swapped) {
    const auto type = sample_type_of(spec);
    if (!type) raise_error("ConfigurationError", "SampleConverter: expected formats of audio");
    return {*type, spec.channels, spec.planar, swapped};
}

// A conversion between two formats of audio, and what it has spoilt so far.
class SampleConverter {
public:
    SampleConverter(const PayloadSpec& from, const PayloadSpec& to, std::vector<double> matrix, bool dither, bool from_swapped,
                    bool to_swapped)
        : from_(from), to_(to), conversion_(checked(from, to, from_swapped, to_swapped, std::move(matrix), dither)) {}

    // None: `data` is no array of the format. The array itself is never changed.
    nb::object convert(nb::handle data, std::uint64_t first_frame) {
        PayloadView view;
        if (!from_.match(data.ptr(), view)) return nb::none();
        const nb::object array = take(to_.new_array(view.frames, nullptr));
        auto* out = static_cast<std::byte*>(PyArray_DATA(reinterpret_cast<PyArrayObject*>(array.ptr())));
        const auto* in = static_cast<const std::byte*>(view.data);
        Spoilt spoilt;
        if (std::uint64_t{view.frames} * std::max(from_.channels, to_.channels) < samples_without_gil) {
            spoilt = conversion_.convert(in, out, view.frames, first_frame);
        } else {
            const WorkWithoutGil released;
            spoilt = conversion_.convert(in, out, view.frames, first_frame);
        }
        spoilt_.clipped += spoilt.clipped;
        spoilt_.not_a_number += spoilt.not_a_number;
        return array;
    }

    std::uint64_t clipped() const noexcept { return spoilt_.clipped; }
    std::uint64_t not_a_number() const noexcept { return spoilt_.not_a_number; }

private:
    static SampleConversion checked(const PayloadSpec& from, const PayloadSpec& to, bool from_swapped, bool to_swapped,
                                    std::vector<double> matrix, bool dither) {
        const SampleLayout in = layout_of(from, from_swapped);
        const SampleLayout out = layout_of(to, to_swapped);
        const auto coefficients = std::uint64_t{in.channels} * out.channels;
        if (matrix.empty() ? in.channels != out.channels : matrix.size() != coefficients) {
            raise_error("ConfigurationError", "SampleConverter: expected a matrix of " + std::to_string(out.channels) + " x " +
                                                  std::to_string(in.channels) + " coefficients, got " +
                                                  std::to_string(matrix.size()));
        }
        return SampleConversion(in, out, std::move(matrix), dither);
    }

    PayloadSpec from_;
    PayloadSpec to_;
    SampleConversion conversion_;
    Spoilt spoilt_;
};

// A SampleConverter at work on blocks.
class SampleStage final : public NativeStage {
public:
    SampleStage(const PayloadSpec& from, const PayloadSpec& to, std::vector<double> matrix, bool dither, nb::object format,
                nb::object conform)
        : converter_(from, to, std::move(matrix), dither, false, false),
          format_(std::move(format)),
          conform_(std::move(conform)) {}

    nb::object push(const BlockObject* block) override {
        require_kept(conform_);
        nb::object samples = converter_.convert(block->payload, block->first_frame);
        if (samples.is_none()) {  // not contiguous, or wrong
            samples = converter_.convert(conform_(nb::borrow(block->payload)), block->first_frame);
            if (samples.is_none()) raise_error("TransformError", "samples: expected conform() to give an array of the source's format");
        }
        const nb::object made = take(reinterpret_cast<PyObject*>(derive_block(block, samples.ptr(), format_.ptr())));
        return take(PyTuple_Pack(1, made.ptr()));
    }

    nb::object flush() const { return take(PyTuple_New(0)); }

    int traverse(visitproc visit, void* arg) const noexcept {
        Py_VISIT(format_.ptr());
        Py_VISIT(conform_.ptr());
        return 0;
    }
    void clear() noexcept {
        format_.reset();
        conform_.reset();
    }

    std::uint64_t clipped() const noexcept { return converter_.clipped(); }
    std::uint64_t not_a_number() const noexcept { return converter_.not_a_number(); }

private:
    SampleConverter converter_;
    nb::object format_;
    nb::object conform_;
};

}  // namespace

void register_sample_stage(nb::module_& module) {
    nb::class_<SampleConverter>(module, "SampleConverter",
                                "Converts sample type, channels and layout of audio in one pass.\n\n"
                                "`matrix`: by rows, one for each channel that comes out; empty: channel by channel. `from_swapped`,\n"
                                "`to_swapped`: the other byte order than this machine's.")
        .def(nb::init<const PayloadSpec&, const PayloadSpec&, std::vector<double>, bool, bool, bool>(), "source"_a, "target"_a,
             "matrix"_a, "dither"_a, "from_swapped"_a = false, "to_swapped"_a = false)
        .def("convert", &SampleConverter::convert, "data"_a.none(), "first_frame"_a = 0,
             "Returns a new array; None if `data` is no array of the source format: type, shape, contiguity, or no frames.\n\n"
             "`first_frame`: of the stream, for the dither. Does not block; allocates the result. Any thread, one at a time; the\n"
             "GIL is released for 65,536 samples and more.")
        .def_prop_ro("clipped", &SampleConverter::clipped, "How many samples were limited to full scale.")
        .def_prop_ro("not_a_number", &SampleConverter::not_a_number, "How many were no numbers, and became 0.");
    nb::class_<SampleStage, NativeStage>(module, "SampleStage", nb::is_final(), nb::type_slots(collected_slots<SampleStage>()),
                            "Converts the samples of blocks, and leaves what they say of themselves as it is.\n\n"
                            "`format`: of what comes out. `conform(payload)`: called where a payload is no array as `source`\n"
                            "says; returns one, or raises. Arguments else as for SampleConverter.")
        .def(nb::init<const PayloadSpec&, const PayloadSpec&, std::vector<double>, bool, nb::object, nb::object>(), "source"_a,
             "target"_a, "matrix"_a, "dither"_a, "format"_a, "conform"_a)
        .def("flush", &SampleStage::flush, nb::sig("def flush(self) -> tuple[Block, ...]"), "Nothing is ever left.")
        .def_prop_ro("clipped", &SampleStage::clipped, "How many samples were limited to full scale.")
        .def_prop_ro("not_a_number", &SampleStage::not_a_number, "How many were no numbers, and became 0.");
}

}  // namespace steadyflow
