#include "output.hpp"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "account.hpp"
#include "bell_seat.hpp"
#include "inbox.hpp"
#include "view.hpp"

namespace steadyflow {
namespace {

// For a cycle of a device: longer than any period.
constexpr Nanoseconds device_patience_ns = 1'000'000'000;

std::string in_milliseconds(std::uint64_t microseconds) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", static_cast<double>(microseconds) / 1000.0);
    return text;
}

// Out of the way of the hot path.
[[noreturn, gnu::noinline, gnu::cold]] void refuse_damage(const char* what, const std::string& pipeline) {
    throw Corrupted(what, pipeline);
}

[[noreturn, gnu::noinline, gnu::cold]] void refuse_full(const OutputRings::Obstacle& obstacle) {
    const std::string& name = obstacle.link->name;
    if (obstacle.kind == OutputRings::Obstacle::Kind::time_is_up) {
        raise_error("SendTimeout", name + ": expected room within " + in_milliseconds(obstacle.rule.value) +
                                       " ms, but the pipeline stayed full; the consumer is slower than the producer");
    }
    const std::string size = std::to_string(obstacle.link->producer.ring().buffer_size());
    raise_error("PipelineFull", name + ": expected room for one block, got " + size + " of buffer_size " + size +
                                    " waiting, and the rule is Fail(); raise buffer_size or choose another rule");
}

[[noreturn, gnu::noinline, gnu::cold]] void refuse_beside_device(const std::string& name) {
    raise_error("StateError", name + ": expected nobody but the device to send here; send from a module of your own");
}

}  // namespace

void Output::configure(std::string name, PayloadSpec spec, nb::object format, nb::object prepare,
                       nb::object context_owner, AbortFlag abort) {
    name_ = std::move(name);
    spec_ = std::move(spec);
    format_ = std::move(format);
    prepare_ = std::move(prepare);
    context_owner_ = std::move(context_owner);
    context_ = context_owner_.is_none() ? nullptr : nb::cast<ModuleContext*>(context_owner_);
    abort_ = std::move(abort);
    home_ = HomeProcess();
    closed_.clear();
    ended_ = false;
    next_frame_ = 0;
}

void Output::set_pool(std::shared_ptr<Segment> segment, std::uint64_t offset, const std::string& pipeline) {
    segment->require_writable("set_pool");
    rings_.set_pool(in_pipeline(pipeline, [&] { return BufferPool(std::move(segment), offset); }));
}

void Output::set_bell(std::shared_ptr<Segment> segment, std::uint64_t offset) {
    bell_ = Bell(std::move(segment), offset);
}

void Output::set_inbox(nb::object inbox_owner) {
    inbox_ = nb::cast<Inbox*>(inbox_owner);
    inbox_owner_ = std::move(inbox_owner);
}

void Output::add_ring(std::string name, std::shared_ptr<Segment> segment, std::uint64_t offset,
                      std::shared_ptr<Segment> bell_segment, std::uint64_t bell_offset, unsigned bit) {
    if (!rings_.has_pool()) throw Corrupted("a ring needs its port's buffers first", name);
    in_pipeline(name, [&] {
        Bell bell(std::move(bell_segment), bell_offset);
        auto link = rings_.make(name, Ring(std::move(segment), offset));
        link->consumers.add(std::move(bell), bit);
        changing().push_back(std::move(link));
    });
    if (!deferring_) commit();
}

OutputRings::Links& Output::changing() {
    if (!draft_) draft_ = rings_.links();
    return *draft_;
}

Output::Link& Output::ring_named(const std::string& name) const {
    for (const auto& link : draft_ ? *draft_ : rings_.links()) {
        if (link->name == name) return *link;
    }
    throw Corrupted(name_ + ": no ring of this name", name);
}

void Output::share_room(const std::string& name, unsigned rank, std::shared_ptr<Segment> segment, std::uint64_t offset,
                        unsigned others_rank) {
    Link& link = ring_named(name);
    in_pipeline(name, [&] {
        if (!link.shared) link.shared = std::make_unique<SharedRoom>(rank);
        link.shared->add(Ring(std::move(segment), offset), others_rank);
    });
}

void Output::set_alarm(const std::string& name, std::shared_ptr<Segment> bell_segment, std::uint64_t bell_offset) {
    ring_named(name).alarm = Bell(std::move(bell_segment), bell_offset);
}

