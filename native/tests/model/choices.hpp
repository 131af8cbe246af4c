// The choices that make an execution: repeated up to the last one, which is made anew (a depth-first search), or random.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "../check.hpp"
#include "view.hpp"

namespace steadyflow::model {

class Choices {
public:
    using Option = std::uint16_t;
    using Options = std::vector<Option>;

    enum class Kind : std::uint8_t { thread, message, other };

    // Forgets all; the next execution takes the first option everywhere.
    void clear() noexcept {
        stack_.clear();
        random_on_ = false;
    }
    // The next executions choose at random.
    void be_random(std::uint64_t seed) noexcept {
        seed_ = seed;
        random_on_ = true;
    }
    bool random() const noexcept { return random_on_; }

    void begin_execution() noexcept {
        depth_ = 0;
        random_ = seed_;
    }
    // Goes on to the next combination; false after the last one.
    bool advance() {
        while (!stack_.empty() && stack_.back().taken + 1U == stack_.back().options.size()) pop();
        if (stack_.empty()) return false;
        ++stack_.back().taken;
        return true;
    }
    std::size_t depth() const noexcept { return stack_.size(); }
    // Whether the execution has gone beyond what it repeats.
    bool on_new_ground() const noexcept { return random_on_ || depth_ >= stack_.size(); }

    // One of what `list(options)` puts there, in the order of that list; what comes before it in the list was tried already.
    // Nothing where the list is empty.
    template <class List>
    const Option* choose(Kind kind, List list) {
        if (random_on_) {
            scratch_.clear();
            list(scratch_);
            return scratch_.empty() ? nullptr : &scratch_[below(scratch_.size())];
        }
        if (depth_ == stack_.size()) {
            Options options = spare_.empty() ? Options{} : std::move(spare_.back());
            if (!spare_.empty()) spare_.pop_back();
            options.clear();
            list(options);
            if (options.empty()) {
                spare_.push_back(std::move(options));
                return nullptr;
            }
            stack_.push_back({kind, 0, std::move(options)});
        }
        const Choice& choice = stack_[depth_++];
        // The same choices lead to the same steps, or the search means nothing.
        CHECK(choice.kind == kind);
        return &choice.options[choice.taken];
    }
    // The options before the one that was chosen last.
    const Option* tried_begin() const noexcept { return stack_[depth_ - 1].options.data(); }
    const Option* tried_end() const noexcept { return tried_begin() + stack_[depth_ - 1].taken; }

private:
    struct Choice {
        Kind kind;
        std::size_t taken;
        Options options;
    };

    void pop() {
        spare_.push_back(std::move(stack_.back().options));
        stack_.pop_back();
    }
    std::size_t below(std::size_t limit) noexcept {
        random_ = random_ * 6364136223846793005ULL + 1442695040888963407ULL;
        return static_cast<std::size_t>(random_ >> 33) % limit;
    }

    std::vector<Choice> stack_ = {};
    std::size_t depth_ = 0;
    std::vector<Options> spare_ = {};  // kept for their memory
    Options scratch_ = {};
    bool random_on_ = false;
    std::uint64_t seed_ = 0;
    std::uint64_t random_ = 0;
};

}  // namespace steadyflow::model
