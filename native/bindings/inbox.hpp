// The receiving side of a worker, or of one open end: waits on the bell, serves inputs in order of priority.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "consumer_bells.hpp"
#include "held_buffer.hpp"
#include "intake.hpp"
#include "lanes.hpp"
#include "worker.hpp"

namespace steadyflow {

class Delivery;

class Inbox {
public:
    Inbox(std::shared_ptr<Segment> segment, std::uint64_t bell_offset, unsigned process, AbortFlag abort);

    // Adds an input, behind those of its rank and before those of lower ones. Returns its bell bit: the one that is given, or
    // else that of its place. GIL held, between two blocks.
    unsigned add_input(std::shared_ptr<Segment> segment, std::uint64_t ring_offset, std::uint64_t pool_offset,
                 std::shared_ptr<Segment> bell_segment, std::uint64_t producer_bell_offset, unsigned consumer,
                 unsigned rank, std::shared_ptr<Target> target, nb::object on_end, nb::object on_views_exhausted,
                 std::optional<unsigned> bit);
    // What comes in an input after all that comes in its ring, of which the end is no end then. GIL held, between two blocks.
    void add_successor(const std::string& pipeline, std::shared_ptr<Segment> segment, std::uint64_t ring_offset,
                       std::uint64_t pool_offset, std::shared_ptr<Segment> bell_segment, std::uint64_t producer_bell_offset,
                       unsigned consumer);
    // Serves inputs of one rank in the order of sending, also where blocks come while it looks: what was sent because of another block is
    // served after that one. Costs a second look.
    void keep_time_order() noexcept { keeps_time_order_ = true; }
    // Forgets an input that has ended. GIL held, between two blocks.
    void remove(const std::string& pipeline);

    // Adds a lane to the input that was added last: the ring of another replica that sends into it. GIL held, before start.
    void add_lane(std::shared_ptr<Segment> segment, std::uint64_t ring_offset, std::uint64_t pool_offset,
                  std::shared_ptr<Segment> bell_segment, std::uint64_t producer_bell_offset, unsigned consumer);
    // Takes the lanes' blocks of the input that was added last in the order of what the replicas make them from.
    void restore_order_of(std::shared_ptr<Segment> segment, std::uint64_t ring_offset);
    // This worker's results are put into order there: it has to hear of each block that is finished.
    void tell_finished(std::shared_ptr<Segment> bell_segment, std::uint64_t bell_offset, unsigned bit);

    // Serves up to `limit` blocks. Waits for the first until `deadline_ns` (negative: no limit; 0: not at all).
    // Returns how many were served; 0 after a deadline, an interrupt, or when every input has ended.
    std::uint64_t serve(Nanoseconds deadline_ns, std::uint64_t limit);

    // One block, or the end, of an input that may be served inside a waiting send(); false if there is none. Only modules
    // after the waiting one in the order of the flow are: so every call stack grows downstream, and the waiter that is
    // furthest downstream of all waits for a module that its worker may serve. Nobody waits for ever.
    bool serve_one_inside();

    // Open end: the oldest block. Raises ReceiveTimeout, EndOfStream, PipelineClosed.
    nb::object receive(nb::handle timeout_s);

    // The same for an event loop, which must not wait: None if there is no block. `entered_ns`: when it was asked for;
    // `heard_ns`: when the loop heard the bell that woke the caller, or 0.
    nb::object try_receive(Nanoseconds entered_ns, Nanoseconds heard_ns);

    // The same as serve() for a worker with an event loop: the next block of a module that is not at work, claimed for it;
    // null if there is none. Calls `on_end` of inputs that have ended.
    std::unique_ptr<Delivery> next_delivery();

    // Takes what rang from the bell.
    void collect() noexcept;

    // What the input that was added last lets through, and when. GIL held, before start.
    void regulate(const IntakeRules& rules);

    // An input that is held is not served: its pipeline fills, and the rule decides. The worker's thread.
    void hold(const std::string& pipeline, bool held);

