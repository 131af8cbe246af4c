// The clock that stands still, given to Python.
#pragma once

#include "python.hpp"

namespace steadyflow {

void register_manual_time(nb::module_& module);

}  // namespace steadyflow
