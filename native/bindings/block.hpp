// The Block that Python code receives: payload and stamps, immutable. A plain CPython type with a free list, because it
// is made once per block and hop (a registered nanobind instance costs three times as much).
#pragma once

#include <cstdint>

#include "block_flags.hpp"
#include "python.hpp"

namespace steadyflow {

struct BlockObject {
    PyObject_HEAD
    PyObject* payload;   // the array, or bytes before decoding
    PyObject* decoded;   // what `data` gives; null until asked for
    PyObject* decoder;   // callable(bytes) or null: the payload is the data
    PyObject* format;
    PyObject* metadata;  // null, bytes (encoded) or dict
    PyObject* pipeline;  // null, or where encoded metadata came through, to be named if it can't be decoded
    std::int64_t timestamp_ns;
    std::int64_t sent_ns;
    std::uint64_t first_frame;
    std::uint64_t sequence;
    std::uint32_t frames;
    std::uint16_t flags;
};

// Steals `payload` and `metadata` (may be null); borrows and keeps the others. Null with an exception set on failure.
BlockObject* make_block(PyObject* payload, PyObject* metadata, PyObject* format, PyObject* decoder,
                        PyObject* pipeline = nullptr) noexcept;

// A block with the stamps, metadata and, unless given, flags of another that carries something else; or the same, which then is
// decoded as before. Borrows all; null with an exception set on failure.
BlockObject* derive_block(const BlockObject* original, PyObject* payload, PyObject* format, int flags = -1) noexcept;

bool is_block(PyObject* object) noexcept;

// Lets the garbage collector look into a block, once it refers to what may lead back to it.
void track_block(BlockObject* block) noexcept;

inline PyObject* object_of(const BlockObject* block) noexcept {
    return reinterpret_cast<PyObject*>(const_cast<BlockObject*>(block));
}

// The block that an object is. Raises TypeError if it is none.
BlockObject* checked_block(nb::handle object);

// Adds the type to the module.
void register_block(nb::module_& module);

}  // namespace steadyflow
