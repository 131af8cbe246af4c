#include "delivery.hpp"

#include <algorithm>
#include <utility>

namespace steadyflow {
namespace {

// Blocks for modules that have ended, dropped in one call: after that many, the loop gets a turn.
constexpr unsigned discards_at_once = 256;

}  // namespace

Delivery::Delivery(std::shared_ptr<Inbox::Link> link, Lanes::Lane& lane, const Claim& claim, nb::object block) noexcept
    : link_(std::move(link)), lane_(lane), claim_(claim), block_(std::move(block)), taken_ns_(monotonic_ns()) {
    context().busy = true;
}

Delivery::~Delivery() { release(); }

void Delivery::begin() {
    started_ns_ = monotonic_ns();
    if (!made_up()) {
        const Nanoseconds resumed_ns = std::min(link_->let_out_ns(lane_), started_ns_);
        const Nanoseconds sent_ns = claim_.sent_ns;
        // An event loop has the GIL back before it can look at the clock: it cannot tell the two apart.
        handover_ = {claim_.header.sequence, sent_ns,      std::max(sent_ns, resumed_ns), std::max(taken_ns_, sent_ns),
                     std::nullopt,           started_ns_};
        note_started(lane_.consumer.stats(), *link_->target, handover_, std::max(context().free_since_ns, resumed_ns));
    }
    context().begin(*reinterpret_cast<const BlockObject*>(block_.ptr()));
    context().waited_ns = 0;
}

void Delivery::returned() {
    const Nanoseconds finished = monotonic_ns();
    const Nanoseconds busy = std::max<Nanoseconds>(finished - started_ns_ - context().waited_ns, 0);
    ConsumerStats& stats = lane_.consumer.stats();
    stats.busy.record(busy);
    if (!made_up()) link_->target->note_cycle(stats, handover_, claim_.header.frames, finished);
    ++context().calls;
    context().busy_ns += busy;
}

nb::object Delivery::output_for(nb::handle result) const {
    link_->target->output_for(result);
    return link_->target->result_port;
}

void Delivery::finish() {
    if (!held_) return;
    release();
    if (made_up()) return;
    in_pipeline(link_->target->name, [&] { lane_.consumer.finish(claim_); });
    add(lane_.consumer.stats().received);
}

void Delivery::fail() {
    if (!held_) return;
    release();
    link_->target->discard = Reason::failed;
    if (made_up()) return;
    in_pipeline(link_->target->name, [&] { lane_.consumer.discard(claim_, Reason::failed); });
}

void Delivery::release() noexcept {
    if (!held_) return;
    held_ = false;
    context().active = false;
    context().busy = false;
    context().free_since_ns = monotonic_ns();
}

std::unique_ptr<Delivery> Inbox::next_delivery() {
    look_everywhere(monotonic_ns());
    for (unsigned discarded = 0; !detached_;) {
        const std::size_t open = open_;
        Link* link = pick(false);
        if (link == nullptr) {
            if (open_ == open) return nullptr;
            continue;  // an input has ended; there may be more
        }
        // An input ended in pick(), and with it the module of this block: it is at work now, with its last call.
        if (link->target->context->busy) continue;
        try {
            Claim claim;
            Lanes::Lane* const lane = claim_next(*link, claim);
            if (lane == nullptr) continue;
            link->passed_over = 0;
            if (!link->target->discard) {
                nb::object block = build_or_discard(*link, *lane, claim);
                return std::make_unique<Delivery>(link->shared_from_this(), *lane, claim, std::move(block));
            }
            lane->consumer.discard(claim, *link->target->discard);
        } catch (const Corrupted& damage) {
            refuse(*link, damage);
        }
        if (++discarded == discards_at_once) {
            bell_.ring(link->bit);
            return nullptr;
        }
    }
    return nullptr;
}

}  // namespace steadyflow
