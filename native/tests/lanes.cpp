// Replicas that compete for one ring, each with a lane of its own, and receivers that restore the order.
//
//   lanes [blocks] [seed]      blocks of one run in threads; the seed is printed
//
// First single-threaded schedules against a plain model, where every step is decided by the seed; then real threads that
// sleep on bells.
#include <deque>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "replicated.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {

void verify_closed(Ring ring, Sender& sender, std::uint64_t delivered) {
    sender.producer().settle_tally();
    const Account account = read_account(ring);
    CHECK(account.consistent);
    CHECK_EQUAL(delivered, account.delivered);
    std::uint64_t fates = account.delivered;
    for (const std::uint64_t dropped : account.dropped) fates += dropped;
    CHECK_EQUAL(account.sent, fates);
    for (std::uint32_t buffer = 0; buffer < sender.pool().count(); ++buffer) {
        CHECK_EQUAL(0, sender.pool().branches(buffer));
    }
}

// Steps of everybody in an order drawn from a seed. The model knows which positions are in whose hands, and what waits in
// each lane; so it knows what a receiver must take, or that it must take nothing.
class Schedule {
public:
    Schedule(const Shape& shape, bool with_deaths, std::uint64_t seed)
        : works_(shape),
          with_deaths_(with_deaths),
          random_(seed),
          source_(works_.input(), works_.input_pool()),
          held_(shape.replicas),
          lanes_(shape.replicas),
          lane_next_(shape.replicas),
          taken_(shape.receivers) {
        for (std::uint32_t replica = 0; replica < shape.replicas; ++replica) {
            inputs_.push_back(works_.replica_input(replica));
            outputs_.emplace_back(works_.lane(replica), works_.lane_pool(replica));
            ended_.push_back(false);
        }
        for (std::uint32_t receiver = 0; receiver < shape.receivers; ++receiver) {
            receivers_.push_back(works_.receiver(receiver, true));
        }
    }

    void run(unsigned steps) {
        for (unsigned step = 0; step < steps; ++step) {
            if (random_.chance(50)) {
                send_weight_ = 1 + random_.below(4);
                finish_weight_ = random_.below(4);
                dropping_ = random_.chance(3);
            }
            const auto replica = static_cast<std::uint32_t>(random_.below(works_.shape().replicas));
            const auto receiver = static_cast<std::uint32_t>(random_.below(works_.shape().receivers));
            const std::uint64_t choice = random_.below(send_weight_ + finish_weight_ + 10);
            if (choice < send_weight_) send();
            else if (choice < send_weight_ + finish_weight_) finish(replica);
            else if (choice < send_weight_ + finish_weight_ + 3) claim(replica);
            else if (choice < send_weight_ + finish_weight_ + 6) answer(replica);
            else if (choice < send_weight_ + finish_weight_ + 8) receive(receiver);
            else if (choice < send_weight_ + finish_weight_ + 9) let_go(receiver);
            else if (random_.chance(40)) flush(replica);
            else if (random_.chance(15)) pause(replica);
            else if (with_deaths_ && random_.chance(20)) die(replica);
        }
        drain();
    }

private:
    struct Held {
        Claim claim;
        std::uint64_t number;
        std::uint32_t parts;
    };
    struct Made {
        std::uint64_t origin;
        std::uint64_t number;
        std::uint32_t part;
        bool operator==(const Made&) const = default;
    };

    void send() {
        RingProducer& producer = source_.producer();
        if (!producer.has_room()) {
            if (!dropping_) return;
            producer.evict_down_to(producer.ring().buffer_size(), Reason::oldest);
        }
        source_.publish(number_++, 0, 0);
    }

    void claim(std::uint32_t replica) {
        if (held_[replica]) return;
        Held held{};
        if (!inputs_[replica].claim(held.claim)) return;
        held.number = held.claim.header.first_frame;
        held_[replica] = held;
    }

    // Sends one more of what the replica makes of the block in its hands; where its lane is full, it waits, or drops.
    void answer(std::uint32_t replica) {
        if (!held_[replica]) return;
        RingProducer& producer = outputs_[replica].producer();
        if (!producer.has_room()) {
            if (!dropping_) return;
            producer.evict_down_to(producer.ring().buffer_size(), Reason::oldest);
            lanes_[replica].pop_front();
        }
        Held& held = *held_[replica];
        const std::uint64_t origin = held.claim.word.position();
        outputs_[replica].publish(held.number, held.parts, origin);
        lanes_[replica].push_back({origin, held.number, held.parts++});
    }

