// The rings of one output, and the buffers that they share: a block goes into all of them, or into none yet.
//
// Invariants
// - What becomes of a block is decided for every ring before anything is done on one: a block that is refused, or has to
//   wait, has taken nothing and evicted nothing.
// - Only this end adds blocks, so room that was found stays until the block is handed over. Between decide() and
//   hand_over() nobody else may decide.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "buffers.hpp"
#include "consumer_bells.hpp"
#include "ring_producer.hpp"

namespace steadyflow {

// One caller at a time. Knows nothing of who calls: modules, applications, devices.
class OutputRings {
public:
    // What becomes of a block on one ring.
    enum class Verdict { publish, evict_then_publish, supersede, drop_newest, drop_failed };

    struct Link {
        std::string name;
        RingProducer producer;
        ConsumerBells consumers;
        Verdict verdict = Verdict::publish;
    };

    // The first ring that a block cannot enter as it is; none: everything is decided.
    struct Obstacle {
        enum class Kind { none, wait, full, time_is_up };
        Kind kind = Kind::none;
        std::shared_ptr<Link> link = nullptr;  // shared: whoever waits keeps it, whatever becomes of the output
        Nanoseconds deadline_ns = -1;          // until when to wait; -1: for as long as it takes
        Rule rule = {};

        explicit operator bool() const noexcept { return kind != Kind::none; }
    };

    OutputRings() = default;
    OutputRings(const OutputRings&) = delete;  // the producers know where the pool is
    OutputRings& operator=(const OutputRings&) = delete;

    // --- Before the flow starts, or after its end; these allocate. ---

    void set_pool(BufferPool pool) { pool_ = std::move(pool); }
    Link& add(std::string name, Ring ring) {
        RingProducer producer(std::move(ring), &pool_);
        links_.push_back(std::make_shared<Link>(Link{std::move(name), std::move(producer), {}}));
        return *links_.back();
    }
    Link* find(const std::string& name) const noexcept {
        for (const auto& link : links_) {
            if (link->name == name) return link.get();
        }
        return nullptr;
    }
    void clear() noexcept {
        links_.clear();
        pool_ = BufferPool();
    }

    BufferPool& pool() noexcept { return pool_; }
    const BufferPool& pool() const noexcept { return pool_; }
    bool empty() const noexcept { return links_.empty(); }
    const std::vector<std::shared_ptr<Link>>& links() const noexcept { return links_; }

    // --- A block. Wait-free, but for the waking of a sleeper; nothing is allocated. ---

    // `began_ns`: since when the block has been trying; times out where that is long ago.
    Obstacle decide(Nanoseconds began_ns) {
        for (const std::shared_ptr<Link>& link : links_) {
            RingProducer& producer = link->producer;
            const Rule rule = producer.ring().rule();
            if (producer.abandoned()) {
                link->verdict = Verdict::drop_failed;
                continue;
            }
            if (rule.kind == RuleKind::latest) [[unlikely]] {
                link->verdict = Verdict::supersede;
                continue;
            }
            if (producer.has_room()) [[likely]] {
                producer.note_full(false);
                link->verdict = Verdict::publish;
                continue;
            }
            producer.note_full(true);
            if (Obstacle obstacle = decide_full(link, rule, began_ns)) return obstacle;
        }
        return {};
    }

    // The same for who cannot wait, nor be told: where a rule would do either, the block is dropped as the newest.
    void decide_at_once() {
        for (const std::shared_ptr<Link>& link : links_) {
            RingProducer& producer = link->producer;
            const Rule rule = producer.ring().rule();
            const bool full = !producer.has_room();
            if (rule.kind != RuleKind::latest) producer.note_full(full);
            link->verdict = producer.abandoned()                  ? Verdict::drop_failed
                            : rule.kind == RuleKind::latest       ? Verdict::supersede
                            : !full                               ? Verdict::publish
                            : rule.kind == RuleKind::drop_oldest ? Verdict::evict_then_publish
                                                                  : Verdict::drop_newest;
        }
    }

