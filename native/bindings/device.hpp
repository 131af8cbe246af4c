// DeviceStream for Python: what a device module opens its stream with.
#pragma once

#include "python.hpp"

namespace steadyflow {

void register_device(nb::module_& module);

}  // namespace steadyflow