    void finish(std::uint32_t replica) {
        if (!held_[replica]) return;
        if (random_.chance(8)) inputs_[replica].discard(held_[replica]->claim, Reason::failed);
        else {
            inputs_[replica].finish(held_[replica]->claim);
            ++answered_;
        }
        held_[replica].reset();
    }

    // What a receiver has to take now: the smallest origin, if nothing before it is in hand for the first time.
    std::optional<std::uint32_t> next_lane() const {
        std::optional<std::uint32_t> chosen;
        bool all_ended = true;
        for (std::uint32_t replica = 0; replica < lanes_.size(); ++replica) {
            all_ended = all_ended && ended_[replica];
            if (lanes_[replica].empty()) continue;
            if (!chosen || lanes_[replica].front().origin < lanes_[*chosen].front().origin) chosen = replica;
        }
        if (!chosen || !paused_.empty()) return std::nullopt;
        if (all_ended) return chosen;
        for (const auto& held : held_) {
            if (held && held->claim.word.attempt() == 0 &&
                held->claim.word.position() < lanes_[*chosen].front().origin) {
                return std::nullopt;
            }
        }
        return chosen;
    }

    void receive(std::uint32_t receiver) {
        if (taken_[receiver]) return;
        const std::optional<std::uint32_t> expected = next_lane();
        const bool peeked = receivers_[receiver].peek_sent_ns() >= 0;
        Claim claim;
        const Lanes::Lane* lane = receivers_[receiver].claim(claim);
        CHECK_EQUAL(expected.has_value(), lane != nullptr);
        CHECK_EQUAL(expected.has_value(), peeked);
        if (lane == nullptr) return;
        const Made made = lanes_[*expected].front();
        lanes_[*expected].pop_front();
        const Made got{Origin{claim.slot->origin.load()}.position(), claim.header.first_frame, claim.header.frames};
        if (got != made) {
            fail(__FILE__, __LINE__, "what is taken", std::to_string(made.number) + "." + std::to_string(made.part),
                 std::to_string(got.number) + "." + std::to_string(got.part));
        }
        // Each lane numbers what it was sent; what it dropped, its next block says, where no other receiver can have it.
        const bool torn = claim.header.sequence != lane_next_[*expected] && receivers_.size() == 1;
        CHECK_EQUAL(torn, (claim.header.flags & flag_discontinuity) != 0);
        lane_next_[*expected] = claim.header.sequence + 1;
        // Apart from the model: the order of the input, but for what came again.
        if (repeated_.count(got.number) == 0) {
            CHECK(got.number > last_number_ || (got.number == last_number_ && got.part > last_part_) || received_ == 0);
            last_number_ = got.number;
            last_part_ = got.part;
        }
        ++received_;
        taken_[receiver] = {lane->consumer, claim};
    }

    void let_go(std::uint32_t receiver) {
        if (!taken_[receiver]) return;
        taken_[receiver]->first.finish(taken_[receiver]->second);
        taken_[receiver].reset();
    }

    void flush(std::uint32_t replica) {
        if (random_.chance(2)) {
            steadyflow::flush(works_.input());
            return;
        }
        CHECK_EQUAL(lanes_[replica].size(), steadyflow::flush(works_.lane(replica)));
        lanes_[replica].clear();
    }

    // One lane at a time, as the control plane does it: meanwhile nothing goes past what is paused.
    void pause(std::uint32_t replica) {
        if (paused_.insert(replica).second) {
            works_.lane(replica).pause();
            return;
        }
        paused_.erase(replica);
        works_.lane(replica).resume(monotonic_ns());
    }

    // The replica's process is gone, and a new one takes its place.
    void die(std::uint32_t replica) {
        CHECK_EQUAL(held_[replica] ? 1 : 0, reap(works_.input(), replica));
        if (held_[replica]) repeated_.insert(held_[replica]->number);
        held_[replica].reset();
        inputs_[replica] = works_.replica_input(replica);
        outputs_[replica] = Sender(works_.lane(replica), works_.lane_pool(replica));
    }

