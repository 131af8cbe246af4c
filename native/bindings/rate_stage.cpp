// Another sample rate: soxr does the sound, this keeps what the blocks say of themselves.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "../stamp_trail.hpp"
#include "block.hpp"
#include "payload.hpp"
#include "stages.hpp"

using namespace nb::literals;

namespace steadyflow {
namespace {

// A trail that Python code adds blocks to.
void add_block(StampTrail& trail, nb::handle given, std::uint64_t position) {
    const BlockObject* block = checked_block(given);
    trail.add(position, block->frames, block->timestamp_ns, block->flags);
}

// The frame of the output that lies where one of the input does, the nearest. A damaged block may begin anywhere.
std::uint64_t frame_at_rate(std::uint64_t frame, std::uint32_t in_hz, std::uint32_t out_hz) noexcept {
    __extension__ using Wide = unsigned __int128;
    constexpr Wide last = Wide{1} << 62;
    const Wide there = (Wide{2} * frame * out_hz + in_hz) / (Wide{2} * in_hz);
    return static_cast<std::uint64_t>(std::min(there, last));
}

// One stream of soxr for as long as no frame is missing. What came before a discontinuity is given whole, as at the end of a stream,
// before what comes after it. Positions are counted in frames of the input since the stream began or was broken.
class RateStage final : public NativeStage {
public:
    RateStage(nb::object resample, nb::object clear, const PayloadSpec& source, nb::object target, std::uint32_t max_frames,
              std::uint32_t in_hz, std::uint32_t out_hz, nb::object conform, nb::object fields)
        : source_(source),
          resample_(std::move(resample)),
          clear_(std::move(clear)),
          target_(std::move(target)),
          conform_(std::move(conform)),
          fields_(std::move(fields)),
          nothing_(take(source.new_array(0, nullptr))),
          trail_(1e9 / in_hz),
          ratio_(static_cast<double>(in_hz) / out_hz),
          max_frames_(max_frames),
          in_hz_(in_hz),
          out_hz_(out_hz) {
        if (in_hz == 0 || out_hz == 0 || max_frames == 0) {
            raise_error("ConfigurationError", "RateStage: expected rates and max_frames above 0");
        }
    }

    nb::object push(const BlockObject* block) override {
        require_kept(resample_);
        const Entry entry(inside_);
        // Before anything changes: it raises where the samples are others than declared.
        PayloadView view;
        nb::object samples = nb::borrow(block->payload);
        if (!fits(samples.ptr(), view)) {
            samples = conform_(samples);
            if (!fits(samples.ptr(), view)) raise_error("TransformError", "rate: expected an array of its format");
        }
        const std::uint64_t first_frame = block->first_frame;
        nb::list made;
        if (begun_ && (!follows_ || first_frame != next_in_ || (block->flags & flag_discontinuity) != 0)) {
            end(made);
            trail_.clear();
            if (has_fields_) fields_.attr("restart")();
        }
        if (!begun_) begin(first_frame);
        const std::uint64_t position = first_frame - base_in_;
        if (block->metadata != nullptr) {
            fields_.attr("add")(nb::handle(object_of(block)), position);
            has_fields_ = true;
        }
        trail_.add(position, view.frames, block->timestamp_ns, block->flags);
        flags_ = static_cast<std::uint16_t>(flags_ | (block->flags & flag_discontinuity));
        // Nothing follows the last number that there is.
        follows_ = !__builtin_add_overflow(first_frame, std::uint64_t{view.frames}, &next_in_);
        cut(resample(samples, Py_False), 0, made);
        return made;
    }

    nb::object flush() {
        require_kept(resample_);
        const Entry entry(inside_);
        nb::list made;
        if (begun_) end(made);
        trail_.clear();
        fields_.attr("clear")();
        has_fields_ = false;
        flags_ = 0;
        sequence_ = 0;
        return made;
    }

    int traverse(visitproc visit, void* arg) const noexcept {
        for (const nb::object* held : {&resample_, &clear_, &target_, &conform_, &fields_, &nothing_}) Py_VISIT(held->ptr());
        return 0;
    }
    void clear() noexcept {
        for (nb::object* held : {&resample_, &clear_, &target_, &conform_, &fields_, &nothing_}) held->reset();
    }

private:
    // What is called meanwhile, soxr or what keeps the fields, must not come back.
    class Entry {
    public:
        explicit Entry(bool& inside) : inside_(inside) {
            if (inside) raise_error("StateError", "rate: expected one call at a time");
            inside = true;
        }
        ~Entry() { inside_ = false; }
        Entry(const Entry&) = delete;
        Entry& operator=(const Entry&) = delete;

    private:
        bool& inside_;
    };

    // Exactly as soxr takes it: no subclass, and with an axis for the channels.
    bool fits(PyObject* samples, PayloadView& view) const noexcept {
        return PyArray_CheckExact(samples) && source_.match(samples, view) &&
               PyArray_NDIM(reinterpret_cast<PyArrayObject*>(samples)) == 2;
    }

    void begin(std::uint64_t first_frame) noexcept {
        begun_ = true;
        base_in_ = first_frame;
        base_out_ = frame_at_rate(first_frame, in_hz_, out_hz_);
        given_ = 0;
    }

    void end(nb::list& made) {
        const nb::object samples = resample(nothing_, Py_True);
        // Before anything else can fail: a stream that was ended takes nothing more.
        clear_();
        begun_ = false;
        cut(samples, std::numeric_limits<double>::infinity(), made);
    }

    nb::object resample(const nb::object& samples, PyObject* last) const {
        PyObject* arguments[] = {samples.ptr(), last};
        return take(PyObject_Vectorcall(resample_.ptr(), arguments, 2, nullptr));
    }