    // `call` is called, now and then, when serve() has nothing to do and is about to sleep for long enough; None: no more.
    void on_idle(nb::object call) {
        on_idle_ = std::move(call);
        idle_sleeps_ = 0;
    }

    // How long serve() looks for a block before it sleeps; 0: not at all.
    void spin_for(Nanoseconds spin_ns) noexcept { spin_ns_ = spin_ns; }

    // An input that is not wanted keeps its newest frames, and drops the others. False if it cannot. GIL held, any thread.
    bool set_wanted(const std::string& pipeline, bool wanted);

    // Any thread: makes serve() return soon.
    void interrupt() const noexcept {
        if (bell_) bell_.ring(control_bit);
    }

    // Sleeps on the bell, without the GIL, until something rings or the deadline passes. Raises on a signal's exception.
    // `idle`: a block that comes is taken.
    void sleep(Nanoseconds deadline_ns, bool idle);

    unsigned process() const noexcept { return process_; }
    bool owned_by_this_thread() const noexcept { return owner_ == std::this_thread::get_id(); }
    // In an event loop, a send() of the worker's thread never waits.
    void adopt(bool in_event_loop) noexcept {
        owner_ = std::this_thread::get_id();
        in_event_loop_ = in_event_loop;
    }
    bool in_event_loop() const noexcept { return in_event_loop_; }
    const Bell& bell() const noexcept { return bell_; }
    std::size_t open_inputs() const noexcept { return open_; }
    const std::shared_ptr<WorkerClock>& clock() const noexcept { return clock_; }
    void detach();

private:
    friend class Delivery;

    struct Link : std::enable_shared_from_this<Link> {
        Link(Lanes ends, std::shared_ptr<Target> where, nb::object ended_call, nb::object exhausted_call,
             unsigned class_rank, unsigned bell_bit)
            : lanes(std::move(ends)),
              target(std::move(where)),
              on_end(std::move(ended_call)),
              on_views_exhausted(std::move(exhausted_call)),
              rank(class_rank),
              bit(bell_bit) {}

        // When what it kept back was let out last: by a resume, or because the module wants it again.
        Nanoseconds let_out_ns(const Lanes::Lane& lane) const noexcept {
            const Nanoseconds resumed = lane.consumer.ring().resumed_ns();
            return intake == nullptr ? resumed : std::max(resumed, intake->let_go_ns());
        }

        Lanes lanes;
        std::deque<Lanes> successors;  // what follows them, in this order
        std::deque<Lanes> kept_back;   // what came before them, where the intake still has blocks of it
        std::unique_ptr<Intake> intake;  // null: everything at once
        std::shared_ptr<Target> target;
        nb::object on_end;
        nb::object on_views_exhausted;  // callable(limit), called once; then None
        unsigned rank;
        unsigned bit;
        std::uint32_t passed_over = 0;
        bool ended = false;
        bool held = false;
    };

