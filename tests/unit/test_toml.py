"""TOML files, read so that errors can name the line and the key."""

from __future__ import annotations

import enum
import tomllib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.toml_writer import TomlWriter

from steadyflow import ArrayFormat, AudioFormat, Format
from steadyflow.errors import ConfigurationError, FileUnreadable, SeveralProblems, UnknownName
from steadyflow.toml import Problems, TomlDocument, converted, parse_key, show_key
from steadyflow.toml.positions import find_lines

# --- positions ----------------------------------------------------------------------------------------------------

scalars = st.integers(-5, 10**12) | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
names = st.sampled_from(["a", "b", "from", "1", "a b", "", "é", "x.y", "a'b", 'a"b', "\\"]) | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(names, inner, max_size=3)
        | st.lists(st.dictionaries(names, inner, max_size=3), max_size=3)
    ),
    max_leaves=12,
)
documents = st.dictionaries(names, values, max_size=5)


def keys_of(value, key=()):
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = set()
    for part, each in inner:
        found |= {(*key, part)} | keys_of(each, (*key, part))
    return found


@settings(deadline=None)
@given(documents, st.integers(0, 1 << 32))
def test_every_key_is_found_on_its_line_whatever_the_style(content, seed):
    writer = TomlWriter(seed).write(content)
    assert tomllib.loads(writer.text) == content, "the writer of the test is right"

    found = find_lines(writer.text)

    assert set(found) == keys_of(content)
    assert found == writer.lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a = 1\nb = 2", {("a",): 1, ("b",): 2}),
        ("[a.b]\nc = 1\n[a]\nd = 2", {("a",): 3, ("a", "b"): 1, ("a", "b", "c"): 2, ("a", "d"): 4}),
        ("[[a]]\n[a.b]\n[[a]]", {("a",): 1, ("a", 0): 1, ("a", 0, "b"): 2, ("a", 1): 3}),
        ('a = """\nx = 1\n""\\""""\nb = 2', {("a",): 1, ("b",): 4}),
        ("a = '''\n'x' = 1'''''\nb = 2", {("a",): 1, ("b",): 3}),
        ("a = 1979-05-27 07:32:00 # b = 1\nc = 2", {("a",): 1, ("c",): 2}),
        ("a = [\n  1,\n  { b = 2 },\n]", {("a",): 1, ("a", 0): 2, ("a", 1): 3, ("a", 1, "b"): 3}),
        ("# only a comment", {}),
    ],
)
def test_lines(text, lines):
    assert find_lines(text) == lines


# --- keys ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(names, min_size=1, max_size=4).map(tuple))
def test_a_shown_key_can_be_read_again(key):
    assert parse_key(show_key(key)) == key


@pytest.mark.parametrize("text", ["", "a.", ".a", "a b", "a = 0 #", "a\nb", "take->pitch", '"\0"', '"\\ud800"', "a[0]"])
def test_what_is_no_key(text):
    with pytest.raises(ConfigurationError, match="expected a key such as"):
        parse_key(text)


# --- documents ----------------------------------------------------------------------------------------------------


