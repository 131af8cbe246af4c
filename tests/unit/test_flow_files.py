"""Flow files: what they say becomes a flow, and what is wrong with them is said with its place."""

from __future__ import annotations

import asyncio
import copy
import enum
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from steadyflow import (
    Aligned,
    AudioFormat,
    DataFlowCoordinator,
    DropOldest,
    Input,
    Module,
    Output,
    PipelineConfig,
    Realtime,
    Wait,
    audio,
    load_flow,
    module,
    testing,
)
from steadyflow.errors import (
    ConfigurationError,
    CycleRefused,
    DuplicateLink,
    DuplicateName,
    FileUnreadable,
    FlowFailed,
    FormatClash,
    LimitExceeded,
    MissingExtra,
    SeveralProblems,
    UnknownName,
)
from steadyflow.flow_files.schema import ADD_OPTIONS
from steadyflow.flow_files.settings import Setting
from steadyflow.toml.pipelines import find_entry

if TYPE_CHECKING:
    from nowhere import Unknown

HERE = __name__

FLOW = """\
[flow]
name = "demo"
description = "a tone and its level"

[modules.tone]
use = "steadyflow.audio:Tone"
arguments = { frequency_hz = 440, duration_s = 0.1, realtime_pace = false }

[modules.meter]
use = "steadyflow.audio:LevelMeter"

[modules.levels]
use = "steadyflow.testing:Collect"

[[pipelines]]
from = "tone.out"
to = "meter.audio"
buffer_size = 32
max_latency_ms = 2.0
priority = "critical"
backpressure_strategy = { kind = "wait", timeout_ms = 5000 }

[[pipelines]]
name = "found"
from = "meter"
to = "levels"
buffer_size = 8
"""


