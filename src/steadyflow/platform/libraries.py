"""
Which audio libraries load here; run as a program of its own, ``python -m steadyflow.platform.libraries``.

A child process, because loading cannot be undone: sounddevice opens the audio system of the machine, and a broken
driver may take the process with it. It prints one line of JSON.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import json
import sys

PORTAUDIO_FILE = "libportaudio.so.2"


def soundfile_version() -> str:
    """Load soundfile and, with it, libsndfile."""
    soundfile = importlib.import_module("soundfile")
    return f"{soundfile.__version__}, libsndfile {soundfile.__libsndfile_version__}"


def sounddevice_version() -> str:
    """Load sounddevice, which starts PortAudio."""
    return str(importlib.import_module("sounddevice").__version__)


def portaudio_version() -> str:
    """Load PortAudio itself and read its version, without starting it."""
    library = ctypes.CDLL(ctypes.util.find_library("portaudio") or PORTAUDIO_FILE)
    library.Pa_GetVersionText.restype = ctypes.c_char_p
    text: bytes = library.Pa_GetVersionText()
    return text.decode().split(",")[0].removeprefix("PortAudio ")


def portaudio_backends() -> str:
    """Ask PortAudio for the audio systems that it was built for."""
    sounddevice = importlib.import_module("sounddevice")
    return ", ".join(api["name"] for api in sounddevice.query_hostapis())


def soxr_version() -> str:
    """Load soxr."""
    soxr = importlib.import_module("soxr")
    return f"{soxr.__version__}, {soxr.__libsoxr_version__}"


LOOKS = {
    "soxr": soxr_version,
    "soundfile": soundfile_version,
    "sounddevice": sounddevice_version,
    "portaudio": portaudio_version,
    "portaudio_backends": portaudio_backends,
}


def look_at_libraries() -> dict[str, dict[str, str]]:
    """Load each library; its name leads to ``{"version": ...}`` or to ``{"reason": ...}``."""
    found: dict[str, dict[str, str]] = {}
    for name, look in LOOKS.items():
        try:
            found[name] = {"version": look()}
        except Exception as error:  # noqa: BLE001  a broken library may raise anything, and the next one still counts
            found[name] = {"reason": str(error) or type(error).__name__}
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look_at_libraries()) + "\n")
