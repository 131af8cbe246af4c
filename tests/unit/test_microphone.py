"""What a microphone refuses before there is any device, and the same callback driven by a script."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from steadyflow._native import DeviceAccount, DeviceStream
from steadyflow.audio import Microphone
from steadyflow.audio.devices import import_sounddevice
from steadyflow.errors import ConfigurationError, FormatMismatch, MissingExtra, StateError, SystemShortage


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"device": ""}, "device to be a number, a name or None, got ''"),
        ({"device": True}, "got True"),
        ({"device": 1.5}, "got 1.5"),
        ({"block_frames": 0}, "block_frames"),
        ({"sample_rate_hz": -1}, "sample_rate_hz"),
        ({"channels": 0}, "channels"),
        ({"latency": "lowest"}, '"low", "high" or seconds, got \'lowest\''),
        ({"latency": -1.0}, "latency"),
    ],
)
def test_impossible_arguments(arguments: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        Microphone(**arguments)  # type: ignore[arg-type]


def test_a_latency_in_seconds_is_taken() -> None:
    assert Microphone(latency=0.05)._latency == 0.05


def test_no_report_before_the_start() -> None:
    with pytest.raises(StateError, match="the flow has not started"):
        Microphone().report()


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingExtra, match=r"pip install 'steadyflow\[audio\]'"):
        import_sounddevice("Microphone")


def test_what_to_install_is_said_where_portaudio_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        """Stands for the import of a sounddevice that does not find its library."""

        @staticmethod
        def find_spec(name: str, path: object, target: object = None) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    with pytest.raises(SystemShortage, match="libportaudio2"):
        import_sounddevice("Microphone")


def test_a_script_cannot_give_other_frames_than_the_stream_has() -> None:
    account = DeviceAccount()
    stream = DeviceStream(account, 48_000.0, 20_000_000, 1_000_000)
    for samples in (np.zeros(4, np.float32), np.zeros((4, 1)), np.zeros((4, 2), np.float32), [0.0]):
        with pytest.raises(FormatMismatch, match="cycle: expected"):
            stream.cycle(samples, None, 1.0, 1.0, 0.0, 0, 0)
    stream.close()
    assert account.counts()["cycles"] == 0
