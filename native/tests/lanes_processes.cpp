// Replicas are processes, killed at any moment and replaced, while source and receiver go on.
//
//   lanes_processes [blocks] [seed]      blocks of one run; the seed is printed
#include <atomic>
#include <map>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <csignal>
#include <sys/wait.h>
#include <unistd.h>

#include "recovery.hpp"
#include "replicated.hpp"

using namespace steadyflow;
using namespace steadyflow::testing;

namespace {
// Nobody waits for ever, every block comes, and those that no death gave back come in order.
class Mortals {
public:
    Mortals(const Shape& shape, std::uint64_t blocks, std::uint64_t seed)
        : works_(shape), blocks_(blocks), seed_(seed), random_(seed) {}

    void run(unsigned deaths) {
        for (std::uint32_t replica = 0; replica < works_.shape().replicas; ++replica) children_.push_back(start(replica));
        std::thread source([this] { produce(); });
        std::thread receiver([this] { receive(); });
        unsigned died = 0;
        while (died < deaths) {
            // Between two deaths somebody comes so far that the next one meets another moment.
            const std::uint64_t until = std::min(came_.load() + 1 + random_.below(40), blocks_);
            spin([&] { return came_.load() >= until || over_.load(); });
            if (over_.load()) break;
            for (std::uint64_t pause = random_.below(3000); pause != 0; --pause) std::atomic_signal_fence(std::memory_order_seq_cst);
            die(static_cast<std::uint32_t>(random_.below(children_.size())));
            ++died;
        }
        source.join();
        receiver.join();
        for (const pid_t child : children_) {
            int status = 0;
            CHECK_EQUAL(child, waitpid(child, &status, 0));
            CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        }
        verify();
    }

private:
    static constexpr std::uint32_t parts = 3;

    std::uint32_t results_of(std::uint64_t number) const noexcept {
        return static_cast<std::uint32_t>(Random::mix(number + seed_) % (parts + 1));
    }

    template <class Until>
    void spin(Until until) {
        const Nanoseconds limit = monotonic_ns() + patience_ns;
        while (!until()) {
            if (monotonic_ns() >= limit) fail(__FILE__, __LINE__, "progress", "in time", "none: " + state());
            std::this_thread::yield();
        }
    }
    std::string state() const {
        std::string text = testing::describe(works_.input());
        for (std::uint32_t replica = 0; replica < works_.shape().replicas; ++replica) {
            text += " | " + testing::describe(works_.lane(replica));
        }
        return text;
    }

    pid_t start(std::uint32_t replica) {
        std::fflush(nullptr);
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            work(works_.mapped_again(), replica);
            _exit(0);
        }
        return child;
    }

    // In a process of its own. A limit of its own, too: whoever waits in vain here ends with 1.
    void work(const Works& works, std::uint32_t replica) const {
        RingConsumer input = works.replica_input(replica);
        Sender sender(works.lane(replica), works.lane_pool(replica));
        const Bell bell = works.replica_bell(replica);
        ConsumerBells receivers;
        receivers.add(works.receiver_bell(0), 0);
        Claim claim;
        for (;;) {
            if (!input.claim(claim)) {
                if (input.at_end()) break;
                if (bell.take() == 0) sleep(bell, true);
                continue;
            }
            const std::uint64_t number = claim.header.first_frame;
            for (std::uint32_t part = 0; part < results_of(number); ++part) {
                while (!sender.producer().has_room()) {
                    sender.producer().request_wake();
                    if (!sender.producer().has_room()) {
                        sleep(bell, false);
                        if (bell.take() >> room_bit == 0) bell.announce(0);
                    }
                    sender.producer().cancel_wake();
                }
                sender.publish(number, part, claim.word.position());
                receivers.ring_one();
            }
            input.finish(claim);
            receivers.ring_all();
        }
        sender.producer().end();
        receivers.ring_all();
    }

    static void sleep(const Bell& bell, bool idle) {
        const Nanoseconds limit = monotonic_ns() + patience_ns;
        bell.wait(limit, idle);
        if (monotonic_ns() >= limit) fail(__FILE__, __LINE__, "sleep", "a wake-up", "none");
    }

