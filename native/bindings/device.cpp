#include "device.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "consuming_end.hpp"
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
    counts["captured_frames"] = of(account.captured_frames);
    counts["blocks"] = of(account.blocks);
    counts["dropped"] = of(account.dropped);
    counts["capture_xruns"] = of(account.capture.count);
    counts["capture_xrun_ns"] = of(account.capture.last_ns);
    counts["playback_xruns"] = of(account.playback.count);
    counts["playback_xrun_ns"] = of(account.playback.last_ns);
    counts["gaps"] = of(account.gaps);
    counts["lost_frames"] = of(account.lost_frames);
    counts["largest_gap_frames"] = of(account.largest_gap_frames);
    counts["played_frames"] = of(account.played_frames);
    counts["played_blocks"] = of(account.played_blocks);
    counts["underruns"] = of(account.underruns);
    counts["silent_frames"] = of(account.silent_frames);
    counts["misfits"] = of(account.misfits);
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

std::optional<std::pair<nb::str, nb::str>> device_of(const DeviceAccount& account) {
    if (account.name[0] == 0) return std::nullopt;
    return std::pair(kept_text(account.name), kept_text(account.host));
}

// The consuming end of a pipeline into a device, as its worker makes it for the module that opens the device.
struct DeviceFeed {
    std::string pipeline;
    PayloadSpec spec;
    unsigned process;
    std::optional<Lanes> lanes = std::nullopt;
    std::unique_ptr<Intake> intake = nullptr;
    std::shared_ptr<DevicePlayback> playback = nullptr;  // made of the two above
    std::weak_ptr<DeviceStream> player = {};

    void add_lane(std::shared_ptr<Segment> segment, std::uint64_t ring_offset, std::uint64_t pool_offset,
                  std::shared_ptr<Segment> bell_segment, std::uint64_t producer_bell_offset, unsigned consumer) {
        RingConsumer end = in_pipeline(pipeline, [&] {
            return consuming_end(std::move(segment), ring_offset, pool_offset, std::move(bell_segment), producer_bell_offset,
                                 consumer, process);
        });
        if (lanes) lanes->add(std::move(end));
        else lanes.emplace(std::move(end));
    }

    void restore_order_of(std::shared_ptr<Segment> segment, std::uint64_t ring_offset) {
        in_pipeline(pipeline, [&] { lanes.value().restore_order_of(Ring(std::move(segment), ring_offset)); });
    }

    // For one stream after the other: where a device was lost, the next one goes on with what was left.
    void play_on(const std::shared_ptr<DeviceStream>& stream) {
        if (spec.kind != PayloadKind::audio || spec.type_number != NPY_FLOAT32 || spec.planar) {
            raise_error("FormatMismatch", pipeline + ": expected interleaved audio of float32 for a device to play");
        }
        if (const auto other = player.lock(); other && !other->closed()) {
            raise_error("StateError", pipeline + ": expected the stream that plays it to be closed before another one does");
        }
        if (!playback) {
            playback = std::make_shared<DevicePlayback>(std::move(lanes.value()), std::move(intake),
                                                        static_cast<std::uint32_t>(spec.frame_bytes()), spec.max_frames);
        }
        stream->play_from(playback);
        player = stream;
    }
};

// The samples of an array that a script gives to, or takes from, a stream with frames of so many bytes.
std::byte* samples_of(nb::handle array, std::uint32_t frame_bytes, bool written) {
    if (PyArray_Check(array.ptr()) == 0) raise_error("FormatMismatch", "cycle: expected arrays of frames x channels");
    auto* samples = reinterpret_cast<PyArrayObject*>(array.ptr());
    if (PyArray_TYPE(samples) != NPY_FLOAT32 || PyArray_NDIM(samples) != 2 || PyArray_IS_C_CONTIGUOUS(samples) == 0 ||
        (written && PyArray_ISWRITEABLE(samples) == 0)) {
        raise_error("FormatMismatch", "cycle: expected contiguous float32 arrays of frames x channels");
    }
    const auto bytes = static_cast<std::uint64_t>(PyArray_DIM(samples, 1)) * sizeof(float);
    if (bytes != frame_bytes) {
        raise_error("FormatMismatch", "cycle: expected frames of " + std::to_string(frame_bytes) + " bytes, got " +
                                          std::to_string(bytes));
    }
    return static_cast<std::byte*>(PyArray_DATA(samples));
}

