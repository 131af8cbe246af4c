#include "send_attempt.hpp"

#include <algorithm>
#include <utility>

namespace steadyflow {

SendAttempt::SendAttempt(nb::object output, nb::object data, Output::Outgoing block)
    : output_owner_(std::move(output)),
      output_(*nb::cast<Output*>(output_owner_)),
      data_(std::move(data)),
      block_(std::move(block)),
      began_ns_(block_.sent_ns) {}

SendAttempt::~SendAttempt() { note_wait(); }

nb::object SendAttempt::settle() {
    if (full_) {
        note_wait();
        output_.require_open();
        block_.sent_ns = monotonic_ns();
        if (paced_) began_ns_ = block_.sent_ns;  // until it was due, it has not waited for room
    }
    while (const OutputRings::Obstacle obstacle = output_.decide(block_, began_ns_, true)) {
        const std::shared_ptr<OutputRings::Link>& link = obstacle.link;
        if (output_.abort_ && output_.abort_->load(std::memory_order_acquire)) {
            raise_error("PipelineClosed", link->name + ": the flow was stopped while this send waited for room");
        }
        in_pipeline(link->name, [&] { link->producer.ring().verify(); });
        paced_ = obstacle.kind == OutputRings::Obstacle::Kind::pace;
        if (!paced_) {
            link->producer.request_wake();
            // Never cancelled: others of the same loop may wait for the same ring, and one ring too many does no harm.
            if (link->producer.has_room(RingProducer::size_of(block_.header))) continue;
        }
        waiting_since_ns_ = monotonic_ns();
        if (!paced_) link->producer.begin_blocked(waiting_since_ns_);
        until_ns_ = waiting_since_ns_ + look_again_ns;
        if (obstacle.deadline_ns >= 0) until_ns_ = std::min(until_ns_, obstacle.deadline_ns);
        full_ = link;
        return nb::none();
    }
    return nb::bool_(output_.complete(block_));
}

void SendAttempt::note_wait() noexcept {
    if (!full_) return;
    const Nanoseconds blocked = monotonic_ns() - waiting_since_ns_;
    if (paced_) full_->producer.note_paced(blocked);
    else full_->producer.note_blocked(blocked);
    if (output_.context_ != nullptr) output_.context_->waited_ns += blocked;
    full_.reset();
}

nb::object Output::attempt(nb::handle self, nb::handle data) {
    if (!ready_to_send()) return nb::bool_(true);
    Outgoing block;
    prepare(data.ptr(), block);
    begin(block, 0);
    auto attempt = std::make_unique<SendAttempt>(nb::borrow(self), nb::borrow(data), std::move(block));
    nb::object settled = attempt->settle();
    return settled.is_none() ? nb::cast(std::move(attempt)) : settled;
}

}  // namespace steadyflow