void Output::add_consumer(const std::string& name, std::shared_ptr<Segment> bell_segment, std::uint64_t bell_offset,
                          unsigned bit) {
    ConsumerBells& consumers = ring_named(name).consumers;
    consumers.add(Bell(std::move(bell_segment), bell_offset), bit);
    consumers.ring_all();  // for what was sent before
}

void Output::set_consumer_bell(const std::string& name, std::shared_ptr<Segment> bell_segment,
                               std::uint64_t bell_offset, unsigned bit) {
    ring_named(name).consumers.clear();
    add_consumer(name, std::move(bell_segment), bell_offset, bit);
}

void Output::add_fused(std::shared_ptr<FusedLink> link) { fused_.push_back(std::move(link)); }

bool Output::remove(const std::string& name) {
    if (auto link = OutputRings::take(changing(), name)) {
        removed_.push_back(std::move(link));
        if (!deferring_) commit();
        return true;
    }
    if (!deferring_) commit();
    return std::erase_if(fused_, [&](const auto& link) { return link->target->name == name; }) != 0;
}

void Output::commit() {
    deferring_ = false;
    if (!draft_) return;
    OutputRings::Links links = std::move(*draft_);
    draft_.reset();
    const OutputRings::Links removed = std::exchange(removed_, {});
    if (!is_sent_by_device()) {
        rings_.swap(links);
    } else {
        bool taken = false;
        {
            const WaitWithoutGil waiting;
            taken = device_->exchange_rings(links, device_patience_ns);
        }
        if (!taken) raise_error("StateError", name_ + ": expected a device that runs, to change where it sends; no cycle of it came");
    }
    for (const auto& link : removed) {
        link->producer.settle_tally();  // nobody does later, and others may need the buffers
        OutputRings::end(*link);
    }
    if (ended_ || !closed_.empty()) rings_.end();  // what was added comes too late for anything
    if (bell()) bell().ring(room_bit);  // who waits for room in a ring that is removed finds another one
}

// Flattened: its parts are used elsewhere too, so the compiler would call them.
[[gnu::flatten]] bool Output::send_object(PyObject* data, Nanoseconds sent_hint_ns) {
    if (!ready_to_send()) return true;
    Outgoing block;
    prepare(data, block);
    return deliver(block, sent_hint_ns);
}

void Output::prepare(PyObject* data, Outgoing& block) const {
    PayloadView& view = block.view;
    Stamps& stamps = block.stamps;
    if (spec_.match(data, view) || match_block(data, view, stamps)) return;

    const nb::object prepared = take(survive_shutdown([&] { return PyObject_CallOneArg(prepare_.ptr(), data); }));
    const nb::tuple parts = nb::cast<nb::tuple>(prepared);
    if (!parts[1].is_none()) stamps.timestamp_ns = nb::cast<std::int64_t>(parts[1]);
    if (!parts[2].is_none()) stamps.first_frame = nb::cast<std::uint64_t>(parts[2]);
    stamps.flags = nb::cast<std::uint16_t>(parts[3]);
    const nb::object metadata = parts[4];
    if (!metadata.is_none()) {
        stamps.metadata = PyBytes_AS_STRING(metadata.ptr());
        stamps.metadata_bytes = static_cast<std::uint16_t>(PyBytes_GET_SIZE(metadata.ptr()));
        stamps.metadata_object = metadata;
    }
    block.payload = parts[0];
    PyObject* payload = block.payload.ptr();
    if (spec_.kind == PayloadKind::bytes) {
        if (!PyBytes_Check(payload) || static_cast<std::uint64_t>(PyBytes_GET_SIZE(payload)) > spec_.max_bytes) {
            raise_error("FormatMismatch", name_ + ": the prepared payload does not fit its format");
        }
        view = {PyBytes_AS_STRING(payload), static_cast<std::uint32_t>(PyBytes_GET_SIZE(payload)), 0};
    } else if (!spec_.match(payload, view)) {
        raise_error("FormatMismatch", name_ + ": the prepared payload does not fit its format");
    }
}