    // Everybody goes on to the end of the stream.
    void drain() {
        dropping_ = false;
        while (!paused_.empty()) pause(*paused_.begin());
        source_.producer().end();
        for (bool moved = true; moved;) {
            moved = false;
            for (std::uint32_t replica = 0; replica < held_.size(); ++replica) {
                claim(replica);
                if (held_[replica]) {
                    moved = true;
                    answer(replica);
                    if (random_.chance(2)) finish(replica);
                } else if (!ended_[replica] && inputs_[replica].at_end()) {
                    moved = true;
                    ended_[replica] = true;
                    outputs_[replica].producer().end();
                }
            }
            for (std::uint32_t receiver = 0; receiver < taken_.size(); ++receiver) {
                moved = moved || next_lane() || taken_[receiver];
                receive(receiver);
                let_go(receiver);
            }
        }
        for (Lanes& receiver : receivers_) CHECK(receiver.at_end());
        verify_closed(works_.input(), source_, answered_);
        std::uint64_t delivered = 0;
        for (std::uint32_t replica = 0; replica < outputs_.size(); ++replica) {
            const std::uint64_t of_lane = read_account(works_.lane(replica)).delivered;
            verify_closed(works_.lane(replica), outputs_[replica], of_lane);
            delivered += of_lane;
        }
        CHECK_EQUAL(received_, delivered);
    }

    Works works_;
    bool with_deaths_;
    Random random_;
    Sender source_;
    std::vector<RingConsumer> inputs_ = {};
    std::vector<Sender> outputs_ = {};
    std::vector<bool> ended_ = {};
    std::vector<Lanes> receivers_ = {};
    std::vector<std::optional<Held>> held_;
    std::vector<std::deque<Made>> lanes_;
    std::vector<std::uint64_t> lane_next_;  // the number that follows the last one taken of each lane
    std::vector<std::optional<std::pair<RingConsumer, Claim>>> taken_;
    std::set<std::uint64_t> repeated_ = {};
    std::set<std::uint32_t> paused_ = {};
    bool dropping_ = false;
    std::uint64_t send_weight_ = 2;
    std::uint64_t finish_weight_ = 1;
    std::uint64_t number_ = 0;
    std::uint64_t answered_ = 0;
    std::uint64_t received_ = 0;
    std::uint64_t last_number_ = 0;
    std::uint32_t last_part_ = 0;
};

void run_schedules(std::uint64_t seed) {
    for (std::uint32_t replicas = 2; replicas <= 4; ++replicas) {
        for (std::uint32_t receivers = 1; receivers <= 2; ++receivers) {
            for (const std::uint32_t input_size : {1U, 2U, 5U, 32U}) {
                for (const std::uint32_t lane_size : {1U, 2U, 7U}) {
                    for (std::uint64_t round = 0; round < 6; ++round) {
                        const Shape shape{replicas, receivers, input_size, lane_size};
                        const std::uint64_t own_seed = Random::mix(seed + round * 977 + replicas * 31 + receivers * 17 +
                                                                   input_size * 7 + lane_size);
                        const bool with_deaths = round % 2 == 1;
                        situation = "schedule: " + describe(shape) + (with_deaths ? ", with deaths" : "") + ", seed " +
                                    std::to_string(own_seed);
                        Schedule(shape, with_deaths, own_seed).run(3000);
                    }
                }
            }
        }
    }
}

// Whom a block wakes: everybody is told, and of those who sleep one who has nothing to do.
void check_bells() {
    situation = "bells";
    const Works works({3, 1, 1, 1});
    ConsumerBells bells;
    std::vector<Bell> each;
    for (std::uint32_t replica = 0; replica < 3; ++replica) {
        each.push_back(works.replica_bell(replica));
        bells.add(each.back(), replica);
    }
    // Nobody sleeps: whoever is about to, sees its bit first.
    bells.ring_one();
    for (std::uint32_t replica = 0; replica < 3; ++replica) CHECK_EQUAL(std::uint64_t{1} << replica, each[replica].take());

    // The first waits for room in the middle of its work, the second is at work, the third has nothing to do.
    const auto asleep = [&](std::uint32_t replica, bool idle) {
        std::thread sleeper([bell = each[replica], idle] { bell.wait(monotonic_ns() + patience_ns, idle); });
        while (!works.is_asleep(replica)) std::this_thread::yield();
        return sleeper;
    };
    std::thread waiting = asleep(0, false);
    std::thread idle = asleep(2, true);
    bells.ring_one();
    idle.join();
    CHECK(works.is_asleep(0));
    CHECK(!works.is_asleep(2));
    for (std::uint32_t replica = 0; replica < 3; ++replica) CHECK_EQUAL(std::uint64_t{1} << replica, each[replica].take());
    // What all have to know reaches the one that waits, too.
    bells.ring_all();
    waiting.join();
    for (std::uint32_t replica = 0; replica < 3; ++replica) CHECK_EQUAL(std::uint64_t{1} << replica, each[replica].take());

    // Who died in its sleep looks idle, until its bell is retired: no block is left to it.
    std::thread living = asleep(1, true);
    works.sleeping(0).store(works.sleeping(1).load());
    each[0].retire();
    bells.ring_one();
    living.join();
}

