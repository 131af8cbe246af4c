#include "device.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "device_callback.hpp"
#include "output.hpp"

namespace steadyflow {
namespace {

nb::typed<nb::dict, nb::str, nb::any> counts_of(const DeviceAccount& account) {
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

template <std::size_t size>
void keep_text(char (&place)[size], std::string_view text) {
    // What is longer is another device as far as its beginning tells, and is not found again.
    const std::size_t length = std::min(text.size(), size - 1);
    std::memcpy(place, text.data(), length);
    std::memset(place + length, 0, size - length);
}

template <std::size_t size>
nb::str kept_text(const char (&place)[size]) {
    const std::string_view text(place, strnlen(place, size));
    return nb::steal<nb::str>(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
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
    nb::class_<DeviceAccount>(module, "DeviceAccount", "What a device's callback counts and measures.")
        .def(nb::new_([] { return std::make_shared<DeviceAccount>(); }), "In memory of this process.")
        .def(nb::new_([](const std::shared_ptr<Segment>& segment, std::uint64_t offset) {
                 return std::shared_ptr<DeviceAccount>(segment, segment->at<DeviceAccount>(offset));
             }),
             "segment"_a, "offset"_a, "In shared memory, which it keeps. Raises CorruptedSegment where it does not fit.")
        .def("identify",
             [](DeviceAccount& account, const std::string& name, const std::string& host) {
                 keep_text(account.name, name);
                 keep_text(account.host, host);
             },
             "name"_a, "host"_a, "Keeps which device it is. Before the first stream starts.")
        .def_prop_ro("device",
                     [](const DeviceAccount& account) -> std::optional<std::pair<nb::str, nb::str>> {
                         if (account.name[0] == 0) return std::nullopt;
                         return std::pair(kept_text(account.name), kept_text(account.host));
                     },
                     "Name and host interface, if they are known.")
        .def("counts", &counts_of,
             "What was counted so far, by name; times in ns of the monotonic clock. Wait-free for the callback, any thread; each\n"
             "number is whole, and they may be of different cycles.");
    module.attr("DEVICE_ACCOUNT_BYTES") = sizeof(DeviceAccount);

    nb::class_<DeviceStream>(module, "DeviceStream",
                             "The callback of one PortAudio stream: copies frames between the device and ports without Python.")
        .def(nb::init<std::shared_ptr<DeviceAccount>, double, Nanoseconds, Nanoseconds>(), "account"_a, "rate_hz"_a, "clock_patience_ns"_a, "gap_patience_ns"_a)
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
        .def("close", &DeviceStream::close,
             "Sends what was collected of a block; no cycle does anything from here on. Waits for one that runs. Idempotent.");
}

}  // namespace steadyflow
