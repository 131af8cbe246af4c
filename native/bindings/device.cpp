#include "device.hpp"

#include <nanobind/stl/optional.h>

#include "device_callback.hpp"
#include "output.hpp"

namespace steadyflow {
namespace {

nb::typed<nb::dict, nb::str, nb::any> counts_of(const DeviceStream& stream) {
    const DeviceAccount& account = stream.account();
    const auto of = [](const auto& word) { return word.load(std::memory_order_relaxed); };
    const std::uint64_t cycles = of(account.cycles);
    nb::dict counts;
    counts["cycles"] = cycles;
    counts["frames"] = of(account.frames);
    counts["blocks"] = of(account.blocks);
    counts["dropped"] = of(account.dropped);
    counts["capture_xruns"] = of(account.capture.count);
    counts["capture_xrun_ns"] = of(account.capture.last_ns);
    counts["playback_xruns"] = of(account.playback.count);
    counts["playback_xrun_ns"] = of(account.playback.last_ns);
    counts["gaps"] = of(account.gaps);
    counts["lost_frames"] = of(account.lost_frames);
    counts["largest_gap_frames"] = of(account.largest_gap_frames);
    counts["without_time"] = of(account.without_time);
    counts["mean_busy_ns"] = cycles == 0 ? 0.0 : static_cast<double>(of(account.busy.sum)) / static_cast<double>(cycles);
    counts["max_busy_ns"] = of(account.busy.max);
    counts["worst_load"] = static_cast<double>(of(account.worst_cycle_ppm)) / 1e6;
    counts["drift_ppm"] = of(account.drift_ppm);
    counts["clock_error_ns"] = of(account.clock_error_ns);
    counts["last_cycle_ns"] = of(account.last_cycle_ns);
    return counts;
}

int run_cycle(DeviceStream& stream, nb::handle samples, double current_s, double input_s, unsigned long flags,
              Nanoseconds now_ns) {
    if (PyArray_Check(samples.ptr()) == 0) raise_error("FormatMismatch", "cycle: expected an array of frames x channels");
    auto* array = reinterpret_cast<PyArrayObject*>(samples.ptr());
    if (PyArray_TYPE(array) != NPY_FLOAT32 || PyArray_NDIM(array) != 2 || PyArray_IS_C_CONTIGUOUS(array) == 0) {
        raise_error("FormatMismatch", "cycle: expected a contiguous float32 array of frames x channels");
    }
    const auto bytes = static_cast<std::uint64_t>(PyArray_DIM(array, 1)) * sizeof(float);
    if (bytes != stream.captured_frame_bytes()) {
        raise_error("FormatMismatch", "cycle: expected frames of " + std::to_string(stream.captured_frame_bytes()) +
                                          " bytes, got " + std::to_string(bytes));
    }
    const StreamTimes times{input_s, current_s, 0};
    return static_cast<int>(stream.cycle(PyArray_DATA(array), static_cast<std::uint32_t>(PyArray_DIM(array, 0)), times, flags,
                                         now_ns));
}

}  // namespace

void register_device(nb::module_& module) {
    using namespace nb::literals;
    nb::class_<DeviceStream>(module, "DeviceStream",
                             "The callback of one PortAudio stream: copies frames between the device and ports without Python.")
        .def(nb::init<double, Nanoseconds, Nanoseconds>(), "rate_hz"_a, "clock_patience_ns"_a, "gap_patience_ns"_a)
        .def("capture",
             [](std::shared_ptr<DeviceStream> stream, Output& output, std::uint32_t block_frames) {
                 output.feed_from(std::move(stream), block_frames);
             },
             "output"_a, "block_frames"_a,
             "Lets the device send into the port, in blocks of at most so many frames. Before the stream starts; from here on\n"
             "send() and loan() of the port raise StateError. Raises StateError if a module of the same worker is called directly.")
        .def_prop_ro("callback", [](const DeviceStream&) {
                return reinterpret_cast<std::uintptr_t>(&steadyflow_device_callback);
            }, "The address of the C function that PortAudio calls, a PaStreamCallback.")
        .def_prop_ro("user_data", [](const DeviceStream& stream) { return reinterpret_cast<std::uintptr_t>(&stream); },
                     "The address to call it with. Valid as long as this object lives.")
        .def("cycle", &run_cycle, "samples"_a, "current_s"_a, "input_s"_a, "flags"_a, "now_ns"_a,
             "Does what one call of the callback does, at that time of the monotonic clock; returns a PaStreamCallbackResult.\n\n"
             "`samples`: float32, frames x channels, contiguous. For devices that are scripts.")
        .def("keep", [](std::shared_ptr<DeviceStream> stream) { new std::shared_ptr<DeviceStream>(std::move(stream)); },
             "Never frees it: for a stream that PortAudio cannot be made to close, and may still call.")
        .def("check",
             [](const DeviceStream& stream) {
                 if (const auto damage = stream.damage()) throw Corrupted(*damage);
             },
             "Raises CorruptedSegment if that is what ended the stream. Wait-free, any thread.")
        .def("counts", &counts_of,
             "What the callback has counted so far, by name; times in ns of the monotonic clock. Wait-free for the callback, any\n"
             "thread; each number is whole, and they may be of different cycles.")
        .def("close", &DeviceStream::close,
             "Sends what was collected of a block; no cycle does anything from here on. Waits for one that runs. Idempotent.");
}

}  // namespace steadyflow