// Lanes that have ended are taken as they are, also if somebody keeps what comes before, or if the input is damaged.
void check_ended_lanes() {
    situation = "ended lanes";
    const Works works({2, 1, 4, 4});
    Sender source(works.input(), works.input_pool());
    std::vector<Sender> outputs;
    std::vector<RingConsumer> inputs;
    for (std::uint32_t replica = 0; replica < 2; ++replica) {
        outputs.emplace_back(works.lane(replica), works.lane_pool(replica));
        inputs.push_back(works.replica_input(replica));
    }
    Lanes receiver = works.receiver(0, true);
    Claim first;
    Claim second;
    Claim taken;
    source.publish(0, 0, 0);
    source.publish(1, 0, 0);
    CHECK(inputs[0].claim(first));
    CHECK(inputs[1].claim(second));
    outputs[1].publish(1, 0, second.word.position());
    inputs[1].finish(second);
    CHECK(receiver.claim(taken) == nullptr);
    outputs[1].producer().end();
    CHECK(receiver.claim(taken) == nullptr);
    CHECK(!receiver.at_end());
    outputs[0].producer().end();
    Lanes::Lane* lane = receiver.claim(taken);
    CHECK(lane != nullptr);
    lane->consumer.finish(taken);
    CHECK(receiver.at_end());

    // A fused pipeline has no slots to look at.
    const auto segment = Segment::create(sizeof(SegmentHeader) + Ring::bytes(0, 1));
    Ring::create(*segment, sizeof(SegmentHeader), 1, 0, 1, 0, {});
    CHECK_THROWS(Corrupted, receiver.restore_order_of(Ring(segment, sizeof(SegmentHeader))));
}

// How the source sends: as fast as it goes; one block when all before it are answered, so that everybody sleeps; or as many
// as there are replicas at once, each of which works until all of them do.
enum class Pace { fast, one_by_one, in_step };

// Real threads; whoever sleeps in vain is found out.
class Shop {
public:
    Shop(const Shape& shape, bool ordered, Pace pace, std::uint64_t blocks, std::uint64_t seed)
        : works_(shape), ordered_(ordered), pace_(pace), blocks_(blocks), seed_(seed), received_(blocks * parts) {}

    void run() {
        std::vector<std::thread> threads;
        for (std::uint32_t replica = 0; replica < works_.shape().replicas; ++replica) {
            threads.emplace_back([this, replica] { work(replica); });
        }
        for (std::uint32_t receiver = 0; receiver < works_.shape().receivers; ++receiver) {
            threads.emplace_back([this, receiver] { receive(receiver); });
        }
        produce();
        for (std::thread& thread : threads) thread.join();
        for (std::uint64_t number = 0; number < blocks_; ++number) {
            for (std::uint32_t part = 0; part < parts; ++part) {
                CHECK_EQUAL(part < results_of(number) ? 1 : 0, received_[number * parts + part].load());
            }
        }
    }

private:
    static constexpr std::uint32_t parts = 3;

    std::uint32_t results_of(std::uint64_t number) const noexcept {
        return static_cast<std::uint32_t>(Random::mix(number + seed_) % (parts + 1));
    }

    template <class Until>
    void spin(Until until, const char* what) {
        const Nanoseconds limit = monotonic_ns() + patience_ns;
        while (!until()) {
            if (monotonic_ns() >= limit) fail(__FILE__, __LINE__, what, "in time", "not at all");
            std::this_thread::yield();
        }
    }

    void sleep(const Bell& bell, bool idle, const Ring& ring) {
        const Nanoseconds limit = monotonic_ns() + patience_ns;
        bell.wait(limit, idle);
        if (monotonic_ns() >= limit) fail(__FILE__, __LINE__, "wait", "a wake-up", "none: " + testing::describe(ring));
    }

    void make_room(RingProducer& producer, const Bell& bell) {
        while (!producer.has_room()) {
            producer.request_wake();
            if (!producer.has_room()) {
                sleep(bell, false, producer.ring());
                // Kept for whoever looks for work next.
                if (bell.take() >> room_bit == 0) bell.announce(0);
            }
            producer.cancel_wake();
        }
    }

