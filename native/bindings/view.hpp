// Arrays that lie in a buffer of a pool, and hold it for as long as anything refers to their memory.
#pragma once

#include <memory>

#include "held_buffer.hpp"
#include "payload.hpp"
#include "python.hpp"

namespace steadyflow {

// A writable array of the format in the held buffer; throws the Python exception if there is no memory.
nb::object new_view(const PayloadSpec& spec, std::uint32_t frames, std::unique_ptr<HeldBuffer> held);

}  // namespace steadyflow