@pytest.fixture(autouse=True)
def same_import_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def flow_file(tmp_path):
    """Write a flow file."""

    def write(text=FLOW, *, name="flow.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


# --- what it says -------------------------------------------------------------------------------------------------


def test_a_flow_file_becomes_a_flow(flow_file):
    path = flow_file()
    with load_flow(path) as flow:
        assert isinstance(flow, DataFlowCoordinator)
        assert (flow.name, flow.path, flow.description, flow.duration_s) == (
            "demo",
            str(path),
            "a tone and its level",
            None,
        )
        assert {name: type(each) for name, each in flow.modules.items()} == {
            "tone": audio.Tone,
            "meter": audio.LevelMeter,
            "levels": testing.Collect,
        }
        assert {name: each.config for name, each in flow.pipelines.items()} == {
            "tone.out->meter.audio": PipelineConfig(32, 2.0, "critical", Wait(5000)),
            "meter.level->levels.data": PipelineConfig(8),
        }
        report = flow.run()

        assert report.pipelines["meter.level->levels.data"].delivered == 10
        assert len(flow.modules["levels"].values) == 10


def test_a_flow_is_named_by_itself_or_by_its_file(flow_file):
    text = '[modules.meter]\nuse = "steadyflow.audio:LevelMeter"'
    with load_flow(flow_file(text, name="my notes.toml")) as flow:
        assert flow.name == "my notes"
        assert flow.description == ""
    with load_flow(str(flow_file('flow = { name = "other" }\n' + text))) as flow:
        assert flow.name == "other"


def test_everything_that_add_takes_can_be_said():
    parameters = list(inspect.signature(DataFlowCoordinator.add).parameters)[1:]

    assert set(ADD_OPTIONS) == {*parameters} - {"module", "name"}, "give ModuleTable the new option of add()"


def test_options_of_modules(flow_file):
    text = """
        [modules.pitch]
        use = "steadyflow.audio:PitchDetector"
        placement = "process"
        worker = "dsp"
        realtime = true
        on_failure = "stop"
    """
    with load_flow(flow_file(text)) as flow:
        placed = flow._description.modules["pitch"]
        assert (placed.placement, placed.worker, placed.realtime) == ("process", "dsp", Realtime())


def test_a_duration_ends_the_run_unless_run_says_another(flow_file):
    text = """
        [flow]
        duration_s = 0.05
        [modules.tone]
        use = "steadyflow.audio:Tone"
        arguments = { frequency_hz = 440 }
    """
    with load_flow(flow_file(text)) as flow:
        assert flow.run().duration_s >= 0.05
    with load_flow(flow_file(text)) as flow:
        assert flow.run(duration_s=0.2).duration_s >= 0.2
    with load_flow(flow_file(text)) as flow:
        assert asyncio.run(flow.run_async()).duration_s >= 0.05


# --- modules and their arguments ----------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Range(msgspec.Struct, frozen=True):
    low: float
    high: float = 1.0


class Everything(Module):
    audio = Input(AudioFormat())

    def __init__(
        self,
        path: Path,
        colour: Colour = Colour.RED,
        format: AudioFormat | None = None,
        span: Range | None = None,
        ratio: float = 1.0,
        unknown: Unknown | None = None,
        *,
        anything=None,
    ):
        self.given = {
            "path": path,
            "colour": colour,
            "format": format,
            "span": span,
            "ratio": ratio,
            "unknown": unknown,
            "anything": anything,
        }

    def process(self, audio): ...


class Free(Module):
    audio = Input(AudioFormat())

    def __init__(self, **options: int):
        self.options = options

    def process(self, audio): ...


class ByNew(Module):
    audio = Input(AudioFormat())

    def __new__(cls, size: int):
        self = super().__new__(cls)
        self.size = size
        return self

    def process(self, audio): ...


class Outer:
    class Nested(Module):
        audio = Input(AudioFormat())

        def process(self, audio): ...


class Hostile(Module):
    audio = Input(AudioFormat())

    def __init__(self, how: str = "raise"):
        if how == "exit":
            sys.exit(3)
        if how == "configuration":
            raise ConfigurationError("Hostile: expected peace, got war.")
        if how == "extra":
            raise MissingExtra("audio", "Hostile")
        raise RuntimeError("no peace")

    def process(self, audio): ...


class ByPosition(Module):
    audio = Input(AudioFormat())

    def __init__(self, size, /): ...

    def process(self, audio): ...


class Unconstructable(Module):
    audio = Input(AudioFormat())
    __init__ = 5

    def process(self, audio): ...


class Raises(Module):
    out = Output(AudioFormat())
    audio = Input(AudioFormat())

    def resolve_formats(self, inputs):
        raise ConfigurationError("no format today")

    def process(self, audio): ...


class FailsAtSetup(Module):
    audio = Input(AudioFormat())

    def setup(self):
        raise RuntimeError("not today")

    def process(self, audio): ...


class Copier(Module):
    data = Input()
    out = Output(like="data")

    def process(self, data): ...


class Join(Module):
    one = Input(AudioFormat())
    two = Input(AudioFormat())
    aligned = Aligned("one", "two")

    def process(self, one, two): ...


class Loop(Join):
    out = Output(AudioFormat(48_000, 1))


@module(input=AudioFormat(16_000, 1), output=AudioFormat(16_000, 1))
def halve(audio):
    return audio.samples / 2


@module(input=AudioFormat(48_000, 1))
def swallow(audio): ...


def not_a_module(): ...


def test_arguments_become_what_the_constructor_is_annotated_with(flow_file):
    text = f"""
        [modules.one]
        use = "{HERE}:Everything"
        [modules.one.arguments]
        path = "some/where.wav"
        colour = "blue"
        format = {{ sample_rate_hz = 48000, channels = 1 }}
        span = {{ low = 0 }}
        ratio = 2
        unknown = {{ x = 1 }}
        anything = [1, "two"]
    """
    with load_flow(flow_file(text)) as flow:
        assert flow.modules["one"].given == {
            "path": Path("some/where.wav"),
            "colour": Colour.BLUE,
            "format": AudioFormat(48_000, 1),
            "span": Range(0.0, 1.0),
            "ratio": 2.0,
            "unknown": {"x": 1},
            "anything": [1, "two"],
        }


def test_what_is_left_out_has_its_default(flow_file):
    with load_flow(flow_file(f'[modules.one]\nuse = "{HERE}:Everything"\narguments.path = "x"')) as flow:
        assert flow.modules["one"].given["colour"] is Colour.RED


def test_classes_are_found_wherever_they_are(flow_file):
    text = f"""
        [modules]
        nested.use = "{HERE}:Outer.Nested"
        function.use = "{HERE}:halve"
        free = {{ use = "{HERE}:Free", arguments = {{ x = 1, y = "z" }} }}
        new = {{ use = "{HERE}:ByNew", arguments = {{ size = 3 }} }}
    """
    with load_flow(flow_file(text)) as flow:
        assert type(flow.modules["nested"]) is Outer.Nested
        assert type(flow.modules["function"]) is halve
        assert flow.modules["free"].options == {"x": 1, "y": "z"}
        assert flow.modules["new"].size == 3


def test_the_folder_of_the_file_comes_first_on_the_import_path(flow_file, tmp_path):
    (tmp_path / "beside_the_flow_file.py").write_text(
        "from steadyflow import AudioFormat, module\n@module(input=AudioFormat())\ndef listen(audio): ...\n"
    )
    link = tmp_path / "elsewhere" / "link.toml"
    link.parent.mkdir()
    link.symlink_to(flow_file('[modules.listen]\nuse = "beside_the_flow_file:listen"'))
    with load_flow(link) as flow:
        assert "listen" in flow.modules
    load_flow(link).close()

    assert sys.path[0] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1


# --- what is wrong with it ----------------------------------------------------------------------------------------

MODULE = '[modules.meter]\nuse = "steadyflow.audio:LevelMeter"\n'
A_TO_B = "[[pipelines]]\nfrom = 'a'\nto = 'b'\nbuffer_size = 1"
B_TO_A = "[[pipelines]]\nfrom = 'b'\nto = 'a'\nbuffer_size = 1"
TWO_PLACEMENTS = """
[modules]
a = { use = "HERE:halve", worker = "w" }
b = { use = "HERE:halve", worker = "w", placement = "process" }
"""
TONE = '[modules.tone]\nuse = "steadyflow.audio:Tone"\narguments.frequency_hz = 440\n'


TONES = f"""
[modules.one]
use = "steadyflow.audio:Tone"
arguments = {{ frequency_hz = 440 }}
[modules.two]
use = "steadyflow.audio:Tone"
arguments = {{ frequency_hz = 440, sample_rate_hz = 16000 }}
[modules.join]
use = "{HERE}:Join"
[[pipelines]]
from = "one"
to = "join.one"
buffer_size = 2
"""
REPLICAS = f"""
[modules]
a = {{ use = "{HERE}:halve" }}
b = {{ use = "{HERE}:halve", placement = "process", replicas = 3 }}
c = {{ use = "{HERE}:halve" }}
[[pipelines]]
from = "a"
to = "b"
buffer_size = 1
[[pipelines]]
from = "b"
to = "c"
buffer_size = 2
"""


def linked(options, ends='from = "tone.out"\nto = "meter.audio"'):
    return f"{MODULE}{TONE}[[pipelines]]\n{ends}\n{options}"


@pytest.mark.parametrize(
    ("text", "kind", "where", "said"),
    [
        # the file
        ("", ConfigurationError, "", "expected tables [modules.NAME] and [[pipelines]], got none"),
        ("# nothing", ConfigurationError, "", "expected tables [modules.NAME]"),
        ("[flow]\nname = 'x'", ConfigurationError, "", "expected a table [modules.NAME], got none"),
        ("[modules]", ConfigurationError, "", "expected a table [modules.NAME], got none"),
        ("[modules.x\nuse = 1", ConfigurationError, "", "line 1"),
        # tables and keys
        (MODULE + "[module.x]", UnknownName, ", line 3, module", "unknown table 'module'; did you mean 'modules'"),
        ("modules = 3", ConfigurationError, ", line 1, modules", "expected a table, got 3"),
        ("[modules]\nx = 3", ConfigurationError, ", line 2, modules.x", "expected a table, got 3"),
        (MODULE + "[flow]\nnam = 'x'", UnknownName, ", line 4, flow.nam", "unknown key 'nam'; did you mean 'name'"),
        ("flow = 'x'\n" + MODULE, ConfigurationError, ", line 1, flow", "expected a table, got 'x'"),
        (MODULE + "[flow]\nname = ''", ConfigurationError, ", line 4, flow.name", "text of length >= 1, got ''"),
        (MODULE + "[flow]\nname = 5", ConfigurationError, ", line 4, flow.name", "expected text, got 5"),
        (MODULE + "[flow]\nduration_s = 0", ConfigurationError, ", line 4, flow.duration_s", "a number > 0.0, got 0"),
        (MODULE + "[flow]\nduration_s = nan", ConfigurationError, ", line 4, flow.duration_s", "got nan"),
        (MODULE + "usee = 'x'", UnknownName, ", line 3, modules.meter.usee", "did you mean 'use'? Known: use, arg"),
        ("[modules.meter]\narguments = {}", ConfigurationError, ", line 1, modules.meter", "use is missing"),
        (MODULE + "placement = 'proces'", UnknownName, ", line 3, modules.meter.placement", "did you mean 'process'"),
        (
            MODULE + "realtime = 'yes'",
            ConfigurationError,
            ", line 3, modules.meter.realtime",
            "true or false, got 'yes'",
        ),
        (MODULE + "on_failure = 'go on'", UnknownName, ", line 3, modules.meter.on_failure", "Known: stop"),
        (MODULE + "worker = 'a b'", ConfigurationError, ", line 1, modules.meter", "expected worker to be a name"),
        (MODULE + "realtime = true", ConfigurationError, ", line 1, modules.meter", "realtime=True needs placement"),
        (MODULE + "arguments = 3", ConfigurationError, ", line 3, modules.meter.arguments", "expected a table, got 3"),
        (
            f'[modules."a b"]\nuse = "{HERE}:halve"',
            ConfigurationError,
            ', line 1, modules."a b"',
            "letters, digits, _ and -",
        ),
        (f'[modules.main]\nuse = "{HERE}:halve"', DuplicateName, ", line 1, modules.main", "own worker thread"),
        (
            '[modules.x]\nuse = "steadyflow.testing:Collect"\nplacement = "process"',
            ConfigurationError,
            ", line 1, modules.x",
            "runs only with placement",
        ),
        # classes
        ("[modules.x]\nuse = 'Tone'", ConfigurationError, ", line 2, modules.x.use", '"package.module:Class" such as'),
        ("[modules.x]\nuse = '.a:Tone'", ConfigurationError, ", line 2, modules.x.use", "got '.a:Tone'"),
        ("[modules.x]\nuse = 5", ConfigurationError, ", line 2, modules.x.use", "expected text, got 5"),
        (
            "[modules.x]\nuse = 'steadyflwo.audio:Tone'",
            UnknownName,
            ", line 2, modules.x.use",
            "unknown module to import 'steadyflwo'; did you mean 'steadyflow'",
        ),
        (
            "[modules.x]\nuse = 'steadyflow.adio:Tone'",
            UnknownName,
            ", line 2, modules.x.use",
            "unknown module to import 'steadyflow.adio'; did you mean 'steadyflow.audio'",
        ),
        ("[modules.x]\nuse = 'json.tool.x:Tone'", UnknownName, ", line 2, modules.x.use", "'json.tool.x'"),
        (
            "[modules.x]\nuse = 'steadyflow.audio:Tnoe'",
            UnknownName,
            ", line 2, modules.x.use",
            "steadyflow.audio: unknown class 'Tnoe'; did you mean 'Tone'",
        ),
        (
            f"[modules.x]\nuse = '{HERE}:Outer.Nestd'",
            UnknownName,
            ", line 2, modules.x.use",
            "unknown class 'Nestd'; did you mean 'Nested'? Known: Nested.",
        ),
        (f"[modules.x]\nuse = '{HERE}:HERE.x'", UnknownName, ", line 2, modules.x.use", "unknown class 'x'"),
        ("[modules.x]\nuse = 'os:getcwd'", ConfigurationError, ", line 2, modules.x.use", "a class derived from"),
        ("[modules.x]\nuse = 'enum:Enum'", ConfigurationError, ", line 2, modules.x.use", "made by @module, got <"),
        (
            f"[modules.x]\nuse = '{HERE}:not_a_module'",
            ConfigurationError,
            ", line 2, modules.x.use",
            "made by @module, got <function",
        ),
        # arguments
        (
            TONE.replace("frequency_hz", "freqency_hz"),
            UnknownName,
            ", line 3, modules.tone.arguments.freqency_hz",
            "Tone: unknown argument 'freqency_hz'; did you mean 'frequency_hz'? Known: frequency_hz, sample_rate_hz",
        ),
        (
            TONE.replace("440", "'high'"),
            ConfigurationError,
            ", line 3, modules.tone.arguments.frequency_hz",
            "expected a number, got 'high'",
        ),
        ("[modules.tone]\nuse = 'steadyflow.audio:Tone'", ConfigurationError, ", line 1, modules.tone", "is missing"),
        (TONE.replace("440", "0"), ConfigurationError, ", line 3, modules.tone.arguments", "got 0.0"),
        (MODULE + "arguments.x = 3", ConfigurationError, ", line 3, modules.meter.arguments.x", "takes no arguments"),
        (
            f"[modules.x]\nuse = '{HERE}:Everything'\narguments = {{ path = 'x', colour = 'bleu' }}",
            UnknownName,
            ", line 3, modules.x.arguments.colour",
            "unknown value 'bleu'; did you mean 'blue'",
        ),
        (
            f"[modules.x]\nuse = '{HERE}:Everything'\n[modules.x.arguments]\npath = 'x'\nspan.hihg = 3",
            UnknownName,
            ", line 5, modules.x.arguments.span.hihg",
            "did you mean 'high'",
        ),
        (
            f"[modules.x]\nuse = '{HERE}:Hostile'",
            ConfigurationError,
            ", line 1, modules.x",
            "Hostile(...) raised RuntimeError: no peace (",
        ),
        (
            f"[modules.x]\nuse = '{HERE}:Hostile'\narguments.how = 'exit'",
            ConfigurationError,
            ", line 3, modules.x.arguments",
            "raised SystemExit: 3 (",
        ),
        (
            f"[modules.x]\nuse = '{HERE}:Hostile'\narguments.how = 'configuration'",
            ConfigurationError,
            ", line 3, modules.x.arguments",
            "expected peace, got war",
        ),
        (
            f"[modules.x]\nuse = '{HERE}:Hostile'\narguments.how = 'extra'",
            MissingExtra,
            ", line 3, modules.x.arguments",
            "pip install 'steadyflow[audio]'",
        ),
        (
            f"[modules.x]\nuse = '{HERE}:ByPosition'",
            ConfigurationError,
            ", line 1, modules.x",
            "ByPosition(...) raised TypeError: ",
        ),
        (
            f"[modules.x]\nuse = '{HERE}:Unconstructable'\narguments.x = 3",
            ConfigurationError,
            ", line 3, modules.x.arguments",
            "Unconstructable(...) raised TypeError: 'int' object is not callable.",
        ),
        # pipelines
        (MODULE + "[pipelines]\nx = 3", ConfigurationError, ", line 3, pipelines", "expected entries [[pipelines]]"),
        ("pipelines = [3]\n" + MODULE, ConfigurationError, ", line 1, pipelines.0", "expected a table, got 3"),
        (linked("buffer_size = 0"), ConfigurationError, ", line 9, pipelines.0.buffer_size", "from 1 to 65,536, got 0"),
        (linked("bufer_size = 3"), UnknownName, ", line 9, pipelines.0.bufer_size", "did you mean 'buffer_size'"),
        (
            linked("buffer_size = 3\ntransformation_required = 'yes'"),
            ConfigurationError,
            ", line 10, pipelines.0.transformation_required",
            "expected transformation_required to be True or False, got 'yes'",
        ),
        (
            linked("buffer_size = 3\nconversion = { qualty = 'HQ' }"),
            UnknownName,
            ", line 10, pipelines.0.conversion",
            "unknown option of conversion 'qualty'; did you mean 'quality'",
        ),
        (
            linked("buffer_size = 3\nconversion = { dither = 1 }"),
            ConfigurationError,
            ", line 10, pipelines.0.conversion",
            "expected dither to be true or false, got 1",
        ),
        (
            linked("buffer_size = 3\nvalidation = 'ful'"),
            UnknownName,
            ", line 10, pipelines.0.validation",
            "unknown mode 'ful'; did you mean 'full'",
        ),
        (linked(""), ConfigurationError, ", line 6, pipelines.0", "buffer_size is missing"),
        (
            linked("buffer_size = 3\npriority = 'hihg'"),
            UnknownName,
            ", line 10, pipelines.0.priority",
            "unknown priority 'hihg'; did you mean 'high'",
        ),
        (
            linked("buffer_size = 3\nbackpressure_strategy = 'wiat'"),
            UnknownName,
            ", line 10, pipelines.0.backpressure_strategy",
            "did you mean 'wait'",
        ),
        (
            linked("buffer_size = 3", 'from = "tone.out"'),
            ConfigurationError,
            ", line 6, pipelines.0",
            "to is missing",
        ),
        (
            linked("buffer_size = 3", 'from = 3\nto = "meter"'),
            ConfigurationError,
            ", line 7, pipelines.0.from",
            "expected text, got 3",
        ),
        (
            linked("buffer_size = 3", 'from = "tnoe.out"\nto = "meter"'),
            UnknownName,
            ", line 7, pipelines.0.from",
            "unknown module 'tnoe'; did you mean 'tone'",
        ),
        (
            linked("buffer_size = 3", 'from = "tone.otu"\nto = "meter"'),
            UnknownName,
            ", line 7, pipelines.0.from",
            "unknown output 'otu'; did you mean 'out'",
        ),
        (
            linked("buffer_size = 3", 'from = "tone"\nto = "meter.audoi"'),
            UnknownName,
            ", line 8, pipelines.0.to",
            "unknown input 'audoi'; did you mean 'audio'",
        ),
        (
            linked("buffer_size = 3", 'from = "app"\nto = "meter.audio"'),
            UnknownName,
            ", line 7, pipelines.0.from",
            "unknown module 'app'",
        ),
        (
            linked("buffer_size = 3", 'from = "tone"\nto = "tone"'),
            ConfigurationError,
            ", line 8, pipelines.0.to",
            "expected which input is meant, because it has 0",
        ),
        (
            linked("buffer_size = 3\n[[pipelines]]\nbuffer_size = 3\nfrom = 'tone'\nto = 'meter'"),
            DuplicateLink,
            ", line 10, pipelines.1",
            "tone.out->meter.audio: these two are linked already",
        ),
        (
            linked(
                "buffer_size = 3\nname = 'x'\n[[pipelines]]\nbuffer_size = 3\nname = 'x'\nfrom = 'tone'\nto = 'meter'"
            ),
            DuplicateName,
            ", line 13, pipelines.1.name",
            "another pipeline is called 'x' already",
        ),
        (
            f"[modules]\na.use = '{HERE}:halve'\nb.use = '{HERE}:swallow'\n{A_TO_B}",
            FormatClash,
            ", line 4, pipelines.0",
            "a.out->b.audio: the output produces audio 16000 Hz",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(flow_file, text, kind, where, said):
    path = flow_file(text)
    with pytest.raises(kind) as caught:
        load_flow(path)
    assert not isinstance(caught.value, SeveralProblems), str(caught.value)
    assert str(caught.value).startswith(f"{path}{where}: ")
    assert said in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileUnreadable, match=r"missing\.toml: cannot be read: No such file"):
        load_flow(tmp_path / "missing.toml")
    (tmp_path / "latin.toml").write_bytes(b"[flow]\nname = 'd\xe9mo'")
    with pytest.raises(ConfigurationError, match=r"latin\.toml, line 2: expected TOML, which is UTF-8"):
        load_flow(tmp_path / "latin.toml")


def test_all_that_is_wrong_is_said_at_once(flow_file):
    text = f"""[flow]
name = 3
[modules.tone]
use = "steadyflow.audio:Tnoe"
[modules.meter]
use = "steadyflow.audio:LevelMeter"
placement = "proces"
[modules.one]
use = "{HERE}:Everything"
arguments = {{ pth = 3, colour = "rde" }}
[[pipelines]]
from = "tone.out"
to = "meter.audio"
buffer_size = 0
priority = "hihg"
[[pipelines]]
from = "tnoe.out"
to = "meter.audio"
buffer_size = 1
[other]
"""
    path = flow_file(text)
    with pytest.raises(SeveralProblems) as caught:
        load_flow(path)

    places = [str(each).removeprefix(f"{path}, ").partition(": ")[0] for each in caught.value.problems]
    assert places == [
        "line 20, other",
        "line 2, flow.name",
        "line 4, modules.tone.use",
        "line 7, modules.meter.placement",
        "line 10, modules.one.arguments.pth",
        "line 10, modules.one.arguments.colour",
        "line 14, pipelines.0.buffer_size",
        "line 15, pipelines.0.priority",
        "line 17, pipelines.1.from",
    ]
    assert str(caught.value).startswith(f"{path}: 9 problems.\n")


def write_module(folder, name, text):
    (folder / f"{name}.py").write_text(text)
    return f'[modules.x]\nuse = "{name}:Thing"'


def test_a_module_that_cannot_be_imported(flow_file, tmp_path):
    path = flow_file(write_module(tmp_path, "raises_at_import", "\n\nraise RuntimeError('not today')"))
    with pytest.raises(ConfigurationError) as caught:
        load_flow(path)
    assert str(caught.value) == (
        f"{path}, line 2, modules.x.use: importing raises_at_import raised RuntimeError: not today "
        f"({tmp_path / 'raises_at_import.py'}, line 3)."
    )
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "misspelt_inside",
            "import no_such_package",
            "raised ModuleNotFoundError: No module named 'no_such_package' (",
        ),
        ("bad_syntax", "x = = 3", "raised SyntaxError: "),
        ("exits", "raise SystemExit('bye')", "raised SystemExit: bye ("),
        (
            "lazy",
            "def __getattr__(name): raise RuntimeError(name)",
            "looking up Thing in lazy raised RuntimeError: Thing (",
        ),
        (
            "lazy_too",
            "import steadyflow.errors as e\ndef __getattr__(name): raise e.ConfigurationError('no')",
            "use: no",
        ),
        ("refuses", "from steadyflow import Input\nInput(3)", "Input: expected a format such as"),
    ],
)
def test_what_an_import_raises_is_said(flow_file, tmp_path, name, text, said):
    path = flow_file(write_module(tmp_path, name, text))
    with pytest.raises(ConfigurationError) as caught:
        load_flow(path)
    assert str(caught.value).startswith(f"{path}, line 2, modules.x.use: ")
    assert said in str(caught.value)


