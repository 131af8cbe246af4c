// What Python's event loops need of the data plane: a bell that they can watch, and what they do between its rings.
#pragma once

#include "python.hpp"

namespace steadyflow {

// Adds the types to the module.
void register_event_loop(nb::module_& module);

}  // namespace steadyflow