    // Puts samples into blocks with their stamps. The last of them gets the fields of what begins before `beyond`, too.
    void cut(const nb::object& samples, double beyond, nb::list& made) {
        if (!PyArray_Check(samples.ptr()) || PyArray_NDIM(reinterpret_cast<PyArrayObject*>(samples.ptr())) != 2) {
            raise_error("TransformError", "rate: expected soxr to give an array of frames and channels");
        }
        const auto frames = static_cast<std::uint64_t>(PyArray_DIM(reinterpret_cast<PyArrayObject*>(samples.ptr()), 0));
        for (std::uint64_t first = 0; first < frames; first += max_frames_) {
            const std::uint64_t count = std::min<std::uint64_t>(frames - first, max_frames_);
            const double position = static_cast<double>(given_) * ratio_;
            const double until = static_cast<double>(given_ + count) * ratio_;
            nb::object part = count == frames ? samples : rows(samples, first, count);
            nb::object metadata;
            if (has_fields_) metadata = fields_.attr("take")(std::max(until, first + count == frames ? beyond : 0.0));
            PyObject* said = metadata.is_valid() && !metadata.is_none() ? metadata.release().ptr() : nullptr;
            auto* block = make_block(part.release().ptr(), said, target_.ptr(), nullptr);
            nb::object owned = take(reinterpret_cast<PyObject*>(block));
            block->timestamp_ns = trail_.timestamp_ns(position);
            block->first_frame = base_out_ + given_;
            block->sequence = sequence_++;
            block->frames = static_cast<std::uint32_t>(count);
            block->flags = static_cast<std::uint16_t>(flags_ | trail_.flags(position, until));
            flags_ = 0;
            given_ += count;
            if (block->metadata != nullptr) track_block(block);
            made.append(owned);
        }
    }

    // A view of some frames, at a third of what a slice costs.
    static nb::object rows(const nb::object& samples, std::uint64_t first, std::uint64_t count) {
        auto* whole = reinterpret_cast<PyArrayObject*>(samples.ptr());
        npy_intp shape[2] = {static_cast<npy_intp>(count), PyArray_DIM(whole, 1)};
        char* data = PyArray_BYTES(whole) + static_cast<npy_intp>(first) * PyArray_STRIDE(whole, 0);
        nb::object part = take(PyArray_New(&PyArray_Type, 2, shape, PyArray_TYPE(whole), PyArray_STRIDES(whole), data, 0,
                                           PyArray_FLAGS(whole) & NPY_ARRAY_WRITEABLE, nullptr));
        if (PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(part.ptr()), Py_NewRef(samples.ptr())) != 0) throw nb::python_error();
        return part;
    }

    PayloadSpec source_;
    nb::object resample_;
    nb::object clear_;
    nb::object target_;
    nb::object conform_;
    nb::object fields_;
    nb::object nothing_;
    StampTrail trail_;
    double ratio_;
    std::uint32_t max_frames_;
    std::uint32_t in_hz_;
    std::uint32_t out_hz_;
    bool inside_ = false;
    bool begun_ = false;
    bool follows_ = false;        // whether any frame can
    bool has_fields_ = false;
    std::uint16_t flags_ = 0;     // that the next block says, of what comes before it
    std::uint64_t next_in_ = 0;   // the index that the next frame of the input will have
    std::uint64_t base_in_ = 0;   // of the first frame since the stream began or was broken
    std::uint64_t base_out_ = 0;
    std::uint64_t given_ = 0;     // frames since then
    std::uint64_t sequence_ = 0;
};

}  // namespace

void register_rate_stage(nb::module_& module) {
    nb::class_<StampTrail>(module, "StampTrail",
                           "What blocks said about their frames, kept while the frames wait to come out in other blocks.\n\n"
                           "Positions are counted in frames of what came in since it last broke off, and asked for in their order. One\n"
                           "thread at a time; does not block; allocates.")
        .def(nb::init<double>(), "ns_per_frame"_a)
        .def("add", &add_block, "block"_a, "position"_a, nb::sig("def add(self, block: Block, position: int) -> None"),
             "Remembers what a block says that begins at `position`; they come in the order of their frames.")
        .def("timestamp_ns", &StampTrail::timestamp_ns, "position"_a,
             "Returns the time of a position, not before one that was asked for earlier; limited to what a block can have.")
        .def("flags", &StampTrail::flags, "begin"_a, "end"_a,
             "Returns what is wrong with the frames of a range, which does not begin before one that was asked for earlier.")
        .def("__len__", &StampTrail::size, "Of how many blocks the time is kept: no more than still may be asked for.")
        .def("clear", &StampTrail::clear, "Forgets everything: what comes next does not follow.");

    nb::class_<RateStage, NativeStage>(module, "RateStage", nb::is_final(), nb::type_slots(collected_slots<RateStage>()),
                          "A stream of soxr at work on blocks.\n\n"
                          "`resample(samples, last)`, `clear()`: soxr's. `source`: interleaved, of any length. `target`: the format of what\n"
                          "comes out, in blocks of at most `max_frames`. `conform(payload)`: called where a payload is no array as\n"
                          "`source` says; returns one, or raises. `fields`: keeps the users' fields, see Fields.\n\n"
                          "One thread at a time; does not wait; allocates.")
        .def(nb::init<nb::object, nb::object, const PayloadSpec&, nb::object, std::uint32_t, std::uint32_t, std::uint32_t, nb::object,
                      nb::object>(),
             "resample"_a, "clear"_a, "source"_a, "target"_a, "max_frames"_a, "in_hz"_a, "out_hz"_a, "conform"_a, "fields"_a)
        .def("flush", &RateStage::flush, nb::sig("def flush(self) -> Sequence[Block]"), "Returns what soxr still withholds.");
}

}  // namespace steadyflow
