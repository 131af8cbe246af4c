#include "clients.hpp"

#include <unistd.h>

namespace steadyflow::probe {
namespace {

constexpr const char* hardware = "system:";  // the driver's own ports

Clients& self_of(void* self) noexcept { return *static_cast<Clients*>(self); }

}  // namespace

Clients::Clients(const JackLibrary& jack, int wake, std::size_t most_cycles)
    : jack_(jack), wake_(wake), cycles_(most_cycles), heard_(most_cycles) {}

Clients::~Clients() {
    // A client of a server that has ended would wait for it.
    if (server_ended()) return;
    if (listener_ != nullptr) jack_.client_close(listener_);
    if (player_ != nullptr) jack_.client_close(player_);
}

std::string Clients::open(const std::string& server, const std::string& name, bool listens, bool loops) {
    std::string problem;
    loops_ = loops;
    player_ = open_client(server, name, problem);
    if (player_ == nullptr) return problem;
    out_ = jack_.port_register(player_, "out", JackLibrary::audio, JackLibrary::is_output, 0);
    if (out_ == nullptr) return "JACK gives no output port";
    jack_.set_process_callback(player_, play, this);
    jack_.set_xrun_callback(player_, note_xrun, this);
    jack_.set_port_registration_callback(player_, note_port, this);
    jack_.set_port_connect_callback(player_, note_connection, this);
    if (jack_.activate(player_) != 0) return "JACK does not activate the player";
    if (!listens && !loops) return "";
    listener_ = open_client(server, name + "-listener", problem);
    if (listener_ == nullptr) return problem;
    in_ = jack_.port_register(listener_, "in", JackLibrary::audio, JackLibrary::is_input, 0);
    if (in_ == nullptr) return "JACK gives no input port";
    jack_.set_process_callback(listener_, listen, this);
    return jack_.activate(listener_) == 0 ? "" : "JACK does not activate the listener";
}

JackClient* Clients::open_client(const std::string& server, const std::string& name, std::string& problem) {
    constexpr int options = JackLibrary::no_start_server | JackLibrary::use_exact_name | JackLibrary::server_name;
    int status = 0;
    JackClient* client = jack_.client_open(name.c_str(), options, &status, server.c_str());
    if (client == nullptr) {
        problem = "JACK's server " + server + " does not take the client " + name + " (status " + std::to_string(status) + ")";
        return nullptr;
    }
    jack_.on_shutdown(client, note_shutdown, this);
    return client;
}

// ---- on JACK's real-time threads

int Clients::play(std::uint32_t frames, void* self) noexcept {
    Clients& clients = self_of(self);
    const Nanoseconds called_ns = monotonic_ns();
    clients.player_clock_.observe(clients.jack_.last_frame_time(clients.player_), frames);
    const std::uint64_t first = clients.next_;
    auto* samples = static_cast<float*>(clients.jack_.port_get_buffer(clients.out_, frames));
    for (std::uint32_t index = 0; index < frames; ++index) samples[index] = sample_of(first + index);
    clients.next_ = first + frames;
    // release: JACK orders the listener behind us already; the main thread reads it, too.
    clients.position_.store(first, std::memory_order_release);
    const std::uint64_t count = clients.cycle_count_.load(std::memory_order_relaxed);
    if (count < clients.cycles_.size()) clients.cycles_[count] = {first, called_ns};
    // release: a reader of the count finds the cycle.
    clients.cycle_count_.store(count + 1, std::memory_order_release);
    return 0;
}

int Clients::listen(std::uint32_t frames, void* self) noexcept {
    Clients& clients = self_of(self);
    const auto* samples = static_cast<const float*>(clients.jack_.port_get_buffer(clients.in_, frames));
    clients.heard_.hear(samples, frames, clients.position_.load(std::memory_order_acquire));
    return 0;
}

// ---- on JACK's thread for news, which must not ask JACK for anything

int Clients::note_xrun(void* self) noexcept {
    self_of(self).xruns_.add(1);
    return 0;
}

void Clients::note_shutdown(void* self) noexcept {
    self_of(self).ended_.store(true, std::memory_order_relaxed);
    self_of(self).wake();
}

void Clients::note_port(std::uint32_t, int, void* self) noexcept { self_of(self).wake(); }

void Clients::note_connection(std::uint32_t, std::uint32_t, int, void* self) noexcept { self_of(self).wake(); }

void Clients::wake() const noexcept {
    const std::uint64_t one = 1;
    // A counter that is full has woken its reader many times over.
    if (write(wake_, &one, sizeof one) != sizeof one) return;
}

// ---- on the main thread

void Clients::connect_all() {
    if (loops_) {
        if (connections(in_).empty()) jack_.connect(player_, jack_.port_name(out_), jack_.port_name(in_));
        return;
    }
    for (const std::string& input : ports(JackLibrary::is_input)) {
        if (!is_ours(input) && input.rfind(hardware, 0) != 0) feed(input);
    }
    // One output and no more: two of them would be added up.
    if (!listens() || !connections(in_).empty()) return;
    for (const std::string& output : ports(JackLibrary::is_output)) {
        if (is_ours(output) || output.rfind(hardware, 0) == 0) continue;
        jack_.connect(listener_, output.c_str(), jack_.port_name(in_));
        return;
    }
}

void Clients::feed(const std::string& input) {
    JackPort* port = jack_.port_by_name(player_, input.c_str());
    if (port == nullptr) return;  // gone meanwhile
    const std::string out = jack_.port_name(out_);
    bool fed = false;
    for (const std::string& source : connections(port)) {
        if (source == out) {
            fed = true;
        } else {
            jack_.disconnect(player_, source.c_str(), input.c_str());
        }
    }
    if (!fed) jack_.connect(player_, out.c_str(), input.c_str());
}

std::vector<std::string> Clients::ports(unsigned long flags) const {
    const char** names = jack_.get_ports(player_, nullptr, JackLibrary::audio, flags);
    std::vector<std::string> found;
    for (const char** name = names; name != nullptr && *name != nullptr; ++name) found.emplace_back(*name);
    jack_.free(names);
    return found;
}

std::vector<std::string> Clients::connections(JackPort* port) const {
    const char** names = jack_.port_get_all_connections(player_, port);
    std::vector<std::string> found;
    for (const char** name = names; name != nullptr && *name != nullptr; ++name) found.emplace_back(*name);
    jack_.free(names);
    return found;
}

bool Clients::is_ours(const std::string& port) const {
    return port == jack_.port_name(out_) || (in_ != nullptr && port == jack_.port_name(in_));
}

}  // namespace steadyflow::probe
