// A JACK client that plays the number of every frame, and tells what becomes of it.
//
//   jack_probe SERVER [--name NAME] [--listen | --loop] [--limit-s SECONDS]
//
// Plays into every input of every other client, as they come; with --listen, the first output of another client is heard and
// judged, with --loop the probe's own. Prints one JSON object a line: "ready" first. Takes one command a line:
//
//   reset         counts from now on
//   report        prints what happened since: lost, repeated and silent frames, latencies, and the server's own xruns
//   cycles FILE   writes when each cycle was played, since the start: pairs of int64 (its first position, monotonic ns)
//
// Ends with its standard input; with 1 and a line "failed" where there is no JACK, with 3 and "ended" where the server ends first.
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "clients.hpp"

using namespace steadyflow;
using namespace steadyflow::probe;

namespace {

constexpr int look_ms = 100;  // how often the load is asked for

struct Arguments {
    std::string server;
    std::string name = "probe";
    bool listens = false;
    bool loops = false;
    std::size_t limit_s = 600;
};

bool parse(int count, char** words, Arguments& arguments) {
    for (int index = 1; index < count; ++index) {
        const std::string word = words[index];
        const char* value = index + 1 < count ? words[index + 1] : nullptr;
        if (word == "--listen") {
            arguments.listens = true;
        } else if (word == "--loop") {
            arguments.loops = true;
        } else if (word == "--name" && value != nullptr) {
            arguments.name = words[++index];
        } else if (word == "--limit-s" && value != nullptr) {
            char* end = nullptr;
            arguments.limit_s = std::strtoul(words[++index], &end, 10);
            if (*end != '\0' || arguments.limit_s == 0 || arguments.limit_s > 86'400) return false;
        } else if (word.rfind("--", 0) != 0 && arguments.server.empty()) {
            arguments.server = word;
        } else {
            return false;
        }
    }
    return !arguments.server.empty();
}

// As a JSON string: what comes from JACK may hold anything.
std::string quoted(const std::string& text) {
    std::string line = "\"";
    for (const char character : text) {
        const auto byte = static_cast<unsigned char>(character);
        if (character == '"' || character == '\\') line += '\\';
        if (byte >= 0x20) line += character;
    }
    return line + '"';
}

void say(const std::string& line) {
    std::puts(line.c_str());
    std::fflush(stdout);
}

int fail(const std::string& problem) {
    say("{\"event\": \"failed\", \"problem\": " + quoted(problem) + "}");
    return 1;
}

class Session {
public:
    explicit Session(Clients& clients) : clients_(clients) { reset(); }

    void look() {
        const double load = clients_.load_percent() / 100.0;
        load_sum_ += load;
        load_worst_ = std::max(load_worst_, load);
        ++looks_;
    }

    void obey(const std::string& command) {
        if (command == "reset") {
            reset();
            say("{\"event\": \"reset\"}");
        } else if (command == "report") {
            report();
        } else if (command.rfind("cycles ", 0) == 0) {
            write_cycles(command.substr(7));
        } else {
            say("{\"event\": \"refused\", \"problem\": " + quoted("no such command: " + command) + "}");
        }
    }

private:
    void reset() {
        since_ns_ = monotonic_ns();
        position_ = clients_.position();
        cycles_ = clients_.cycle_count();
        xruns_ = clients_.xruns();
        skipped_frames_ = clients_.skipped_frames();
        heard_ = clients_.listener().heard();
        load_sum_ = load_worst_ = 0;
        looks_ = 0;
    }

    void report() const {
        char text[1024];
        std::snprintf(text, sizeof text,
                      "{\"event\": \"report\", \"seconds\": %.3f, \"first_position\": %llu, \"last_position\": %llu, "
                      "\"cycles\": %llu, \"xruns\": %llu, \"skipped_frames\": %llu, \"mean_load\": %.4f, \"worst_load\": %.4f",
                      static_cast<double>(monotonic_ns() - since_ns_) / 1e9, word(position_), word(clients_.position()),
                      word(clients_.cycle_count() - cycles_), word(clients_.xruns() - xruns_),
                      word(clients_.skipped_frames() - skipped_frames_), looks_ > 0 ? load_sum_ / looks_ : 0.0, load_worst_);
        std::string line = text;
        if (clients_.listens()) line += ", " + heard();
        say(line + "}");
    }

    std::string heard() const {
        const Heard now = clients_.listener().heard();
        const std::vector<std::int32_t>& kept = clients_.listener().latencies_frames();
        const auto at = [&](std::uint64_t cycle) {
            return kept.begin() + static_cast<std::ptrdiff_t>(std::min<std::uint64_t>(cycle, kept.size()));
        };
        const Latencies latencies = summarise({at(heard_.cycles), at(now.cycles)});
        char text[1024];
        std::snprintf(text, sizeof text,
                      "\"heard\": {\"cycles\": %llu, \"silent_cycles\": %llu, \"frames\": %llu, \"silent_frames\": %llu, "
                      "\"foreign_frames\": %llu, \"lost_frames\": %llu, \"holes\": %llu, \"repeated_frames\": %llu, "
                      "\"latencies\": %zu, \"latency_p50_frames\": %d, \"latency_p99_frames\": %d, \"latency_p999_frames\": %d, "
                      "\"latency_max_frames\": %d, \"jitter_frames\": %.3f, \"late_cycles\": %llu}",
                      word(now.cycles - heard_.cycles), word(now.silent_cycles - heard_.silent_cycles),
                      word(now.frames - heard_.frames), word(now.silent_frames - heard_.silent_frames),
                      word(now.foreign_frames - heard_.foreign_frames), word(now.lost_frames - heard_.lost_frames),
                      word(now.holes - heard_.holes), word(now.repeated_frames - heard_.repeated_frames), latencies.count,
                      latencies.p50, latencies.p99, latencies.p999, latencies.max, latencies.jitter,
                      word(static_cast<std::uint64_t>(std::count_if(at(heard_.cycles), at(now.cycles), [&](std::int32_t frames) {
                          return static_cast<std::uint32_t>(frames) > 2 * clients_.period_frames();
                      }))));
        return text;
    }

    void write_cycles(const std::string& path) const {
        static_assert(sizeof(Cycle) == 16);
        const std::size_t count = std::min<std::size_t>(clients_.cycle_count(), clients_.cycles().size());
        std::FILE* file = std::fopen(path.c_str(), "wb");
        bool whole = file != nullptr && std::fwrite(clients_.cycles().data(), sizeof(Cycle), count, file) == count;
        if (file != nullptr) whole = std::fclose(file) == 0 && whole;
        if (whole) {
            say("{\"event\": \"cycles\", \"count\": " + std::to_string(count) + "}");
        } else {
            say("{\"event\": \"refused\", \"problem\": " + quoted(path + ": " + std::strerror(errno)) + "}");
        }
    }

    static unsigned long long word(std::uint64_t value) { return value; }

    Clients& clients_;
    Nanoseconds since_ns_ = 0;
    std::uint64_t position_ = 0, cycles_ = 0, xruns_ = 0, skipped_frames_ = 0;
    Heard heard_;
    double load_sum_ = 0, load_worst_ = 0;
    int looks_ = 0;
};

int serve(Clients& clients, int news) {
    Session session(clients);
    std::string unread;
    pollfd waited_for[] = {{STDIN_FILENO, POLLIN, 0}, {news, POLLIN, 0}};
    Nanoseconds looked_ns = 0;
    while (!clients.server_ended()) {
        if (monotonic_ns() - looked_ns >= Nanoseconds{look_ms} * 1'000'000) {
            looked_ns = monotonic_ns();
            session.look();
        }
        if (poll(waited_for, 2, look_ms) < 0 && errno != EINTR) return fail(std::string("poll: ") + std::strerror(errno));
        if ((waited_for[1].revents & POLLIN) != 0) {
            std::uint64_t count = 0;
            if (read(news, &count, sizeof count) == sizeof count && !clients.server_ended()) clients.connect_all();
        }
        if ((waited_for[0].revents & (POLLIN | POLLHUP | POLLERR)) == 0) continue;
        char bytes[1024];
        const ssize_t got = read(STDIN_FILENO, bytes, sizeof bytes);
        if (got <= 0) return 0;
        unread.append(bytes, static_cast<std::size_t>(got));
        for (std::size_t end = unread.find('\n'); end != std::string::npos; end = unread.find('\n')) {
            session.obey(unread.substr(0, end));
            unread.erase(0, end + 1);
        }
    }
    say("{\"event\": \"ended\", \"problem\": \"the server has ended\"}");
    return 3;
}

}  // namespace

int main(int count, char** words) {
    Arguments arguments;
    if (!parse(count, words, arguments)) {
        std::fputs("usage: jack_probe SERVER [--name NAME] [--listen | --loop] [--limit-s SECONDS]\n", stderr);
        return 2;
    }
    JackLibrary jack{};
    if (const std::string problem = jack.load(); !problem.empty()) return fail(problem);
    const int news = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (news < 0) return fail(std::string("eventfd: ") + std::strerror(errno));
    // The shortest period that is common is 32 frames: 1,500 cycles a second at 48 kHz.
    Clients clients(jack, news, arguments.limit_s * 1'500);
    if (const std::string problem = clients.open(arguments.server, arguments.name, arguments.listens, arguments.loops);
        !problem.empty()) {
        return fail(problem);
    }
    clients.connect_all();
    say("{\"event\": \"ready\", \"rate_hz\": " + std::to_string(clients.rate_hz()) + ", \"period_frames\": " +
        std::to_string(clients.period_frames()) + ", \"realtime\": " + (clients.realtime() ? "true" : "false") + "}");
    return serve(clients, news);
}
