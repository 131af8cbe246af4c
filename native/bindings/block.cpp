#include "block.hpp"

#include <cstddef>

#include <structmember.h>

namespace steadyflow {
namespace {

PyTypeObject* block_type = nullptr;

// Guarded by the GIL.
constexpr std::size_t free_list_size = 64;
BlockObject* free_list[free_list_size];
std::size_t free_blocks = 0;

// What the data plane puts into a block refers to nothing. Once Python objects come in that may lead back to the block, the
// garbage collector has to know it; until then it costs it nothing.
void track(BlockObject* block) noexcept {
    auto* self = reinterpret_cast<PyObject*>(block);
    if (!PyObject_GC_IsTracked(self)) PyObject_GC_Track(self);
}

int block_traverse(PyObject* self, visitproc visit, void* arg) {
    auto* block = reinterpret_cast<BlockObject*>(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(block->payload);
    Py_VISIT(block->decoded);
    Py_VISIT(block->decoder);
    Py_VISIT(block->format);
    Py_VISIT(block->metadata);
    return 0;
}

int block_clear(PyObject* self) {
    auto* block = reinterpret_cast<BlockObject*>(self);
    Py_CLEAR(block->decoded);
    Py_CLEAR(block->metadata);
    if (!PyArray_Check(block->payload) && !PyBytes_Check(block->payload)) Py_SETREF(block->payload, Py_NewRef(Py_None));
    return 0;
}

void block_dealloc(PyObject* self) {
    PyObject_GC_UnTrack(self);
    auto* block = reinterpret_cast<BlockObject*>(self);
    Py_CLEAR(block->payload);
    Py_CLEAR(block->decoded);
    Py_CLEAR(block->decoder);
    Py_CLEAR(block->format);
    Py_CLEAR(block->metadata);
    Py_CLEAR(block->pipeline);
    if (free_blocks < free_list_size) {
        free_list[free_blocks++] = block;
        return;
    }
    PyObject_GC_Del(self);
    Py_DECREF(block_type);
}

BlockObject* allocate_block() noexcept {
    if (free_blocks != 0) {
        BlockObject* block = free_list[--free_blocks];
        // The type's reference was kept with the memory.
        Py_SET_REFCNT(reinterpret_cast<PyObject*>(block), 1);
        return block;
    }
    return PyObject_GC_New(BlockObject, block_type);
}

PyObject* block_data(PyObject* self, void*) {
    auto* block = reinterpret_cast<BlockObject*>(self);
    if (block->decoder == nullptr) return Py_NewRef(block->payload);
    if (block->decoded == nullptr) {
        PyObject* decoded = PyObject_CallOneArg(block->decoder, block->payload);
        if (decoded == nullptr) return nullptr;
        // Another thread may have been quicker: everybody gets the same object.
        if (block->decoded == nullptr) block->decoded = decoded;
        else Py_DECREF(decoded);
        track(block);
    }
    return Py_XNewRef(block->decoded);
}

PyObject* block_samples(PyObject* self, void*) {
    auto* block = reinterpret_cast<BlockObject*>(self);
    if (!PyArray_Check(block->payload)) {
        PyErr_SetString(PyExc_AttributeError, "this block carries no samples; its payload is in .data");
        return nullptr;
    }
    return Py_NewRef(block->payload);
}

PyObject* block_metadata(PyObject* self, void*) {
    auto* block = reinterpret_cast<BlockObject*>(self);
    if (block->metadata == nullptr) {
        block->metadata = PyDict_New();
        track(block);
    } else if (PyBytes_Check(block->metadata)) {
        PyObject* encoded = Py_NewRef(block->metadata);  // another thread may put what it decoded in its place
        PyObject* module = PyImport_ImportModule("steadyflow.data");
        PyObject* where = block->pipeline != nullptr ? block->pipeline : Py_None;
        PyObject* decoded =
            module == nullptr ? nullptr : PyObject_CallMethod(module, "decode_metadata", "OO", encoded, where);
        Py_XDECREF(module);
        Py_DECREF(encoded);
        if (decoded == nullptr) return nullptr;
        if (PyBytes_Check(block->metadata)) Py_SETREF(block->metadata, decoded);
        else Py_DECREF(decoded);  // another thread was quicker
        track(block);
    }
    return Py_XNewRef(block->metadata);
}

PyObject* block_payload(PyObject* self, void*) { return Py_NewRef(reinterpret_cast<BlockObject*>(self)->payload); }

PyObject* block_encoded_metadata(PyObject* self, void*) {
    auto* block = reinterpret_cast<BlockObject*>(self);
    if (block->metadata == nullptr) return PyBytes_FromStringAndSize(nullptr, 0);
    if (PyBytes_Check(block->metadata)) return Py_NewRef(block->metadata);
    PyObject* module = PyImport_ImportModule("steadyflow.data");
    if (module == nullptr) return nullptr;
    PyObject* encoded = PyObject_CallMethod(module, "encode_metadata", "O", block->metadata);
    Py_DECREF(module);
    return encoded;
}

PyObject* block_has_metadata(PyObject* self, void*) {
    auto* block = reinterpret_cast<BlockObject*>(self);
    const bool some = block->metadata != nullptr && (PyBytes_Check(block->metadata) || PyDict_Size(block->metadata) > 0);
    return PyBool_FromLong(some ? 1 : 0);
}

PyObject* block_repr(PyObject* self) {
    auto* block = reinterpret_cast<BlockObject*>(self);
    return PyUnicode_FromFormat("<Block %llu: %S, %u frames, flags %u>",
                                static_cast<unsigned long long>(block->sequence), block->format, block->frames,
                                static_cast<unsigned>(block->flags));
}

// How many frames the array of a block has; 0 where it is none.
std::uint32_t frames_of(PyObject* data, PyObject* format) noexcept {
    if (!PyArray_Check(data)) return 0;
    auto* array = reinterpret_cast<PyArrayObject*>(data);
    // Planar blocks have their frames on the second axis; the format knows.
    int axis = 0;
    if (PyArray_NDIM(array) > 1 && format != Py_None) {
        PyObject* layout = PyObject_GetAttrString(format, "layout");
        if (layout == nullptr) PyErr_Clear();
        else {
            axis = PyUnicode_Check(layout) && PyUnicode_CompareWithASCIIString(layout, "planar") == 0 ? 1 : 0;
            Py_DECREF(layout);
        }
    }
    return PyArray_NDIM(array) == 0 ? 1 : static_cast<std::uint32_t>(PyArray_DIM(array, axis));
}

PyObject* block_new(PyTypeObject*, PyObject* args, PyObject* keywords) {
    static const char* names[] = {"data",  "format",   "timestamp_ns", "first_frame", "sequence",
                                  "flags", "metadata", "sent_ns",      nullptr};
    PyObject* data = nullptr;
    PyObject* format = Py_None;
    PyObject* metadata = nullptr;
    long long timestamp_ns = 0;
    unsigned long long first_frame = 0;
    unsigned long long sequence = 0;
    unsigned short flags = 0;
    long long sent_ns = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O|O$LKKHOL", const_cast<char**>(names), &data, &format,
                                     &timestamp_ns, &first_frame, &sequence, &flags, &metadata, &sent_ns)) {
        return nullptr;
    }
    if (metadata == Py_None) metadata = nullptr;
    if (metadata != nullptr && !PyDict_Check(metadata)) {
        PyErr_Format(PyExc_TypeError, "metadata: expected a dict, got %.100s", Py_TYPE(metadata)->tp_name);
        return nullptr;
    }
    BlockObject* block = make_block(Py_NewRef(data), Py_XNewRef(metadata), format, nullptr);
    if (block == nullptr) return nullptr;
    block->timestamp_ns = timestamp_ns;
    block->first_frame = first_frame;
    block->sequence = sequence;
    block->flags = flags;
    block->sent_ns = sent_ns;
    block->frames = frames_of(data, format);
    track(block);
    return reinterpret_cast<PyObject*>(block);
}

PyObject* block_derived(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
    if (count != 2 && count != 3) {
        PyErr_Format(PyExc_TypeError, "derived: expected data, format and perhaps flags, got %zd arguments", count);
        return nullptr;
    }
    const long flags = count == 3 ? PyLong_AsLong(arguments[2]) : 0;
    if (PyErr_Occurred() != nullptr) return nullptr;
    return reinterpret_cast<PyObject*>(derive_block(reinterpret_cast<BlockObject*>(self), arguments[0], arguments[1],
                                                    count == 3 ? static_cast<int>(flags & 0xFFFF) : -1));
}

PyMethodDef methods[] = {
    {"derived", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(block_derived)), METH_FASTCALL,
     "derived(data, format, flags=None, /)\n--\n\nReturns a block with the same stamps, metadata and, unless given, flags that "
     "carries something else."},
    {nullptr, nullptr, 0, nullptr},
};

