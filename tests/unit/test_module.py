"""The declaration of modules: what is checked when a class is created, and what an instance knows."""

import gc
import weakref
from abc import ABC, abstractmethod

import msgspec
import numpy as np
import pytest

from steadyflow.aligned import Aligned
from steadyflow.errors import ConfigurationError, StateError, UnknownName
from steadyflow.formats import AnyFormat, ArrayFormat, AudioFormat, BytesFormat, StructFormat
from steadyflow.module import (
    Input,
    InputPort,
    Module,
    Output,
    OutputPort,
    Source,
    changed_attributes,
    input_ports,
    is_asynchronous,
    module,
    output_ports,
    process_methods,
)

MONO = AudioFormat(48_000, 1)


class Level(msgspec.Struct):
    rms_db: float


class Loudness(Module):
    audio = Input(AudioFormat(16_000, 1), window_frames=1024, hop_frames=256)
    level = Output(StructFormat(Level))

    def __init__(self, offset_db=0.0, *, weights=None):
        self.offset_db = offset_db
        self.weights = weights

    def process(self, audio):
        return None


class Mixer(Module):
    left = Input(AudioFormat())
    right = Input(AudioFormat())
    out = Output(like="left")

    def process_left(self, block):
        return "left"

    def process_right(self, block):
        return "right"


class Ramp(Source):
    out = Output(MONO)

    def produce(self):
        yield


# --- instances ---


def test_an_instance_has_its_ports_before_its_constructor_runs():
    seen = []

    class Early(Loudness):
        def __init__(self):
            seen.append((self.audio, self.level))

    early = Early()
    assert seen == [(early.audio, early.level)]


def test_ports_know_where_they_belong():
    loudness = Loudness()
    assert isinstance(loudness.audio, InputPort)
    assert isinstance(loudness.level, OutputPort)
    for name, port in (input_ports(loudness) | output_ports(loudness)).items():
        assert port.module is loudness
        assert port.name == name
        assert port.declaration is getattr(Loudness, name)
        assert port.format == port.declaration.format
        assert f"Loudness.{name}" in repr(port)


def test_every_instance_has_ports_of_its_own():
    assert Loudness().audio is not Loudness().audio


def test_the_format_of_a_port_can_be_resolved():
    port = Mixer().left
    port.format = MONO
    assert port.format == MONO
    assert Mixer.left.format == AudioFormat()


def test_an_unconnected_output_sends_to_nobody():
    assert Ramp().out.send(np.zeros((1, 1), np.float32)) is True


def test_the_arguments_of_the_constructor_are_recorded():
    assert Loudness(3.0, weights=[1])._arguments == ((3.0,), {"weights": [1]})
    assert Ramp()._arguments == ((), {})


def test_wrong_arguments_are_the_usual_type_errors():
    with pytest.raises(TypeError, match=r"__init__\(\) got an unexpected keyword argument 'offset'"):
        Loudness(offset=3)
    with pytest.raises(TypeError, match=r"Mixer\(\) takes no arguments"):
        Mixer(1)


def test_a_constructor_that_hides_a_port_is_refused():
    class Hiding(Loudness):
        def __init__(self):
            self.level = 0.0

    with pytest.raises(ConfigurationError, match=r"Hiding.__init__ assigned to 'level', which is a port"):
        Hiding()


def test_an_instance_made_around_the_constructor_says_so():
    bare = Loudness.__new__(Loudness)
    for name in ("audio", "level"):
        with pytest.raises(AttributeError, match=r"without calling Loudness\(\.\.\.\)"):
            getattr(bare, name)


def test_new_may_return_something_else():
    class Chameleon(Loudness):
        def __new__(cls):
            return "something else"

    assert Chameleon() == "something else"


def test_modules_read_well():
    assert repr(Mixer()) == "<Mixer: left, right -> out>"
    assert repr(Loudness.audio).startswith("Input(AudioFormat(")
    assert repr(Loudness.audio).endswith("window_frames=1024, hop_frames=256)")
    assert repr(Mixer.out) == "Output(like='left')"
    assert repr(Ramp.out).startswith("Output(AudioFormat(")


