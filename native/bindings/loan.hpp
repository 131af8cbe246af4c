// The memory that a sender writes a block into, instead of having it copied: what OutputCore.loan() returns.
//
// Invariants
// - Of one port, at most one buffer of its pool is on loan, counting what outlives its loan because somebody kept it. The
//   pool has a buffer for that. Every other loan is private memory, which is copied as a plain send() would.
// - The user's array is a view of `memory_`, so slices and views of it refer to `memory_` as well (numpy collapses chains of
//   bases). What else can reach the memory (a memoryview, ctypes, DLPack) refers to the array. So two counts of references
//   tell whether a block may go as it lies: the loan and the array for `memory_`; the loan and one name for the array. Only
//   somebody who deletes the name, and keeps one thing of the second kind, is taken for the name. No name at all is refused:
//   `samples = compute()` writes nothing into the loan.
// - Before a buffer goes, the array is emptied: nothing in it leads to the buffer any more.
#pragma once

#include <optional>

#include "payload.hpp"
#include "python.hpp"

namespace steadyflow {

class Output;

// The block inside a loan, as Output sends it.
class LentBlock {
public:
    LentBlock() = default;
    // `memory`: an array of the port's format; `buffer`: where in the pool it lies, if it does.
    LentBlock(nb::object memory, PayloadView view, std::optional<std::uint32_t> buffer);

    const nb::object& array() const noexcept { return array_; }
    const PayloadView& view() const noexcept { return view_; }

    // The buffer to be sent as it lies in `pool`, from now on out of the user's reach; or nothing: the block has to be copied.
    std::optional<std::uint32_t> surrender(const BufferPool& pool) noexcept;
    // Whether anything but this refers to the array, or to a part of it.
    bool is_known() const noexcept { return Py_REFCNT(array_.ptr()) > 1 || Py_REFCNT(memory_.ptr()) > 2; }
    // Empties the array, if nothing but one name refers to it; who kept more of it may go on using it.
    bool empty() noexcept;

    int traverse(visitproc visit, void* arg) const noexcept;

private:
    nb::object memory_;  // owns the bytes, or holds their buffer
    nb::object array_;   // the user's
    PayloadView view_;
    std::optional<std::uint32_t> buffer_;
};

class Loan {
public:
    // `owner`: the OutputCore of `output`.
    Loan(nb::object owner, Output& output, std::uint32_t frames) : owner_(std::move(owner)), output_(output), frames_(frames) {}

    nb::object enter();
    void exit(bool failed);
    std::optional<bool> queued() const noexcept { return queued_; }

    int traverse(visitproc visit, void* arg) const noexcept;
    void clear() noexcept;

private:
    enum class Stage { fresh, entered, over };

    nb::object owner_;
    Output& output_;
    std::uint32_t frames_;
    Stage stage_ = Stage::fresh;
    LentBlock block_;
    std::optional<bool> queued_;
};

void register_loan(nb::module_& module);

}  // namespace steadyflow
