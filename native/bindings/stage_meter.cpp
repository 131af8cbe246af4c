// What a stage of a conversion does, counted.
#include <cstdint>
#include <utility>

#include "block.hpp"
#include "platform.hpp"
#include "stages.hpp"

using namespace nb::literals;

namespace steadyflow {
namespace {

class StageMeter {
public:
    StageMeter(nb::object stage, bool counts_frames, bool holds_end)
        : stage_(std::move(stage)),
          push_(stage_.attr("push")),
          native_(nb::isinstance<NativeStage>(stage_) ? nb::cast<NativeStage*>(stage_) : nullptr),
          counts_frames_(counts_frames),
          holds_end_(holds_end) {}

    nb::object push(nb::handle given) {
        require_kept(push_);
        const BlockObject* block = checked_block(given);
        nb::object owned;
        if (holds_end_ && (block->flags & flag_end_of_stream) != 0) [[unlikely]] {
            end_held = true;
            block = derive_block(block, block->payload, block->format, block->flags & ~flag_end_of_stream);
            owned = take(object_of(block));
        }
        ++calls;
        const Nanoseconds began_ns = monotonic_ns();
        nb::object made;
        try {
            made = native_ != nullptr ? native_->push(block) : take(PyObject_CallOneArg(push_.ptr(), object_of(block)));
        } catch (const nb::python_error& error) {
            busy_ns += monotonic_ns() - began_ns;
            if (error.matches(nb::module_::import_("steadyflow.errors").attr("TransformError"))) ++rejected;
            throw;
        }
        busy_ns += monotonic_ns() - began_ns;
        made = take(PySequence_Fast(made.ptr(), "a stage: expected a sequence of blocks"));
        const Py_ssize_t count = PySequence_Fast_GET_SIZE(made.ptr());
        for (Py_ssize_t at = 0; at < count; ++at) {
            const BlockObject* each = checked_block(PySequence_Fast_GET_ITEM(made.ptr(), at));
            if (counts_frames_) frames += each->frames;
        }
        return made;
    }

    int traverse(visitproc visit, void* arg) const noexcept {
        Py_VISIT(stage_.ptr());
        Py_VISIT(push_.ptr());
        return 0;
    }
    void clear() noexcept {
        native_ = nullptr;
        push_.reset();
        stage_.reset();
    }

    std::uint64_t calls = 0;
    std::uint64_t frames = 0;
    std::int64_t busy_ns = 0;
    std::uint64_t rejected = 0;
    bool end_held = false;

private:
    nb::object stage_;
    nb::object push_;
    NativeStage* native_;  // the stage, where it is one
    bool counts_frames_;
    bool holds_end_;
};

}  // namespace

void register_native_stage(nb::module_& module) {
    nb::class_<NativeStage>(module, "NativeStage", "A stage that the native module can call by itself.")
        .def("push", [](NativeStage& stage, nb::handle block) { return stage.push(checked_block(block)); }, "block"_a,
             nb::sig("def push(self, block: Block, /) -> Sequence[Block]"),
             "Returns the blocks that come of a block: none, one or several.");
}

void register_stage_meter(nb::module_& module) {
    nb::class_<StageMeter>(module, "StageMeter", nb::type_slots(collected_slots<StageMeter>()),
                           "Calls a stage, and counts.\n\n"
                           "`counts_frames`: those that come out. `holds_end`: blocks go in without END_OF_STREAM, because more comes\n"
                           "after them. One thread at a time; reading is for any.")
        .def(nb::init<nb::object, bool, bool>(), "stage"_a, "counts_frames"_a, "holds_end"_a)
        .def("push", &StageMeter::push, nb::sig("def push(self, block: Block, /) -> Sequence[Block]"),
             "Returns what the stage makes of a block.")
        .def_rw("calls", &StageMeter::calls, "How many blocks went in.")
        .def_rw("frames", &StageMeter::frames, "How many frames came out.")
        .def_rw("busy_ns", &StageMeter::busy_ns, "For how long it was at work, in ns.")
        .def_rw("end_held", &StageMeter::end_held, "Whether a block said that it is the last one.")
        .def_rw("rejected", &StageMeter::rejected, "How many blocks it could not convert.");
}

}  // namespace steadyflow