std::uint32_t Output::check_loan(nb::handle frames) const {
    if (!closed_.empty()) raise_error("PipelineClosed", closed_);
    if (!format_.is_valid()) {
        raise_error("FlowNotRunning",
                    "loan: expected a port whose format is known; it is, from the start of its flow on, if the port says it "
                    "completely or something is connected to it");
    }
    if (is_connected()) require_open();
    const std::string got = nb::cast<std::string>(nb::repr(frames));
    if (spec_.kind == PayloadKind::bytes) {
        raise_error("FormatMismatch", name_ + ": expected a format of arrays to lend memory for, got " +
                                          nb::cast<std::string>(nb::str(format_)) + "; use send()");
    }
    if (spec_.kind == PayloadKind::array) {
        if (frames.is_none()) return 0;
        raise_error("FormatMismatch", name_ + ": expected no frames, because every block is one " +
                                          nb::cast<std::string>(nb::str(format_)) + "; got " + got);
    }
    const std::string most = std::to_string(spec_.max_frames);
    const bool is_number = PyIndex_Check(frames.ptr()) != 0 && !PyBool_Check(frames.ptr());
    const nb::object number = is_number ? take(PyNumber_Index(frames.ptr())) : nb::object();
    int overflow = 0;
    const long long wanted = is_number ? PyLong_AsLongLongAndOverflow(number.ptr(), &overflow) : 0;
    if (overflow > 0 || wanted > static_cast<long long>(spec_.max_frames)) {
        raise_error("BlockTooLarge", name_ + ": expected at most " + most + " frames in a block; got " + got +
                                         ". Lend smaller blocks, or declare max_block_frames in the format");
    }
    if (wanted < 1) raise_error("FormatMismatch", name_ + ": expected frames to be an integer from 1 to " + most + "; got " + got);
    return static_cast<std::uint32_t>(wanted);
}

LentBlock Output::lend(std::uint32_t frames) {
    const std::uint64_t bytes = spec_.kind == PayloadKind::array ? spec_.max_bytes : frames * spec_.frame_bytes();
    const auto lent_block = [&](nb::object memory, std::optional<std::uint32_t> buffer) {
        const void* data = PyArray_DATA(reinterpret_cast<PyArrayObject*>(memory.ptr()));
        return LentBlock(std::move(memory), PayloadView{data, static_cast<std::uint32_t>(bytes), frames}, buffer);
    };
    if (ready_to_send() && !rings_.empty() && lent_->load(std::memory_order_relaxed) == 0) {
        if (const auto buffer = rings_.allocate(rings_.pool())) {
            // An open source, which has no inbox, is the coordinator's.
            const unsigned process = inbox_ == nullptr ? 0 : inbox_->process();
            if (auto held = HeldBuffer::take(rings_.pool(), *buffer, process, bytes, lent_)) {
                return lent_block(new_view(spec_, frames, std::move(held)), buffer);
            }
        }
    }
    return lent_block(take(spec_.new_array(frames, nullptr)), std::nullopt);
}

bool Output::send_lent(LentBlock& block) {
    if (!ready_to_send()) return true;
    if (!block.is_known()) {
        raise_error("StateError", name_ + ": expected the array of the loan to have its name at the end of the with, and it has "
                                          "none, so nothing was sent. Write into the array (samples[:] = ...) instead of giving "
                                          "its name to another one");
    }
    Outgoing outgoing;
    outgoing.view = block.view();
    outgoing.lent = &block;
    return deliver(outgoing, 0);
}

// A block that is passed on as it came, of this very format: no need to look at it in Python. What a struct or metadata
// was decoded to may have been changed since, so those are prepared anew.
bool Output::match_block(PyObject* data, PayloadView& view, Stamps& stamps) const noexcept {
    if (!is_block(data)) return false;
    const auto* block = reinterpret_cast<const BlockObject*>(data);
    if (block->format != format_.ptr() || block->decoded != nullptr) return false;
    if (block->metadata != nullptr) {
        if (!PyBytes_Check(block->metadata)) return false;
        stamps.metadata = PyBytes_AS_STRING(block->metadata);
        stamps.metadata_bytes = static_cast<std::uint16_t>(PyBytes_GET_SIZE(block->metadata));
        stamps.metadata_object = nb::borrow(block->metadata);
    }
    if (spec_.kind == PayloadKind::bytes) {
        if (!PyBytes_Check(block->payload)) return false;
        const auto bytes = static_cast<std::uint64_t>(PyBytes_GET_SIZE(block->payload));
        if (bytes > spec_.max_bytes) return false;
        view = {PyBytes_AS_STRING(block->payload), static_cast<std::uint32_t>(bytes), 0};
    } else if (!spec_.match(block->payload, view)) {
        return false;
    }
    stamps.timestamp_ns = block->timestamp_ns;
    stamps.first_frame = block->first_frame;
    // On the next pipeline it is neither repeated nor the end.
    stamps.flags = block->flags & (flag_discontinuity | flag_gap | flag_corrupted | flag_control);
    return true;
}