def test_a_module_is_freed_with_its_ports():
    reference = weakref.ref(Loudness())
    gc.collect()
    assert reference() is None


def test_the_hooks_do_nothing_unless_overridden():
    loudness = Loudness()
    assert loudness.setup() is loudness.finish() is loudness.teardown() is None
    assert loudness.blocking is False


def test_sources_are_paced_where_they_are_live():
    class Live(Ramp):
        live = True

    class Paced(Ramp):
        def __init__(self, paced):
            self.paced = paced

    assert (Ramp().live, Ramp().paced, Live().paced) == (False, False, True)
    assert (Paced(True).paced, Paced(False).paced) == (True, False)


# --- inheritance ---


def test_ports_are_inherited_and_may_be_declared_again():
    class Stereo(Loudness):
        audio = Input(AudioFormat(48_000, 2))
        clipped = Output(BytesFormat())

    stereo = Stereo()
    assert list(input_ports(stereo)) == ["audio"]
    assert list(output_ports(stereo)) == ["level", "clipped"]
    assert stereo.audio.format == AudioFormat(48_000, 2)
    assert Loudness().audio.format == AudioFormat(16_000, 1)


def test_a_port_may_be_taken_away():
    class Silent(Loudness):
        level = None

    assert output_ports(Silent()) == {}


def test_a_base_class_may_leave_the_methods_to_others():
    class Analyser(Module, ABC):
        audio = Input(MONO)

    class Generator(Source, ABC):
        out = Output(MONO)

    class Peak(Analyser):
        def process(self, audio):
            return None

    assert list(input_ports(Peak())) == ["audio"]
    with pytest.raises(ConfigurationError, match="nothing takes the blocks"):
        type("Forgotten", (Analyser,), {})
    with pytest.raises(ConfigurationError, match="a Source needs a generator"):
        type("Forgotten", (Generator,), {})


def test_abstract_methods_are_as_usual():
    class Analyser(Module):
        audio = Input(MONO)

        @abstractmethod
        def process(self, audio): ...

    with pytest.raises(TypeError, match="abstract"):
        Analyser()


# --- checks of a class ---


def declare(bases=(Module,), /, **attributes):
    return type(Module)("Declared", bases, {"__qualname__": "Declared", **attributes})


def method(self, block):
    return None


async def asynchronous(self, block):
    return None


async def asynchronous_generator(self, block):
    yield


def generator(self, block):
    yield


TWO_INPUTS = {"mic": Input(), "reference": Input()}


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"audio": Input()}, r"nothing takes the blocks of 'audio'. Define process\(self, audio\)"),
        (TWO_INPUTS, r"Define process_mic\(self, mic\), process_reference\(self, reference\)"),
        ({**TWO_INPUTS, "process_mic": method}, r"Define process_reference\(self, reference\)\."),
        ({**TWO_INPUTS, "process": method}, r"has 2 inputs, so process\(\) cannot know"),
        ({"audio": Input(), "process": method, "process_audio": method}, "both process.* and process_audio"),
        (
            {"audio": Input(), "process_adio": method},
            "method process_adio.*: unknown input 'adio'; did you mean 'audio'",
        ),
        ({"process_audio": method}, "unknown input 'audio'; there is none yet"),
        (
            {"audio": Input(), "process": asynchronous_generator},
            r"process\(\) yields. .*with await self.<output>.send_a",
        ),
        (
            {"audio": Input(), "process": generator},
            r"process\(\) yields. Send several results with self.<output>.send\(",
        ),
        ({"audio": Input(), "process": method, "setup": asynchronous}, r"setup\(\) is asynchronous, but nothing that"),
        (
            {"audio": Input(), "process": method, "finish": asynchronous},
            r"finish\(\) is asynchronous, but nothing that",
        ),
        ({"audio": Input(), "process": method, "teardown": asynchronous}, r"teardown\(\) is asynchronous, but nothing"),
        ({"setup": Input(), "process": method}, "a port cannot be called 'setup'"),
        ({"process": Input()}, "a port cannot be called 'process'"),
        ({"_arguments": Output(MONO)}, "a port cannot be called '_arguments'"),
        ({"_steadyflow_inputs": Output(MONO)}, "a port cannot be called"),
        ({"__init__": Output(MONO)}, "a port cannot be called '__init__'"),
        ({"audio": Input(), "process": method, "out": Output(like="adio")}, "output 'out': unknown input 'adio'; did"),
        ({"produce": generator}, "Derive the class from Source"),
    ],
)
def test_impossible_declarations_are_refused(attributes, text):
    with pytest.raises(ConfigurationError, match="class Declared.*" + text):
        declare(**attributes)


