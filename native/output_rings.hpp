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
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "buffers.hpp"
#include "consumer_bells.hpp"
#include "ring_producer.hpp"
#include "shared_room.hpp"

namespace steadyflow {

// One caller at a time. Knows nothing of who calls: modules, applications, devices.
class OutputRings {
    // Buffers that rings share.
    struct Group {
        BufferPool pool;
    };

public:
    // What becomes of a block on one ring.
    enum class Verdict { publish, evict_then_publish, supersede, share_then_publish, drop_newest, drop_sampled, drop_failed };

    struct Link {
        std::string name;
        RingProducer producer;
        std::shared_ptr<Group> group;
        ConsumerBells consumers = {};
        Verdict verdict = Verdict::publish;
        std::unique_ptr<SharedRoom> shared = nullptr;  // with other inputs of the same consumer
        Bell alarm = {};                               // of flow control, which is told when it becomes full
    };

    using Links = std::vector<std::shared_ptr<Link>>;

    // The first ring that a block cannot enter as it is; none: everything is decided.
    struct Obstacle {
        enum class Kind { none, wait, pace, full, time_is_up };
        Kind kind = Kind::none;
        std::shared_ptr<Link> link = nullptr;  // shared: whoever waits keeps it, whatever becomes of the output
        Nanoseconds deadline_ns = -1;          // until when to wait; -1: for as long as it takes; pace: when it is due
        Rule rule = {};

        explicit operator bool() const noexcept { return kind != Kind::none; }
        bool refuses() const noexcept { return kind == Kind::full || kind == Kind::time_is_up; }
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

    // `began_ns`: since when the block has been trying; times out where that is long ago. `keeps_pace`: whether the sender can wait
    // until it is due.
    Obstacle decide(const BlockHeader& block, Nanoseconds began_ns, bool keeps_pace) {
        for (const std::shared_ptr<Link>& link : links_) {
            RingProducer& producer = link->producer;
            if (producer.abandoned()) {
                link->verdict = Verdict::drop_failed;
                continue;
            }
            if (const Nanoseconds due_ns = producer.due_ns(); due_ns != 0 && keeps_pace) [[unlikely]] {
                if (monotonic_ns() < due_ns) return {Obstacle::Kind::pace, link, due_ns, {}};
            }
            const Rule rule = producer.ring().rule();
            if (decide_alike(*link, rule, block)) continue;
            if (Obstacle obstacle = decide_full(link, rule, block, began_ns)) return obstacle;
        }
        return {};
    }

    // The same for who cannot wait, nor be told: where a rule would do either, the block is dropped as the newest.
    void decide_at_once(const BlockHeader& block) {
        for (const std::shared_ptr<Link>& link : links_) {
            if (link->producer.abandoned()) {
                link->verdict = Verdict::drop_failed;
                continue;
            }
            const Rule rule = link->producer.ring().rule();
            if (decide_alike(*link, rule, block)) continue;
            if (!drops_older(*link, rule, block)) link->verdict = Verdict::drop_newest;
        }
    }

    // A free buffer of those; where none is, that of a block that is finished. Wait-free.
    std::optional<std::uint32_t> allocate(BufferPool& pool) noexcept {
        if (const auto buffer = pool.allocate()) [[likely]] return buffer;
        for (const std::shared_ptr<Link>& link : links_) {
            if (&link->group->pool == &pool) link->producer.settle_tally();
        }
        return pool.allocate();
    }

    // Whether a block of this size would enter every ring as it is: nothing would wait, not for its pace either, and nothing be evicted
    // or dropped for it. A ring that keeps only the newest is never in the way, nor is one that its consumer has left: waiting would
    // bring nothing.
    bool has_room(BlockSize size) noexcept {
        return std::all_of(links_.begin(), links_.end(), [&](const auto& link) { return has_room(*link, size); });
    }

    // The same as 0; where there is none, when to look again: at `latest_ns`, or sooner for what waits for its pace only. The
    // consumers in the way are asked to ring first, so that a claim which this look did not see rings (see
    // RingProducer::request_wake). Never cancelled: one ring too many does no harm.
    Nanoseconds seek_room(BlockSize size, Nanoseconds latest_ns) noexcept {
        Nanoseconds until_ns = 0;
        for (const std::shared_ptr<Link>& link : links_) {
            if (has_room(*link, size)) continue;
            link->producer.request_wake();
            if (has_room(*link, size)) continue;
            const Nanoseconds due_ns = link->producer.due_ns();
            const bool waits_for_pace = due_ns != 0 && fits(*link, size);
            until_ns = std::max(until_ns, waits_for_pace ? std::min(due_ns, latest_ns) : latest_ns);
        }
        return until_ns;
    }

