// What every binding file shares: Python, numpy's C API, and how an error of the product is raised from C++.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#define PY_ARRAY_UNIQUE_SYMBOL steadyflow_numpy_api
#define NPY_TARGET_VERSION NPY_2_0_API_VERSION
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#ifndef STEADYFLOW_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wold-style-cast"
#include <numpy/arrayobject.h>
#pragma GCC diagnostic pop

#include <atomic>
#include <cstdint>
#include <cxxabi.h>
#include <string>
#include <string_view>
#include <unistd.h>

#include "fork.hpp"
#include "segment.hpp"

namespace nb = nanobind;

namespace steadyflow {

// Raises steadyflow.errors.<kind>(message). GIL held.
[[noreturn]] inline void raise_error(const char* kind, const std::string& message) {
    const nb::object error = nb::module_::import_("steadyflow.errors").attr(kind);
    PyErr_SetString(error.ptr(), message.c_str());
    throw nb::python_error();
}

// Makes damage the current Python exception. GIL held.
inline void set_error(const Corrupted& damage) {
    const nb::object kind = nb::module_::import_("steadyflow.errors").attr("CorruptedSegment");
    const nb::object error = kind(damage.what(), nb::arg("pipeline") = damage.pipeline);
    PyErr_SetObject(kind.ptr(), error.ptr());
}

// Runs `call`, which may give up the interpreter lock. Python before 3.14 ends a thread that wants the lock back while the
// interpreter shuts down: by unwinding its stack, and destructors on the way would use Python without the lock. Python 3.14
// lets such a thread sleep until the process has ended; so does this.
template <class Call>
decltype(auto) survive_shutdown(Call call) {
#ifdef __GLIBCXX__
    try {
        return call();
    } catch (const abi::__forced_unwind&) {
        for (;;) pause();
    }
#else
    return call();
#endif
}

// Threads that wait in native code. A thread that took the GIL back while the interpreter shuts down would be ended by
// force, in the middle of a C++ frame; so at exit everybody is sent out first (see shut_down in module.cpp).
inline std::atomic<int> waiting_threads{0};
inline std::atomic<bool> shutting_down{false};
// How often this thread has waited in native code. The thread of an event loop must not: what it drives stands still.
inline thread_local std::uint64_t waits_of_this_thread = 0;

// Gives up the GIL for as long as it lives.
class WaitWithoutGil {
public:
    WaitWithoutGil() noexcept {
        ++waits_of_this_thread;
        waiting_threads.fetch_add(1);
        state_ = PyEval_SaveThread();
    }
    ~WaitWithoutGil() {
        survive_shutdown([this] { PyEval_RestoreThread(state_); });
        waiting_threads.fetch_sub(1);
    }
    WaitWithoutGil(const WaitWithoutGil&) = delete;
    WaitWithoutGil& operator=(const WaitWithoutGil&) = delete;

private:
    PyThreadState* state_;
};

// After a wait: raises what a signal's handler raised, or that the program ends.
inline void check_interruption() {
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (shutting_down.load()) raise_error("PipelineClosed", "the program ends; nothing can be sent or received any more");
}

// The process that an end of a flow was made in. A forked child has the end as well, but no part in the flow.
class HomeProcess {
public:
    void require(std::string_view name) const {
        if (generation_ != fork_generation) [[unlikely]] {
            raise_error("PipelineClosed", std::string(name) + ": this process was forked from the one that runs the flow, and has no part in "
                                                 "it; make a flow of its own here");
        }
    }

private:
    std::uint32_t generation_ = fork_generation;
};

// Takes over a new reference; a null pointer becomes the Python exception behind it.
inline nb::object take(PyObject* object) {
    if (object == nullptr) throw nb::python_error();
    return nb::steal(object);
}

}  // namespace steadyflow
