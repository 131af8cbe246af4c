// What an input lets through, against a plain model with lists: late blocks, jitter buffer, pre-roll, gaps of the sender and of
// a rule; under a clock that the test sets.
#include <deque>
#include <optional>
#include <string>
#include <utility>

#include "account.hpp"
#include "intake.hpp"
#include "recovery.hpp"
#include "traffic.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

constexpr double rate_hz = 1000;  // a frame lasts a millisecond
constexpr Nanoseconds frame_ns = 1'000'000;

struct Block {
    std::uint64_t first_frame;
    std::uint32_t frames;
    Nanoseconds sent_ns;
    std::uint64_t number;
    bool torn;     // others were dropped before it
    bool flagged;  // its sender says so
};

struct Out {
    bool made_up = false;
    std::uint64_t first_frame = 0;
    std::uint32_t frames = 0;
    bool discontinuity = false;
    std::uint64_t number = 0;
    bool operator==(const Out&) const = default;
};
std::ostream& operator<<(std::ostream& stream, const Out& out) {
    return stream << (out.made_up ? "made up " : "block ") << out.first_frame << "+" << out.frames << " #" << out.number
                  << (out.discontinuity ? " discontinuity" : "");
}

// The same rules, with one list of everything that was sent and has not come out.
struct Model {
    IntakeRules rules;
    std::deque<Block> queue = {};
    std::deque<Out> made_up = {};
    std::optional<Block> behind_gap = {};
    bool late_behind_gap = false;
    bool held = false;
    bool filling = false;
    bool broken = false;
    bool ended = false;
    Nanoseconds let_go_ns = 0;
    std::optional<std::uint64_t> next_frame = {};
    std::uint32_t piece = 0;
    std::uint64_t late = 0;
    std::uint64_t unwanted = 0;
    std::uint64_t delivered = 0;
    std::uint64_t concealed_frames = 0;

    std::uint64_t queued_frames() const {
        std::uint64_t frames = 0;
        for (const Block& block : queue) frames += block.frames;
        return frames;
    }
    void trim() {
        while (!queue.empty() && (queue.size() > rules.most_staged ||
                                  queued_frames() - queue.front().frames >= rules.preroll_frames)) {
            queue.pop_front();
            ++unwanted;
            broken = true;
            next_frame.reset();
        }
    }
    void look() {
        if (held) return trim();
        if (!filling) return;
        if (queued_frames() >= rules.target_frames || queue.size() >= rules.most_staged) filling = false;
        if (ended && !queue.empty()) filling = false;
    }
    void hold() {
        held = true;
        if (behind_gap) {
            behind_gap->torn &= !made_up.empty();
            queue.push_front(*std::exchange(behind_gap, std::nullopt));
        }
        made_up.clear();
    }
    void let_go(Nanoseconds now_ns) {
        if (!held) return;
        trim();
        held = false;
        let_go_ns = now_ns;
        filling = rules.target_frames != 0;
    }
    std::optional<Out> hand_made_up() {
        Out out = made_up.front();
        made_up.pop_front();
        next_frame = out.first_frame + out.frames;
        concealed_frames += out.frames;
        out.discontinuity = std::exchange(broken, false);
        return out;
    }
    Out hand(const Block& block) {
        ++delivered;
        piece = block.frames;
        next_frame = block.first_frame + block.frames;
        broken |= block.torn || block.flagged;
        return {false, block.first_frame, block.frames, std::exchange(broken, false), block.number};
    }
    void drop_late(const Block& block) {
        ++late;
        if (rules.late != Late::conceal || block.torn || block.flagged) broken = true;
    }
    std::optional<Out> stand_in(const Block& block) {
        made_up.push_back({true, block.first_frame, block.frames, false, block.number});
        return hand_made_up();
    }
    std::optional<Out> take(Nanoseconds now_ns) {
        if (!made_up.empty()) return hand_made_up();
        if (behind_gap) {
            Block block = *std::exchange(behind_gap, std::nullopt);
            block.torn = false;  // by now nothing is missing
            if (!late_behind_gap) return hand(block);
            drop_late(block);
            return stand_in(block);
        }
        look();
        if (held || filling) return std::nullopt;
        while (!queue.empty()) {
            const Block block = queue.front();
            queue.pop_front();
            const bool conceals = rules.late == Late::conceal;
            const bool is_late =
                rules.late != Late::pass && now_ns - std::max(block.sent_ns, let_go_ns) > rules.max_age_ns;
            if (conceals && next_frame && piece != 0 && block.first_frame > *next_frame &&
                block.first_frame - *next_frame <= static_cast<std::uint64_t>(rate_hz)) {
                for (std::uint64_t frame = *next_frame; frame < block.first_frame; frame += piece) {
                    const auto frames = std::min<std::uint64_t>(piece, block.first_frame - frame);
                    made_up.push_back({true, frame, static_cast<std::uint32_t>(frames), false, block.number});
                }
                behind_gap = block;
                late_behind_gap = is_late;
                return hand_made_up();
            }
            if (!is_late) return hand(block);
            drop_late(block);
            if (conceals) return stand_in(block);
        }
        if (rules.target_frames != 0) filling = true;
        return std::nullopt;
    }
    bool at_end() {
        if (!made_up.empty() || behind_gap || !ended) return false;
        if (held) {
            unwanted += queue.size();
            queue.clear();
        }
        return queue.empty();
    }
};

