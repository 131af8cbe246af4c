// Two clients of one JACK server: a player of numbers into everything that captures, and a listener to what is played back.
//
// Two, because one would close a loop in JACK's graph, which costs a period by itself. JACK makes their threads and calls them in
// the order of the graph: the player, who captured from it, the listener. So what is handed back within one cycle has a
// latency of 0. Nothing in these callbacks allocates, waits or makes a system call.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "jack_library.hpp"
#include "numbers.hpp"
#include "platform.hpp"

namespace steadyflow::probe {

// A cycle of the player: which frame it began with, and when it was called.
struct Cycle {
    std::uint64_t position;
    Nanoseconds called_ns;
};

// Follows the server's count of frames, which jumps ahead where the server gave cycles up.
class FrameClock {
public:
    void observe(std::uint32_t server_frame, std::uint32_t frames) noexcept {
        const auto ahead = static_cast<std::int32_t>(server_frame - expected_);
        if (started_ && ahead > 0) skipped_.add(static_cast<std::uint64_t>(ahead));
        started_ = true;
        expected_ = server_frame + frames;
    }
    std::uint64_t skipped_frames() const noexcept { return skipped_.get(); }

private:
    bool started_ = false;
    std::uint32_t expected_ = 0;
    Count skipped_;
};

class Clients {
public:
    // `wake` is a descriptor that is written to (8 bytes, an eventfd's) when ports, connections or the server change.
    Clients(const JackLibrary& jack, int wake, std::size_t most_cycles);
    Clients(const Clients&) = delete;
    Clients& operator=(const Clients&) = delete;
    ~Clients();

    // Returns what went wrong, or nothing.
    std::string open(const std::string& server, const std::string& name, bool listens, bool loops);

    // Connect everything that is there now and is not connected yet; not on a thread of JACK.
    void connect_all();

    bool server_ended() const noexcept { return ended_.load(std::memory_order_relaxed); }
    std::uint32_t rate_hz() const { return jack_.get_sample_rate(player_); }
    std::uint32_t period_frames() const { return jack_.get_buffer_size(player_); }
    bool realtime() const { return jack_.is_realtime(player_) != 0; }
    float load_percent() const { return jack_.cpu_load(player_); }
    std::uint64_t xruns() const noexcept { return xruns_.get(); }
    std::uint64_t skipped_frames() const noexcept { return player_clock_.skipped_frames(); }
    std::uint64_t position() const noexcept { return position_.load(std::memory_order_acquire); }
    // How many cycles were played. Of each, as far as there is room, when.
    std::uint64_t cycle_count() const noexcept { return cycle_count_.load(std::memory_order_acquire); }
    const std::vector<Cycle>& cycles() const noexcept { return cycles_; }
    const Listener& listener() const noexcept { return heard_; }
    bool listens() const noexcept { return listener_ != nullptr; }

private:
    static int play(std::uint32_t frames, void* self) noexcept;
    static int listen(std::uint32_t frames, void* self) noexcept;
    static int note_xrun(void* self) noexcept;
    static void note_shutdown(void* self) noexcept;
    static void note_port(std::uint32_t port, int registered, void* self) noexcept;
    static void note_connection(std::uint32_t one, std::uint32_t other, int connected, void* self) noexcept;

    JackClient* open_client(const std::string& server, const std::string& name, std::string& problem);
    std::vector<std::string> ports(unsigned long flags) const;
    std::vector<std::string> connections(JackPort* port) const;
    bool is_ours(const std::string& port) const;
    void feed(const std::string& input);
    void wake() const noexcept;

    const JackLibrary& jack_;
    int wake_;
    JackClient* player_ = nullptr;
    JackClient* listener_ = nullptr;
    JackPort* out_ = nullptr;
    JackPort* in_ = nullptr;
    bool loops_ = false;

    FrameClock player_clock_;
    std::vector<Cycle> cycles_;
    std::atomic<std::uint64_t> cycle_count_{0};
    std::uint64_t next_ = 0;                    // the position of the next frame, the player's own
    std::atomic<std::uint64_t> position_{0};    // of the first frame of the cycle that is played
    Listener heard_;
    Count xruns_;
    std::atomic<bool> ended_{false};
};

}  // namespace steadyflow::probe
