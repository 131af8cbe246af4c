// The assertions of the native tests: say where, what was expected and what came, and end the process with 1.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>

namespace steadyflow::testing {

// What is being tested right now (seed, sizes, rule); set between runs, while no other thread works.
inline std::string situation;

template <class Value>
std::string shown(const Value& value) {
    std::ostringstream text;
    if constexpr (std::is_enum_v<Value>) text << static_cast<long long>(value);
    else if constexpr (std::is_integral_v<Value> && sizeof(Value) == 1 && !std::is_same_v<Value, bool>) text << +value;
    else text << std::boolalpha << value;
    return text.str();
}

// _Exit and not exit: a failing thread must not run destructors beside the threads that still work.
[[noreturn]] inline void fail(const char* file, int line, const std::string& what, const std::string& expected,
                              const std::string& got) {
    std::fprintf(stderr, "%s:%d: %s\n  expected: %s\n  got:      %s\n", file, line, what.c_str(), expected.c_str(),
                 got.c_str());
    if (!situation.empty()) std::fprintf(stderr, "  while:    %s\n", situation.c_str());
    std::fflush(nullptr);
    std::_Exit(1);
}

template <class Expected, class Got>
void check_equal(const char* file, int line, const char* what, const Expected& expected, const Got& got) {
    bool equal = false;
    if constexpr (std::is_integral_v<Expected> && std::is_integral_v<Got> && !std::is_same_v<Expected, bool> &&
                  !std::is_same_v<Got, bool>) {
        // Signed and unsigned numbers are compared by value.
        equal = std::cmp_equal(expected, got);
    } else {
        equal = expected == got;
    }
    if (!equal) fail(file, line, what, shown(expected), shown(got));
}

template <class Error, class Call>
void check_throws(const char* file, int line, const char* what, const char* error, Call call) {
    try {
        call();
    } catch (const Error&) {
        return;
    } catch (const std::exception& other) {
        fail(file, line, what, error, std::string("another exception: ") + other.what());
    }
    fail(file, line, what, error, "no exception");
}

}  // namespace steadyflow::testing

#define CHECK(condition)                                                                                  \
    do {                                                                                                  \
        if (!(condition)) ::steadyflow::testing::fail(__FILE__, __LINE__, #condition, "true", "false");   \
    } while (false)
#define CHECK_EQUAL(expected, got) ::steadyflow::testing::check_equal(__FILE__, __LINE__, #got, expected, got)
#define CHECK_THROWS(error, expression) \
    ::steadyflow::testing::check_throws<error>(__FILE__, __LINE__, #expression, #error, [&] { (void)(expression); })
