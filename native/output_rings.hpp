// The rings of one output, and the buffers behind them: a block goes into all of them, or into none yet.
//
// Rings that were made together share their buffers: a block is copied once for all of them. What is connected while the flow
// runs has buffers of its own, because those of the others were counted out for them.
//
// Invariants
// - The rings that share buffers stand next to each other.
// - Whoever changes the rings while a device sends prepares the new ones; the device's thread takes them between two cycles.
// - What becomes of a block is decided for every ring before anything is done on one: a block that is refused, or has to
//   wait, has taken nothing and evicted nothing.
// - Only this end adds blocks, so room that was found stays until the block is handed over. Between decide() and
//   hand_over() nobody else may decide.
#pragma once

#include <algorithm>
#include <cstddef>
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
    // Buffers that rings share.
    struct Group {
        BufferPool pool;
    };

public:
    // What becomes of a block on one ring.
    enum class Verdict { publish, evict_then_publish, supersede, drop_newest, drop_failed };

    struct Link {
        std::string name;
        RingProducer producer;
        std::shared_ptr<Group> group;
        ConsumerBells consumers = {};
        Verdict verdict = Verdict::publish;
    };

    using Links = std::vector<std::shared_ptr<Link>>;

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
    OutputRings(const OutputRings&) = delete;  // a block goes one way
    OutputRings& operator=(const OutputRings&) = delete;

    // --- Between two blocks; these allocate. ---

    // The rings that are added from now on share these buffers.
    void set_pool(BufferPool pool) { newest_ = std::make_shared<Group>(Group{std::move(pool)}); }
    bool has_pool() const noexcept { return newest_ != nullptr; }
    std::shared_ptr<Link> make(std::string name, Ring ring) const {
        RingProducer producer(std::move(ring), &newest_->pool);
        return std::make_shared<Link>(Link{std::move(name), std::move(producer), newest_});
    }
    Link& add(std::string name, Ring ring) {
        links_.push_back(make(std::move(name), std::move(ring)));
        return *links_.back();
    }
    // Ends a ring, which gets no block any more; false if there is none of that name. Its buffers stay as long as others share
    // them: they were counted out for what may still lie in them.
    bool remove(const std::string& name) {
        const std::shared_ptr<Link> link = take(links_, name);
        if (link) end(*link);
        return link != nullptr;
    }
    // Takes a ring out of some; null if there is none of that name.
    static std::shared_ptr<Link> take(Links& links, const std::string& name) {
        const auto found = std::find_if(links.begin(), links.end(), [&](const auto& link) { return link->name == name; });
        if (found == links.end()) return nullptr;
        const std::shared_ptr<Link> link = *found;
        links.erase(found);
        return link;
    }
    // After its last block.
    static void end(Link& link) noexcept {
        link.producer.end();
        link.consumers.ring_all();
    }
    // Wait-free, and frees nothing.
    void swap(Links& others) noexcept { links_.swap(others); }
    Link* find(const std::string& name) const noexcept {
        for (const auto& link : links_) {
            if (link->name == name) return link.get();
        }
        return nullptr;
    }
    void clear() noexcept {
        links_.clear();
        newest_.reset();
    }

    // The buffers that blocks may be written into before they are handed over. Not where it is empty.
    BufferPool& pool() noexcept { return links_.front()->group->pool; }
    const BufferPool& pool() const noexcept { return links_.front()->group->pool; }
    bool empty() const noexcept { return links_.empty(); }
    const Links& links() const noexcept { return links_; }

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

    // Carries out what was decided: publishes the block, or counts it as dropped. Returns whether all have taken it.
    // `place`: called with each pool of which a branch takes the block; puts it there, and returns in which buffer.
    // Throws Corrupted, with the name of the pipeline, if a ring has no slot, which only damage can cause.
    template <class Place>
    bool hand_over(BlockHeader header, Nanoseconds sent_ns, std::uint64_t origin, Place place) {
        bool queued = true;
        for (auto first = links_.begin(); first != links_.end();) {
            Group& group = *(*first)->group;
            auto last = first + 1;
            while (last != links_.end() && (*last)->group.get() == &group) ++last;
            if (const std::uint32_t branches = make_room(first, last)) {
                header.buffer = place(group.pool);
                group.pool.set_branches(header.buffer, branches);
                group.pool.note_given(header.buffer, sent_ns);
            }
            for (; first != last; ++first) queued &= settle(**first, header, sent_ns, origin);
        }
        return queued;
    }

    // Counts that a block which was lent could not be sent as it lay.
    void note_loan_copied() noexcept {
        for (const std::shared_ptr<Link>& link : links_) {
            if (takes(link->verdict)) steadyflow::add(link->producer.ring().header().loan_copies);
        }
    }

    // After the last block.
    void end() noexcept {
        for (const std::shared_ptr<Link>& link : links_) end(*link);
    }

private:
    static bool takes(Verdict verdict) noexcept {
        return verdict != Verdict::drop_newest && verdict != Verdict::drop_failed;
    }

    // Returns the branches that the block goes into, as bits of its buffer.
    static std::uint32_t make_room(Links::iterator first, Links::iterator last) noexcept {
        std::uint32_t branches = 0;
        for (; first != last; ++first) {
            RingProducer& producer = (*first)->producer;
            switch ((*first)->verdict) {
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

    // Gives the block its fate on one ring; true if it has taken it.
    static bool settle(Link& link, const BlockHeader& header, Nanoseconds sent_ns, std::uint64_t origin) {
        switch (link.verdict) {
            case Verdict::drop_newest: link.producer.drop(Reason::newest, header.payload_bytes); return false;
            case Verdict::drop_failed: link.producer.drop(Reason::failed, header.payload_bytes); return false;
            default: break;
        }
        if (!link.producer.publish(header, sent_ns, origin)) refuse_full_ring(link.name);
        link.consumers.ring_one();
        return true;
    }

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

    Links links_;
    std::shared_ptr<Group> newest_;  // which the next ring joins; null: none yet
};

}  // namespace steadyflow
