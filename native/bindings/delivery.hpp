// A block in the hands of an event loop: claimed, given to a module whose call may take many turns of the loop, and
// finished after it. The counterpart of Inbox::serve, which does all of that in one call.
#pragma once

#include "inbox.hpp"

namespace steadyflow {

class Delivery {
public:
    // The module counts as at work from here on, so nothing else is taken for it.
    Delivery(std::shared_ptr<Inbox::Link> link, Lanes::Lane& lane, const Claim& claim, nb::object block) noexcept;
    ~Delivery();
    Delivery(const Delivery&) = delete;
    Delivery& operator=(const Delivery&) = delete;

    const nb::object& call() const noexcept { return link_->target->call; }
    const nb::object& block() const noexcept { return block_; }

    // Right before the module is called: what it sends from here on inherits the block's stamps.
    void begin();
    // Right after its call has come back, before its result is sent.
    void returned();
    // The port that a result goes to. Raises ConfigurationError if the module has not exactly one output.
    nb::object output_for(nb::handle result) const;

    // After everything was sent: a worker that dies before this repeats the block, it never loses it.
    void finish();
    // The module has failed: this block and all that still comes for this input are dropped.
    void fail();

private:
    ModuleContext& context() const noexcept { return *link_->target->context; }
    // Audio in place of what is missing: it was never in the ring.
    bool made_up() const noexcept { return claim_.slot == nullptr; }
    void release() noexcept;

    std::shared_ptr<Inbox::Link> link_;
    Lanes::Lane& lane_;  // the link's
    Claim claim_;
    nb::object block_;
    Nanoseconds taken_ns_;
    Nanoseconds started_ns_ = 0;
    Handover handover_;
    bool held_ = true;
};

}  // namespace steadyflow
