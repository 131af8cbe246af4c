// Which memory order each place of the source asks for, and what happens if one place asks for a weaker one.
#pragma once

#include <array>
#include <atomic>
#include <compare>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <source_location>
#include <string>
#include <string_view>
#include <vector>

namespace steadyflow::model {

enum class Part : std::uint8_t { load, store, update, failure, fence };  // failure: of a compare-and-swap

// One order in the source: where it is written, and which of the two orders of a compare-and-swap.
struct Place {
    std::string_view file;
    std::uint32_t line;
    std::uint32_t column;
    Part part;
    auto operator<=>(const Place&) const = default;

    std::string name() const {
        static constexpr const char* parts[] = {"load", "store", "read-modify-write", "failed compare-and-swap", "fence"};
        const std::size_t slash = file.rfind('/');
        return std::string(slash == std::string_view::npos ? file : file.substr(slash + 1)) + ":" + std::to_string(line) +
               ":" + std::to_string(column) + " " + parts[static_cast<unsigned>(part)];
    }
};

inline const char* name(std::memory_order order) noexcept {
    switch (order) {
        case std::memory_order_relaxed: return "relaxed";
        case std::memory_order_acquire: return "acquire";
        case std::memory_order_release: return "release";
        case std::memory_order_acq_rel: return "acq_rel";
        case std::memory_order_seq_cst: return "seq_cst";
        default: return "consume";
    }
}

// The orders that are one step weaker. No more is needed: a still weaker one has all of their executions.
inline std::vector<std::memory_order> weaker(Part part, std::memory_order order) {
    switch (order) {
        case std::memory_order_seq_cst:
            if (part == Part::load || part == Part::failure) return {std::memory_order_acquire};
            if (part == Part::store) return {std::memory_order_release};
            return {std::memory_order_acq_rel};
        case std::memory_order_acq_rel: return {std::memory_order_acquire, std::memory_order_release};
        case std::memory_order_acquire:
        case std::memory_order_release: return {std::memory_order_relaxed};
        default: return {};
    }
}

// The order that a failed compare-and-swap has where only one was given.
constexpr std::memory_order failure_order(std::memory_order order) noexcept {
    if (order == std::memory_order_acq_rel) return std::memory_order_acquire;
    if (order == std::memory_order_release) return std::memory_order_relaxed;
    return order;
}

struct Weakening {
    Place place;
    std::memory_order from;
    std::memory_order to;
    std::string name() const {
        return place.name() + ", " + model::name(from) + " -> " + model::name(to);
    }
};

class Orders {
public:
    void weaken(std::optional<Weakening> weakening) { weakening_ = std::move(weakening); }
    // A store that is not carried out.
    void lose(std::optional<Place> place) { lost_ = std::move(place); }

    // Notes the places that ask for more than relaxed, and all stores.
    void collect(bool on) noexcept { collecting_ = on; }
    const std::map<Place, std::memory_order>& collected() const noexcept { return collected_; }

    std::memory_order effective(const std::source_location& where, Part part, std::memory_order order) {
        if (collecting_ && (order != std::memory_order_relaxed || part == Part::store)) collect(where, part, order);
        return weakening_ && is_at(weakening_->place, where, part) ? weakening_->to : order;
    }
    bool loses(const std::source_location& where) const { return lost_ && is_at(*lost_, where, Part::store); }

private:
    static bool is_at(const Place& place, const std::source_location& where, Part part) {
        return place.line == where.line() && place.column == where.column() && place.part == part &&
               place.file == where.file_name();
    }

    void collect(const std::source_location& where, Part part, std::memory_order order) {
        // This is on the way of every access: most are known.
        const std::uint64_t key = std::uint64_t{where.line()} << 32 | std::uint64_t{where.column()} << 8 |
                                  static_cast<std::uint64_t>(part);
        Known& known = known_[(key ^ key >> 29) % known_.size()];
        if (known.key == key && known.file == where.file_name()) return;
        known = {key, where.file_name()};
        collected_.emplace(Place{where.file_name(), where.line(), where.column(), part}, order);
    }

    struct Known {
        std::uint64_t key = 0;
        const char* file = nullptr;
    };

    bool collecting_ = false;
    std::array<Known, 1024> known_ = {};
    std::map<Place, std::memory_order> collected_ = {};
    std::optional<Weakening> weakening_ = {};
    std::optional<Place> lost_ = {};
};

}  // namespace steadyflow::model
