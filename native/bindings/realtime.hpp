// What a worker with real-time priority asks the operating system for, given to Python.
#pragma once

#include "python.hpp"

namespace steadyflow {

void register_realtime(nb::module_& module);

}  // namespace steadyflow