PyMemberDef members[] = {
    {"format", T_OBJECT, offsetof(BlockObject, format), READONLY, "Format: what the payload is."},
    {"timestamp_ns", T_LONGLONG, offsetof(BlockObject, timestamp_ns), READONLY,
     "int: CLOCK_MONOTONIC time of capture of the first frame, in nanoseconds."},
    {"first_frame", T_ULONGLONG, offsetof(BlockObject, first_frame), READONLY,
     "int: index of the first frame in its stream."},
    {"sequence", T_ULONGLONG, offsetof(BlockObject, sequence), READONLY,
     "int: number of the block on its pipeline, from 0; a missing number is a dropped block."},
    {"frames", T_UINT, offsetof(BlockObject, frames), READONLY, "int: frames in the block; 0 where it has none."},
    {"flags", T_USHORT, offsetof(BlockObject, flags), READONLY, "int: bits of BlockFlag."},
    {"sent_ns", T_LONGLONG, offsetof(BlockObject, sent_ns), READONLY,
     "int: CLOCK_MONOTONIC time at which the block entered its pipeline, in nanoseconds."},
    {nullptr, 0, 0, 0, nullptr},
};

PyGetSetDef properties[] = {
    {"data", block_data, nullptr, "The payload: an array, a decoded struct, or bytes. Decoded once, when asked for.",
     nullptr},
    {"samples", block_samples, nullptr,
     "The array of an audio block, (frames, channels) or (channels, frames). Up to 4 KiB it is yours to change; larger "
     "ones are read-only views. Raises AttributeError where the payload is no array.",
     nullptr},
    {"metadata", block_metadata, nullptr, "dict: the sender's own fields; empty if there are none.", nullptr},
    {"payload", block_payload, nullptr, "The payload as it travels: the array, or the bytes that `data` decodes.", nullptr},
    {"has_metadata", block_has_metadata, nullptr, "bool: whether the sender gave fields of its own; decodes nothing.", nullptr},
    {"encoded_metadata", block_encoded_metadata, nullptr, "bytes: the metadata as it travels, MessagePack; empty if none.",
     nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

}  // namespace

BlockObject* make_block(PyObject* payload, PyObject* metadata, PyObject* format, PyObject* decoder,
                        PyObject* pipeline) noexcept {
    BlockObject* block = payload == nullptr ? nullptr : allocate_block();
    if (block == nullptr) {
        Py_XDECREF(payload);
        Py_XDECREF(metadata);
        return nullptr;
    }
    block->payload = payload;
    block->decoded = nullptr;
    block->decoder = Py_XNewRef(decoder);
    block->format = Py_NewRef(format);
    block->metadata = metadata;
    block->pipeline = metadata == nullptr ? nullptr : Py_XNewRef(pipeline);
    block->timestamp_ns = 0;
    block->sent_ns = 0;
    block->first_frame = 0;
    block->sequence = 0;
    block->frames = 0;
    block->flags = 0;
    return block;
}

BlockObject* derive_block(const BlockObject* original, PyObject* payload, PyObject* format, int flags) noexcept {
    // Bytes cannot be changed, a dict can.
    const bool is_dict = original->metadata != nullptr && PyDict_Check(original->metadata);
    PyObject* metadata = is_dict ? PyDict_Copy(original->metadata) : Py_XNewRef(original->metadata);
    if (is_dict && metadata == nullptr) return nullptr;
    const bool same = payload == original->payload;
    BlockObject* block = make_block(Py_NewRef(payload), metadata, format, same ? original->decoder : nullptr, original->pipeline);
    if (block == nullptr) return nullptr;
    if (same) block->decoded = Py_XNewRef(original->decoded);
    block->timestamp_ns = original->timestamp_ns;
    block->first_frame = original->first_frame;
    block->sequence = original->sequence;
    block->flags = flags < 0 ? original->flags : static_cast<std::uint16_t>(flags);
    block->sent_ns = original->sent_ns;
    block->frames = frames_of(payload, format);
    track(block);
    return block;
}

bool is_block(PyObject* object) noexcept { return Py_IS_TYPE(object, block_type); }

void track_block(BlockObject* block) noexcept { track(block); }

BlockObject* checked_block(nb::handle object) {
    if (!is_block(object.ptr())) {
        PyErr_Format(PyExc_TypeError, "expected a Block, got %.100s", Py_TYPE(object.ptr())->tp_name);
        throw nb::python_error();
    }
    return reinterpret_cast<BlockObject*>(object.ptr());
}

void register_block(nb::module_& module) {
    static const char* documentation =
        "Block(data, format=None, *, timestamp_ns=0, first_frame=0, sequence=0, flags=0, metadata=None, "
        "sent_ns=0)\n--\n\n"
        "What flows: one payload with its stamps. Immutable; keeping it is safe, also after the flow closed.";
    static PyType_Slot slots[] = {
        {Py_tp_dealloc, reinterpret_cast<void*>(block_dealloc)},
        {Py_tp_traverse, reinterpret_cast<void*>(block_traverse)},
        {Py_tp_clear, reinterpret_cast<void*>(block_clear)},
        {Py_tp_new, reinterpret_cast<void*>(block_new)},
        {Py_tp_repr, reinterpret_cast<void*>(block_repr)},
        {Py_tp_methods, methods},
        {Py_tp_members, members},
        {Py_tp_getset, properties},
        {Py_tp_doc, const_cast<char*>(documentation)},
        {0, nullptr},
    };
    static PyType_Spec spec = {"steadyflow._native.Block", sizeof(BlockObject), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, slots};
    block_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
    if (block_type == nullptr) throw nb::python_error();
    module.attr("Block") = nb::handle(reinterpret_cast<PyObject*>(block_type));
}

}  // namespace steadyflow