def test_a_misspelt_module_beside_the_file_gets_the_near_miss(flow_file, tmp_path):
    path = flow_file(write_module(tmp_path, "loudness_meter", "").replace("loudness_meter", "loudnes_meter"))
    with pytest.raises(UnknownName, match="unknown module to import 'loudnes_meter'; did you mean 'loudness_meter'"):
        load_flow(path)


def test_the_word_that_lets_a_pipeline_convert_is_offered(flow_file):
    with pytest.raises(UnknownName, match="did you mean 'transformation_required'"):
        load_flow(flow_file(linked("buffer_size = 3\ntransformation_requird = true")))


# --- what is found at the start -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "where", "said"),
    [
        (
            linked("buffer_size = 3").replace("LevelMeter", "PitchDetector")
            + "\n[modules.mono]\nuse = 'HERE:halve'\n[[pipelines]]\nfrom = 'tone'\nto = 'mono'\nbuffer_size = 1",
            FormatClash,
            ", line 12, pipelines.1",
            "the output produces audio 48000 Hz",
        ),
        (
            "[modules]\na.use = 'HERE:Raises'",
            ConfigurationError,
            ", line 2, modules.a",
            "module 'a': no format today",
        ),
        (
            TWO_PLACEMENTS,
            ConfigurationError,
            ", line 4, modules.b",
            "worker 'w': expected one placement",
        ),
        (
            TONES,
            ConfigurationError,
            ", line 8, modules.join",
            "join.two of Aligned('one', 'two', by='frame'): expected one pipeline, got none",
        ),
        (
            TONES + "[[pipelines]]\nfrom = 'two'\nto = 'join.two'\nbuffer_size = 2",
            FormatClash,
            ", line 8, modules.join",
            "expected one sample rate on all inputs of Aligned('one', 'two', by='frame'); got one 48000 Hz, two 16000 Hz",
        ),
        (
            TONES.replace(":Join", ":Loop") + "[[pipelines]]\nfrom = 'join'\nto = 'join.two'\nbuffer_size = 2",
            ConfigurationError,
            ", line 14, pipelines.1",
            "would wait for what is made of it",
        ),
        (REPLICAS, ConfigurationError, ", line 10, pipelines.1", "expected a buffer_size of at least 3"),
        (
            REPLICAS.replace('"process"', '"process", ordered = true').partition("[[")[0],
            ConfigurationError,
            ", line 4, modules.b",
            "expected one pipeline into it",
        ),
        (
            "[modules]\na = { use = 'HERE:halve', placement = 'process', replicas = 15 }\nb = { use = 'HERE:halve', placement = 'process' }",
            LimitExceeded,
            "",
            "a flow may have 15 process workers; this one has 16",
        ),
        (
            f"[modules]\na.use = 'HERE:halve'\nb.use = 'HERE:halve'\n{A_TO_B}\n{B_TO_A}",
            CycleRefused,
            ", line 4, pipelines.0",
            "the loop a -> b -> a waits everywhere",
        ),
        (
            "[modules]\na.use = 'HERE:Copier'\nb.use = 'HERE:Copier'\n[[pipelines]]\nfrom = 'a'\nto = 'b'\nbuffer_size = 1",
            ConfigurationError,
            ", line 4, pipelines.0",
            "expected to know what flows before the start",
        ),
    ],
)
@pytest.mark.parametrize("begin", ["start", "run", "graph"])
def test_what_the_start_refuses_is_said_with_its_place(flow_file, text, kind, where, said, begin):
    path = flow_file(text.replace("HERE", HERE))
    with load_flow(path) as flow, pytest.raises(kind) as caught:
        getattr(flow, begin)()
    assert str(caught.value).startswith(f"{path}{where}: ")
    assert said in str(caught.value)