class Rig {
public:
    Rig(const IntakeRules& rules, std::uint32_t buffer_size, std::uint64_t seed)
        : rules_(rules), random_(seed), model_{rules, {}, {}, {}} {
        model_.filling = rules.target_frames != 0 && rules.most_staged != 0;
        const std::uint32_t slots = Ring::slots_for(buffer_size, 1) + rules.most_staged;
        const std::size_t ring_at = sizeof(SegmentHeader) + Bell::bytes();
        const std::size_t pool_at = round_up(ring_at + Ring::bytes(slots, 1));
        segment_ = Segment::create(pool_at + BufferPool::bytes(slots + 1, 64 * sizeof(float)));
        Ring::create(*segment_, ring_at, buffer_size, slots, 1, 0, {});
        BufferPool::create(*segment_, pool_at, slots + 1, 64 * sizeof(float));
        add_bell(*segment_, sizeof(SegmentHeader));
        ring_ = Ring(segment_, ring_at);
        pool_ = BufferPool(segment_, pool_at);
        producer_ = std::make_unique<RingProducer>(ring_, &pool_);
        attach();
    }

    void attach() {
        std::unique_ptr<Concealment> concealment;
        if (rules_.late == Late::conceal) {
            concealment = std::make_unique<Concealment>(SampleType::f32, 1, false, rate_hz, rules_.most_frames);
        }
        intake_ = std::make_unique<Intake>(rules_, std::move(concealment));
        lanes_ = std::make_unique<Lanes>(
            RingConsumer(ring_, pool_, Bell(segment_, sizeof(SegmentHeader)), 0, 3));
    }

    void send() {
        if (model_.ended || !make_room()) return;
        const auto frames = static_cast<std::uint32_t>(1 + random_.below(rules_.most_frames));
        if (random_.chance(8)) next_frame_ += random_.chance(4) ? 2'000 : random_.below(70);
        if (random_.chance(6)) return drop_newest(frames);
        const auto buffer = pool_.allocate();
        CHECK(buffer.has_value());
        pool_.set_branches(*buffer, 1);
        BlockHeader header{};
        header.buffer = *buffer;
        header.payload_bytes = static_cast<std::uint32_t>(frames * sizeof(float));
        header.frames = frames;
        header.first_frame = next_frame_;
        header.timestamp_ns = static_cast<std::int64_t>(next_frame_) * frame_ns;
        header.flags = random_.chance(12) ? flag_discontinuity : 0;
        CHECK(producer_->publish(header, now_ns_));
        model_.queue.push_back(
            {next_frame_, frames, now_ns_, number_++, std::exchange(torn_, false), header.flags != 0});
        next_frame_ += frames;
    }

    // The oldest block makes room where it lies in the ring; the model does not know which ones are kept back.
    bool make_room() {
        if (producer_->has_room()) return true;
        if (rules_.most_staged != 0 || random_.chance(2)) return false;
        producer_->evict_down_to(ring_.buffer_size(), Reason::oldest);
        model_.queue.pop_front();
        ++oldest_;
        if (model_.queue.empty()) torn_ = true;
        else model_.queue.front().torn = true;
        return true;
    }