bool Output::pass_on(nb::handle data) {
    if (!ready_to_send()) return true;
    Outgoing block;
    prepare(data.ptr(), block);
    return deliver(block, 0, false);
}

bool Output::deliver(Outgoing& block, Nanoseconds sent_hint_ns, bool inherits) {
    begin(block, sent_hint_ns, inherits);
    if (!rings_.empty()) decide_all(block);
    return complete(block);
}

// What the block inherits is settled before any waiting: meanwhile the module may go on to another block.
void Output::begin(Outgoing& block, Nanoseconds sent_hint_ns, bool inherits) const {
    const PayloadView& view = block.view;
    const Stamps& stamps = block.stamps;
    if (!rings_.empty() && view.bytes + std::size_t{stamps.metadata_bytes} > rings_.pool().capacity()) {
        raise_error("BlockTooLarge", name_ + ": expected at most " + std::to_string(rings_.pool().capacity()) +
                                         " bytes with metadata, got " +
                                         std::to_string(view.bytes + std::size_t{stamps.metadata_bytes}));
    }
    if (!fused_.empty() && !inbox_->owned_by_this_thread()) {
        raise_error("StateError", name_ + ": expected to be sent from its worker's thread, because a module of the same "
                                          "worker is called directly; give that module another worker, or send from "
                                          "process() or produce()");
    }
    inherits = inherits && context_ != nullptr && context_->active;
    block.sent_ns = sent_hint_ns != 0 ? sent_hint_ns : monotonic_ns();
    BlockHeader& header = block.header;
    header.payload_bytes = view.bytes;
    header.frames = view.frames;
    header.metadata_bytes = stamps.metadata_bytes;
    header.flags = stamps.flags;
    if (inherits) header.flags |= context_->flags;
    header.timestamp_ns = stamps.timestamp_ns ? *stamps.timestamp_ns : inherits ? context_->timestamp_ns : block.sent_ns;
    // A block as long as the one it was made from keeps its place in the stream; others are counted.
    block.keeps_place = inherits && context_->frames == view.frames;
    header.first_frame = stamps.first_frame ? *stamps.first_frame : block.keeps_place ? context_->first_frame : 0;
}

// After all waiting: a block that was refused, or overtaken by another thread's, has taken no place.
bool Output::complete(Outgoing& block) {
    if (!block.stamps.first_frame && !block.keeps_place) block.header.first_frame = next_frame_;
    next_frame_ = block.header.first_frame + block.view.frames;
    const bool queued = rings_.empty() || publish(block.view, block.stamps, block.header, block.sent_ns, block.lent);
    if (!fused_.empty()) deliver_fused(block.view, block.stamps, block.header, block.sent_ns);
    if ((block.stamps.flags & flag_end_of_stream) != 0) end();
    return queued;
}

bool Output::ready_to_send() const {
    if (!closed_.empty()) [[unlikely]] raise_error("PipelineClosed", closed_);
    if (!is_connected()) return false;
    require_open();
    if (device_) [[unlikely]] refuse_beside_device(name_);
    return true;
}

void Output::require_open() const {
    home_.require(name_);
    if (!closed_.empty()) raise_error("PipelineClosed", closed_);
    if (ended_) raise_error("PipelineClosed", name_ + ": the stream was ended; nothing can be sent after it");
}

OutputRings::Obstacle Output::decide(const Outgoing& block, Nanoseconds began_ns, bool keeps_pace) {
    OutputRings::Obstacle obstacle = rings_.decide(block.header, began_ns, keeps_pace);
    if (obstacle.refuses()) [[unlikely]] refuse_full(obstacle);
    return obstacle;
}