MISSING = """
[modules.take]
use = "steadyflow.audio:FileSource"
arguments.path = "/no/such/take.wav"
[modules.copy]
use = "HERE:Copier"
[modules.half]
use = "HERE:halve"
[[pipelines]]
from = "take"
to = "copy"
buffer_size = 4
[[pipelines]]
from = "copy"
to = "half"
buffer_size = 4
"""


def test_a_missing_file_is_a_mistake_of_the_start_and_not_of_the_description(flow_file):
    path = flow_file(MISSING.replace("HERE", HERE))
    with load_flow(path) as flow:
        assert "audio, 16000 Hz, 1 channel" in flow.graph()
        with pytest.raises(FileUnreadable, match=r"/no/such/take\.wav") as caught:
            flow.start()
    assert str(caught.value).startswith(f"{path}, line 2, modules.take: ")


def test_what_cannot_fit_whatever_the_file_holds_is_found_without_it(flow_file):
    text = f"""{MISSING}
[modules.again]
use = "HERE:Copier"
[modules.swallow]
use = "HERE:swallow"
[[pipelines]]
from = "half"
to = "again"
buffer_size = 4
[[pipelines]]
from = "again"
to = "swallow"
buffer_size = 4
"""
    path = flow_file(text.replace("HERE", HERE))
    with load_flow(path) as flow, pytest.raises(FormatClash, match=r"line 26, pipelines.3: again.out->swallow.audio: "):
        flow.graph()