    void die(std::uint32_t replica) {
        CHECK_EQUAL(0, kill(children_[replica], SIGKILL));
        int status = 0;
        CHECK_EQUAL(children_[replica], waitpid(children_[replica], &status, 0));
        // As the control plane does it.
        BufferPool pool = works_.lane_pool(replica);
        const Ring lanes[] = {works_.lane(replica)};
        take_over(pool, std::span<const Ring>(lanes));
        works_.replica_bell(replica).retire();
        const Ring input = works_.input();
        for (std::uint32_t index = 0; index < input.count(); ++index) {
            const Slot& slot = input.slot(index);
            const SlotWord word = load(slot);
            if (word.state() == SlotState::claimed && word.owner() == replica) {
                given_back_.insert(slot.header.read().first_frame);
            }
        }
        reap(input, replica);
        for (std::uint32_t each = 0; each < works_.shape().replicas; ++each) works_.replica_bell(each).ring_anyway(0);
        works_.receiver_bell(0).ring_anyway(0);
        works_.source_bell().ring_anyway(room_bit);
        children_[replica] = start(replica);
    }

    void produce() {
        Sender sender(works_.input(), works_.input_pool());
        const Bell bell = works_.source_bell();
        const ConsumerBells bells = works_.replicas_bells();
        for (std::uint64_t number = 0; number < blocks_; ++number) {
            while (!sender.producer().has_room()) {
                sender.producer().request_wake();
                if (!sender.producer().has_room()) {
                    sleep(bell, true);
                    bell.take();
                }
                sender.producer().cancel_wake();
            }
            sender.publish(number, 0, 0);
            bells.ring_one();
        }
        sender.producer().end();
        bells.ring_all();
    }

    void receive() {
        Lanes lanes = works_.receiver(0, true);
        const Bell bell = works_.receiver_bell(0);
        Claim claim;
        for (;;) {
            Lanes::Lane* lane = lanes.claim(claim);
            if (lane == nullptr) {
                if (lanes.at_end()) break;
                if (bell.take() == 0) sleep(bell, true);
                continue;
            }
            received_.emplace_back(claim.header.first_frame, claim.header.frames);
            lane->consumer.finish(claim);
            came_.store(std::max(came_.load(), claim.header.first_frame + 1));
        }
        over_.store(true);
    }

    void verify() const {
        std::map<std::pair<std::uint64_t, std::uint32_t>, unsigned> times;
        std::pair<std::uint64_t, std::uint32_t> last{0, 0};
        for (const auto& made : received_) {
            ++times[made];
            if (given_back_.count(made.first) != 0) continue;
            CHECK(made >= last);
            CHECK_EQUAL(1, times[made]);
            last = made;
        }
        for (std::uint64_t number = 0; number < blocks_; ++number) {
            for (std::uint32_t part = 0; part < results_of(number); ++part) CHECK(times.count({number, part}) != 0);
        }
        const Account account = read_account(works_.input());
        CHECK_EQUAL(blocks_, account.sent);
        CHECK_EQUAL(blocks_, account.delivered);
        CHECK_EQUAL(given_back_.size(), account.repeated);
    }

    Works works_;
    std::uint64_t blocks_;
    std::uint64_t seed_;
    Random random_;
    std::vector<pid_t> children_ = {};
    std::set<std::uint64_t> given_back_ = {};
    std::vector<std::pair<std::uint64_t, std::uint32_t>> received_ = {};
    std::atomic<std::uint64_t> came_{0};
    std::atomic<bool> over_{false};
};

}  // namespace

int main(int argument_count, char** arguments) {
    const auto [blocks, seed] = effort_of("lanes_processes", argument_count, arguments, 2000);
    std::uint64_t runs = 0;
    for (std::uint32_t replicas = 2; replicas <= 3; ++replicas) {
        for (const std::uint32_t input_size : {1U, 4U}) {
            for (const std::uint32_t lane_size : {1U, 6U}) {
                const Shape shape{replicas, 1, input_size, lane_size};
                const std::uint64_t own_seed = Random::mix(seed + 7919 * ++runs);
                situation = describe(shape) + ", seed " + std::to_string(own_seed);
                Mortals(shape, blocks, own_seed).run(40);
            }
        }
    }
    std::printf("lanes_processes: %llu runs with up to 40 deaths each, in order and nothing lost\n",
                static_cast<unsigned long long>(runs));
    return 0;
}
