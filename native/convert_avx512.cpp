// The loops of a conversion for machines with AVX-512; CMakeLists.txt compiles this file, and no other, for those.
#ifdef __x86_64__
#define STEADYFLOW_LOOPS avx512
#include "convert_loops.hpp"
#endif