    [[noreturn]] static void refuse(Link& link, const Corrupted& damage);
    void look_everywhere(Nanoseconds now_ns);
    Link* pick(bool inside);
    Link* oldest_of(Link* chosen);
    Link& link_of(const std::string& pipeline) const;
    // Claims what comes next; audio that was made up has no slot. Null if there is nothing.
    Lanes::Lane* claim_next(Link& link, Claim& claim) {
        Lanes::Lane* lane = claim_here(link, claim);
        while (lane == nullptr && follow(link)) lane = claim_here(link, claim);
        return lane;
    }
    static Lanes::Lane* claim_here(Link& link, Claim& claim) {
        return link.intake == nullptr ? link.lanes.claim(claim) : claim_regulated(link, claim);
    }
    static Lanes::Lane* claim_regulated(Link& link, Claim& claim);
    Nanoseconds peek_sent_ns(Link& link) {
        Nanoseconds sent = peek_here(link);
        while (sent < 0 && follow(link)) sent = peek_here(link);
        return sent;
    }
    static Nanoseconds peek_here(Link& link) {
        return link.intake == nullptr ? link.lanes.peek_sent_ns() : link.intake->peek_sent_ns(link.lanes, drains(link));
    }
    // Whether nothing comes any more.
    static bool at_end(Link& link) {
        if (!link.successors.empty()) return false;
        return link.intake == nullptr ? link.lanes.at_end() : link.intake->at_end(link.lanes);
    }
    // Goes on with what follows, where the ring has ended. Nobody may have a block of the link in hand, but its intake.
    static bool follow(Link& link) { return !link.successors.empty() && link.lanes.at_end() && (move_on(link), true); }
    static void move_on(Link& link);
    static bool drains(const Link& link) noexcept { return link.target->discard.has_value(); }
    nb::object build_made_up(Link& link, const Lanes::Lane& lane, const Claim& claim);
    bool serve_made_up(Link& link, Lanes::Lane& lane, const nb::object& block);
    bool serve_link(Link& link, bool slept);
    nb::object build(Link& link, const Lanes::Lane& lane, const Claim& claim);
    nb::object build_payload(Link& link, const Lanes::Lane& lane, const BlockHeader& header);
    static void note_view(const Lanes::Lane& lane) noexcept;
    nb::object build_or_discard(Link& link, Lanes::Lane& lane, const Claim& claim);
    RingConsumer consumer_of(std::shared_ptr<Segment> segment, std::uint64_t ring_offset, std::uint64_t pool_offset,
                             std::shared_ptr<Segment> bell_segment, std::uint64_t producer_bell_offset,
                             unsigned consumer) const;
    void finish(Link& link);
    void use_idleness(Nanoseconds now_ns, Nanoseconds deadline_ns);
    void spin(const Bell& bell, Nanoseconds deadline_ns) const noexcept;
    void require_open() const;
    bool serve_one(Link& link, bool slept);
    nb::object receive_one(Link& link, Nanoseconds entered, Nanoseconds deadline, nb::handle timeout_s);
    // Commits a block of an open end. `gil_ns`: when the GIL was back, or nothing where nobody can tell.
    nb::object commit(Link& link, Lanes::Lane& lane, const Claim& claim, Nanoseconds entered_ns, Nanoseconds awake_ns,
                      std::optional<Nanoseconds> gil_ns);
    bool link_ready(const Link& link) const noexcept { return (pending_ >> link.bit & 1) != 0; }

    std::shared_ptr<Segment> segment_;
    Bell bell_;
    unsigned process_;
    AbortFlag abort_;
    HomeProcess home_;
    std::shared_ptr<WorkerClock> clock_ = std::make_shared<WorkerClock>();
    std::vector<std::shared_ptr<Link>> links_;  // by rank; shared: a waiting receive() keeps its link, whatever close() does
    std::shared_ptr<Link> newest_;  // what it is made of is still being told
    ConsumerBells told_;  // who puts this worker's results in order
    std::size_t open_ = 0;
    std::uint64_t pending_ = 0;  // bits taken from the bell, not served to the end yet
    bool interrupted_ = false;
    bool keeps_time_order_ = false;
    Nanoseconds awake_ns_ = 0;   // when the last sleep ended
    Nanoseconds gil_ns_ = 0;     // when the GIL was back after it
    Nanoseconds looked_ns_ = 0;  // when every input was looked at, whether its bell rang or not
    nb::object on_idle_ = nb::none();
    unsigned idle_sleeps_ = 0;  // since it was called
    Nanoseconds spin_ns_ = 0;
    Nanoseconds idled_ns_ = 0;  // when that was
    std::thread::id owner_;
    bool in_event_loop_ = false;
    std::timed_mutex receive_mutex_;  // several threads may receive; one sleeps on the bell
    bool detached_ = false;
};

}  // namespace steadyflow