    // Counts a block for which there is no buffer as dropped on every ring.
    void drop_everywhere(const BlockHeader& header) noexcept {
        for (const std::shared_ptr<Link>& link : links_) {
            link->producer.drop(Reason::failed, RingProducer::size_of(header));
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
            if (const std::uint32_t branches = make_room(first, last, RingProducer::size_of(header))) {
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
    static bool has_room(Link& link, BlockSize size) noexcept {
        RingProducer& producer = link.producer;
        if (producer.abandoned()) return true;
        if (const Nanoseconds due_ns = producer.due_ns(); due_ns != 0 && monotonic_ns() < due_ns) return false;
        return fits(link, size);
    }

    static bool fits(Link& link, BlockSize size) noexcept {
        RingProducer& producer = link.producer;
        const RuleKind kind = producer.ring().rule().kind;
        return (kind == RuleKind::latest && producer.can_make_room(size)) || producer.has_room(size) ||
               (kind == RuleKind::drop_by_priority && link.shared && link.shared->has_room(producer, size));
    }

    static bool takes(Verdict verdict) noexcept {
        return verdict != Verdict::drop_newest && verdict != Verdict::drop_failed && verdict != Verdict::drop_sampled;
    }

    // Decides what is the same for all who send; false: the ring is full, and its rule has to say.
    static bool decide_alike(Link& link, Rule rule, const BlockHeader& block) {
        RingProducer& producer = link.producer;
        const BlockSize size = RingProducer::size_of(block);
        if (rule.kind == RuleKind::latest && producer.can_make_room(size)) [[unlikely]] {
            link.verdict = Verdict::supersede;
            return true;
        }
        if (rule.kind == RuleKind::sample && !RingProducer::is_control(block) &&
            producer.sent() % std::max<std::uint64_t>(rule.value, 1) != 0) [[unlikely]] {
            link.verdict = Verdict::drop_sampled;
            return true;
        }
        if (producer.has_room(size)) [[likely]] {
            producer.note_full(false);
            link.verdict = Verdict::publish;
            return true;
        }
        if (rule.kind == RuleKind::drop_by_priority && link.shared && link.shared->has_room(producer, size)) {
            producer.note_full(false);
            link.verdict = Verdict::publish;
            return true;
        }
        if (producer.note_full(true) && link.alarm && producer.ring().alarmed()) link.alarm.ring(0);
        return false;
    }

    // Decides that older blocks make room, where the rule of a full ring says so; a control block is never the one that goes.
    static bool drops_older(Link& link, Rule rule, const BlockHeader& block) noexcept {
        const bool older = rule.kind == RuleKind::drop_oldest || rule.kind == RuleKind::sample ||
                           rule.kind == RuleKind::drop_by_priority ||
                           (rule.kind == RuleKind::drop_newest && RingProducer::is_control(block));
        if (!older || !link.producer.can_make_room(RingProducer::size_of(block))) return false;
        link.verdict = rule.kind == RuleKind::drop_by_priority && link.shared ? Verdict::share_then_publish
                                                                               : Verdict::evict_then_publish;
        return true;
    }

    // Returns the branches that the block goes into, as bits of its buffer.
    static std::uint32_t make_room(Links::iterator first, Links::iterator last, BlockSize size) noexcept {
        std::uint32_t branches = 0;
        for (; first != last; ++first) {
            Link& link = **first;
            switch (link.verdict) {
                case Verdict::evict_then_publish: link.producer.evict_for(size, Reason::oldest); break;
                case Verdict::supersede: link.producer.evict_down_to(1, Reason::superseded); break;
                case Verdict::share_then_publish: link.shared->make_room(link.producer, size); break;
                case Verdict::publish: break;
                default: continue;
            }
            branches |= std::uint32_t{1} << link.producer.ring().branch();
        }
        return branches;
    }

    // Gives the block its fate on one ring; true if it has taken it.
    static bool settle(Link& link, const BlockHeader& header, Nanoseconds sent_ns, std::uint64_t origin) {
        const BlockSize size = RingProducer::size_of(header);
        switch (link.verdict) {
            case Verdict::drop_newest: link.producer.drop(Reason::newest, size); return false;
            case Verdict::drop_sampled: link.producer.drop(Reason::sampled, size); return false;
            case Verdict::drop_failed: link.producer.drop(Reason::failed, size); return false;
            default: break;
        }
        if (!link.producer.publish(header, sent_ns, origin)) refuse_full_ring(link.name);
        link.consumers.ring_one();
        return true;
    }

    static Obstacle decide_full(const std::shared_ptr<Link>& link, Rule rule, const BlockHeader& block, Nanoseconds began_ns) {
        if (drops_older(*link, rule, block)) return {};
        if (rule.kind == RuleKind::fail) return {Obstacle::Kind::full, link, -1, rule};
        if (rule.kind != RuleKind::wait) {
            // Control blocks take all of the room, and no rule drops those: another one waits, and what is none goes.
            if (RingProducer::is_control(block)) return {Obstacle::Kind::wait, link, -1, rule};
            link->verdict = Verdict::drop_newest;
            return {};
        }
        const Nanoseconds deadline_ns = rule.value == 0 ? -1 : began_ns + static_cast<Nanoseconds>(rule.value) * 1000;
        if (deadline_ns < 0 || monotonic_ns() < deadline_ns) return {Obstacle::Kind::wait, link, deadline_ns, rule};
        switch (rule.then) {
            case AfterWait::drop_newest: return decide_full(link, {RuleKind::drop_newest, {}, 0}, block, began_ns);
            case AfterWait::drop_oldest: return decide_full(link, {RuleKind::drop_oldest, {}, 0}, block, began_ns);
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