int run_cycle(DeviceStream& stream, nb::handle input, nb::handle output, double current_s, double input_s, double output_s,
              unsigned long flags, Nanoseconds now_ns) {
    std::byte* in = input.is_none() ? nullptr : samples_of(input, stream.captured_frame_bytes(), false);
    std::byte* out = output.is_none() ? nullptr : samples_of(output, stream.played_frame_bytes(), true);
    if (in == nullptr && out == nullptr) raise_error("FormatMismatch", "cycle: expected an array to capture or to play");
    const auto frames = PyArray_DIM(reinterpret_cast<PyArrayObject*>((in != nullptr ? input : output).ptr()), 0);
    if (in != nullptr && out != nullptr && PyArray_DIM(reinterpret_cast<PyArrayObject*>(output.ptr()), 0) != frames) {
        raise_error("FormatMismatch", "cycle: expected as many frames to play as to capture");
    }
    const StreamTimes times{input_s, current_s, output_s};
    return static_cast<int>(stream.cycle(in, out, static_cast<std::uint32_t>(frames), times, flags, now_ns));
}

}  // namespace

void register_device(nb::module_& module) {
    using namespace nb::literals;
    nb::class_<DeviceAccount>(module, "DeviceAccount", "What a device's callback counts and measures.")
        .def(nb::new_([] { return std::make_shared<DeviceAccount>(); }), "In memory of this process.")
        .def(nb::new_([](const std::shared_ptr<Segment>& segment, std::uint64_t offset) {
                 segment->require_writable("count for a device");
                 return std::shared_ptr<DeviceAccount>(segment, segment->at<DeviceAccount>(offset));
             }),
             "segment"_a, "offset"_a, "In shared memory, which it keeps. Raises CorruptedSegment where it does not fit.")
        .def_static("read",
                    [](const std::shared_ptr<Segment>& segment, std::uint64_t offset) {
                        const DeviceAccount& account = *segment->at<DeviceAccount>(offset);
                        return std::pair(counts_of(account), device_of(account));
                    },
                    "segment"_a, "offset"_a,
                    "What counts() and device say of an account that may only be read. Raises CorruptedSegment.")
        .def("identify",
             [](DeviceAccount& account, const std::string& name, const std::string& host) {
                 keep_text(account.name, name);
                 keep_text(account.host, host);
             },
             "name"_a, "host"_a, "Keeps which device it is. Before the first stream starts.")
        .def_prop_ro("device", &device_of,
                     "Name and host interface, if they are known.")
        .def("counts", &counts_of,
             "What was counted so far, by name; times in ns of the monotonic clock. Wait-free for the callback, any thread; each\n"
             "number is whole, and they may be of different cycles.");
    module.attr("DEVICE_ACCOUNT_BYTES") = sizeof(DeviceAccount);

    nb::class_<DeviceFeed>(module, "DeviceFeed", "The consuming end of a pipeline into a device.")
        .def(nb::new_([](std::string pipeline, const PayloadSpec& spec, unsigned process) {
                 return std::make_unique<DeviceFeed>(DeviceFeed{std::move(pipeline), spec, process});
             }),
             "pipeline"_a, "spec"_a, "process"_a)
        .def("add_lane", &DeviceFeed::add_lane, "segment"_a, "ring_offset"_a, "pool_offset"_a, "bell_segment"_a,
             "producer_bell_offset"_a, "consumer"_a, "Adds a ring of the pipeline. Raises CorruptedSegment.")
        .def("restore_order_of", &DeviceFeed::restore_order_of, "segment"_a, "ring_offset"_a,
             "Takes the blocks of the rings in the order of what replicas make them from.")
        .def("regulate",
             [](DeviceFeed& feed, int late, std::int64_t max_age_ns, std::uint64_t target_frames, std::uint64_t preroll_frames,
                std::uint32_t most_staged, std::uint32_t most_frames, double rate_hz, int made_up) {
                 const IntakeRules rules = rules_of(late, max_age_ns, target_frames, preroll_frames, most_staged, most_frames,
                                                    rate_hz, made_up);
                 feed.intake = make_intake(rules, feed.spec, feed.pipeline);
             },
             "late"_a, "max_age_ns"_a, "target_frames"_a, "preroll_frames"_a, "most_staged"_a, "most_frames"_a, "rate_hz"_a,
             "made_up"_a,
             "Decides what the device gets of it; see Inbox.regulate.");

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
        .def("play", [](const std::shared_ptr<DeviceStream>& stream, DeviceFeed& feed) { feed.play_on(stream); }, "feed"_a,
             "Lets the device take its frames from a pipeline, which a stream that was closed may have played before. Before the\n"
             "stream starts. Raises FormatMismatch, or StateError while another stream plays it.")
        .def("cycle", &run_cycle, "input"_a.none(), "output"_a.none(), "current_s"_a, "input_s"_a, "output_s"_a, "flags"_a,
             "now_ns"_a,
             "Does what one call of the callback does, at that time of the monotonic clock; returns a PaStreamCallbackResult.\n\n"
             "`input`, `output`: float32, frames x channels, contiguous; or None. For devices that are scripts.")
        .def_prop_ro("drained_ns", &DeviceStream::drained_ns,
                     "When the last frame of a pipeline that has ended will be heard, monotonic; 0: not known yet. Any thread.")
        .def("end_capture", &DeviceStream::end_capture,
             "Sends what was collected of a block, and captures no more; playing goes on. Waits for a cycle that runs.")
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