    void produce() {
        Sender sender(works_.input(), works_.input_pool());
        const Bell bell = works_.source_bell();
        const ConsumerBells bells = works_.replicas_bells();
        const std::uint32_t burst = works_.shape().replicas;
        for (std::uint64_t number = 0; number < blocks_; ++number) {
            if (pace_ == Pace::one_by_one || (pace_ == Pace::in_step && number % burst == 0)) {
                spin([&] { return finished_.load() == number; }, "the blocks before are answered");
            }
            make_room(sender.producer(), bell);
            sender.publish(number, 0, 0);
            bells.ring_one();
        }
        sender.producer().end();
        bells.ring_all();
    }

    void work(std::uint32_t replica) {
        RingConsumer input = works_.replica_input(replica);
        Sender sender(works_.lane(replica), works_.lane_pool(replica));
        const Bell bell = works_.replica_bell(replica);
        ConsumerBells receivers;
        for (std::uint32_t receiver = 0; receiver < works_.shape().receivers; ++receiver) {
            receivers.add(works_.receiver_bell(receiver), 0);
        }
        Random random(seed_ ^ replica);
        Claim claim;
        for (;;) {
            if (!input.claim(claim)) {
                if (input.at_end()) break;
                if (bell.take() == 0) sleep(bell, true, input.ring());
                continue;
            }
            const std::uint64_t number = claim.header.first_frame;
            if (pace_ == Pace::in_step) {
                const std::uint64_t burst = works_.shape().replicas;
                const std::uint64_t all = std::min((number / burst + 1) * burst, blocks_);
                claimed_.fetch_add(1);
                // Nobody finishes before all are at work: so every block of the burst has to wake a replica of its own.
                spin([&] { return claimed_.load() >= all; }, "every replica is at work");
            }
            for (std::uint64_t pause = random.below(200); pause != 0; --pause) std::atomic_signal_fence(std::memory_order_seq_cst);
            for (std::uint32_t part = 0; part < results_of(number); ++part) {
                make_room(sender.producer(), bell);
                sender.publish(number, part, claim.word.position());
                receivers.ring_one();
            }
            input.finish(claim);
            if (ordered_) receivers.ring_all();
            finished_.fetch_add(1);
        }
        sender.producer().end();
        receivers.ring_all();
    }

    void receive(std::uint32_t receiver) {
        Lanes lanes = works_.receiver(receiver, ordered_);
        const Bell bell = works_.receiver_bell(receiver);
        std::uint64_t next = 0;
        Claim claim;
        for (;;) {
            Lanes::Lane* lane = lanes.claim(claim);
            if (lane == nullptr) {
                if (lanes.at_end()) break;
                if (bell.take() == 0) sleep(bell, true, works_.input());
                continue;
            }
            const std::uint64_t place = claim.header.first_frame * parts + claim.header.frames;
            if (ordered_ && place < next) {
                fail(__FILE__, __LINE__, "the order at one receiver", ">= " + std::to_string(next), std::to_string(place));
            }
            next = place + 1;
            CHECK_EQUAL(0, received_[place].fetch_add(1));
            lane->consumer.finish(claim);
        }
    }

    Works works_;
    bool ordered_;
    Pace pace_;
    std::uint64_t blocks_;
    std::uint64_t seed_;
    std::atomic<std::uint64_t> claimed_{0};
    std::atomic<std::uint64_t> finished_{0};
    std::vector<std::atomic<std::uint8_t>> received_;
};

void run_threads(std::uint64_t blocks, std::uint64_t seed) {
    std::uint64_t runs = 0;
    for (const bool ordered : {true, false}) {
        for (const Pace pace : {Pace::fast, Pace::one_by_one, Pace::in_step}) {
            for (std::uint32_t replicas = 2; replicas <= 4; ++replicas) {
                for (std::uint32_t receivers = 1; receivers <= 2; ++receivers) {
                    for (const std::uint32_t lane_size : {1U, 8U}) {
                        const Shape shape{replicas, receivers, pace == Pace::in_step ? replicas : 3, lane_size};
                        const std::uint64_t own_seed = Random::mix(seed + ++runs);
                        situation = "threads: " + describe(shape) + (ordered ? ", ordered" : "") + ", pace " +
                                    std::to_string(static_cast<int>(pace)) + ", seed " + std::to_string(own_seed);
                        Shop(shape, ordered, pace, blocks, own_seed).run();
                    }
                }
            }
        }
    }
    std::printf("lanes: %llu runs in threads, every block once\n", static_cast<unsigned long long>(runs));
}

}  // namespace

int main(int argument_count, char** arguments) {
    const auto [blocks, seed] = effort_of("lanes", argument_count, arguments, 600);
    check_bells();
    check_ended_lanes();
    run_schedules(seed);
    run_threads(blocks, seed);
    return 0;
}
