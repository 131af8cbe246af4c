// Conversion of blocks, given to Python: samples, rates, and what they cost.
#pragma once

#include "block.hpp"
#include "python.hpp"

namespace steadyflow {

// A stage that others here call without the way through Python.
class NativeStage {
public:
    virtual ~NativeStage() = default;
    // A tuple of the blocks that come of a block.
    virtual nb::object push(const BlockObject* block) = 0;

protected:
    NativeStage() = default;
    NativeStage(const NativeStage&) = default;
    NativeStage& operator=(const NativeStage&) = default;
};

void register_native_stage(nb::module_& module);  // before the others
void register_sample_stage(nb::module_& module);
void register_rate_stage(nb::module_& module);
void register_stage_meter(nb::module_& module);

}  // namespace steadyflow