def test_a_picture_changes_nothing(flow_file):
    with load_flow(flow_file()) as flow:
        picture = flow.graph()
        assert flow.graph() == picture
        assert flow.pipelines["tone.out->meter.audio"].format is None
        assert flow.run().pipelines["meter.level->levels.data"].delivered == 10
        assert "audio, 48000 Hz, 1 channel" in flow.graph()  # what flowed is known by now


def test_an_unknown_format_of_a_picture_is_not_the_file_s_mistake(flow_file):
    with load_flow(flow_file()) as flow, pytest.raises(UnknownName, match=r"^unknown format of a graph 'dott'"):
        flow.graph("dott")


def test_what_is_not_in_the_file_has_no_line(flow_file):
    path = flow_file(f"[modules.a]\nuse = '{HERE}:halve'\nworker = 'w'")
    with load_flow(path) as flow:
        flow.add(Copier(), name="b", worker="w", placement="process")
        with pytest.raises(ConfigurationError, match=f"^{path}: worker 'w': expected one placement"):
            flow.start()


def test_a_failure_is_the_module_s_and_not_the_file_s(flow_file):
    path = flow_file(f"[modules.x]\nuse = '{HERE}:FailsAtSetup'")
    with load_flow(path) as flow, pytest.raises(FlowFailed) as caught:
        flow.start()
    assert "not today" in str(caught.value.exceptions[0])


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("a.b=8", "a.b", 8),
        ("a.b = 8.5 ", "a.b", 8.5),
        ("a=true", "a", True),
        ("a=x.wav", "a", "x.wav"),
        ("a=", "a", ""),
        ("a='8'", "a", "8"),
        ("a=a=b", "a", "a=b"),
        ("a=[1, 2", "a", "[1, 2"),
        ("a=[1, 2]", "a", [1, 2]),
        ("a={ kind = 'wait' }", "a", {"kind": "wait"}),
        ("a=1\nb = 2", "a", "1\nb = 2"),
        ("a=" + "[" * 5000, "a", "[" * 5000),
        ("a=" + "9" * 5000, "a", "9" * 5000),
        ('pipelines."a.b->c.d".x=1', 'pipelines."a.b->c.d".x', 1),
        ('"a=b".c=1', '"a=b".c', 1),
    ],
)
def test_a_setting_is_a_key_and_a_value(text, key, value):
    assert Setting.parse(text, "--set") == (key, value, f"--set {key}")


