"""`Aligned`, the declaration: what is checked when it is made, and when the class is."""

from abc import ABC

import pytest

from steadyflow import Aligned, AudioFormat, BytesFormat, Input, Module, Output
from steadyflow.errors import ConfigurationError, UnknownName
from steadyflow.module import aligned_inputs

MONO = AudioFormat(48_000, 1)
INPUTS = {"mic": Input(MONO), "reference": Input(MONO)}


def declare(bases=(Module,), /, **attributes):
    return type(Module)("Declared", bases, {"__qualname__": "Declared", **attributes})


def process(self, mic, reference):
    return None


def method(self, block):
    return None


class EchoDifference(Module):
    mic = Input(AudioFormat(channels=1))
    reference = Input(AudioFormat(channels=1))
    out = Output(like="mic")
    aligned = Aligned("mic", "reference", by="frame", max_wait_ms=20)

    def process(self, mic, reference):
        return mic.samples - reference.samples


# --- the declaration alone ----------------------------------------------------------------------------------------


def test_the_defaults_wait_for_ever_by_frame():
    aligned = Aligned("mic", "reference")
    assert (aligned.names, aligned.by) == (("mic", "reference"), "frame")
    assert aligned.max_wait_ms is aligned.max_wait_ns is aligned.max_hold_frames is None


def test_a_wait_in_ns():
    assert Aligned("a", "b", max_wait_ms=20).max_wait_ns == 20_000_000
    assert Aligned("a", "b", max_wait_ms=1e-9).max_wait_ns == 1


def test_it_reads_as_it_is_written():
    assert repr(Aligned("mic", "reference")) == "Aligned('mic', 'reference', by='frame')"
    assert (
        repr(Aligned("a", "b", "c", by="time", max_wait_ms=2.5, max_hold_frames=480))
        == "Aligned('a', 'b', 'c', by='time', max_wait_ms=2.5, max_hold_frames=480)"
    )


@pytest.mark.parametrize("names", [(), ("mic",), ("mic", "mic"), ("mic", "reference", "mic")])
def test_fewer_than_two_inputs_are_refused(names):
    with pytest.raises(ConfigurationError, match="Aligned: expected two or more inputs, each once; got"):
        Aligned(*names)


@pytest.mark.parametrize("names", [(1, 2), ("mic", None), (INPUTS["mic"], INPUTS["reference"])])
def test_names_are_text(names):
    with pytest.raises(ConfigurationError, match="Aligned: expected names of inputs"):
        Aligned(*names)


def test_ways_to_align_have_names():
    with pytest.raises(UnknownName, match="Aligned: unknown value of by 'frames'; did you mean 'frame'"):
        Aligned("mic", "reference", by="frames")


@pytest.mark.parametrize("wait", [0, -1, float("nan"), float("inf"), "20", True, 10**12])
def test_impossible_waits_are_refused(wait):
    with pytest.raises(
        ConfigurationError, match="Aligned: expected max_wait_ms to be a number of milliseconds above 0"
    ):
        Aligned("mic", "reference", max_wait_ms=wait)


@pytest.mark.parametrize("hold", [0, -1, 1.5, "20", True])
def test_impossible_holds_are_refused(hold):
    with pytest.raises(ConfigurationError, match="Aligned: expected max_hold_frames to be an integer from 1"):
        Aligned("mic", "reference", max_hold_frames=hold)


# --- in a class ---------------------------------------------------------------------------------------------------


def test_a_module_knows_what_it_aligns():
    assert aligned_inputs(EchoDifference()) is EchoDifference.aligned
    assert aligned_inputs(declare(audio=Input(), process=method)()) is None


