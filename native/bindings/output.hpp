// The sending end of a port: one copy of the payload into a buffer for all rings, one call for each fused module.
//
// Several threads may send. The GIL serialises them: it is held from the decision to the last publish, and given up only
// while waiting for room, after which everything is decided again.
#pragma once

#include <optional>
#include <vector>

#include "bell.hpp"
#include "device_callback.hpp"
#include "held_buffer.hpp"
#include "loan.hpp"
#include "output_rings.hpp"
#include "worker.hpp"

namespace steadyflow {

class Inbox;

// A wait for room ends now and then, so that nothing depends on a ring alone: half of the buffer has to be claimed before
// the consumer rings, and it may not get that far.
inline constexpr Nanoseconds look_again_ns = 50'000'000;

// A pipeline inside one worker: no ring, the block is handed over by a call.
struct FusedLink {
    std::shared_ptr<Target> target;
    Ring ring;  // statistics only
    std::shared_ptr<WorkerClock> clock;
};

class Output {
public:
    Output() = default;
    ~Output() { let_go_of_device(); }
    Output(const Output&) = delete;
    Output& operator=(const Output&) = delete;

    // Control plane, between two blocks. GIL held.
    void configure(std::string name, PayloadSpec spec, nb::object format, nb::object prepare, nb::object context_owner,
                   AbortFlag abort);
    // The rings that are added from now on share these buffers. `pipeline`: one of them, to be named where they are damaged.
    void set_pool(std::shared_ptr<Segment> segment, std::uint64_t offset, const std::string& pipeline);
    void set_bell(std::shared_ptr<Segment> segment, std::uint64_t offset);
    void set_inbox(nb::object inbox_owner);
    void add_ring(std::string name, std::shared_ptr<Segment> segment, std::uint64_t offset,
                  std::shared_ptr<Segment> bell_segment, std::uint64_t bell_offset, unsigned bit);
    // Adds a consumer that competes for the blocks of that ring. Before the flow starts.
    void add_consumer(const std::string& name, std::shared_ptr<Segment> bell_segment, std::uint64_t bell_offset,
                      unsigned bit);
    // The ring of that name shares its room with one of another output, by DropByPriority. Before the flow starts, or while deferring.
    void share_room(const std::string& name, unsigned rank, std::shared_ptr<Segment> segment, std::uint64_t offset,
                    unsigned others_rank);
    // What is rung when the ring of that name becomes full, where its header says so. As share_room().
    void set_alarm(const std::string& name, std::shared_ptr<Segment> bell_segment, std::uint64_t bell_offset);
    // Moves a ring's consumer to another bell, for an open end whose worker comes later. Before the flow starts.
    void set_consumer_bell(const std::string& name, std::shared_ptr<Segment> bell_segment, std::uint64_t bell_offset,
                           unsigned bit);
    void add_fused(std::shared_ptr<FusedLink> link);
    // Ends a pipeline, which gets no block any more, and forgets it; false if there is none of that name.
    bool remove(const std::string& name);
    // From here to commit(), rings that are added and removed take no place yet: then all at once, between two blocks of whatever
    // thread sends. Where a device does, between two of its cycles: waits for that without the GIL; raises StateError, and nothing
    // has changed, where it does not run.
    void defer() noexcept { deferring_ = true; }
    void commit();
    // Instead: nothing of it takes place.
    void roll_back() noexcept {
        deferring_ = false;
        draft_.reset();
        removed_.clear();
    }

    bool send(nb::handle data) { return send_object(data.ptr(), 0); }
    // `sent_hint_ns`: a time just read, or 0.
    bool send_object(PyObject* data, Nanoseconds sent_hint_ns);

    // Sends a block whose stamps and flags are its own alone: nothing is inherited from the one that the module is at.
    bool pass_on(nb::handle data);

    // Whether a block of this size sent now would enter every pipeline as it is, without waiting, and without an eviction. Room
    // that was found stays until something is sent. Raises what send() raises before it looks at the block.
    bool has_room(std::uint32_t bytes, std::uint32_t frames) { return !ready_to_send() || rings_.has_room({bytes, frames}); }
    // The same as 0; where there is none, when to look again, and the bell rings once half of what waits in the way was claimed.
    Nanoseconds seek_room(std::uint32_t bytes, std::uint32_t frames) {
        return ready_to_send() ? rings_.seek_room({bytes, frames}, monotonic_ns() + look_again_ns) : 0;
    }

    // send() for an event loop, which must not wait: True, False, or a SendAttempt where send() would wait.
    nb::object attempt(nb::handle self, nb::handle data);