@pytest.mark.parametrize("text", ["", "a", "=8", "a b=8", "a.=8", "take->pitch=8"])
def test_what_is_no_setting(text):
    with pytest.raises(ConfigurationError, match="--set: expected KEY=VALUE such as"):
        Setting.parse(text, "--set")


def test_overrides_replace_what_the_file_says(flow_file):
    overrides = {
        "flow.name": "other",
        "modules.tone.arguments.frequency_hz": 220,
        "modules.meter.worker": "dsp",
        "pipelines.0.buffer_size": 4,
        'pipelines."tone.out->meter.audio".backpressure_strategy.timeout_ms': 7,
        "pipelines.found.backpressure_strategy": "drop_oldest",
    }
    with load_flow(flow_file(), overrides=overrides) as flow:
        assert flow.name == "other"
        assert "220 Hz" in repr(flow.modules["tone"])
        assert flow._description.modules["meter"].worker == "dsp"
        first, found = flow.pipelines.values()
        assert (first.config.buffer_size, first.config.backpressure_strategy) == (4, Wait(7))
        assert found.config.backpressure_strategy == DropOldest()


@pytest.mark.parametrize(
    ("label", "number"),
    [
        ("a.x->b.y", 0),
        ("a->b.y", 0),
        ("a->b", None),
        ("a.x->b", None),
        ("a.x->b.z", 1),
        ("c->d", 2),
        ("c.x->d.y", 2),
        ("c.x->d", 2),
        ("d->c", None),
        ("c", None),
        ("c->d->e", None),
        ("e", 3),
        ("->", None),
    ],
)
def test_pipelines_are_called_by_name_or_by_their_ends(label, number):
    entries = [
        {"from": "a.x", "to": "b.y"},
        {"from": "a.x", "to": "b.z"},
        {"from": "c", "to": "d"},
        {"name": "e", "from": "e.x", "to": "f.x"},
        {"from": "e.x"},
        "no table",
    ]
    assert find_entry(entries, label) == number