def test_it_is_inherited_and_may_be_taken_away():
    class Louder(EchoDifference):
        def process(self, mic, reference):
            return 2 * super().process(mic, reference)

    assert aligned_inputs(Louder()) is EchoDifference.aligned
    with pytest.raises(ConfigurationError, match=r"has 2 inputs, so process\(\) cannot know"):
        declare((EchoDifference,), aligned=None)
    apart = declare((EchoDifference,), aligned=None, process=None, process_mic=method, process_reference=method)
    assert aligned_inputs(apart()) is None


def test_a_base_class_may_leave_process_to_others():
    class Join(Module, ABC):
        mic = Input(MONO)
        reference = Input(MONO)
        aligned = Aligned("mic", "reference")

    assert aligned_inputs(declare((Join,), process=process)()) is Join.aligned
    with pytest.raises(ConfigurationError, match="nothing takes the blocks"):
        declare((Join,))
    with pytest.raises(UnknownName, match="unknown input 'mick'; did you mean 'mic'"):
        declare((Module, ABC), mic=Input(MONO), aligned=Aligned("mick", "reference"))


@pytest.mark.parametrize(
    "takes",
    [
        process,
        lambda self, *blocks: None,
        lambda self, near, far, weight=1: None,
        lambda self, mic, *others, loud=False: None,
        staticmethod(lambda mic, reference: None),
        classmethod(lambda cls, mic, reference: None),
    ],
)
def test_process_takes_a_block_of_each(takes):
    assert declare(**INPUTS, aligned=Aligned("mic", "reference"), process=takes)


@pytest.mark.parametrize(
    ("takes", "text"),
    [
        (lambda self, mic: None, r"got process\(self, mic\): too many positional arguments"),
        (lambda self, mic, reference, third: None, r"missing a required argument: 'third'"),
        (lambda self, mic, *, reference: None, "too many positional arguments"),
        (lambda self, mic, reference, *, gain: None, "missing a required"),
        (staticmethod(lambda self, mic, reference: None), "missing a required argument: 'reference'"),
        (lambda self, reference, mic: None, "Blocks come in the order in which Aligned names their inputs"),
    ],
)
def test_another_process_is_refused(takes, text):
    with pytest.raises(ConfigurationError, match=r"expected process\(self, mic, reference\).*" + text):
        declare(**INPUTS, aligned=Aligned("mic", "reference"), process=takes)


ALIGNED = {**INPUTS, "aligned": Aligned("mic", "reference")}
CONTROLLED = {**ALIGNED, "control": Input(BytesFormat())}


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        (ALIGNED, r"nothing takes the blocks of Aligned.*Define process\(self, mic, reference\)"),
        ({**ALIGNED, "process_mic": method, "process_reference": method}, "nothing takes the blocks of Aligned"),
        (
            {**ALIGNED, "process": process, "process_mic": method},
            r"has process_mic\(\), but the blocks of 'mic' go to process\(\)",
        ),
        ({**CONTROLLED, "process": process}, r"Define process_control\(self, control\), or name them in Aligned"),
        (
            {**CONTROLLED, "aligned": Aligned("mic", "control"), "process": process},
            "expected audio on all inputs of Aligned.*'control' takes bytes.*process_control",
        ),
        ({**ALIGNED, "mic": Input(MONO, window_frames=480), "process": process}, "input 'mic' has window_frames=480"),
        ({**ALIGNED, "again": Aligned("mic", "reference"), "process": process}, "expected one Aligned.*aligned, again"),
        ({**INPUTS, "process": process}, r"say aligned = Aligned\('mic', 'reference'\)"),
    ],
)
def test_impossible_joins_are_refused(attributes, text):
    with pytest.raises(ConfigurationError, match="class Declared.*" + text):
        declare(**attributes)


def test_other_inputs_keep_their_methods():
    assert declare(**CONTROLLED, process=process, process_control=method)


def test_misspelt_inputs_get_the_near_miss():
    with pytest.raises(
        UnknownName, match=r"class Declared, Aligned.*unknown input 'referense'; did you mean 'reference'"
    ):
        declare(**INPUTS, aligned=Aligned("mic", "referense"), process=process)
