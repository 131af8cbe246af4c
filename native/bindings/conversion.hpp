// Conversion of samples, given to Python.
#pragma once

#include "python.hpp"

namespace steadyflow {

void register_conversion(nb::module_& module);

}  // namespace steadyflow