def test_tables_that_may_be_left_out_may_be_set(flow_file):
    text = f'[modules.free]\nuse = "{HERE}:Free"'
    with load_flow(flow_file(text), overrides={"flow.name": "x", "modules.free.arguments.size": 3}) as flow:
        assert flow.name == "x"
        assert flow.modules["free"].options == {"size": 3}


def test_tables_that_the_file_does_not_have_yet(flow_file):
    text = f'[modules.one]\nuse = "{HERE}:Everything"\narguments.path = "x"\n{linked("buffer_size = 3")}'
    overrides = {
        "pipelines.0.backpressure_strategy.kind": "wait",
        "pipelines.0.backpressure_strategy.timeout_ms": 7,
        "modules.one.arguments.format.sample_rate_hz": 16_000,
        "modules.one.arguments.span.low": 0.5,
    }
    with load_flow(flow_file(text), overrides=overrides) as flow:
        assert flow.pipelines["tone.out->meter.audio"].config.backpressure_strategy == Wait(7)
        assert flow.modules["one"].given["format"] == AudioFormat(16_000)
        assert flow.modules["one"].given["span"] == Range(0.5)


def test_overrides_stay_as_they_are(flow_file):
    rule, sizes = {"kind": "wait"}, [1, {"x": 2}]
    overrides = {
        "pipelines.found.backpressure_strategy": rule,
        "pipelines.found.backpressure_strategy.timeout_ms": 7,
        "modules.free.arguments.sizes": sizes,
        "modules.free.arguments.sizes.1.x": 3,
    }
    before = copy.deepcopy(overrides)
    path = flow_file(f'{FLOW}\n[modules.free]\nuse = "{HERE}:Free"')
    with load_flow(path, overrides=overrides) as flow:
        assert flow.modules["free"].options == {"sizes": [1, {"x": 3}]}
    assert overrides == before
    assert (rule, sizes) == ({"kind": "wait"}, [1, {"x": 2}])


@pytest.mark.parametrize("overrides", [{3: 4}, [("flow.name", "x")], "flow.name=x", 5])
def test_what_are_no_overrides(flow_file, overrides):
    with pytest.raises(ConfigurationError, match="load_flow: expected overrides to be a mapping from keys as text"):
        load_flow(flow_file(), overrides=overrides)


def test_entries_of_arrays_are_counted_from_0(flow_file):
    text = f'[modules.free]\nuse = "{HERE}:Free"\narguments.sizes = [1, {{ x = 2 }}]'
    with load_flow(flow_file(text), overrides={"modules.free.arguments.sizes.1.x": 3}) as flow:
        assert flow.modules["free"].options == {"sizes": [1, {"x": 3}]}
    with pytest.raises(UnknownName, match=r"unknown entry '2'\. Known: 0, 1"):
        load_flow(flow_file(text), overrides={"modules.free.arguments.sizes.2": 3})