void Output::decide_all(Outgoing& block) {
    Nanoseconds began = block.sent_ns;
    // In an event loop nothing may wait here; send_async() keeps the pace.
    const bool keeps_pace = inbox_ == nullptr || !inbox_->in_event_loop();
    while (const OutputRings::Obstacle obstacle = decide(block, began, keeps_pace)) {
        wait_for_room(obstacle, RingProducer::size_of(block.header));
        require_open();
        block.sent_ns = monotonic_ns();
        // Until it was due, it has not waited for room.
        if (obstacle.kind == OutputRings::Obstacle::Kind::pace) began = block.sent_ns;
    }
}

std::uint32_t Output::copy_into_buffer(BufferPool& pool, const PayloadView& view, const Stamps& stamps) {
    const auto buffer = rings_.allocate(pool);
    if (!buffer) refuse_damage("no buffer is free, although there is room", rings_.links().front()->name);
    std::byte* memory = pool.payload(*buffer);
    std::memcpy(memory, view.data, view.bytes);
    if (stamps.metadata_bytes != 0) std::memcpy(memory + view.bytes, stamps.metadata, stamps.metadata_bytes);
    return *buffer;
}

// Carries out what was decided; the GIL has been held since.
bool Output::publish(const PayloadView& view, const Stamps& stamps, const BlockHeader& header, Nanoseconds sent_ns,
                     LentBlock* lent) {
    bool in_place = false;
    bool copied = false;
    const bool queued =
        rings_.hand_over(header, sent_ns, context_ == nullptr ? 0 : context_->origin, [&](BufferPool& pool) {
            if (lent != nullptr && !in_place) {
                if (const auto buffer = lent->surrender(pool)) {
                    in_place = true;
                    return *buffer;
                }
            }
            copied = true;
            return copy_into_buffer(pool, view, stamps);
        });
    if (lent != nullptr && copied && !in_place) rings_.note_loan_copied();
    return queued;
}

// Returns to look again: for room, or whether the block is due. Raises if the flow stops or a signal's handler raises.
void Output::wait_for_room(const OutputRings::Obstacle& obstacle, BlockSize size) {
    Link& link = *obstacle.link;
    const bool paced = obstacle.kind == OutputRings::Obstacle::Kind::pace;
    const Nanoseconds began = monotonic_ns();
    if (abort_ && abort_->load(std::memory_order_acquire)) {
        raise_error("PipelineClosed", link.name + ": the flow was stopped while this send waited for room");
    }
    in_pipeline(link.name, [&] { link.producer.ring().verify(); });
    const bool on_worker = inbox_ != nullptr && inbox_->owned_by_this_thread();
    if (on_worker && inbox_->in_event_loop()) {
        raise_error("StateError", link.name + ": expected room for one block, but the pipeline is full, and waiting in "
                                              "send() would stop the worker's event loop; write await "
                                              "self.<output>.send_async(...) in an asynchronous module");
    }
    // Modules downstream may live in this very worker: serve them instead of waiting for ever.
    if (on_worker && inbox_->serve_one_inside()) return;
    // One request at a time, that of whoever sleeps on the bell; others look every millisecond.
    const BellSeat seat(on_worker || inbox_ != nullptr ? Bell() : bell_);
    const bool sleeps_on_bell = on_worker || seat;
    if (sleeps_on_bell && !paced) link.producer.request_wake();
    if (!paced) link.producer.begin_blocked(began);
    if (paced || !link.producer.has_room(size)) {
        const Nanoseconds until = look_up_at(obstacle.deadline_ns, began, look_again_ns);  // also for a signal that another thread took
        if (on_worker) inbox_->sleep(until, false);
        else if (sleeps_on_bell) {
            const WaitWithoutGil waiting;
            seat.bell().wait(until);
            seat.bell().take();
        } else {
            // The bell is another's: the worker's, or that of a send that waits already.
            sleep_a_millisecond();
        }
        if (!on_worker) check_interruption();
    }
    const Nanoseconds blocked = monotonic_ns() - began;
    if (paced) {
        link.producer.note_paced(blocked);
    } else {
        if (sleeps_on_bell) link.producer.cancel_wake();
        link.producer.note_blocked(blocked);
    }
    if (on_worker && inbox_ != nullptr && inbox_->clock()->depth != 0) inbox_->clock()->inside_ns += blocked;
}