    // For a Loan: checks how long the block may be, gives the memory, and sends what is in it.
    std::uint32_t check_loan(nb::handle frames) const;
    LentBlock lend(std::uint32_t frames);
    bool send_lent(LentBlock& block);

    // From here on the device sends, in blocks of at most `block_frames`, and nobody else. Before the device runs.
    void feed_from(std::shared_ptr<DeviceStream> device, std::uint32_t block_frames);

    // No block follows: tells every ring's consumers. Idempotent.
    void end();
    // From now on send() raises PipelineClosed with this text; a waiting send() gives up.
    void close(std::string reason);
    bool is_connected() const noexcept { return !rings_.empty() || !fused_.empty(); }
    bool has_ended() const noexcept { return ended_; }
    // How many blocks wait at this moment, in the pipeline in which the most do; 0 where blocks are handed over by a call.
    std::uint64_t waiting_blocks() const;
    // How many blocks were dropped because what was to take them has failed, of all pipelines; but for those handed over by a call.
    std::uint64_t failed_blocks() const;
    void detach();
    const Bell& bell() const;

private:
    friend class SendAttempt;

    using Link = OutputRings::Link;

    struct Stamps {
        std::optional<std::int64_t> timestamp_ns;
        std::optional<std::uint64_t> first_frame;
        std::uint16_t flags = 0;
        const void* metadata = nullptr;
        std::uint16_t metadata_bytes = 0;
        nb::object metadata_object;  // owned: another thread may decode the block's metadata while this one waits
    };

    // A block on its way into the port: from the first look at it until its fate on every ring is decided.
    struct Outgoing {
        PayloadView view;
        Stamps stamps;
        nb::object payload;         // what `view` shows, where it was made for this block
        LentBlock* lent = nullptr;  // or the block of a loan, which `view` is of
        BlockHeader header{};
        bool keeps_place = false;  // as long as the block that it was made from, and so at the same place in its stream
        Nanoseconds sent_ns = 0;
    };

    bool is_sent_by_device() const noexcept { return device_ && !device_->closed(); }
    // The rings that may be changed now.
    OutputRings::Links& changing();
    void let_go_of_device();
    bool match_block(PyObject* data, PayloadView& view, Stamps& stamps) const noexcept;
    // Whether there is anybody to send to. Raises where nothing may be sent any more.
    bool ready_to_send() const;
    void prepare(PyObject* data, Outgoing& block) const;
    // `inherits`: what the block does not say itself, it has from the one that the module is at.
    bool deliver(Outgoing& block, Nanoseconds sent_hint_ns, bool inherits = true);
    void begin(Outgoing& block, Nanoseconds sent_hint_ns, bool inherits = true) const;
    bool complete(Outgoing& block);
    void decide_all(Outgoing& block);
    bool publish(const PayloadView& view, const Stamps& stamps, const BlockHeader& header, Nanoseconds sent_ns,
                 LentBlock* lent);
    std::uint32_t copy_into_buffer(BufferPool& pool, const PayloadView& view, const Stamps& stamps);
    void deliver_fused(const PayloadView& view, const Stamps& stamps, BlockHeader header, Nanoseconds sent_ns);
    // Raises where the block is refused.
    OutputRings::Obstacle decide(const Outgoing& block, Nanoseconds began_ns, bool keeps_pace);
    void wait_for_room(const OutputRings::Obstacle& obstacle, BlockSize size);
    void require_open() const;
    Link& ring_named(const std::string& name) const;

    std::string name_;
    PayloadSpec spec_;
    nb::object format_;
    nb::object prepare_;  // callable(data) -> (payload, timestamp_ns, first_frame, flags, metadata) or raises
    nb::object context_owner_;
    ModuleContext* context_ = nullptr;
    AbortFlag abort_;
    Bell bell_;
    nb::object inbox_owner_;
    Inbox* inbox_ = nullptr;
    OutputRings rings_;
    std::vector<std::shared_ptr<FusedLink>> fused_;
    HeldBuffer::Count lent_ = std::make_shared<std::atomic<std::int64_t>>(0);  // buffers on loan, or kept after one
    std::shared_ptr<DeviceStream> device_;  // sends here, by itself
    bool deferring_ = false;
    std::optional<OutputRings::Links> draft_;  // what its rings are to be
    OutputRings::Links removed_;               // those of them that are to end
    HomeProcess home_;
    std::uint64_t next_frame_ = 0;
    bool ended_ = false;
    std::string closed_;
};

}  // namespace steadyflow
