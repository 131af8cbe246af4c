"""
GStreamer's leaky queue: ``appsrc ! queue leaky=... ! appsink``, as a program in Python uses it.

By ctypes, because its bindings come with the system's Python and not with this one. The appsink has room for what the consumer takes in a
row, a block at least, and the queue's thread holds one more; neither counts in the queue's fill.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steadyflow.benchmarks.backpressure.load import STEP_NS, Load
from steadyflow.benchmarks.backpressure.peers import Peer, measure_peer
from steadyflow.benchmarks.backpressure.record import Look
from steadyflow.benchmarks.blocks import BLOCK_BYTES
from steadyflow.benchmarks.harness import Measured, Workload

__all__ = ["lacks", "measure_leaky"]

_INSTALL: Final = "apt-get install gstreamer1.0-plugins-base"
_LEAKS: Final = {"oldest": "downstream", "newest": "upstream"}
_PLAYING: Final = 4
_NULL: Final = 1

_POINTER: Final = ctypes.c_void_p
_FUNCTIONS: Final[dict[str, tuple[str, Any, list[Any]]]] = {
    "gst_init_check": ("gstreamer", ctypes.c_int, [_POINTER, _POINTER, _POINTER]),
    "gst_parse_launch": ("gstreamer", _POINTER, [ctypes.c_char_p, _POINTER]),
    "gst_bin_get_by_name": ("gstreamer", _POINTER, [_POINTER, ctypes.c_char_p]),
    "gst_element_set_state": ("gstreamer", ctypes.c_int, [_POINTER, ctypes.c_int]),
    "gst_buffer_new_allocate": ("gstreamer", _POINTER, [_POINTER, ctypes.c_size_t, _POINTER]),
    "gst_buffer_fill": ("gstreamer", ctypes.c_size_t, [_POINTER, ctypes.c_size_t, _POINTER, ctypes.c_size_t]),
    "gst_buffer_extract": ("gstreamer", ctypes.c_size_t, [_POINTER, ctypes.c_size_t, _POINTER, ctypes.c_size_t]),
    "gst_sample_get_buffer": ("gstreamer", _POINTER, [_POINTER]),
    "gst_mini_object_unref": ("gstreamer", None, [_POINTER]),
    "gst_object_unref": ("gstreamer", None, [_POINTER]),
    "gst_app_src_push_buffer": ("gstapp", ctypes.c_int, [_POINTER, _POINTER]),
    "gst_app_src_end_of_stream": ("gstapp", ctypes.c_int, [_POINTER]),
    "gst_app_sink_pull_sample": ("gstapp", _POINTER, [_POINTER]),
    "g_object_get": ("gobject", None, [_POINTER, ctypes.c_char_p, _POINTER, _POINTER]),
}
_LIBRARIES: Final = {"gstreamer": "gstreamer-1.0", "gstapp": "gstapp-1.0", "gobject": "gobject-2.0"}
_WAITING: Final = frozenset({"gst_element_set_state", "gst_app_src_push_buffer", "gst_app_sink_pull_sample"})
"""What may wait gives up the interpreter lock; everything else is over before that would be."""


def lacks() -> str:
    """Tell how GStreamer is installed; nothing if it is."""
    return "" if all(map(ctypes.util.find_library, _LIBRARIES.values())) else _INSTALL


@functools.cache
def _functions() -> dict[str, Any]:
    paths = {name: ctypes.util.find_library(library) for name, library in _LIBRARIES.items()}
    found = {}
    for name, (library, result, arguments) in _FUNCTIONS.items():
        kind = ctypes.CDLL if name in _WAITING else ctypes.PyDLL
        function = getattr(kind(paths[library]), name)
        function.restype, function.argtypes = result, arguments
        found[name] = function
    if not found["gst_init_check"](None, None, None):
        raise OSError("GStreamer does not start")
    return found


class _LeakyQueue(Peer):
    def __init__(self, room: int, drop: str, handed_over: int) -> None:
        call = self._call = _functions()
        description = (
            f"appsrc name=source is-live=true format=time max-bytes=0 ! "
            f"queue name=queue leaky={_LEAKS[drop]} max-size-buffers={room} max-size-bytes=0 max-size-time=0 ! "
            f"appsink name=sink sync=false max-buffers={handed_over}"
        )
        self._flow = call["gst_parse_launch"](description.encode(), None)
        if not self._flow:
            raise OSError(f"GStreamer has no appsrc, queue or appsink: {_INSTALL}")
        self._source, self._queue, self._sink = (
            call["gst_bin_get_by_name"](self._flow, name) for name in (b"source", b"queue", b"sink")
        )
        call["gst_element_set_state"](self._flow, _PLAYING)
        self._reason = drop
        self._handed_over = handed_over
        self._put = self._taken = 0
        self._stamp = ctypes.c_int64()
        self._level = ctypes.c_uint()
        self._ended = False
        self._address = 0

    def put(self, samples: npt.NDArray[np.float32]) -> None:
        call = self._call
        self._address = (
            self._address or samples.ctypes.data
        )  # which takes as long as the rest; it is always the same array
        buffer = call["gst_buffer_new_allocate"](None, BLOCK_BYTES, None)
        call["gst_buffer_fill"](buffer, 0, self._address, BLOCK_BYTES)
        call["gst_app_src_push_buffer"](self._source, buffer)
        self._put += 1

    def take(self) -> int | None:
        call = self._call
        sample = call["gst_app_sink_pull_sample"](self._sink)
        if not sample:
            self._ended = True
            return None
        call["gst_buffer_extract"](call["gst_sample_get_buffer"](sample), 0, ctypes.byref(self._stamp), 8)
        call["gst_mini_object_unref"](sample)
        self._taken += 1
        return self._stamp.value

    def look(self) -> Look:
        if not self._ended:
            self._call["g_object_get"](self._queue, b"current-level-buffers", ctypes.byref(self._level), None)
        waiting = 0 if self._ended else self._level.value
        # While it runs nobody can say what the thread and the sink hold; in an overload it is all that they can.
        held = 0 if self._ended else self._handed_over + 1
        return Look(waiting, {self._reason: max(0, self._put - self._taken - waiting - held)})

    def end(self) -> None:
        self._call["gst_app_src_end_of_stream"](self._source)

    def close(self) -> None:
        self._call["gst_element_set_state"](self._flow, _NULL)
        for element in (self._source, self._queue, self._sink, self._flow):
            self._call["gst_object_unref"](element)


def measure_leaky(work: Workload, *, drop: str, load: Mapping[str, Any]) -> Measured:
    """Measure the queue that leaks the oldest or the newest block."""
    asked = Load(**load)
    peer = _LeakyQueue(asked.room, drop, handed_over=max(1, STEP_NS // asked.service_ns))
    try:
        return measure_peer(peer, asked)
    finally:
        peer.close()
