// A send in an event loop that found a pipeline full: decided again whenever the loop looks, by the code that send() waits
// with, so that every rule means the same in both.
//
// No ring of room is lost. settle() first asks the consumer to ring (RingProducer::request_wake, seq_cst), then looks for
// room once more, and only then says that there is none: a claim that this look did not see comes after it, sees the
// request, and rings. The loop arms the bell before it sleeps (Bell::arm), and that sees every ring before it.
#pragma once

#include "output.hpp"

namespace steadyflow {

class SendAttempt {
public:
    SendAttempt(nb::object output, nb::object data, Output::Outgoing block);
    ~SendAttempt();
    SendAttempt(const SendAttempt&) = delete;
    SendAttempt& operator=(const SendAttempt&) = delete;

    // True: queued. False: dropped by the rule. None: there is no room yet; look again at a ring of the bell, and at
    // until_ns(). Raises what send() raises. Never waits.
    nb::object settle();

    // When to look again, whatever rings: the deadline of the rule, or a little later, as a waiting send() does.
    Nanoseconds until_ns() const noexcept { return until_ns_; }

private:
    void note_wait() noexcept;

    nb::object output_owner_;
    Output& output_;
    nb::object data_;  // what the payload's view shows must stay as it is
    Output::Outgoing block_;
    Nanoseconds began_ns_;  // to wait for room
    Nanoseconds until_ns_ = -1;
    std::shared_ptr<OutputRings::Link> full_;  // the ring that it waits for, since waiting_since_ns_
    bool paced_ = false;                       // and not for room: until the block is due
    Nanoseconds waiting_since_ns_ = 0;
};

}  // namespace steadyflow
