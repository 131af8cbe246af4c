#include "fork.hpp"

#include <mutex>

#include <pthread.h>

namespace steadyflow {

struct ForkWatches {
    std::mutex mutex;
    ForkWatch* first = nullptr;
    ForkWatch* last = nullptr;

    void add(ForkWatch& watch) {
        const std::scoped_lock lock(mutex);
        watch.before_ = last;
        (last == nullptr ? first : last->after_) = &watch;
        last = &watch;
    }
    void remove(ForkWatch& watch) {
        const std::scoped_lock lock(mutex);
        (watch.before_ == nullptr ? first : watch.before_->after_) = watch.after_;
        (watch.after_ == nullptr ? last : watch.after_->before_) = watch.before_;
    }
    template <void (Inherited::*tell)() noexcept>
    void tell_all() noexcept {
        for (ForkWatch* watch = first; watch != nullptr; watch = watch->after_) (watch->watched_.*tell)();
    }
};

namespace {

ForkWatches watches;

}  // namespace

ForkWatch::ForkWatch(Inherited& watched) : watched_(watched) { watches.add(*this); }

ForkWatch::~ForkWatch() { watches.remove(*this); }

void detach_forked_children() {
    // The lock is held across the fork, so that the child finds the list whole.
    pthread_atfork(
        [] {
            watches.mutex.lock();
            watches.tell_all<&Inherited::before_fork>();
        },
        [] {
            watches.tell_all<&Inherited::after_fork_in_parent>();
            watches.mutex.unlock();
        },
        [] {
            ++fork_generation;
            watches.tell_all<&Inherited::after_fork_in_child>();
            watches.mutex.unlock();
        });
}

}  // namespace steadyflow
