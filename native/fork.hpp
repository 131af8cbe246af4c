// What fork() leaves of the data plane: in the child, nothing that is shared.
//
// A forked child starts with the mappings, descriptors and ends of its parent, but with one thread, and the flow is not
// its own. So before anything else runs in it:
// - every segment is replaced, at its address, by private memory. Whatever an inherited end or view does there, no other
//   process sees it. What views and loans showed at the moment of the fork is copied, and stays as it was.
// - the descriptors of segments and bells are closed; a child that reads from a bell would take the wake-ups of others.
// - fork_generation is raised; ends remember the one they were made in, and refuse in another.
#pragma once

#include <cstdint>

namespace steadyflow {

// Once for each process that uses the data plane through its ends: makes the above so. Native programs that fork to share
// segments, as tests do, do without.
void detach_forked_children();

// How many forks lie between this process and the first one. Written in a child alone, before it has a second thread.
inline std::uint32_t fork_generation = 0;

// Something that fork() must not leave to the child as it is.
class Inherited {
public:
    virtual void before_fork() noexcept {}           // parent; no Inherited comes or goes meanwhile
    virtual void after_fork_in_parent() noexcept {}
    virtual void after_fork_in_child() noexcept = 0; // in the order in which they were made

    Inherited(const Inherited&) = delete;
    Inherited& operator=(const Inherited&) = delete;

protected:
    Inherited() = default;
    ~Inherited() = default;
};

// The last member of an Inherited: it is told of forks for as long as this lives. Any thread; a short lock.
class ForkWatch {
public:
    explicit ForkWatch(Inherited& watched);
    ~ForkWatch();
    ForkWatch(const ForkWatch&) = delete;
    ForkWatch& operator=(const ForkWatch&) = delete;

private:
    friend struct ForkWatches;
    Inherited& watched_;
    ForkWatch* before_ = nullptr;
    ForkWatch* after_ = nullptr;
};

}  // namespace steadyflow
