// The loops of a conversion for every machine.
#define STEADYFLOW_LOOPS baseline
#include "convert_loops.hpp"