    void drop_newest(std::uint32_t frames) {
        producer_->drop(Reason::newest, {frames * static_cast<std::uint32_t>(sizeof(float)), frames});
        next_frame_ += frames;
        ++number_;
        ++newest_;
        torn_ = true;
    }

    // What came out; compares it with the model.
    std::optional<Out> take() {
        Intake::Next next;
        const bool came = intake_->take(*lanes_, now_ns_, false, next);
        const std::optional<Out> expected = model_.take(now_ns_);
        CHECK_EQUAL(expected.has_value(), came);
        if (!came) return std::nullopt;
        const BlockHeader& header = next.claim.header;
        const Out got{next.made_up(), header.first_frame, header.frames, (header.flags & flag_discontinuity) != 0,
                      header.sequence};
        CHECK_EQUAL(*expected, got);
        CHECK_EQUAL(got.made_up, (header.flags & flag_gap) != 0);
        if (!got.made_up || header.timestamp_ns != 0) {
            const auto off = header.timestamp_ns - static_cast<std::int64_t>(header.first_frame) * frame_ns;
            CHECK(off > -1000 && off < 1000);
        }
        if (next.made_up()) {
            float samples[64];
            intake_->make_up(next.lane->consumer.stats(), samples, header.frames);
        } else {
            intake_->remember(next.lane->consumer.pool().payload(header.buffer), header.frames);
            next.lane->consumer.finish(next.claim);
        }
        return got;
    }

    void peek() {
        const Nanoseconds sent = intake_->peek_sent_ns(*lanes_, false);
        if (!model_.behind_gap) model_.look();
        const bool comes = !model_.made_up.empty() || model_.behind_gap || (!model_.held && !model_.filling && !model_.queue.empty());
        if (!comes && !model_.held && rules_.target_frames != 0) model_.filling = true;
        CHECK_EQUAL(comes, sent >= 0);
    }

    void check_end() {
        CHECK_EQUAL(model_.at_end(), intake_->at_end(*lanes_));
    }

    void check_account() {
        const Account account = read_account(ring_);
        CHECK_EQUAL(number_, account.sent);
        CHECK_EQUAL(model_.delivered, account.delivered);
        CHECK_EQUAL(model_.late, account.dropped[static_cast<unsigned>(Reason::late)]);
        CHECK_EQUAL(model_.unwanted, account.dropped[static_cast<unsigned>(Reason::unwanted)]);
        CHECK_EQUAL(model_.late, ring_.stats(0).cycle.missed.load());
        CHECK_EQUAL(model_.concealed_frames, ring_.stats(0).concealed_frames.load());
        CHECK_EQUAL(oldest_, account.dropped[static_cast<unsigned>(Reason::oldest)]);
        CHECK_EQUAL(newest_, account.dropped[static_cast<unsigned>(Reason::newest)]);
        const std::uint64_t waiting = model_.queue.size() + (model_.behind_gap ? 1 : 0);
        CHECK_EQUAL(account.sent, account.delivered + model_.late + model_.unwanted + oldest_ + newest_ + waiting);
    }

    void run(unsigned steps) {
        for (unsigned step = 0; step < steps; ++step) {
            now_ns_ += static_cast<Nanoseconds>(random_.below(3)) * frame_ns;
            if (random_.chance(60)) now_ns_ += 100 * frame_ns;
            const std::uint64_t choice = random_.below(20);
            if (choice < 9) send();
            else if (choice < 16) take();
            else if (choice < 18) peek();
            else if (choice == 18 && rules_.most_staged != 0 && random_.chance(3)) {
                if (model_.held) {
                    intake_->let_go(*lanes_, now_ns_);
                    model_.let_go(now_ns_);
                } else {
                    intake_->hold();
                    model_.hold();
                }
            } else check_end();
            if (choice == 19) check_account();
        }
        producer_->end();
        model_.ended = true;
        for (int step = 0; step < 10'000; ++step) {
            if (!take()) {
                check_end();
                if (model_.at_end()) break;
            }
        }
        CHECK(intake_->at_end(*lanes_));
        check_account();
        producer_->settle_tally();
        for (std::uint32_t buffer = 0; buffer < pool_.count(); ++buffer) CHECK_EQUAL(0, pool_.branches(buffer));
    }

