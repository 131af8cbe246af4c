// The Python module steadyflow._native: registration only, each idea is in its own file.
#define STEADYFLOW_IMPORTS_NUMPY
#include "python.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "account.hpp"
#include "block.hpp"
#include "consuming_end.hpp"
#include "delivery.hpp"
#include "device.hpp"
#include "event_loop.hpp"
#include "inbox.hpp"
#include "lifeline.hpp"
#include "loan.hpp"
#include "manual_time.hpp"
#include "output.hpp"
#include "payload.hpp"
#include "realtime.hpp"
#include "recovery.hpp"
#include "stages.hpp"

using namespace nb::literals;

namespace steadyflow {
namespace {

using SegmentPointer = std::shared_ptr<Segment>;

// In a forked child nothing can be read any more, and a mistaken write would be lost without a word.
const Ring& shared(const Ring& ring) {
    ring.segment()->require_shared();
    return ring;
}

// For what writes to a ring.
const Ring& writable(const Ring& ring, const char* what) {
    ring.segment()->require_writable(what);
    return shared(ring);
}

// Threads that wait in the parent are not in its forked child.
struct NobodyWaits final : Inherited {
    void after_fork_in_child() noexcept override { waiting_threads.store(0); }
    ForkWatch watch{*this};
};

nb::dict counters_of(const Ring& ring) {
    shared(ring);
    const Account account = read_account(ring);
    const RingHeader& header = ring.header();
    nb::dict dropped;
    static const char* names[reasons] = {"oldest", "newest", "superseded", "flushed", "failed", "stopped", "late",
                                           "unwanted", "sampled", "outranked"};
    nb::dict dropped_frames;
    for (unsigned reason = 0; reason < reasons; ++reason) {
        dropped[names[reason]] = account.dropped[reason];
        dropped_frames[names[reason]] = account.dropped_frames[reason];
    }
    nb::dict result;
    result["sent"] = account.sent;
    result["delivered"] = account.delivered;
    result["dropped"] = dropped;
    result["dropped_frames"] = dropped_frames;
    result["repeated"] = account.repeated;
    result["fill"] = account.fill;
    result["fill_bytes"] = account.fill_bytes;
    result["fill_frames"] = account.fill_frames;
    result["consistent"] = account.consistent;
    const auto read = [](const Counter& counter) { return counter.load(std::memory_order_relaxed); };
    result["bytes"] = read(header.bytes);
    result["full_events"] = read(header.full_events);
    result["blocked_ns"] = read(header.blocked_ns);
    result["paced_ns"] = read(header.paced_ns);
    result["peak_fill"] = read(header.peak_fill);
    result["loan_copies"] = read(header.loan_copies);
    result["ended"] = header.ended.load(std::memory_order_relaxed) == end_mark;
    std::uint64_t late = 0;
    std::uint64_t corrupted = 0;
    std::uint64_t kept_copies = 0;
    std::uint64_t views = 0;
    std::uint64_t peak_views = 0;
    std::uint64_t rescued = 0;
    std::uint64_t concealed_blocks = 0;
    std::uint64_t concealed_frames = 0;
    std::uint64_t missed = 0;
    for (std::uint32_t consumer = 0; consumer < ring.consumers(); ++consumer) {
        const ConsumerStats& stats = ring.stats(consumer);
        late += read(stats.late);
        corrupted += read(stats.corrupted);
        kept_copies += read(stats.kept_copies);
        views += read(stats.views);
        const bool is_new = read(stats.window) == header.window.load(std::memory_order_relaxed);
        if (is_new) peak_views = std::max(peak_views, read(stats.peak_views));
        rescued += read(stats.rescued);
        concealed_blocks += read(stats.concealed_blocks);
        concealed_frames += read(stats.concealed_frames);
        missed += read(stats.cycle.missed);
    }
    result["late"] = late;
    result["corrupted"] = corrupted;
    result["kept_copies"] = kept_copies;
    result["views"] = views;
    result["peak_views"] = peak_views;
    result["rescued"] = rescued;
    result["concealed_blocks"] = concealed_blocks;
    result["concealed_frames"] = concealed_frames;
    result["missed_deadlines"] = missed;
    return result;
}

// One histogram, summed over the consumers: (counts as a uint64 array, sum, max).
template <class Which>
nb::object histogram_of(const Ring& ring, Which which) {
    npy_intp buckets = histogram_buckets;
    // numpy gives up the interpreter lock while it gets memory that is zero.
    const nb::object counts = take(survive_shutdown([&] { return PyArray_ZEROS(1, &buckets, NPY_UINT64, 0); }));
    auto* values = static_cast<std::uint64_t*>(PyArray_DATA(reinterpret_cast<PyArrayObject*>(counts.ptr())));
    std::uint64_t sum = 0;
    std::uint64_t max = 0;
    for (std::uint32_t consumer = 0; consumer < ring.consumers(); ++consumer) {
        const Histogram& histogram = which(ring.stats(consumer));
        for (unsigned bucket = 0; bucket < histogram_buckets; ++bucket) {
            values[bucket] += histogram.counts[bucket].load(std::memory_order_relaxed);
        }
        sum += histogram.sum.load(std::memory_order_relaxed);
        max = std::max(max, histogram.max.load(std::memory_order_relaxed));
    }
    return nb::make_tuple(counts, sum, max);
}

nb::dict histograms_of(const Ring& ring) {
    shared(ring);
    nb::dict result;
    result["latency"] = histogram_of(ring, [](const ConsumerStats& stats) -> auto& { return stats.latency; });
    result["overhead"] = histogram_of(ring, [](const ConsumerStats& stats) -> auto& { return stats.overhead; });
    result["wait"] = histogram_of(ring, [](const ConsumerStats& stats) -> auto& { return stats.wait; });
    result["gil"] = histogram_of(ring, [](const ConsumerStats& stats) -> auto& { return stats.gil; });
    result["busy"] = histogram_of(ring, [](const ConsumerStats& stats) -> auto& { return stats.busy; });
    result["load"] = histogram_of(ring, [](const ConsumerStats& stats) -> auto& { return stats.cycle.load; });
    return result;
}

// Of each consumer: how many cycles, the period of the latest block in ns, and the latest cycles' shares of their deadlines.
nb::list recent_cycles_of(const Ring& ring) {
    shared(ring);
    nb::list result;
    for (std::uint32_t consumer = 0; consumer < ring.consumers(); ++consumer) {
        const CycleAccount& account = ring.stats(consumer).cycle;
        const CycleAccount::Recent latest = account.latest();
        nb::list shares;
        for (unsigned place = 0; place < latest.count; ++place) shares.append(latest.shares_ppm[place] / 1e6);
        result.append(nb::make_tuple(latest.cycles, account.period_ns.load(std::memory_order_relaxed), shares));
    }
    return result;
}

// The block of all consumers that took longest, as its sequence and stamps; None before the first.
nb::object worst_cycle_of(const Ring& ring) {
    shared(ring);
    std::optional<Cycle> worst;
    for (std::uint32_t consumer = 0; consumer < ring.consumers(); ++consumer) {
        const auto cycle = ring.stats(consumer).cycle.worst_cycle();
        const auto took = [](const Cycle& one) {
            return static_cast<std::uint64_t>(one.finished_ns) - static_cast<std::uint64_t>(one.due_from_ns);
        };
        if (cycle && (!worst || took(*cycle) > took(*worst))) worst = cycle;
    }
    if (!worst) return nb::none();
    return nb::make_tuple(worst->sequence, worst->sent_ns, worst->due_from_ns, worst->awake_ns, worst->gil_ns,
                          worst->started_ns, worst->finished_ns);
}

nb::object bucket_bounds() {
    npy_intp edges = histogram_buckets + 1;
    const nb::object bounds = take(PyArray_ZEROS(1, &edges, NPY_UINT64, 0));
    auto* values = static_cast<std::uint64_t*>(PyArray_DATA(reinterpret_cast<PyArrayObject*>(bounds.ptr())));
    for (unsigned bucket = 0; bucket <= histogram_buckets; ++bucket) values[bucket] = histogram_lower(bucket);
    return bounds;
}

Rule rule_from(int kind, int then, std::uint64_t value) {
    if (kind < 0 || kind >= static_cast<int>(rule_kinds) || then < 0 || then > 2 || value > most_rule_value) {
        raise_error("ConfigurationError", "no such overflow rule");
    }
    return {static_cast<RuleKind>(kind), static_cast<AfterWait>(then), value};
}

PayloadSpec spec_from(int kind, const std::string& dtype, std::uint32_t channels, bool planar, bool packed,
                      std::uint32_t max_frames, const std::vector<npy_intp>& shape, std::uint64_t max_bytes) {
    PayloadSpec spec;
    spec.kind = static_cast<PayloadKind>(kind);
    spec.channels = channels;
    spec.planar = planar;
    spec.packed = packed;
    spec.max_frames = max_frames;
    spec.shape = shape;
    spec.max_bytes = max_bytes;
    if (spec.kind != PayloadKind::bytes) {
        PyArray_Descr* description = nullptr;
        const nb::str name(dtype.c_str());
        if (PyArray_DescrConverter(name.ptr(), &description) != NPY_SUCCEED) throw nb::python_error();
        spec.type_number = description->type_num;
        spec.item_bytes = static_cast<std::uint32_t>(PyDataType_ELSIZE(description));
        Py_DECREF(description);
    }
    if (max_bytes > std::uint64_t{1} << 31) raise_error("ConfigurationError", "a block may have at most 2 GiB");
    return spec;
}

// What stamps and statistics cost per block, as invoke() and send() take them: three clock reads, five histograms.
double measure_stamps(std::uint64_t blocks) {
    auto stats = std::make_unique<ConsumerStats>();
    std::memset(static_cast<void*>(stats.get()), 0, sizeof(ConsumerStats));
    const nb::gil_scoped_release released;
    const Nanoseconds began = monotonic_ns();
    for (std::uint64_t block = 0; block < blocks; ++block) {
        const Nanoseconds sent = monotonic_ns();
        const Nanoseconds started = monotonic_ns();
        const Nanoseconds finished = monotonic_ns();
        stats->latency.record(started - sent);
        stats->overhead.record(started - sent);
        stats->wait.record(started - sent);
        stats->gil.record(0);
        stats->busy.record(finished - started);
        add(stats->received);
    }
    return static_cast<double>(monotonic_ns() - began) / static_cast<double>(std::max<std::uint64_t>(blocks, 1));
}

void register_shared_memory(nb::module_& module) {
    nb::class_<Segment>(module, "Segment", "One shared memory segment (memfd), mapped whole.")
        .def_static("create",
                    [](std::size_t bytes, const std::vector<std::pair<std::uint64_t, std::uint64_t>>& holes) {
                        std::vector<FileRange> ranges;
                        for (const auto& [offset, length] : holes) ranges.push_back({offset, length});
                        return Segment::create(bytes, ranges);
                    },
                    "bytes"_a, "holes"_a = std::vector<std::pair<std::uint64_t, std::uint64_t>>(),
                    "Allocates a sealed segment, but for the holes (offset, bytes), whose memory comes when it is needed. May block and\n"
                    "allocate. Raises InsufficientMemory.")
        .def_static("attach", &Segment::attach, "descriptor"_a, "writable"_a,
                    "Takes over a descriptor and maps it; it is closed if that fails.\n\n"
                    "Raises CorruptedSegment if it is not sealed against shrinking or of another layout.")
        .def("create_bell",
             [](Segment& segment, std::uint64_t offset) {
                 segment.require_writable("create a bell");
                 int descriptors[2];
                 const int result = create_waker(descriptors);
                 if (result != 0) throw Shortage("cannot create a pipe to wake a worker", -result, 0);
                 segment.add_waker(offset, std::make_shared<Waker>(descriptors[0], descriptors[1]));
             },
             "offset"_a, "Makes the bell at this offset. Raises InsufficientMemory where descriptors run out.")
        .def("attach_bell",
             [](Segment& segment, std::uint64_t offset, int reading, int writing) {
                 segment.add_waker(offset, std::make_shared<Waker>(reading, writing));
             },
             "offset"_a, "reading"_a, "writing"_a, "Takes over the descriptors of a bell that another process made.")
        .def("has_bell", &Segment::has_waker, "offset"_a, "Whether the bell at this offset was made or attached here.")
        .def("bell_descriptors",
             [](const Segment& segment, std::uint64_t offset) {
                 segment.require_shared();
                 const auto waker = segment.waker(offset);
                 return nb::typed<nb::tuple, int, int>(nb::make_tuple(waker->read, waker->write));
             },
             "offset"_a, "The descriptors of a bell, to be passed to another process.")
        .def_prop_ro("descriptor",
                     [](const Segment& segment) {
                         segment.require_shared();
                         return segment.descriptor();
                     })
        .def_prop_ro("writable", &Segment::writable, "False: an observer's; whatever would write raises StateError.")
        .def_prop_ro("bytes", &Segment::bytes)
        .def("lock", &Segment::lock, "Fills the mapping with its pages and keeps them in memory. Returns 0 or an errno.");
    module.attr("SEGMENT_HEADER_BYTES") = sizeof(SegmentHeader);
    module.attr("BELL_BYTES") = Bell::bytes();
    module.attr("PRIVATE_COPY_BYTES") = private_copy_bytes;
    module.attr("MAX_PROCESSES") = max_processes;
    module.attr("MAX_BRANCHES") = max_branches;
    module.def("pool_bytes", [](std::uint32_t count, std::size_t capacity) { return round_up(BufferPool::bytes(count, capacity)); },
               "count"_a, "capacity_bytes"_a, "Bytes that a port's buffers take in a segment.");
    module.def("ring_bytes", [](std::uint32_t slots, std::uint32_t consumers) { return round_up(Ring::bytes(slots, consumers)); },
               "slots"_a, "consumers"_a, "Bytes that a ring with its statistics takes in a segment.");
    module.def("create_pool",
               [](const SegmentPointer& segment, std::uint64_t offset, std::uint32_t count, std::size_t capacity,
                  std::optional<std::uint32_t> usable) {
                   BufferPool::create(*segment, offset, count, capacity, usable.value_or(count));
               },
               "segment"_a, "offset"_a, "count"_a, "capacity_bytes"_a, "usable"_a = nb::none(),
               "`usable`: of how many the memory is there; None: of all.");
    module.def("buffers_range",
               [](std::uint64_t offset, std::uint32_t count, std::size_t capacity, std::uint32_t first) {
                   const FileRange range = BufferPool::range_of(offset, count, capacity, std::min(first, count), count);
                   return std::pair(range.offset, range.bytes);
               },
               "offset"_a, "count"_a, "capacity_bytes"_a, "first"_a,
               "Where in a segment the buffers of a pool lie from one of them on: offset and bytes.");
    module.def("set_usable_buffers",
               [](const SegmentPointer& segment, std::uint64_t pool_offset, std::uint32_t count) {
                   segment->require_writable("set_usable_buffers");
                   const BufferPool pool(segment, pool_offset);
                   pool.raise_usable(count);
                   pool.lower_usable(count);
               },
               "segment"_a, "pool_offset"_a, "count"_a,
               "Lets so many buffers of a pool be used, and allocates the memory of those that come. Raises InsufficientMemory.");
    module.def("usable_buffers",
               [](const SegmentPointer& segment, std::uint64_t pool_offset) { return BufferPool(segment, pool_offset).usable(); },
               "segment"_a, "pool_offset"_a, "How many buffers of a pool may be used.");
    module.def("give_back_unusable_buffers",
               [](const SegmentPointer& segment, std::uint64_t pool_offset) {
                   segment->require_writable("give memory back");
                   return BufferPool(segment, pool_offset).give_back_unusable();
               },
               "segment"_a, "pool_offset"_a,
               "Gives the memory of buffers back that may not be used, unless one still is; returns whether none is. When the producer has sent\n"
               "two blocks since set_usable_buffers.");
    module.def("create_ring",
               [](const SegmentPointer& segment, std::uint64_t offset, std::uint32_t buffer_size, std::uint32_t slots,
                  std::uint32_t consumers, std::uint32_t branch, int kind, int then, std::uint64_t value,
                  std::uint32_t views) {
                   Ring::create(*segment, offset, buffer_size, slots, consumers, branch, rule_from(kind, then, value),
                                views);
               },
               "segment"_a, "offset"_a, "buffer_size"_a, "slots"_a, "consumers"_a, "branch"_a, "rule_kind"_a,
               "rule_then"_a, "rule_value"_a, "views"_a = 0,
               "slots = 0: a fused pipeline, statistics only. `views`: of large blocks, that each consumer may keep.");
    module.def("ring_bell",
               [](const SegmentPointer& segment, std::uint64_t offset, unsigned bit) {
                   if (bit > control_bit) throw Corrupted("no such bell bit");
                   Bell(segment, offset).ring_anyway(bit);
               },
               "segment"_a, "offset"_a, "bit"_a,
               "Wakes whoever sleeps on the bell, also after a process died while ringing it. Never blocks.");
    module.def("retire_bell",
               [](const SegmentPointer& segment, std::uint64_t offset) { Bell(segment, offset).retire(); },
               "segment"_a, "offset"_a,
               "Tells that the owner of the bell has died, so that no block is left to it. Before the other bells are rung.");
    module.def("wait_for_bell",
               [](const SegmentPointer& segment, std::uint64_t offset, Nanoseconds until_ns) {
                   const Bell bell(segment, offset);
                   {
                       const WaitWithoutGil waiting;
                       bell.wait(until_ns);
                   }
                   return bell.take() != 0;
               },
               "segment"_a, "offset"_a, "until_ns"_a,
               "Sleeps until the bell rings or that time; True: it rang. One thread for each bell. Gives the interpreter lock up.");
    module.attr("ROOM_BIT") = room_bit;
    module.attr("CONTROL_BIT") = control_bit;

    nb::class_<Ring>(module, "Ring", "The control plane's view of one pipeline: counters, rule, recovery.")
        .def(nb::new_([](SegmentPointer segment, std::uint64_t offset, const std::string& pipeline) {
                 return in_pipeline(pipeline, [&] { return std::make_shared<Ring>(std::move(segment), offset); });
             }),
             "segment"_a, "offset"_a, "pipeline"_a, "Raises CorruptedSegment, which names the pipeline.")
        .def_prop_ro("segment", &Ring::segment)
        .def_prop_ro("offset", &Ring::offset)
        .def("counters", &counters_of, "The derived accounting and counters; consistent once the flow is quiet.")
        .def("histograms", &histograms_of, "name -> (counts, sum_ns, max_ns); bounds from bucket_bounds(). Of load: in ppm.")
        .def("begin_window",
             [](const Ring& ring) {
                 auto& window = writable(ring, "begin_window").header().window;
                 window.store(window.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
             },
             "From now on `peak_views` of the counters is of what comes. One caller.")
        .def_prop_ro("in_flight",
                     [](const Ring& ring) {
                         shared(ring);
                         return read_account(ring).in_flight();
                     },
                     "How many blocks have been sent and have no fate yet.")
        .def_prop_ro("views", &Ring::views, "Of large blocks, how many views each consumer may keep.")
        .def("recent_cycles", &recent_cycles_of,
             "For each consumer: its cycles, the latest block's length in ns, the latest 64 shares of the deadline, oldest first.")
        .def("worst_cycle", &worst_cycle_of,
             "The block that took longest: sequence, sent, due_from, awake, gil, started, finished in ns; or None.")
        .def("consumed",
             [](const Ring& ring, std::uint32_t consumer) {
                 if (consumer >= ring.consumers()) throw Corrupted("no such consumer of the ring");
                 const ConsumerStats& stats = ring.stats(consumer);
                 return nb::typed<nb::tuple, std::uint64_t, std::uint64_t>(
                     nb::make_tuple(stats.received.load(std::memory_order_relaxed),
                                    stats.busy.sum.load(std::memory_order_relaxed)));
             },
             "consumer"_a, "How many blocks one of the consumers has taken, and its work on them in ns.")
        .def("set_rule",
             [](const Ring& ring, int kind, int then, std::uint64_t value) {
                 writable(ring, "set_rule").header().rule.store(rule_from(kind, then, value).pack(), std::memory_order_release);
             },
             "kind"_a, "then"_a, "value"_a, "Switches the overflow rule; takes effect at the next send. Wait-free.")
        .def("set_limits",
             [](const Ring& ring, std::uint64_t bytes, std::uint64_t frames) { writable(ring, "set_limits").limit(bytes, frames); },
             "bytes"_a, "frames"_a, "Limits what may wait, beside the blocks; 0: not. Takes effect at the next send. Wait-free.")
        .def("set_buffer_size",
             [](const Ring& ring, std::uint32_t blocks) {
                 writable(ring, "set_buffer_size").header().buffer_size.store(blocks, std::memory_order_relaxed);
             },
             "blocks"_a, "How many blocks may wait, up to `most_waiting`. Takes effect at the next send. Wait-free.")
        .def_prop_ro("buffer_size", [](const Ring& ring) { return shared(ring).buffer_size(); }, "How many blocks may wait.")
        .def_prop_ro("most_waiting", [](const Ring& ring) { return shared(ring).most_waiting(); }, "For how many there are slots.")
        .def("set_pace", [](const Ring& ring, Nanoseconds pace_ns) { writable(ring, "set_pace").set_pace(pace_ns); }, "pace_ns"_a,
             "From one block to the next, for senders that can wait; 0: as they come. Wait-free.")
        .def("set_alarmed", [](const Ring& ring, bool alarmed) { writable(ring, "set_alarmed").set_alarmed(alarmed); }, "alarmed"_a,
             "Whether flow control is woken when it becomes full. Wait-free.")
        .def_prop_ro("pace_ns", [](const Ring& ring) { return shared(ring).pace_ns(); }, "See set_pace.")
        .def("look",
             [](const Ring& ring) {
                 const Account account = read_account(shared(ring));
                 std::uint64_t dropped = 0;
                 for (const std::uint64_t count : account.dropped) dropped += count;
                 const RingHeader& header = ring.header();
                 const auto read = [](const Counter& counter) { return counter.load(std::memory_order_relaxed); };
                 // The sum first: a wait that ends between the two looks is counted late, and not twice.
                 std::uint64_t blocked = read(header.blocked_ns);
                 if (const std::uint64_t since = read(header.blocked_since_ns)) {
                     blocked += static_cast<std::uint64_t>(std::max<Nanoseconds>(monotonic_ns() - static_cast<Nanoseconds>(since), 0));
                 }
                 using Numbers = nb::typed<nb::tuple, std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t,
                                           std::uint64_t, Nanoseconds, std::uint64_t, std::uint64_t, bool>;
                 return Numbers(nb::make_tuple(account.sent, account.delivered, dropped, account.fill, account.fill_bytes,
                                               account.fill_frames, oldest_sent_ns(ring), blocked,
                                               read(header.full_events), ring.paused()));
             },
             "What flow control looks at: sent, delivered, dropped; what waits as blocks, bytes and frames; when the oldest of it was\n"
             "sent (0: none waits); for how long senders waited in ns; how often it was full; whether it is paused. Any thread; does not disturb\n"
             "the flow.")
        .def("oldest_sent_ns", [](const Ring& ring) { return oldest_sent_ns(shared(ring)); },
             "When the oldest block that waits was sent; 0 where none waits. Does not disturb the flow.")
        .def("set_ended", [](const Ring& ring) { writable(ring, "set_ended").end(); },
             "Ends the stream for a producer that is gone.")
        .def("set_abandoned", [](const Ring& ring) { writable(ring, "set_abandoned").set_abandoned(); },
             "Tells the producer that nobody will consume: its blocks are dropped (failed) from now on.")
        .def("reap", [](const Ring& ring, unsigned process) { return reap(writable(ring, "reap"), process); }, "process"_a,
             "Gives back what a dead process had claimed.")
        .def("abandon",
             [](const Ring& ring, unsigned reason) {
                 if (reason >= reasons) throw Corrupted("no such reason");
                 return abandon(writable(ring, "abandon"), static_cast<Reason>(reason));
             },
             "reason"_a, "Drops everything that still waits. Only when both ends are gone.")
        .def("flush", [](const Ring& ring) { return flush(writable(ring, "flush")); },
             "Drops what waits at this moment (flushed), beside ends that go on; returns how many blocks. Ring the "
             "producer's bell afterwards. Any thread; allocates.")
        .def("pause", [](const Ring& ring) { writable(ring, "pause").pause(); }, "Lets consumers find nothing. Wait-free.")
        .def("resume", [](const Ring& ring, Nanoseconds now_ns) { writable(ring, "resume").resume(now_ns); }, "now_ns"_a,
             "Ends the pause. Ring the consumers' bells afterwards. Wait-free.")
        .def_prop_ro("paused", &Ring::paused, "Whether consumers find nothing.");
    module.def("release_process",
               [](const SegmentPointer& segment, std::uint64_t pool_offset, unsigned process, const std::string& pipeline) {
                   if (process >= max_processes) throw Corrupted("no such process");
                   segment->require_writable("release_process");
                   in_pipeline(pipeline, [&] { BufferPool(segment, pool_offset).release_process(process); });
               },
               "segment"_a, "pool_offset"_a, "process"_a, "pipeline"_a, "Zeroes the holds of a dead process.");
    module.def("take_over",
               [](const SegmentPointer& segment, std::uint64_t pool_offset, const std::vector<std::uint64_t>& ring_offsets,
                  const std::vector<std::string>& pipelines) {
                   segment->require_writable("take_over");
                   std::vector<Ring> rings;
                   for (std::size_t index = 0; index < ring_offsets.size(); ++index) {
                       in_pipeline(pipelines.at(index), [&] {
                           rings.emplace_back(segment, ring_offsets[index]);
                           rings.back().require_possible_slots();
                       });
                   }
                   in_pipeline(pipelines.at(0), [&] {
                       BufferPool pool(segment, pool_offset);
                       take_over(pool, std::span<const Ring>(rings));
                   });
               },
               "segment"_a, "pool_offset"_a, "ring_offsets"_a, "pipelines"_a,
               "Completes a port whose producer died, in the middle of a send perhaps; with all of its rings.");
    module.def("held_buffers",
               [](const SegmentPointer& segment, std::uint64_t pool_offset) {
                   return BufferPool(segment, pool_offset).held_buffers();
               },
               "segment"_a, "pool_offset"_a, "How many buffers are kept alive by views.");
    module.def("pool_state",
               [](const SegmentPointer& segment, std::uint64_t pool_offset, std::int64_t now_ns) {
                   const BufferPool pool(segment, pool_offset);
                   return nb::typed<nb::tuple, std::uint32_t, std::size_t, std::uint32_t, std::int64_t>(nb::make_tuple(
                       pool.count(), pool.capacity(), pool.held_buffers(), pool.oldest_held_ns(now_ns)));
               },
               "segment"_a, "pool_offset"_a, "now_ns"_a,
               "Buffers, bytes of each, how many are kept alive by views, and for how long the oldest of those in ns.");
    module.def("give_back_pool",
               [](const SegmentPointer& segment, std::uint64_t pool_offset) {
                   segment->require_writable("give memory back");
                   return BufferPool(segment, pool_offset).give_back();
               },
               "segment"_a, "pool_offset"_a,
               "Gives the pages of buffers back to the system, of which nobody uses any any more. Returns how many bytes.");
    module.def("bucket_bounds", &bucket_bounds, "Lower bounds in ns of the histograms' buckets, and the last one's end.");
    module.def("measure_stamps", &measure_stamps, "blocks"_a, "Cost in ns of stamps and statistics per block.");
    module.def("monotonic_ns", &monotonic_ns, "CLOCK_MONOTONIC in ns: the clock of every stamp.");
    module.def("shut_down",
               [](double timeout_s) {
                   shutting_down.store(true);
                   const nb::gil_scoped_release released;
                   const Nanoseconds deadline = monotonic_ns() + static_cast<Nanoseconds>(timeout_s * 1e9);
                   while (waiting_threads.load() != 0 && monotonic_ns() < deadline) {
                       std::this_thread::sleep_for(std::chrono::milliseconds(1));
                   }
               },
               "timeout_s"_a, "Sends every waiting thread back to Python, for the end of the program.");
    module.def("waits_of_this_thread", [] { return waits_of_this_thread; },
               "How often the calling thread has waited in native code; in the thread of an event loop: never.");
    module.def("watch_lifeline", &watch_lifeline, "descriptor"_a,
               "Ends this process as soon as the other end of the pipe is closed.");
}

void register_ends(nb::module_& module) {
    nb::class_<PayloadSpec>(module, "PayloadSpec", "The native side of a resolved format.")
        .def(nb::new_(&spec_from), "kind"_a, "dtype"_a, "channels"_a, "planar"_a, "packed"_a, "max_frames"_a,
             "shape"_a, "max_bytes"_a);
    nb::class_<ModuleContext>(module, "ModuleContext", "The block that a module is working on.")
        .def(nb::init<>())
        .def("set_stamps",
             [](ModuleContext& context, std::int64_t timestamp_ns, std::uint64_t first_frame, std::uint32_t frames,
                std::uint16_t flags) {
                 context.timestamp_ns = timestamp_ns;
                 context.first_frame = first_frame;
                 context.frames = frames;
                 context.flags = flags;
                 context.active = true;  // until the module is done, also where no block was handed to it
             },
             "timestamp_ns"_a, "first_frame"_a, "frames"_a, "flags"_a, "What blocks sent from now on inherit.")
        .def_prop_ro("calls", [](const ModuleContext& context) { return context.calls; })
        .def_prop_ro("busy_ns", [](const ModuleContext& context) { return context.busy_ns; })
        .def_prop_rw(
            "busy", [](const ModuleContext& context) { return context.busy; },
            [](ModuleContext& context, bool busy) {
                context.busy = busy;
                context.active = context.active && busy;  // what it sends later is made of nothing that came
            },
            "busy"_a, "Whether the module is at work: then nothing is taken for it.")
        .def_rw("order", &ModuleContext::order, "Its place in the order of the flow, upstream first.");
    nb::class_<Target>(module, "Target", "Where a pipeline ends.")
        .def(nb::new_([](std::string name, const PayloadSpec& spec, nb::object format, nb::object decoder, nb::object call,
                         nb::object result_port, nb::object context, nb::object on_error, std::int64_t max_latency_ns) {
                 auto target = std::make_shared<Target>();
                 target->pipeline = nb::cast(name);
                 target->name = std::move(name);
                 target->spec = spec;
                 target->format = std::move(format);
                 target->decoder = std::move(decoder);
                 target->call = std::move(call);
                 target->result_output = result_port.is_none() ? nullptr : nb::cast<Output*>(result_port);
                 target->result_port = std::move(result_port);
                 target->context = context.is_none() ? nullptr : nb::cast<ModuleContext*>(context);
                 target->context_owner = std::move(context);
                 target->on_error = std::move(on_error);
                 target->max_latency_ns = max_latency_ns;
                 return target;
             }),
             "name"_a, "spec"_a, "format"_a.none(), "decoder"_a.none(), "call"_a.none(), "result_port"_a.none(),
             "context"_a.none(), "on_error"_a.none(), "max_latency_ns"_a)
        .def("count_cycles",
             [](Target& target, double ns_per_frame, std::int64_t deadline_ns) {
                 target.ns_per_frame = ns_per_frame;
                 target.deadline_ns = deadline_ns;
             },
             "ns_per_frame"_a, "deadline_ns"_a,
             "From now on each block has a deadline, in ns from its sending; 0: its own length.")
        .def("fail", [](Target& target) { target.discard = Reason::failed; }, "From now on blocks are dropped (failed).")
        .def("close", [](Target& target) { target.discard = Reason::stopped; },
             "From now on blocks are dropped (stopped): the module has ended before this input.");
    nb::class_<std::atomic<bool>>(module, "AbortFlag", "Set once; everything that waits gives up.")
        .def(nb::new_([] { return std::make_shared<std::atomic<bool>>(false); }))
        .def("set", [](std::atomic<bool>& flag) { flag.store(true, std::memory_order_release); })
        .def("is_set", [](const std::atomic<bool>& flag) { return flag.load(std::memory_order_acquire); });

    nb::class_<Output>(module, "OutputCore", nb::is_weak_referenceable(), "The native sending end of a port.")
        .def(nb::init<>())
        .def("send", &Output::send, "data"_a.none(),
             "Sends an array, a FlowData, a Block or what the format encodes. True: queued, False: dropped by the rule.\n\n"
             "Wait-free but for a pipeline with a waiting rule that is full. Any thread; callers are serialised.")
        .def("pass_on", &Output::pass_on, "data"_a.none(),
             "As send(), but what is sent has its own stamps and flags alone, and inherits none from the block that the module is\n"
             "at: for a block that came at another time.")
        .def("has_room", &Output::has_room, "payload_bytes"_a = 0, "frames"_a = 0,
             "Whether a block of this size sent now would enter every pipeline as it is: nothing would wait, be evicted or be\n"
             "dropped for it, whatever their rules. Room that was found stays until something is sent.\n\n"
             "Wait-free. Any thread; callers are serialised. Raises PipelineClosed where send() would; StateError where a\n"
             "device sends.")
        .def("seek_room", &Output::seek_room, "payload_bytes"_a = 0, "frames"_a = 0,
             "0: has_room() says so. Else when to look again, in ns of the monotonic clock; the bell of this end rings before that,\n"
             "once half of what waits in the way was taken.")
        .def("loan",
             [](nb::handle_t<Output> self, nb::handle frames) {
                 auto& output = nb::cast<Output&>(self);
                 return std::make_unique<Loan>(nb::borrow(self), output, output.check_loan(frames));
             },
             "frames"_a.none() = nb::none(),
             "Lends memory for one block: `with port.loan(frames) as samples:` gives a writable array to fill, and sends it.\n\n"
             "For audio, (frames, channels) or (channels, frames), 1 to max_block_frames; for an ArrayFormat, of its shape and\n"
             "without frames. Lending is wait-free; the end of the with block sends as send() does, without a copy, and empties\n"
             "the array. If more than one name refers to the array or a part of it by then, the block is copied (counted in\n"
             "loan_copies) and the array stays valid. Raises FormatMismatch, BlockTooLarge, PipelineClosed, FlowNotRunning.")
        .def("attempt",
             [](nb::handle self, nb::handle data) { return nb::cast<Output&>(self).attempt(self, data); }, "data"_a.none(),
             "As send(), but never waits: where send() would, returns a SendAttempt. Any thread.")
        .def_prop_ro("bell", &Output::bell, nb::rv_policy::copy)
        .def("configure",
             [](Output& output, std::string name, const PayloadSpec& spec, nb::object format, nb::object prepare,
                nb::object context, AbortFlag abort) {
                 output.configure(std::move(name), spec, std::move(format), std::move(prepare), std::move(context),
                                  std::move(abort));
             },
             "name"_a, "spec"_a, "format"_a.none(), "prepare"_a, "context"_a.none(), "abort"_a)
        .def("set_pool", &Output::set_pool, "segment"_a, "offset"_a, "pipeline"_a)
        .def("set_bell", &Output::set_bell, "segment"_a, "offset"_a)
        .def("set_inbox", &Output::set_inbox, "inbox"_a)
        .def("add_ring", &Output::add_ring, "name"_a, "segment"_a, "offset"_a, "bell_segment"_a, "bell_offset"_a, "bit"_a)
        .def("add_consumer", &Output::add_consumer, "name"_a, "bell_segment"_a, "bell_offset"_a, "bit"_a,
             "Adds a consumer that competes for the blocks of the ring of that name.")
        .def("share_room", &Output::share_room, "name"_a, "rank"_a, "segment"_a, "offset"_a, "others_rank"_a,
             "The ring of that name shares its room with another input of the same consumer, by the ranks of their priorities.")
        .def("set_alarm", &Output::set_alarm, "name"_a, "bell_segment"_a, "bell_offset"_a,
             "What is rung when the ring of that name becomes full, where that is asked for.")
        .def("set_consumer_bell", &Output::set_consumer_bell, "name"_a, "bell_segment"_a, "bell_offset"_a, "bit"_a)
        .def("add_fused",
             [](Output& output, std::shared_ptr<Target> target, SegmentPointer segment, std::uint64_t ring_offset,
                const Inbox& inbox) {
                 auto link = std::make_shared<FusedLink>();
                 link->ring = in_pipeline(target->name, [&] { return Ring(std::move(segment), ring_offset); });
                 writable(link->ring, "add_fused");
                 link->target = std::move(target);
                 link->clock = inbox.clock();
                 output.add_fused(std::move(link));
             },
             "target"_a, "segment"_a, "ring_offset"_a, "inbox"_a)
        .def("remove", &Output::remove, "pipeline"_a,
             "Ends a pipeline, which gets no block any more, and forgets it; False if there is none of that name.")
        .def("defer", &Output::defer, "Rings that are added and removed take no place before commit().")
        .def("commit", &Output::commit,
             "Lets what was added and removed take place at once, between two blocks. Where a device sends, it waits for its next cycle.")
        .def("roll_back", &Output::roll_back, "Nothing takes place of what was added and removed since defer().")
        .def("end", &Output::end, "No block follows. Idempotent.")
        .def("close", &Output::close, "reason"_a, "From now on send() raises PipelineClosed.")
        .def("detach", &Output::detach)
        .def_prop_ro("is_connected", &Output::is_connected)
        .def_prop_ro("has_ended", &Output::has_ended)
        .def_prop_ro("waiting_blocks", &Output::waiting_blocks,
                     "How many blocks wait at this moment, in the pipeline in which the most do; 0 where all are handed over by a\n"
                     "call. Any thread; does not block.")
        .def_prop_ro("failed_blocks", &Output::failed_blocks,
                     "How many blocks of its pipelines were dropped because the module behind has failed, but for those handed over\n"
                     "by a call. Any thread; does not block.");

    register_event_loop(module);
    register_realtime(module);
    register_manual_time(module);
    register_native_stage(module);
    register_sample_stage(module);
    register_rate_stage(module);
    register_stage_meter(module);
    nb::class_<Inbox>(module, "Inbox", "The receiving side of a worker, or of one open end.")
        .def(nb::init<SegmentPointer, std::uint64_t, unsigned, AbortFlag>(), "segment"_a, "bell_offset"_a, "process"_a,
             "abort"_a)
        .def("add_input", &Inbox::add_input, "segment"_a, "ring_offset"_a, "pool_offset"_a, "bell_segment"_a.none(),
             "producer_bell_offset"_a, "consumer"_a, "rank"_a, "target"_a, "on_end"_a.none(),
             "on_views_exhausted"_a.none() = nb::none(), "bit"_a = nb::none(),
             "Adds an input, behind those of its rank; returns its bell bit: `bit`, or else that of its place.\n"
             "`on_views_exhausted(limit)` is called once, when the consumer keeps `limit` views, and the next large block is\n"
             "copied.")
        .def("add_successor", &Inbox::add_successor, "pipeline"_a, "segment"_a, "ring_offset"_a, "pool_offset"_a,
             "bell_segment"_a.none(), "producer_bell_offset"_a, "consumer"_a,
             "Adds the ring whose blocks come in an input after all of those in its own, of which the end is no end then.")
        .def("keep_time_order", &Inbox::keep_time_order,
             "Serves inputs of one rank in the order of sending, so that what was sent because of a block comes after it.")
        .def("remove", &Inbox::remove, "pipeline"_a, "Forgets an input that has ended. Between two blocks.")
        .def("add_lane", &Inbox::add_lane, "segment"_a, "ring_offset"_a, "pool_offset"_a, "bell_segment"_a.none(),
             "producer_bell_offset"_a, "consumer"_a,
             "Adds the ring of another replica to the input that was added last.")
        .def("restore_order_of", &Inbox::restore_order_of, "segment"_a, "ring_offset"_a,
             "Takes the lanes of the input that was added last in the order of the replicas' own input ring.")
        .def("tell_finished", &Inbox::tell_finished, "bell_segment"_a, "bell_offset"_a, "bit"_a,
             "Rings that bell after each block that this worker has finished.")
        .def("serve", &Inbox::serve, "deadline_ns"_a, "limit"_a,
             "Serves up to `limit` blocks; waits for the first one until the deadline (negative: no limit, 0: not at all).")
        .def("receive", &Inbox::receive, "timeout_s"_a = nb::none(),
             "The oldest block; committed before it is returned. Raises ReceiveTimeout, EndOfStream, PipelineClosed.")
        .def("hold", &Inbox::hold, "pipeline"_a, "held"_a,
             "An input that is held is not served: its pipeline fills, and the rule decides. The worker's thread.")
        .def("on_idle", &Inbox::on_idle, "call"_a,
             "Has something called, now and then, when the worker has nothing to do and is about to sleep; None: no more.")
        .def("spin_for", &Inbox::spin_for, "spin_ns"_a, "How long serve() looks for a block before it sleeps; 0: not at all.")
        .def("regulate",
             [](Inbox& inbox, int late, std::int64_t max_age_ns, std::uint64_t target_frames, std::uint64_t preroll_frames,
                std::uint32_t most_staged, std::uint32_t most_frames, double rate_hz, int made_up) {
                 inbox.regulate(rules_of(late, max_age_ns, target_frames, preroll_frames, most_staged, most_frames, rate_hz,
                                         made_up));
             },
             "late"_a, "max_age_ns"_a, "target_frames"_a, "preroll_frames"_a, "most_staged"_a, "most_frames"_a, "rate_hz"_a,
             "made_up"_a,
             "Decides what the input that was added last lets through: late blocks (0 pass, 1 drop, 2 conceal), a jitter buffer\n"
             "of `target_frames`, what is kept while its module does not want it, and what stands in for what is missing\n"
             "(0 silence, 1 the last block fading, 2 the last block again and again).")
        .def("set_wanted", &Inbox::set_wanted, "pipeline"_a, "wanted"_a,
             "An input that is not wanted keeps its newest frames and drops the others (unwanted). False: it cannot. Any thread.")
        .def("interrupt", &Inbox::interrupt, "Makes serve() return soon. Wait-free, any thread.")
        .def("call",
             [](const Inbox& inbox, ModuleContext& context, const nb::object& method) {
                 const Running running(*inbox.clock(), context, monotonic_ns());
                 context.origin = last_position;  // what is sent at the end comes after what was made of any block
                 survive_shutdown([&] { method(); });
                 inbox.clock()->free_since_ns = monotonic_ns();
             },
             "context"_a, "method"_a, "Calls a method of a module that is not process(): not served inside its own sends.")
        .def("adopt", &Inbox::adopt, "in_event_loop"_a,
             "Declares the calling thread the worker's own; in an event loop, its send() never waits.")
        .def("try_receive", &Inbox::try_receive, "entered_ns"_a, "heard_ns"_a,
             "The oldest block, or None: never waits. Else as receive().")
        .def("take", &Inbox::next_delivery, "The next block of a module that is not at work, or None. Never waits.")
        .def("collect", &Inbox::collect, "Takes what rang from the bell, to be looked at by take().")
        .def_prop_ro("bell", &Inbox::bell, nb::rv_policy::copy)
        .def("detach", &Inbox::detach)
        .def_prop_ro("open_inputs", &Inbox::open_inputs);
}

}  // namespace
}  // namespace steadyflow

NB_MODULE(_native, module) {
    using namespace steadyflow;
    if (_import_array() < 0) throw nb::python_error();
    // Ports and modules refer to each other until the flow is closed; at interpreter exit nanobind would list them.
    nb::set_leak_warnings(false);
    module.doc() = "steadyflow's data plane: shared memory, rings, bells, and the ends that Python uses.";
    nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
        try {
            std::rethrow_exception(thrown);
        } catch (const Corrupted& damage) {
            set_error(damage);
        } catch (const ReadOnly& error) {
            const nb::object kind = nb::module_::import_("steadyflow.errors").attr("StateError");
            PyErr_SetString(kind.ptr(), error.what());
        } catch (const Forked& error) {
            const nb::object kind = nb::module_::import_("steadyflow.errors").attr("StateError");
            PyErr_SetString(kind.ptr(), error.what());
        } catch (const Shortage& error) {
            const nb::object kind = nb::module_::import_("steadyflow.errors").attr("InsufficientMemory");
            std::string text = std::string(error.what()) + ": ";
            if (error.bytes != 0) text += "needed " + std::to_string(error.bytes) + " bytes, ";
            text += std::string("the system answered: ") + std::strerror(error.error);
            if (error.bytes != 0) text += "; use smaller buffer_size, max_block_frames or max_bytes, or free memory";
            PyErr_SetString(kind.ptr(), text.c_str());
        }
    });
    detach_forked_children();
    static const NobodyWaits nobody_waits;
    register_block(module);
    register_loan(module);
    register_device(module);
    register_shared_memory(module);
    register_ends(module);
}