// On a fused pipeline, which has one writer and no slots.
static void note_dropped(RingHeader& counters, Reason reason, const PayloadView& view) noexcept {
    auto& drops = counters.drops.records[0];
    add(drops.dropped[static_cast<unsigned>(reason)]);
    add(drops.frames[static_cast<unsigned>(reason)], view.frames);
}

void Output::deliver_fused(const PayloadView& view, const Stamps& stamps, BlockHeader header, Nanoseconds sent_ns) {
    for (const auto& link : fused_) {
        RingHeader& counters = link->ring.header();
        header.sequence = counters.published.load(std::memory_order_relaxed);
        add(counters.published);
        add(counters.bytes, view.bytes);
        if (link->target->discard) {
            note_dropped(counters, *link->target->discard, view);
            continue;
        }
        PyObject* payload = link->target->spec.copy(view.data, view.bytes, view.frames);
        BlockObject* block = make_block(payload, Py_XNewRef(stamps.metadata_object.ptr()), link->target->format.ptr(),
                                        link->target->decoder_or_null());
        if (block == nullptr) throw nb::python_error();
        stamp(*block, header, sent_ns);
        const Nanoseconds started = monotonic_ns();
        const Handover handover{header.sequence, sent_ns, sent_ns, sent_ns, sent_ns, started};
        const bool ok = link->target->invoke(*link->clock, block, link->ring.stats(0), &handover, started);
        Py_DECREF(reinterpret_cast<PyObject*>(block));
        if (ok) add(link->ring.stats(0).received);
        else note_dropped(counters, Reason::failed, view);
    }
}

void Output::feed_from(std::shared_ptr<DeviceStream> device, std::uint32_t block_frames) {
    if (is_connected()) require_open();
    if (spec_.kind != PayloadKind::audio || spec_.type_number != NPY_FLOAT32 || spec_.planar) {
        raise_error("FormatMismatch", name_ + ": expected interleaved audio of float32 for a device to send");
    }
    if (block_frames < 1 || block_frames > spec_.max_frames) {
        raise_error("BlockTooLarge", name_ + ": expected blocks of 1 to " + std::to_string(spec_.max_frames) + " frames, got " +
                                         std::to_string(block_frames));
    }
    if (!rings_.empty() && block_frames * spec_.frame_bytes() > rings_.pool().capacity()) {
        refuse_damage("the buffers are smaller than a block", rings_.links().front()->name);
    }
    if (!fused_.empty() || (device_ && !device_->closed()) || device->captured_frame_bytes() != 0) {
        raise_error("StateError", name_ + ": expected a port that nothing else sends from, and that leads to other workers only");
    }
    device->capture_into(rings_, static_cast<std::uint32_t>(spec_.frame_bytes()), block_frames);
    device_ = std::move(device);
}

void Output::let_go_of_device() {
    if (const auto device = std::exchange(device_, nullptr)) device->end_capture();
}

std::uint64_t Output::waiting_blocks() const {
    std::uint64_t most = 0;
    for (const auto& link : rings_.links()) most = std::max(most, read_account(link->producer.ring()).fill);
    return most;
}

std::uint64_t Output::failed_blocks() const {
    std::uint64_t failed = 0;
    for (const auto& link : rings_.links()) {
        failed += read_account(link->producer.ring()).dropped[static_cast<unsigned>(Reason::failed)];
    }
    return failed;
}

void Output::end() {
    if (ended_) return;
    let_go_of_device();
    ended_ = true;
    rings_.end();
    if (bell_) bell_.ring(room_bit);
}

void Output::close(std::string reason) {
    closed_ = std::move(reason);
    if (bell_) bell_.ring(room_bit);
}

void Output::detach() {
    let_go_of_device();
    roll_back();
    rings_.clear();
    fused_.clear();
    bell_ = Bell();
    inbox_ = nullptr;
    inbox_owner_ = nb::object();
    context_ = nullptr;
    context_owner_ = nb::object();
    prepare_ = nb::object();
    format_ = nb::object();
}

const Bell& Output::bell() const { return inbox_ != nullptr ? inbox_->bell() : bell_; }

}  // namespace steadyflow
