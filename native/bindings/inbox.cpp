#include "inbox.hpp"

#include "bell_seat.hpp"

#include <bit>
#include <chrono>
#include <utility>

#include "consuming_end.hpp"
#include "view.hpp"

namespace steadyflow {
namespace {

// After this many blocks served before it, an input of a lower, non-critical class is served once.
constexpr std::uint32_t starvation_limit = 64;
constexpr unsigned critical_rank = 0;
// Waits end now and then even without a deadline: a signal may have been taken by another thread.
constexpr Nanoseconds look_up_ns = 250'000'000;
// What is done when idle is offered once in so many sleeps, so that it costs a block next to nothing, or after so long; and
// not before a source is due that soon.
constexpr unsigned sleeps_per_idle_call = 16;
constexpr Nanoseconds idle_call_ns = 50'000'000;
constexpr Nanoseconds idle_margin_ns = 1'000'000;

}  // namespace

Inbox::Inbox(std::shared_ptr<Segment> segment, std::uint64_t bell_offset, unsigned process, AbortFlag abort)
    : segment_(segment), bell_(std::move(segment), bell_offset), process_(process), abort_(std::move(abort)) {}

// Damage that was met at a link is counted there, and gets the name of its pipeline. Out of the way of the hot path.
[[noreturn, gnu::noinline, gnu::cold]] void Inbox::refuse(Link& link, const Corrupted& damage) {
    if (!damage.pipeline.empty()) throw damage;  // found in another pipeline, inside of a send
    add(link.lanes.first().consumer.stats().corrupted);
    throw Corrupted(damage.what(), link.target->name);
}

unsigned Inbox::add_input(std::shared_ptr<Segment> segment, std::uint64_t ring_offset, std::uint64_t pool_offset,
                    std::shared_ptr<Segment> bell_segment, std::uint64_t producer_bell_offset, unsigned consumer,
                    unsigned rank, std::shared_ptr<Target> target, nb::object on_end,
                    nb::object on_views_exhausted, std::optional<unsigned> given_bit) {
    const unsigned bit = std::min<unsigned>(given_bit.value_or(static_cast<unsigned>(links_.size())), input_bits - 1);
    RingConsumer only = in_pipeline(target->name, [&] {
        return consumer_of(std::move(segment), ring_offset, pool_offset, std::move(bell_segment), producer_bell_offset,
                           consumer);
    });
    newest_ = std::make_shared<Link>(Lanes(std::move(only)), std::move(target), std::move(on_end),
                                     std::move(on_views_exhausted), rank, bit);
    const auto behind = [](unsigned own_rank, const std::shared_ptr<Link>& link) { return own_rank < link->rank; };
    links_.insert(std::upper_bound(links_.begin(), links_.end(), rank, behind), newest_);
    ++open_;
    pending_ |= std::uint64_t{1} << bit;  // something may have been sent before this end existed
    return bit;
}

void Inbox::add_lane(std::shared_ptr<Segment> segment, std::uint64_t ring_offset, std::uint64_t pool_offset,
                     std::shared_ptr<Segment> bell_segment, std::uint64_t producer_bell_offset, unsigned consumer) {
    if (!newest_) throw Corrupted("a lane needs an input that it belongs to");
    newest_->lanes.add(in_pipeline(newest_->target->name, [&] {
        return consumer_of(std::move(segment), ring_offset, pool_offset, std::move(bell_segment), producer_bell_offset,
                           consumer);
    }));
}

void Inbox::restore_order_of(std::shared_ptr<Segment> segment, std::uint64_t ring_offset) {
    if (!newest_) throw Corrupted("an order needs an input that it belongs to");
    in_pipeline(newest_->target->name,
                [&] { newest_->lanes.restore_order_of(Ring(std::move(segment), ring_offset)); });
}

void Inbox::add_successor(const std::string& pipeline, std::shared_ptr<Segment> segment, std::uint64_t ring_offset,
                          std::uint64_t pool_offset, std::shared_ptr<Segment> bell_segment,
                          std::uint64_t producer_bell_offset, unsigned consumer) {
    Link& link = link_of(pipeline);
    if (link.ended) throw Corrupted("nothing follows what has ended", pipeline);
    link.successors.emplace_back(in_pipeline(pipeline, [&] {
        return consumer_of(std::move(segment), ring_offset, pool_offset, std::move(bell_segment), producer_bell_offset,
                           consumer);
    }));
    if (link.intake != nullptr) link.intake->goes_on(true);
    pending_ |= std::uint64_t{1} << link.bit;  // its ring may have ended already
}

// Out of the way of the hot path.
[[gnu::noinline, gnu::cold]] void Inbox::move_on(Link& link) {
    const bool misses_the_last = link.lanes.misses_the_last();
    const std::uint64_t sequence = link.lanes.sequence_after();
    if (link.intake != nullptr) {
        if (link.intake->is_empty()) link.kept_back.clear();
        link.kept_back.push_back(std::move(link.lanes));
        link.intake->goes_on(link.successors.size() > 1);
    }
    link.lanes = std::move(link.successors.front());
    link.successors.pop_front();
    link.lanes.first().consumer.continues(sequence);
    // Within a ring blocks are numbered from 0: that does not show what was dropped at the end of the ring before it.
    if (misses_the_last) link.lanes.first().consumer.expect_a_gap();
}

void Inbox::remove(const std::string& pipeline) {
    const auto found =
        std::find_if(links_.begin(), links_.end(), [&](const auto& link) { return link->target->name == pipeline; });
    if (found == links_.end() || !(*found)->ended) throw Corrupted("no input of this worker that has ended", pipeline);
    if (newest_ == *found) newest_.reset();
    links_.erase(found);
}

void Inbox::tell_finished(std::shared_ptr<Segment> bell_segment, std::uint64_t bell_offset, unsigned bit) {
    told_.add(Bell(std::move(bell_segment), bell_offset), bit);
}

RingConsumer Inbox::consumer_of(std::shared_ptr<Segment> segment, std::uint64_t ring_offset, std::uint64_t pool_offset,
                                std::shared_ptr<Segment> bell_segment, std::uint64_t producer_bell_offset,
                                unsigned consumer) const {
    return consuming_end(std::move(segment), ring_offset, pool_offset, std::move(bell_segment), producer_bell_offset, consumer,
                         process_);
}

void Inbox::collect() noexcept {
    const std::uint64_t rung = bell_.take();
    if ((rung >> control_bit & 1) != 0) interrupted_ = true;
    pending_ |= rung & ((std::uint64_t{1} << input_bits) - 1);
}

// Now and then every input is looked at, whether its bell rang or not, and without trust in the positions of its ring: what
// damage has hidden waits no longer than this, and an overwritten ring is noticed.
void Inbox::look_everywhere(Nanoseconds now_ns) {
    if (now_ns - looked_ns_ < look_up_ns) return;
    looked_ns_ = now_ns;
    for (const auto& link : links_) {
        if (link->ended) continue;
        try {
            link->lanes.look_again();
        } catch (const Corrupted& damage) {
            refuse(*link, damage);
        }
        pending_ |= std::uint64_t{1} << link->bit;
    }
}

// The next input to serve: the most urgent class first, inside a class the block that was sent first.
Inbox::Link* Inbox::pick(bool inside) {
    collect();
    if (pending_ == 0) return nullptr;
    Link* chosen = nullptr;
    Nanoseconds chosen_sent = 0;
    Link* starving = nullptr;
    Link* ended = nullptr;
    std::uint64_t empty = pending_;  // bits whose every input turned out to have nothing
    for (const auto& owned : links_) {
        Link& link = *owned;
        if (!link_ready(link) || link.ended || link.held) continue;
        const std::uint64_t bit = std::uint64_t{1} << link.bit;
        const ModuleContext* module = link.target->context;
        // At work: on the call stack, or awaiting something in an event loop.
        if (module != nullptr && (module->busy || (inside && module->order < clock_->order))) {
            empty &= ~bit;
            continue;
        }
        Nanoseconds sent = -1;
        bool at_end = false;
        try {
            sent = peek_sent_ns(link);
            // Also inside of a send(): what it waits for may be waiting for this end.
            if (sent < 0) at_end = Inbox::at_end(link);
        } catch (const Corrupted& damage) {
            refuse(link, damage);
        }
        if (sent < 0) {
            if (at_end) {
                if (ended == nullptr) ended = &link;
                else empty &= ~bit;  // one for each call
            }
            continue;
        }
        empty &= ~bit;
        if (chosen == nullptr || (link.rank == chosen->rank && sent < chosen_sent)) {
            chosen = &link;
            chosen_sent = sent;
        } else if (link.rank != chosen->rank && chosen->rank != critical_rank) {
            if (++link.passed_over > starvation_limit && starving == nullptr) starving = &link;
        }
    }
    if (!inside) pending_ &= ~empty;
    // Runs Python, which may wait and take new bits: only after the line above, which would forget them.
    if (ended != nullptr) finish(*ended);
    if (keeps_time_order_ && chosen != nullptr) [[unlikely]] chosen = oldest_of(chosen);
    if (starving != nullptr) {
        starving->passed_over = 0;
        add(starving->lanes.first().consumer.stats().rescued);
        return starving;
    }
    return chosen;
}

// What caused the block that was chosen can be seen by now, if it could not when its input was looked at.
[[gnu::noinline]] Inbox::Link* Inbox::oldest_of(Link* chosen) {
    Nanoseconds oldest = peek_sent_ns(*chosen);
    for (const auto& owned : links_) {
        Link& link = *owned;
        if (link.rank != chosen->rank || link.ended || link.held) continue;
        const Nanoseconds sent = peek_sent_ns(link);
        if (sent >= 0 && (oldest < 0 || sent < oldest)) {
            oldest = sent;
            chosen = &link;
        }
    }
    return chosen;
}

void Inbox::finish(Link& link) {
    link.ended = true;
    --open_;
    if (!link.on_end.is_none()) survive_shutdown([&] { link.on_end(); });
}

Inbox::Link& Inbox::link_of(const std::string& pipeline) const {
    for (const auto& link : links_) {
        if (link->target->name == pipeline) return *link;
    }
    throw Corrupted("no input of this worker", pipeline);
}

void Inbox::hold(const std::string& pipeline, bool held) {
    Link& link = link_of(pipeline);
    link.held = held;
    if (!held) pending_ |= std::uint64_t{1} << link.bit;  // its bit was taken while nobody looked
}

bool Inbox::set_wanted(const std::string& pipeline, bool wanted) {
    Link& link = link_of(pipeline);
    if (link.intake == nullptr || !link.intake->can_hold()) return false;
    try {
        if (wanted) link.intake->let_go(link.lanes, monotonic_ns());
        else link.intake->hold();
    } catch (const Corrupted& damage) {
        refuse(link, damage);
    }
    pending_ |= std::uint64_t{1} << link.bit;
    bell_.ring(link.bit);  // another thread may sleep there
    return true;
}

void Inbox::regulate(const IntakeRules& rules) {
    if (!newest_) throw Corrupted("rules need an input that they belong to");
    Link& link = *newest_;
    link.intake = make_intake(rules, link.target->spec, link.target->name);
    link.intake->goes_on(!link.successors.empty());
}

// Out of the way of the hot path.
[[gnu::noinline]] Lanes::Lane* Inbox::claim_regulated(Link& link, Claim& claim) {
    Intake::Next next;
    if (!link.intake->take(link.lanes, monotonic_ns(), drains(link), next)) return nullptr;
    claim = next.claim;
    return next.lane;
}

[[gnu::noinline]] nb::object Inbox::build_made_up(Link& link, const Lanes::Lane& lane, const Claim& claim) {
    const Target& target = *link.target;
    nb::object payload = take(target.spec.new_array(claim.header.frames, nullptr));
    link.intake->make_up(lane.consumer.stats(), PyArray_DATA(reinterpret_cast<PyArrayObject*>(payload.ptr())),
                         claim.header.frames);
    BlockObject* block = make_block(payload.release().ptr(), nullptr, target.format.ptr(), target.decoder_or_null(),
                                    target.pipeline.ptr());
    if (block == nullptr) throw nb::python_error();
    stamp(*block, claim.header, monotonic_ns());
    return nb::steal(reinterpret_cast<PyObject*>(block));
}

[[gnu::noinline]] bool Inbox::serve_made_up(Link& link, Lanes::Lane& lane, const nb::object& block) {
    link.target->invoke(*clock_, reinterpret_cast<BlockObject*>(block.ptr()), lane.consumer.stats(), nullptr, monotonic_ns());
    home_.require(link.target->name);
    return true;
}

nb::object Inbox::build(Link& link, const Lanes::Lane& lane, const Claim& claim) {
    const Target& target = *link.target;
    const BlockHeader& header = claim.header;
    if (!target.spec.plausible(header.payload_bytes, header.frames)) {
        throw Corrupted("block " + std::to_string(header.sequence) + " claims " + std::to_string(header.payload_bytes) +
                        " bytes in " + std::to_string(header.frames) + " frames, which its format cannot have");
    }
    if (link.intake != nullptr) link.intake->remember(lane.consumer.pool().payload(header.buffer), header.frames);
    nb::object payload = build_payload(link, lane, header);
    nb::object metadata;
    if (header.metadata_bytes != 0) {
        const std::byte* memory = lane.consumer.pool().payload(header.buffer) + header.payload_bytes;
        metadata = take(PyBytes_FromStringAndSize(reinterpret_cast<const char*>(memory), header.metadata_bytes));
    }
    BlockObject* block = make_block(payload.release().ptr(), metadata.release().ptr(), target.format.ptr(),
                                    target.decoder_or_null(), target.pipeline.ptr());
    if (block == nullptr) throw nb::python_error();
    stamp(*block, header, claim.sent_ns);
    if (claim.word.attempt() != 0) block->flags |= flag_repeated;
    return nb::steal(reinterpret_cast<PyObject*>(block));
}

// Counts a view, and the most of them in the window of whoever reads that.
void Inbox::note_view(const Lanes::Lane& lane) noexcept {
    ConsumerStats& stats = lane.consumer.stats();
    add(stats.views);
    const auto kept = static_cast<std::uint64_t>(std::max<std::int64_t>(lane.kept->load(std::memory_order_relaxed), 0));
    const std::uint64_t window = lane.consumer.ring().header().window.load(std::memory_order_relaxed);
    if (stats.window.load(std::memory_order_relaxed) == window && kept <= stats.peak_views.load(std::memory_order_relaxed)) return;
    stats.window.store(window, std::memory_order_relaxed);
    stats.peak_views.store(kept, std::memory_order_relaxed);
}

// A view of a large array, as long as the consumer does not keep too many; else a copy.
nb::object Inbox::build_payload(Link& link, const Lanes::Lane& lane, const BlockHeader& header) {
    const PayloadSpec& spec = link.target->spec;
    const BufferPool& pool = lane.consumer.pool();
    const bool as_view = header.payload_bytes > private_copy_bytes && spec.kind != PayloadKind::bytes;
    if (as_view) {
        const auto limit = static_cast<std::int64_t>(lane.consumer.ring().views());
        if (lane.kept->load(std::memory_order_relaxed) < limit) {
            if (auto held = HeldBuffer::take(pool, header.buffer, process_, header.payload_bytes, lane.kept)) {
                note_view(lane);
                nb::object array = new_view(spec, header.frames, std::move(held));
                PyArray_CLEARFLAGS(reinterpret_cast<PyArrayObject*>(array.ptr()), NPY_ARRAY_WRITEABLE);
                return array;
            }
        }
        add(lane.consumer.stats().kept_copies);
        if (!link.on_views_exhausted.is_none()) {
            const nb::object tell = std::exchange(link.on_views_exhausted, nb::none());
            survive_shutdown([&] { tell(limit); });
        }
    }
    return take(spec.copy(pool.payload(header.buffer), header.payload_bytes, header.frames));
}

nb::object Inbox::build_or_discard(Link& link, Lanes::Lane& lane, const Claim& claim) {
    if (claim.slot == nullptr) [[unlikely]] return build_made_up(link, lane, claim);
    try {
        return build(link, lane, claim);
    } catch (...) {
        // No memory, or a damaged header: the slot must not stay claimed for ever.
        lane.consumer.discard(claim, Reason::failed);
        // Who receives may go on behind it.
        if (link.intake != nullptr) link.intake->note_lost();
        else lane.consumer.expect_a_gap();
        throw;
    }
}

[[gnu::flatten]] bool Inbox::serve_link(Link& link, bool slept) {
    try {
        return serve_one(link, slept);
    } catch (const Corrupted& damage) {
        refuse(link, damage);
    }
}

inline bool Inbox::serve_one(Link& link, bool slept) {
    Claim claim;
    Lanes::Lane* const lane = claim_next(link, claim);
    if (lane == nullptr) return false;
    link.passed_over = 0;
    if (link.target->discard) {
        lane->consumer.discard(claim, *link.target->discard);
        told_.ring_all();
        return true;
    }
    const nb::object block = build_or_discard(link, *lane, claim);
    if (claim.slot == nullptr) [[unlikely]] return serve_made_up(link, *lane, block);
    const Nanoseconds started = monotonic_ns();
    const Nanoseconds awake = std::max(slept ? awake_ns_ : started, claim.sent_ns);
    const Nanoseconds gil = slept ? std::max(gil_ns_, awake) : awake;
    ConsumerStats& stats = lane->consumer.stats();
    // A pause is nobody's delay: for a block that waited in one, the worker became free when it ended.
    const Nanoseconds resumed = std::min(link.let_out_ns(*lane), awake);
    clock_->free_since_ns = std::max(clock_->free_since_ns, resumed);
    link.target->context->origin = claim.word.position();
    const Handover handover{claim.header.sequence, claim.sent_ns, std::max(claim.sent_ns, resumed), awake, gil, started};
    const bool ok = link.target->invoke(*clock_, reinterpret_cast<BlockObject*>(block.ptr()), stats, &handover, started);
    home_.require(link.target->name);  // the module may have forked; the child ends here
    // After its results were sent: a worker that dies before this repeats the block, it never loses it.
    if (ok) {
        lane->consumer.finish(claim);
        add(stats.received);
    } else {
        lane->consumer.discard(claim, Reason::failed);
    }
    told_.ring_all();
    return true;
}

// Whoever rings meanwhile finds nobody asleep, and makes no system call either.
void Inbox::spin(const Bell& bell, Nanoseconds deadline_ns) const noexcept {
    const Nanoseconds spun_ns = monotonic_ns() + spin_ns_;
    const Nanoseconds until_ns = deadline_ns < 0 ? spun_ns : std::min(deadline_ns, spun_ns);
    while (!bell.rung() && monotonic_ns() < until_ns) {
    }
}

void Inbox::sleep(Nanoseconds deadline_ns, bool idle) {
    {
        const Bell bell = bell_;  // keeps the mapping, should the flow be closed meanwhile
        const WaitWithoutGil waiting;
        if (spin_ns_ != 0 && idle) spin(bell, deadline_ns);
        bell.wait(deadline_ns, idle);
        awake_ns_ = monotonic_ns();
    }
    gil_ns_ = monotonic_ns();
    check_interruption();
}

// Out of the way of the hot path. A block that comes meanwhile has rung, so the sleep that follows ends at once.
[[gnu::noinline, gnu::cold]] void Inbox::use_idleness(Nanoseconds now_ns, Nanoseconds deadline_ns) {
    if (deadline_ns > 0 && deadline_ns - now_ns < idle_margin_ns) return;
    idle_sleeps_ = 0;
    idled_ns_ = now_ns;
    const nb::object call = on_idle_;
    survive_shutdown([&] { call(); });
}

std::uint64_t Inbox::serve(Nanoseconds deadline_ns, std::uint64_t limit) {
    if (detached_) return 0;
    home_.require("serve");
    std::uint64_t served = 0;
    bool slept = false;
    look_everywhere(monotonic_ns());
    while (served < limit) {
        Link* link = pick(false);
        if (link != nullptr) {
            served += serve_link(*link, slept) ? 1 : 0;
            slept = false;
            look_everywhere(clock_->free_since_ns);
            if (!interrupted_) continue;
        }
        if (interrupted_) {
            interrupted_ = false;
            break;
        }
        if (served != 0 || deadline_ns == 0 || (open_ == 0 && deadline_ns < 0)) break;
        if (abort_ && abort_->load(std::memory_order_acquire)) break;
        if (pending_ != 0) continue;
        if (deadline_ns > 0 && monotonic_ns() >= deadline_ns) break;
        const Nanoseconds now = monotonic_ns();
        if (!on_idle_.is_none() && (++idle_sleeps_ >= sleeps_per_idle_call || now - idled_ns_ > idle_call_ns)) {
            use_idleness(now, deadline_ns);
        }
        sleep(look_up_at(deadline_ns, now, look_up_ns), true);
        slept = true;
        look_everywhere(gil_ns_);
    }
    return served;
}

bool Inbox::serve_one_inside() {
    if (detached_) return false;
    const std::size_t open = open_;
    look_everywhere(monotonic_ns());
    Link* link = pick(true);
    if (link == nullptr) return open_ != open;  // an end, too, may have made room
    return serve_link(*link, false);
}

// Out of the way of the hot path, which this is part of.
[[noreturn, gnu::noinline, gnu::cold]] static void refuse_late(const std::string& name, nb::handle timeout_s, const char* why) {
    raise_error("ReceiveTimeout", name + ": expected a block within " + nb::cast<std::string>(nb::str(timeout_s)) + " s, " + why);
}

// Flattened, as are the other hot calls: its parts are used elsewhere too, so the compiler would call them.
[[gnu::flatten]] nb::object Inbox::receive(nb::handle timeout_s) {
    const Nanoseconds entered = monotonic_ns();
    Nanoseconds deadline = -1;
    if (!timeout_s.is_none()) {
        const double seconds = PyFloat_AsDouble(timeout_s.ptr());
        if (PyErr_Occurred() != nullptr) PyErr_Clear();
        else if (seconds >= 0) deadline = entered + static_cast<Nanoseconds>(std::min(seconds, 1e9) * 1e9);
        if (deadline < 0) {
            raise_error("ConfigurationError", "receive: expected timeout_s to be a number of seconds >= 0, or None; got " +
                                                  nb::cast<std::string>(nb::repr(timeout_s)));
        }
    }
    require_open();
    const std::shared_ptr<Link> held_link = links_.front();
    Link& link = *held_link;
    bool mine = receive_mutex_.try_lock();
    while (!mine) {
        const Nanoseconds now = monotonic_ns();
        if (deadline >= 0 && now >= deadline) break;
        {
            const WaitWithoutGil waiting;
            const Nanoseconds until = deadline < 0 ? now + look_up_ns : std::min(deadline, now + look_up_ns);
            mine = receive_mutex_.try_lock_until(std::chrono::steady_clock::time_point(std::chrono::nanoseconds(until)));
        }
        if (!mine) check_interruption();
    }
    if (!mine) {
        refuse_late(link.target->name, timeout_s, "but another thread was receiving");
    }
    const std::unique_lock<std::timed_mutex> held(receive_mutex_, std::adopt_lock);
    try {
        return receive_one(link, entered, deadline, timeout_s);
    } catch (const Corrupted& damage) {
        refuse(link, damage);
    }
}

inline nb::object Inbox::receive_one(Link& link, Nanoseconds entered, Nanoseconds deadline, nb::handle timeout_s) {
    bool slept = false;
    Claim claim;
    Lanes::Lane* lane = nullptr;
    for (;;) {
        require_open();
        lane = claim_next(link, claim);
        if (lane != nullptr) break;
        if (at_end(link)) raise_error("EndOfStream", link.target->name + ": every block was received");
        const Nanoseconds now = monotonic_ns();
        if (deadline >= 0 && now >= deadline) {
            refuse_late(link.target->name, timeout_s, "got none");
        }
        const BellSeat seat(bell_);
        if (!seat) {
            // An event loop sleeps on the bell for its tasks.
            sleep_a_millisecond();
            check_interruption();
            continue;
        }
        if (seat.bell().take() != 0) continue;
        sleep(look_up_at(deadline, now, look_up_ns), true);
        slept = true;
        if (!detached_) look_everywhere(gil_ns_);
    }
    const Nanoseconds awake = std::max(slept ? awake_ns_ : entered, claim.sent_ns);
    return commit(link, *lane, claim, entered, awake, slept ? gil_ns_ : awake);
}

nb::object Inbox::try_receive(Nanoseconds entered_ns, Nanoseconds heard_ns) {
    require_open();
    look_everywhere(monotonic_ns());
    Link& link = *links_.front();
    try {
        Claim claim;
        Lanes::Lane* const lane = claim_next(link, claim);
        if (lane == nullptr) {
            if (at_end(link)) raise_error("EndOfStream", link.target->name + ": every block was received");
            return nb::none();
        }
        const Nanoseconds awake = std::max({entered_ns, heard_ns, claim.sent_ns});
        // An event loop has the GIL back before it can look at the clock: it cannot tell the two apart.
        return commit(link, *lane, claim, entered_ns, awake, heard_ns == 0 ? std::optional(awake) : std::nullopt);
    } catch (const Corrupted& damage) {
        refuse(link, damage);
    }
}

void Inbox::require_open() const {
    home_.require("receive");
    if (detached_ || (abort_ && abort_->load(std::memory_order_acquire))) {
        raise_error("PipelineClosed", "the flow was closed; nothing can be received any more");
    }
}

nb::object Inbox::commit(Link& link, Lanes::Lane& lane, const Claim& claim, Nanoseconds entered_ns, Nanoseconds awake_ns,
                         std::optional<Nanoseconds> gil_ns) {
    nb::object block = build_or_discard(link, lane, claim);
    if (claim.slot == nullptr) [[unlikely]] return block;
    lane.consumer.finish(claim);
    ConsumerStats& stats = lane.consumer.stats();
    const Nanoseconds started_ns = monotonic_ns();
    const Nanoseconds resumed_ns = std::min(link.let_out_ns(lane), started_ns);
    const Handover handover{claim.header.sequence, claim.sent_ns, std::max(claim.sent_ns, resumed_ns), awake_ns, gil_ns,
                            started_ns};
    note_started(stats, *link.target, handover, std::max(entered_ns, resumed_ns));
    // What the application does with it nobody knows: for the pipeline, it is finished.
    link.target->note_cycle(stats, handover, claim.header.frames, started_ns);
    add(stats.received);
    return block;
}

void Inbox::detach() {
    interrupt();
    detached_ = true;
    links_.clear();
    newest_.reset();
    on_idle_ = nb::none();
    told_.clear();
    open_ = 0;
    bell_ = Bell();
    segment_.reset();
}

}  // namespace steadyflow