    // Counts a block for which there is no buffer as dropped on every ring.
    void drop_everywhere(const BlockHeader& header) noexcept {
        for (const std::shared_ptr<Link>& link : links_) {
            link->producer.drop(Reason::failed, header.payload_bytes);
        }
    }

    // Makes the room that was decided upon; returns the branches that the block goes into, as bits of its buffer.
    std::uint32_t make_room() noexcept {
        std::uint32_t branches = 0;
        for (const std::shared_ptr<Link>& link : links_) {
            RingProducer& producer = link->producer;
            switch (link->verdict) {
                case Verdict::evict_then_publish:
                    producer.evict_down_to(producer.ring().buffer_size(), Reason::oldest);
                    break;
                case Verdict::supersede: producer.evict_down_to(1, Reason::superseded); break;
                case Verdict::publish: break;
                default: continue;
            }
            branches |= std::uint32_t{1} << producer.ring().branch();
        }
        return branches;
    }

    // Publishes the block, which lies in `header.buffer` if any branch takes it, or counts it as dropped. Returns whether all
    // have taken it. `loan_copied`: it was lent, and could not be sent as it lay. Throws Corrupted, with the name of the
    // pipeline, if a ring has no slot, which only damage can cause.
    bool hand_over(const BlockHeader& header, std::uint32_t branches, Nanoseconds sent_ns, std::uint64_t origin = 0,
                   bool loan_copied = false) {
        if (branches != 0) pool_.set_branches(header.buffer, branches);
        bool queued = true;
        for (const std::shared_ptr<Link>& link : links_) {
            RingProducer& producer = link->producer;
            switch (link->verdict) {
                case Verdict::drop_newest: producer.drop(Reason::newest, header.payload_bytes); break;
                case Verdict::drop_failed: producer.drop(Reason::failed, header.payload_bytes); break;
                default:
                    if (!producer.publish(header, sent_ns, origin)) refuse_full_ring(link->name);
                    if (loan_copied) steadyflow::add(producer.ring().header().loan_copies);
                    link->consumers.ring_one();
                    continue;
            }
            queued = false;
        }
        return queued;
    }

    // After the last block.
    void end() noexcept {
        for (const std::shared_ptr<Link>& link : links_) {
            link->producer.end();
            link->consumers.ring_all();
        }
    }

private:
    static Obstacle decide_full(const std::shared_ptr<Link>& link, Rule rule, Nanoseconds began_ns) {
        switch (rule.kind) {
            case RuleKind::drop_oldest: link->verdict = Verdict::evict_then_publish; return {};
            case RuleKind::drop_newest: link->verdict = Verdict::drop_newest; return {};
            case RuleKind::fail: return {Obstacle::Kind::full, link, -1, rule};
            default: break;
        }
        const Nanoseconds deadline_ns =
            rule.timeout_us == 0 ? -1 : began_ns + static_cast<Nanoseconds>(rule.timeout_us) * 1000;
        if (deadline_ns < 0 || monotonic_ns() < deadline_ns) return {Obstacle::Kind::wait, link, deadline_ns, rule};
        switch (rule.then) {
            case AfterWait::drop_newest: link->verdict = Verdict::drop_newest; return {};
            case AfterWait::drop_oldest: link->verdict = Verdict::evict_then_publish; return {};
            default: return {Obstacle::Kind::time_is_up, link, deadline_ns, rule};
        }
    }

    // Out of the way of the hot path, which this is part of.
    [[noreturn, gnu::noinline, gnu::cold]] static void refuse_full_ring(const std::string& pipeline) {
        throw Corrupted("every slot is occupied, although there is room", pipeline);
    }

    BufferPool pool_;
    std::vector<std::shared_ptr<Link>> links_;
};

}  // namespace steadyflow