    // A consumer that dies with blocks that it kept back: they are given back, and come again, the oldest first.
    void die_while_filling() {
        while (model_.queue.size() < 4) send();
        peek();
        CHECK(!take());
        const std::uint64_t sent = model_.queue.size();
        CHECK_EQUAL(sent, reap(ring_, 3));
        rules_ = {};
        attach();
        for (std::uint64_t block = 0; block < sent; ++block) {
            Intake::Next next;
            CHECK(intake_->take(*lanes_, now_ns_, false, next));
            CHECK_EQUAL(model_.queue[block].number, next.claim.header.sequence);
            CHECK(next.claim.word.attempt() != 0);
            CHECK_EQUAL(model_.queue[block].flagged, (next.claim.header.flags & flag_discontinuity) != 0);
            next.lane->consumer.finish(next.claim);
        }
        const Account account = read_account(ring_);
        CHECK_EQUAL(sent, account.delivered);
        CHECK_EQUAL(sent, account.repeated);
    }

    // What comes to a module that has failed: everything, whatever the rules say.
    void drain_after_a_failure() {
        for (std::uint64_t block = 0; block < 4; ++block) send();
        peek();
        const std::uint64_t sent = model_.queue.size();
        intake_->hold();
        now_ns_ += 1'000 * frame_ns;
        for (std::uint64_t block = 0; block < sent; ++block) {
            Intake::Next next;
            CHECK(intake_->peek_sent_ns(*lanes_, true) >= 0);
            CHECK(intake_->take(*lanes_, now_ns_, true, next));
            CHECK_EQUAL(model_.queue[block].number, next.claim.header.sequence);
            next.lane->consumer.discard(next.claim, Reason::failed);
        }
        CHECK_EQUAL(sent, read_account(ring_).dropped[static_cast<unsigned>(Reason::failed)]);
    }

private:
    IntakeRules rules_;
    Random random_;
    Model model_;
    std::shared_ptr<Segment> segment_;
    Ring ring_;
    BufferPool pool_;
    std::unique_ptr<RingProducer> producer_;
    std::unique_ptr<Intake> intake_;
    std::unique_ptr<Lanes> lanes_;
    Nanoseconds now_ns_ = 1'000'000'000'000;
    std::uint64_t next_frame_ = 5'000;
    std::uint64_t number_ = 0;
    std::uint64_t oldest_ = 0;
    std::uint64_t newest_ = 0;
    bool torn_ = false;  // blocks were dropped since the last one that entered the ring
};

IntakeRules drawn(Random& random, std::uint32_t buffer_size) {
    IntakeRules rules;
    rules.late = static_cast<Late>(random.below(3));
    rules.max_age_ns = static_cast<Nanoseconds>(20 + random.below(100)) * frame_ns;
    rules.most_frames = static_cast<std::uint32_t>(1 + random.below(64));
    rules.rate_hz = rate_hz;
    if (random.chance(2)) {
        rules.most_staged = buffer_size;
        if (random.chance(2)) rules.target_frames = 1 + random.below(150);
        rules.preroll_frames = random.below(150);
    }
    return rules;
}

}  // namespace

int main() {
    for (std::uint64_t seed = 1; seed <= 1'500; ++seed) {
        Random random(seed);
        const auto buffer_size = static_cast<std::uint32_t>(1 + random.below(9));
        const IntakeRules rules = drawn(random, buffer_size);
        situation = "seed " + std::to_string(seed) + ", late " + std::to_string(static_cast<int>(rules.late)) + ", target " +
                    std::to_string(rules.target_frames) + ", pre-roll " + std::to_string(rules.preroll_frames) + ", staged " +
                    std::to_string(rules.most_staged) + " of " + std::to_string(buffer_size);
        Rig(rules, buffer_size, seed).run(600);
    }
    situation.clear();
    const IntakeRules filling{Late::pass, 0, 10'000, 0, 8, 16, rate_hz};
    Rig(filling, 8, 1).die_while_filling();
    Rig(filling, 8, 2).drain_after_a_failure();
}