@pytest.mark.parametrize(
    ("key", "value", "kind", "said"),
    [
        (
            "modules.tnoe.use",
            "x:Y",
            UnknownName,
            "unknown module 'tnoe'; did you mean 'tone'? Known: levels, meter, tone.",
        ),
        ("module.tone.use", "x:Y", UnknownName, "unknown table 'module'; did you mean 'modules'"),
        ("modules.tone.argments.path", "x", UnknownName, "unknown key 'argments'; did you mean 'arguments'"),
        ("modules.levels.argments.path", "x", UnknownName, "unknown key 'argments'; did you mean 'arguments'"),
        ("modules.tone.arguments.freqency_hz", 1, UnknownName, "unknown argument 'freqency_hz'; did you mean"),
        ("modules.tone.plcement", "thread", UnknownName, "unknown key 'plcement'; did you mean 'placement'"),
        ("modules.tone.placement", "proces", UnknownName, "unknown value 'proces'; did you mean 'process'"),
        ("modules.tone.use.x", 1, ConfigurationError, "expected modules.tone.use to be a table, but it is 'steady"),
        ("modules.new.x", 1, UnknownName, "unknown module 'new'"),
        ("flow.nme", "x", UnknownName, "unknown key 'nme'; did you mean 'name'"),
        ("fow", 3, UnknownName, "unknown table 'fow'; did you mean 'flow'"),
        ("flow", 3, ConfigurationError, "expected a table, got 3"),
        (
            "pipelines.2.buffer_size",
            1,
            UnknownName,
            "unknown pipeline '2'. Known: tone.out->meter.audio, found.",
        ),
        ("pipelines.foud.buffer_size", 1, UnknownName, "unknown pipeline 'foud'; did you mean 'found'"),
        ("pipelines.found.buffer_size.x", 1, ConfigurationError, "expected pipelines.1.buffer_size to be a table"),
        ("pipelines.found", 1, ConfigurationError, "expected a table, got 1"),
        ("pipelines.0.bufer_size", 1, UnknownName, "unknown option 'bufer_size'; did you mean 'buffer_size'"),
        ("pipelines.0.buffer_size", "many", ConfigurationError, "expected buffer_size to be an integer"),
        (
            "pipelines.found.backpresure_strategy.kind",
            "wait",
            UnknownName,
            "unknown key 'backpresure_strategy'; did you mean 'backpressure_strategy'",
        ),
        (
            "pipelines.found.backpressure_strategy.kind",
            "wiat",
            UnknownName,
            "unknown rule 'wiat'; did you mean 'wait'",
        ),
        (
            "pipelines.found.backpressure_strategy.timeout_ms",
            5,
            ConfigurationError,
            "expected a rule such as {kind = \"wait\", timeout_ms = 5000}, got {'timeout_ms': 5}",
        ),
        ("modules.levels.arguments.a.b", 5, ConfigurationError, "Collect takes no arguments, got a = {'b': 5}"),
        ("modules.tone.arguments.a.b", 5, UnknownName, "unknown argument 'a'"),
        ("a b", 1, ConfigurationError, "expected a key such as modules.take.use"),
        ("", 1, ConfigurationError, "expected a key such as modules.take.use"),
    ],
)
def test_what_is_wrong_with_an_override_is_said_with_its_key(flow_file, key, value, kind, said):
    path = flow_file()
    with pytest.raises(kind) as caught:
        load_flow(path, overrides={key: value})
    assert str(caught.value).startswith(f"{path}, override {key}")
    assert said in str(caught.value)


def test_an_override_may_mend_the_file(flow_file):
    text = FLOW.replace("buffer_size = 8", "buffer_size = 0")
    load_flow(flow_file(text), overrides={"pipelines.found.buffer_size": 1}).close()


# --- paths and dependencies ---------------------------------------------------------------------------------------------

PATH = "[[path_budgets]]\nfrom = 'tone'\nto = 'meter'\nmax_ms = 5\n"


def test_a_file_says_what_depends_on_what_and_how_long_a_path_may_be(tmp_path):
    file = tmp_path / "flow.toml"
    file.write_text(
        linked("buffer_size = 3").replace("[modules.tone]", 'depends_on = ["tone"]\n[modules.tone]') + "\n" + PATH
    )
    with load_flow(file) as flow:
        assert flow.registry["meter"].depends_on == ("tone",)
        assert [tuple(budget) for budget in flow._budgets] == [("tone", "meter", 5.0)]
        assert flow.path_delay("tone", "meter").total_ms == 0.0


@pytest.mark.parametrize(
    ("entry", "kind", "said"),
    [
        ("from = 'tone'\nto = 'meter'", ConfigurationError, "max_ms is missing"),
        ("from = 'tone'\nto = 'metre'\nmax_ms = 5", UnknownName, "did you mean 'meter'"),
        ("from = 'tone'\nto = 'meter'\nmax_ms = 0", ConfigurationError, "max_ms"),
        ("from = 'tone'\nto = 'meter'\nmax_ms = 'x'", ConfigurationError, "a number, got 'x'"),
        ("from = 'tone'\nto = 'meter'\nmax_ms = 5\nmin_ms = 1", UnknownName, "did you mean 'max_ms'"),
    ],
)
def test_what_is_wrong_with_a_path_is_said_with_its_place(tmp_path, entry, kind, said):
    file = tmp_path / "flow.toml"
    file.write_text(linked("buffer_size = 3") + "\n[[path_budgets]]\n" + entry)
    with pytest.raises(kind, match=said) as refused:
        load_flow(file)
    assert "flow.toml, line 1" in str(refused.value)


def test_paths_have_to_be_entries(tmp_path):
    file = tmp_path / "flow.toml"
    file.write_text("path_budgets = 3\n" + linked("buffer_size = 3"))
    with pytest.raises(ConfigurationError, match=r"line 1, path_budgets: expected entries \[\[path_budgets\]\]"):
        load_flow(file)


def test_a_picture_of_a_file_is_refused_where_a_path_is_too_long(tmp_path):
    file = tmp_path / "flow.toml"
    text = (
        linked("buffer_size = 3")
        .replace("steadyflow.audio:LevelMeter", "steadyflow.audio:PitchDetector")
        .replace("meter.audio", "meter")
    )
    file.write_text(text + "\n" + PATH)
    with (
        load_flow(file) as flow,
        pytest.raises(ConfigurationError, match="expected at most 5 ms from 'tone' to 'meter'"),
    ):
        flow.graph()
    file.write_text(text + "\n" + PATH.replace("5", "50"))
    with load_flow(file) as flow:
        assert "PitchDetector, +21.3 ms" in flow.graph()
