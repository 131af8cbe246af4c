// A scenario over one port in model memory, put together from pieces of work.
#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "plane.hpp"

namespace steadyflow::model {

class PlaneScenario : public Scenario {
public:
    using Work = std::function<void(Plane&)>;

    PlaneScenario(std::string name, Shape shape, std::vector<Work> threads)
        : name_(std::move(name)), plane_(shape), threads_(std::move(threads)) {}

    PlaneScenario& prepared(Work work) {
        prepare_ = std::move(work);
        return *this;
    }
    // Besides the audit.
    PlaneScenario& ends_with(Work work) {
        verify_ = std::move(work);
        return *this;
    }
    PlaneScenario& with_bells() {
        plane_.ring_bells();
        return *this;
    }
    // This thread may be killed before any of its steps.
    PlaneScenario& dies(unsigned thread) {
        mortal_ = thread;
        plane_.somebody_dies();
        return *this;
    }
    // These threads never end; when all others have, nothing may be left for them to do.
    PlaneScenario& for_ever(std::initializer_list<unsigned> threads) {
        for (const unsigned thread : threads) sleepers_ |= 1U << thread;
        return *this;
    }

    std::string name() const override { return name_; }
    unsigned threads() const override { return static_cast<unsigned>(threads_.size()); }
    bool mortal(unsigned thread) const override { return thread == mortal_; }
    bool sleeps_in_the_end(unsigned thread) const override { return (sleepers_ >> thread & 1) != 0; }
    void set_up() override {
        plane_.begin();
        if (prepare_) prepare_(plane_);
    }
    void run(unsigned thread) override { threads_[thread](plane_); }
    void finish() override {
        if (sleepers_ != 0) expect(plane_.account().fill == 0, "a block waits, and whoever could take it sleeps");
        plane_.audit();
        if (verify_) verify_(plane_);
    }

private:
    std::string name_;
    Plane plane_;
    std::vector<Work> threads_;
    Work prepare_ = {};
    Work verify_ = {};
    unsigned mortal_ = max_threads;
    unsigned sleepers_ = 0;
};

namespace works {

inline PlaneScenario::Work sends(unsigned blocks, RuleKind rule) {
    return [=](Plane& plane) {
        for (unsigned block = 0; block < blocks; ++block) plane.send(rule);
    };
}
inline PlaneScenario::Work sends_and_ends(unsigned blocks, RuleKind rule) {
    return [=](Plane& plane) {
        for (unsigned block = 0; block < blocks; ++block) plane.send(rule);
        plane.end();
    };
}
inline PlaneScenario::Work receives(unsigned consumer, unsigned looks) {
    return [=](Plane& plane) {
        for (unsigned look = 0; look < looks; ++look) plane.receive(consumer);
    };
}
inline PlaneScenario::Work reads_account(unsigned times) {
    return [=](Plane& plane) {
        for (unsigned time = 0; time < times; ++time) plane.observe();
    };
}
inline PlaneScenario::Work peeks_and_receives(unsigned looks) {
    return [=](Plane& plane) {
        for (unsigned look = 0; look < looks; ++look) plane.peek_and_receive(0);
    };
}
inline PlaneScenario::Work receives_for_ever(unsigned consumer) {
    return [=](Plane& plane) { plane.receive_for_ever(consumer); };
}
inline PlaneScenario::Work receives_all(unsigned consumer) {
    return [=](Plane& plane) { plane.receive_all(consumer); };
}

inline PlaneScenario::Work rings(unsigned bit) {
    return [=](Plane& plane) { plane.bell(0).ring(bit); };
}
// Until each of these bits was seen.
inline PlaneScenario::Work sleeps_until(std::uint64_t bits) {
    return [=](Plane& plane) {
        for (std::uint64_t seen = 0;;) {
            seen |= plane.bell(0).take();
            if ((seen & bits) == bits) return;
            plane.bell(0).wait(-1);
        }
    };
}

inline void flushes(Plane& plane) { plane.flush(); }
// The next block but two comes to the slot of the first one, and its buffer is the next one to be allocated then.
inline void claims_the_first(Plane& plane) {
    plane.send(RuleKind::wait);
    plane.claim(0);
    plane.send(RuleKind::wait);
    plane.send(RuleKind::drop_oldest);
}

}  // namespace works

}  // namespace steadyflow::model