@pytest.mark.parametrize(
    ("levels", "text"),
    [
        (
            "fast",
            r"expected quality_levels to be a tuple of two names or more, the best first, such as \('full', 'fast'\)",
        ),
        (["full", "fast"], r"got \['full', 'fast'\]"),
        (("full",), "two names or more"),
        (("full", "full"), "two names or more"),
        (("full", ""), "two names or more"),
        (("full", 2), "two names or more"),
        (("full", ["fast"]), "two names or more"),
        (None, "got None"),
        (("full", "fast"), r"Loud: has quality_levels\. Define set_quality\(self, level\), too"),
    ],
)
def test_impossible_levels_of_quality_are_refused(levels, text):
    attributes = {"audio": Input(MONO), "process": lambda self, audio: None, "quality_levels": levels}
    with pytest.raises(ConfigurationError, match=text):
        type(Module)("Loud", (Module,), attributes)


def test_a_module_with_levels_of_quality_says_how_it_works_at_one():
    class Ladder(Module):
        audio = Input(MONO)
        quality_levels = ("full", "half", "fast")
        level = "full"

        def process(self, audio):
            return None

        def set_quality(self, level):
            self.level = level

    class Finer(Ladder):
        quality_levels = ("best", *Ladder.quality_levels)

    module = Finer()
    module.set_quality("half")
    assert module.level == "half"
    assert Ladder().quality_levels == ("full", "half", "fast")
    assert Finer.quality_levels[0] == "best"


def test_a_module_without_levels_has_none_to_work_at():
    loudness = Loudness()
    assert loudness.quality_levels == ()
    with pytest.raises(StateError, match="expected a module with quality_levels, to work at 'fast'; it has none"):
        loudness.set_quality("fast")


def test_misspelt_names_are_unknown_names():
    with pytest.raises(UnknownName):
        declare(audio=Input(), process_adio=method)


def test_impossible_sources_are_refused():
    with pytest.raises(ConfigurationError, match=r"a Source needs a generator: def produce\(self\)"):
        declare((Source,), out=Output(MONO))
    with pytest.raises(ConfigurationError, match=r"produce\(\) never yields"):
        declare((Source,), produce=asynchronous)
    for process, produce in (
        (asynchronous, generator),
        (method, asynchronous_generator),
        (asynchronous, asynchronous_generator),
    ):
        with pytest.raises(ConfigurationError, match="expected an asynchronous source to have no inputs"):
            declare((Source,), audio=Input(), process=process, produce=produce)
    with pytest.raises(ConfigurationError, match="a port cannot be called 'live'"):
        declare((Source,), produce=generator, live=Output(MONO))


def test_a_source_may_return_an_iterator():
    assert declare((Source,), out=Output(MONO), produce=lambda self: iter([None]))


@pytest.mark.parametrize(
    "arguments",
    [
        {"hop_frames": 10},
        {"format": MONO, "hop_frames": 10},
        {"format": BytesFormat(), "window_frames": 10},
        {"window_frames": 10},
        {"format": MONO, "window_frames": 0},
        {"format": MONO, "window_frames": 1.5},
        {"format": MONO, "window_frames": 10, "hop_frames": 0},
        {"format": "audio"},
        {"format": AudioFormat},
        {"format": None},
    ],
)
def test_impossible_inputs_are_refused(arguments):
    with pytest.raises(ConfigurationError, match="Input: "):
        Input(**arguments)


