"""The two ends of a flow under test."""

import msgspec
import numpy as np
import pytest

from steadyflow.data import Block, FlowData
from steadyflow.errors import ConfigurationError
from steadyflow.formats import AnyFormat, ArrayFormat, AudioFormat, BytesFormat, StructFormat
from steadyflow.testing import Arrival, Collect, ScriptedSource


class Point(msgspec.Struct):
    x: int


class Recorder:
    """Stands in for an output port."""

    def __init__(self):
        self.sent = []

    def send(self, data):
        self.sent.append(data)
        return True


def test_values_are_payloads_in_order():
    collect = Collect()
    audio = np.ones((4, 2), np.float32)
    for data, fmt in [
        (audio, AudioFormat(48_000, 2)),
        (np.arange(3), ArrayFormat(np.int64, (3,))),
        (Point(5), StructFormat(Point)),
        (b"five", BytesFormat()),
    ]:
        collect.process(Block(data, fmt))
    assert len(collect.values) == 4
    np.testing.assert_array_equal(collect.values[0], audio)
    np.testing.assert_array_equal(collect.values[1], [0, 1, 2])
    assert collect.values[2:] == [Point(5), b"five"]


def test_arrays_are_copies():
    collect = Collect()
    audio = np.zeros((4, 1), np.float32)
    collect.process(Block(audio, AudioFormat(48_000, 1)))
    audio[:] = 1
    assert not collect.values[0].any()


def test_the_stamps_are_kept():
    collect = Collect()
    audio = np.zeros((4, 1), np.float32)
    collect.process(
        Block(audio, AudioFormat(48_000, 1), timestamp_ns=7, first_frame=8, sequence=9, flags=16, metadata={"take": 1})
    )
    assert collect.arrivals == [Arrival(7, 8, 9, 16, {"take": 1})]


def test_what_is_collected_stays_in_this_process():
    assert Collect.placements == ("thread",)


def test_two_collectors_are_two():
    one, other = Collect(), Collect()
    one.process(Block(b"one", BytesFormat()))
    assert (len(one.values), len(other.values)) == (1, 0)
    assert repr(one) == "<Collect: 1 values>"


def test_a_script_is_sent_in_order_with_a_pause_for_the_runtime_after_each():
    fmt = AudioFormat(48_000, 1)
    script = [np.zeros((4, 1), np.float32), FlowData(np.ones((4, 1), np.float32), timestamp_ns=5)]
    source = ScriptedSource(script, fmt)
    vars(source)["out"] = recorder = Recorder()
    running = source.produce()
    for count in (1, 2):
        assert next(running) is None
        assert len(recorder.sent) == count
    assert list(running) == []
    assert all(sent is item for sent, item in zip(recorder.sent, script, strict=True))
    assert source.resolve_formats({}) == {"out": fmt}
    assert repr(source) == "<ScriptedSource: 2 items, audio 48000 Hz, 1 channel, f32, interleaved>"


def test_a_script_may_pretend_to_be_live():
    assert ScriptedSource([], BytesFormat(), live=True).live
    assert ScriptedSource([], BytesFormat(), live=True).paced
    assert not ScriptedSource([], BytesFormat()).paced


@pytest.mark.parametrize("fmt", [AnyFormat(), AudioFormat(), AudioFormat(48_000)])
def test_a_script_needs_a_complete_format(fmt):
    with pytest.raises(ConfigurationError, match="complete format"):
        ScriptedSource([], fmt)
