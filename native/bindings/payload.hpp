// Between Python objects and bytes: which arrays a pipeline takes, and the arrays that its consumers get.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "buffers.hpp"
#include "python.hpp"
#include "sample_type.hpp"

namespace steadyflow {

// Blocks up to this size are copied on receipt; larger ones are views (DESIGN: copying is cheaper than ownership here).
inline constexpr std::size_t private_copy_bytes = 4096;

enum class PayloadKind : int { bytes = 0, audio = 1, array = 2 };

// A payload that is about to be sent; points into a Python object that the caller keeps.
struct PayloadView {
    const void* data = nullptr;
    std::uint32_t bytes = 0;
    std::uint32_t frames = 0;
};

// The native side of a resolved format.
struct PayloadSpec {
    PayloadKind kind = PayloadKind::bytes;
    int type_number = NPY_FLOAT32;
    std::uint32_t item_bytes = 4;
    std::uint32_t channels = 1;
    bool planar = false;
    bool packed = false;               // s24: three uint8 on a last axis
    std::uint32_t max_frames = 0;      // audio
    std::vector<npy_intp> shape = {};  // array
    std::uint64_t max_bytes = 0;

    std::uint64_t frame_bytes() const noexcept { return std::uint64_t{channels} * item_bytes * (packed ? 3U : 1U); }

    // Whether `object` is an array that this format takes as it is: type, byte order, shape, contiguity, size.
    // Inlined by force: every send asks first.
    [[gnu::always_inline]] bool match(PyObject* object, PayloadView& view) const noexcept {
        if (kind == PayloadKind::bytes || !PyArray_Check(object)) return false;
        auto* array = reinterpret_cast<PyArrayObject*>(object);
        const int number = PyArray_TYPE(array);
        if (number != type_number && !PyArray_EquivTypenums(number, type_number)) return false;
        if (!PyArray_ISCARRAY_RO(array) || !PyArray_ISNOTSWAPPED(array)) return false;
        const int dimensions = PyArray_NDIM(array);
        const npy_intp* shape_of = PyArray_DIMS(array);
        if (kind == PayloadKind::array) {
            if (dimensions != static_cast<int>(shape.size())) return false;
            for (int axis = 0; axis < dimensions; ++axis) {
                if (shape_of[axis] != shape[static_cast<std::size_t>(axis)]) return false;
            }
            view = {PyArray_DATA(array), static_cast<std::uint32_t>(max_bytes), 0};
            return true;
        }
        npy_intp frames = 0;
        if (dimensions == 1 && channels == 1 && !packed) frames = shape_of[0];
        else {
            if (dimensions != (packed ? 3 : 2)) return false;
            if (shape_of[planar ? 0 : 1] != static_cast<npy_intp>(channels)) return false;
            if (packed && shape_of[2] != 3) return false;
            frames = shape_of[planar ? 1 : 0];
        }
        if (frames < 1 || frames > static_cast<npy_intp>(max_frames)) return false;
        view = {PyArray_DATA(array), static_cast<std::uint32_t>(static_cast<std::uint64_t>(frames) * frame_bytes()),
                static_cast<std::uint32_t>(frames)};
        return true;
    }

    // Whether a received payload has a size that this format can have.
    bool plausible(std::uint32_t bytes, std::uint32_t frames) const noexcept {
        switch (kind) {
            case PayloadKind::audio: return frames > 0 && frames <= max_frames && bytes == frames * frame_bytes();
            case PayloadKind::array: return frames == 0 && bytes == max_bytes;
            default: return frames == 0 && bytes <= max_bytes;
        }
    }

    // A new, uninitialised or viewing array of this format; null with an exception set.
    PyObject* new_array(std::uint32_t frames, void* memory) const noexcept {
        npy_intp dimensions[3] = {static_cast<npy_intp>(frames), static_cast<npy_intp>(channels), 3};
        if (planar) std::swap(dimensions[0], dimensions[1]);
        const bool is_array = kind == PayloadKind::array;
        const int count = is_array ? static_cast<int>(shape.size()) : packed ? 3 : 2;
        npy_intp* sizes = is_array ? const_cast<npy_intp*>(shape.data()) : dimensions;
        if (memory != nullptr) return PyArray_SimpleNewFromData(count, sizes, type_number, memory);
        return PyArray_SimpleNew(count, sizes, type_number);
    }

    // A private copy: an array, or bytes. New reference, or null with an exception set.
    PyObject* copy(const void* data, std::uint32_t bytes, std::uint32_t frames) const noexcept {
        if (kind == PayloadKind::bytes) {
            return PyBytes_FromStringAndSize(static_cast<const char*>(data), static_cast<Py_ssize_t>(bytes));
        }
        PyObject* array = new_array(frames, nullptr);
        if (array != nullptr) std::memcpy(PyArray_DATA(reinterpret_cast<PyArrayObject*>(array)), data, bytes);
        return array;
    }
};

// Nothing where a format is not of audio.
inline std::optional<SampleType> sample_type_of(const PayloadSpec& spec) noexcept {
    if (spec.kind != PayloadKind::audio) return std::nullopt;
    if (spec.packed) return SampleType::s24;
    switch (spec.type_number) {
        case NPY_FLOAT32: return SampleType::f32;
        case NPY_FLOAT64: return SampleType::f64;
        case NPY_INT16: return SampleType::s16;
        case NPY_INT32: return SampleType::s32;
        case NPY_UINT8: return SampleType::u8;
        default: return std::nullopt;
    }
}

}  // namespace steadyflow