def test_windows_do_not_overlap_unless_told():
    assert Input(MONO, window_frames=10).hop_frames == 10
    assert Input(MONO, window_frames=np.int64(10), hop_frames=20).hop_frames == 20
    assert Input(MONO).window_frames is Input(MONO).hop_frames is None


@pytest.mark.parametrize("arguments", [{}, {"format": MONO, "like": "audio"}, {"format": "audio"}])
def test_impossible_outputs_are_refused(arguments):
    with pytest.raises(ConfigurationError, match="Output: "):
        Output(**arguments)


# --- what takes the blocks ---


def test_process_methods_belong_to_inputs():
    assert [take(None) for take in process_methods(Mixer()).values()] == ["left", "right"]
    assert list(process_methods(Loudness())) == ["audio"]
    assert process_methods(declare(audio=Input(), process_audio=method)())["audio"](None) is None
    assert process_methods(Ramp()) == {}


# --- formats ---


def test_outputs_have_their_declared_format():
    assert Loudness().resolve_formats({"audio": AudioFormat(16_000, 1)}) == {"level": StructFormat(Level)}
    assert Ramp().resolve_formats({}) == {"out": MONO}


def test_an_output_like_an_input_has_its_format():
    formats = {"left": AudioFormat(44_100, 2, "s16", max_block_frames=99), "right": MONO}
    assert Mixer().resolve_formats(formats) == {"out": formats["left"]}
    assert Mixer().resolve_formats({}) == {"out": AudioFormat()}
    assert Mixer().out.format == AnyFormat()


def test_an_output_like_a_windowed_input_has_room_for_a_window():
    windowed = declare(audio=Input(MONO, window_frames=1000), process=method, out=Output(like="audio"))()
    short = AudioFormat(48_000, 1, max_block_frames=128)
    assert windowed.resolve_formats({"audio": short}) == {"out": AudioFormat(48_000, 1, max_block_frames=1000)}
    assert windowed.resolve_formats({"audio": MONO}) == {"out": MONO}


def test_open_fields_come_from_the_only_audio_input():
    incoming = AudioFormat(44_100, 2, "s16", "planar", 99)
    one = declare(
        audio=Input(), control=Input(), process_audio=method, process_control=method, out=Output(AudioFormat())
    )
    assert one().resolve_formats({"audio": incoming, "control": ArrayFormat("f4", 3)}) == {
        "out": AudioFormat(44_100, 2)
    }
    assert one().resolve_formats({"audio": incoming, "control": incoming}) == {"out": AudioFormat()}
    mono = declare(audio=Input(), process=method, out=Output(AudioFormat(channels=1)))
    assert mono().resolve_formats({"audio": incoming}) == {"out": AudioFormat(44_100, 1)}


# --- the function form ---


@module(input=MONO, output=AudioFormat(48_000, 1, "f64"))
def halve(audio):
    """Half as loud."""
    return audio * 0.5


@module(input=BytesFormat())
def swallow(data):
    pass


def test_a_function_becomes_a_module():
    assert issubclass(halve, Module)
    assert (halve.__name__, halve.__qualname__, halve.__module__) == ("halve", "halve", __name__)
    assert halve.__doc__ == "Half as loud."
    made = halve()
    assert made.audio.format == MONO
    assert made.out.format == AudioFormat(48_000, 1, "f64")
    assert process_methods(made)["audio"](3.0) == 1.5


def test_a_function_without_an_output():
    assert list(input_ports(swallow())) == ["data"]
    assert output_ports(swallow()) == {}


@pytest.mark.parametrize("function", [lambda: None, lambda a, b: None, lambda a, *, b: None, len, Loudness])
def test_other_functions_are_refused(function):
    with pytest.raises(ConfigurationError, match="expected a function of one parameter"):
        module()(function)