def test_a_file_says_what_and_where(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[flow]\nname = 'x'\n[[pipelines]]\nfrom = 'a'")
    document = TomlDocument.read(path)

    assert document.content == {"flow": {"name": "x"}, "pipelines": [{"from": "a"}]}
    assert document.where("flow", "name") == f"{path}, line 2, flow.name"
    assert document.where("pipelines", 0, "to") == f"{path}, line 3, pipelines.0.to"
    assert document.where("modules") == f"{path}, modules"
    assert document.where() == str(path)


def test_a_replaced_value_has_its_source_instead_of_a_line():
    document = TomlDocument("a.toml", "[a]\nb = { c = 1 }")
    document.replace(("a", "b"), {"d": 2}, "--set a.b")

    assert document.content == {"a": {"b": {"d": 2}}}
    assert document.where("a", "b") == "a.toml, --set a.b"
    assert document.where("a", "b", "d") == "a.toml, --set a.b, a.b.d"
    document.replace(("a", "b"), 5, "--set again")
    assert document.where("a", "b", "d") == "a.toml, --set again, a.b.d"


def test_what_replaces_a_value_is_not_changed_later():
    document = TomlDocument("a.toml", "a = 1")
    value = {"b": [{"c": 1}], "d": Opaque()}
    document.replace(("a",), value, "--set a")
    document.replace(("a", "b", 0, "c"), 2, "--set a.b.0.c")

    assert document.content["a"]["b"] == [{"c": 2}]
    assert value["b"] == [{"c": 1}]
    assert document.content["a"]["d"] is value["d"]


def test_a_table_is_a_table():
    document = TomlDocument("a.toml", "[a]\nb = 1")
    assert document.table(("a",)) == {"b": 1}
    with pytest.raises(ConfigurationError, match=r"a\.toml, line 2, a\.b: expected a table, got 1"):
        document.table(("a", "b"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a = 1\nb =\nc = 3", r"expected TOML: .*line 2"),
        (b"a = 1\na = 2", "expected TOML"),
        (b"a = '\xff'", "line 1: expected TOML, which is UTF-8, got the byte 0xff"),
        (b"a = 1\nb = 2 # \xe4", "line 2: expected TOML, which is UTF-8, got the byte 0xe4"),
        (b"a = " + b"[" * 20_000, "expected TOML, got brackets nested too deeply"),
        (b"a = " + b"9" * 5000, "expected TOML: "),
        (b"#" * ((16 << 20) + 1), "expected a TOML file of at most 16 MiB"),
    ],
)
def test_what_is_no_toml(tmp_path, data, said):
    path = tmp_path / "a.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=said) as caught:
        TomlDocument.read(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(FileUnreadable, match=r"missing\.toml: cannot be read: No such file"):
        TomlDocument.read(tmp_path / "missing.toml")
    with pytest.raises(FileUnreadable, match="cannot be read: Is a directory"):
        TomlDocument.read(tmp_path)


@pytest.mark.parametrize("path", ["", 5, None, b"a.toml", "a\0.toml"])
def test_what_is_no_path(path):
    with pytest.raises(ConfigurationError, match="expected the path of a TOML file"):
        TomlDocument.read(path)


# --- problems -----------------------------------------------------------------------------------------------------


def test_problems_are_collected_with_their_places():
    problems = Problems()
    problems.raise_if_any("a.toml")
    with problems.noted("line 1"):
        raise UnknownName("rule", "wiat", ["wait"])
    with pytest.raises(UnknownName, match="line 1: unknown rule 'wiat'; did you mean 'wait'"):
        problems.raise_if_any("a.toml")
    with problems.noted():
        raise SeveralProblems("inside", [ConfigurationError("two"), FileUnreadable("three")])
    with pytest.raises(SeveralProblems) as caught:
        problems.raise_if_any("a.toml")

    assert [type(each) for each in caught.value.problems] == [UnknownName, ConfigurationError, FileUnreadable]
    assert str(caught.value).splitlines()[0] == "a.toml: 3 problems."
    assert str(caught.value).splitlines()[2:] == ["two", "three"]


def test_other_errors_are_no_problems_of_the_file():
    with pytest.raises(ZeroDivisionError), Problems().noted():
        raise ZeroDivisionError


# --- conversion ---------------------------------------------------------------------------------------------------


class Mode(enum.Enum):
    FAST = "fast"
    GOOD = "good"


class Inner(msgspec.Struct):
    number: int = 0
    mode: Mode = Mode.FAST


class Outer(msgspec.Struct):
    inner: Inner
    several: list[Inner] = []
    by_name: dict[str, int] = {}


class Kebab(msgspec.Struct, rename="kebab"):
    block_size: int = 0


class Fussy(msgspec.Struct):
    size: int = 0

    def __post_init__(self):
        raise RuntimeError("never satisfied")


class Tagged(msgspec.Struct, tag=True):
    number: int = 0


class OtherTagged(msgspec.Struct, tag=True):
    number: int = 0


@dataclass
class Point:
    x: int


class Options(TypedDict):
    size: int


class Pair(NamedTuple):
    one: bytes
    two: int


class Opaque:
    pass


def convert(value, kind):
    document = TomlDocument("a.toml", "[x]\nvalue = 1")
    document.content["x"]["value"] = value
    return converted(value, kind, document, ("x", "value"))


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (440, float, 440.0),
        ("fast", Mode, Mode.FAST),
        ("take.wav", Path, Path("take.wav")),
        ("take.wav", Path | None, Path("take.wav")),
        ([1, 2], tuple[float, float], (1.0, 2.0)),
        ({"sample_rate_hz": 48_000, "channels": 1}, AudioFormat, AudioFormat(48_000, 1)),
        ({"dtype": "float32", "shape": [2, 3]}, ArrayFormat, ArrayFormat("float32", (2, 3))),
        ({"inner": {"mode": "good"}, "several": [{"number": 1}]}, Outer, Outer(Inner(mode=Mode.GOOD), [Inner(1)])),
        ({"x": 1}, Point, Point(1)),
        ({"size": 1}, Options, {"size": 1}),
        ({"type": "Tagged", "number": 3}, Tagged | OtherTagged, Tagged(3)),
        ({"type": "Tagged", "number": 3}, Tagged, Tagged(3)),
        (5, Any, 5),
        (5, Annotated[int, msgspec.Meta(description="five")], 5),
        # What a file cannot say is left alone.
        ("take.wav", str | PathLike[str], "take.wav"),
        ([1.0], np.ndarray, [1.0]),
        ("text", bytes, "text"),
        (["one", 2], Pair, ["one", 2]),
        ("opaque", Opaque, "opaque"),
        ([{"x": 1}], list[Opaque], [{"x": 1}]),
        ({"kind": "audio"}, Format, {"kind": "audio"}),
        ({"x": 1}, dict[str, Opaque], {"x": 1}),
        ([1], tuple[Opaque, ...], [1]),
        ([1], tuple[Opaque], [1]),
    ],
)
def test_conversion(value, kind, expected):
    result = convert(value, kind)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ("high", float, "x.value: expected a number, got 'high'."),
        ("5", int | None, "x.value: expected an integer, got '5'."),
        (True, int, "x.value: expected an integer, got True."),
        (1.5, str | bool, "x.value: expected true or false or text, got 1.5."),
        (0, Annotated[int, msgspec.Meta(gt=0)], "x.value: expected an integer >= 1, got 0."),
        ([1, "two"], list[int], "x.value.1: expected an integer, got 'two'."),
        ([1, "two"], tuple[int, int], "x.value.1: expected an integer, got 'two'."),
        ({"a": "b"}, dict[str, int], "x.value: expected an integer, got {'a': 'b'}."),
        ({"inner": {"number": "1"}}, Outer, "x.value.inner.number: expected an integer, got '1'."),
        ({"inner": {}, "several": [{}, {"number": "1"}]}, Outer, "x.value.several.1.number: expected an integer"),
        (
            {"inner": {}, "by_name": {"n": {"m": 1}}},
            Outer,
            "x.value.by_name: expected an integer, got {'n': {'m': 1}}.",
        ),
        ({}, Outer, "x.value: inner is missing."),
        ("audio", AudioFormat, "x.value: expected a table, got 'audio'."),
        ({"sample_rate_hz": 0, "channels": 1}, AudioFormat, "AudioFormat: expected sample_rate_hz to be an integer"),
        (5, Path, "x.value: expected Path, got 5."),
        ({"dtype": "flaot", "shape": [1]}, ArrayFormat, "x.value.dtype: "),
        ({"block-size": "8"}, Kebab, "x.value.block-size: expected an integer, got '8'."),
        ({"size": 3}, Fussy, "RuntimeError: never satisfied."),
    ],
)
def test_refusals_name_key_and_value(value, kind, said):
    with pytest.raises(ConfigurationError) as caught:
        convert(value, kind)
    assert str(caught.value).startswith("a.toml, line 2, x.value")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ("fats", Mode, "x.value: unknown value 'fats'; did you mean 'fast'? Known: fast, good."),
        (
            "fats",
            Annotated[Literal["fast"], msgspec.Meta(description="how")],
            "x.value: unknown value 'fats'; did you mean 'fast'? Known: fast.",
        ),
        ("good", Literal["fast", "goof"], "x.value: unknown value 'good'; did you mean 'goof'"),
        ({"inner": {"mode": "goood"}}, Outer, "x.value.inner.mode: unknown value 'goood'; did you mean 'good'"),
        (
            {"sample_rate": 1},
            AudioFormat,
            "x.value.sample_rate: unknown key 'sample_rate'; did you mean 'sample_rate_hz'",
        ),
        (
            {"inner": {}, "several": [{}, {"nmber": 1}]},
            Outer,
            "x.value.several.1.nmber: unknown key 'nmber'; did you mean",
        ),
        ({"y": 1}, Point, "x.value.y: unknown key 'y'"),
    ],
)
def test_unknown_names_offer_the_near_miss(value, kind, said):
    with pytest.raises(UnknownName) as caught:
        convert(value, kind)
    assert said in str(caught.value)


def test_all_unknown_keys_are_named():
    with pytest.raises(SeveralProblems) as caught:
        convert({"inner": {"nmber": 1}, "sevral": []}, Outer)
    assert ["nmber" in str(each) for each in caught.value.problems] == [False, True]
    assert "sevral" in str(caught.value)