def test_names_of_parameters_are_checked_like_ports():
    with pytest.raises(ConfigurationError, match="calls its input `out`"):
        module(output=MONO)(lambda out: None)
    with pytest.raises(ConfigurationError, match="a port cannot be called 'setup'"):
        module()(lambda setup: None)


def test_a_function_may_be_asynchronous():
    async def later(audio):
        return None

    assert is_asynchronous(module()(later)())
    assert not is_asynchronous(module()(lambda audio: None)())


@pytest.mark.parametrize(
    ("bases", "attributes", "expected"),
    [
        ((Module,), {"audio": Input(), "process": method}, False),
        ((Module,), {"audio": Input(), "process": asynchronous}, True),
        ((Module,), {**TWO_INPUTS, "process_mic": asynchronous, "process_reference": method}, True),
        ((Source,), {"produce": generator}, False),
        ((Source,), {"produce": asynchronous_generator}, True),
    ],
)
def test_what_takes_or_makes_blocks_says_whether_a_module_is_asynchronous(bases, attributes, expected):
    assert is_asynchronous(declare(bases, **attributes)()) is expected


def test_aligned_inputs_are_joined_by_plain_modules():
    async def process(self, mic, reference):
        return

    with pytest.raises(
        ConfigurationError, match=r"expected a plain def process for Aligned.*Join in a module of its own"
    ):
        declare(**TWO_INPUTS, aligned=Aligned("mic", "reference"), process=process)


def test_only_an_asynchronous_module_that_runs_can_await_sending():
    port = declare((Source,), out=Output(MONO), produce=generator)().out

    with pytest.raises(StateError, match=r"expected a running asynchronous module.*write self.out.send\(\.\.\.\)"):
        port.send_async(None)  # also where nobody awaits it


# --- what changed since construction ---


class Stateful(Module):
    def __init__(self):
        self.number = 1
        self.items = [1, [2]]
        self.table = {"a": {"b": 1}}
        self.members = {1, 2}
        self.array = np.arange(6.0).reshape(2, 3)
        self.view = self.array[:, ::2]
        self.thing = object()
        self.gone = None
        self.nan = float("nan")
        self.cycle = [self.items]
        self.cycle.append(self.cycle)
        self.objects = np.array([None])


def test_nothing_has_changed_after_construction():
    assert changed_attributes(Stateful()) == []
    assert changed_attributes(Loudness(1.0, weights=np.ones(3))) == []


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda it: setattr(it, "number", 2), ["number"]),
        (lambda it: setattr(it, "number", True), ["number"]),
        (lambda it: setattr(it, "thing", object()), ["thing"]),
        (lambda it: setattr(it, "added", None), ["added"]),
        (lambda it: delattr(it, "gone"), ["gone"]),
        (lambda it: it.items[1].append(3), ["cycle", "items"]),
        (lambda it: it.table["a"].update(b=2), ["table"]),
        (lambda it: it.table.update(c=2), ["table"]),
        (lambda it: it.members.add(3), ["members"]),
        (lambda it: it.array.__setitem__((0, 1), 9), ["array"]),
        (lambda it: it.array.__setitem__((0, 0), 9), ["array", "view"]),
        (lambda it: setattr(it, "array", it.array.reshape(3, 2)), ["array"]),
        (lambda it: setattr(it, "items", (1, [2])), ["items"]),
    ],
)
def test_changes_are_named(change, names):
    stateful = Stateful()
    change(stateful)
    assert changed_attributes(stateful) == names


def test_the_same_again_is_no_change():
    stateful = Stateful()
    stateful.number = 1
    stateful.items = [1, [2]]
    stateful.array = stateful.array.copy()
    assert changed_attributes(stateful) == []


def test_ports_and_internals_are_no_changes():
    loudness = Loudness()
    loudness.audio.format = MONO
    loudness._steadyflow_worker = "dsp"
    assert changed_attributes(loudness) == []
    ramp = Ramp()
    ramp.paced = True
    assert changed_attributes(ramp) == ["paced"]
