"""Constructor arguments on their way to a process: what travels does so exactly, what cannot is named."""

import collections
import dataclasses
import datetime
import decimal
import enum
import math
import pathlib
import uuid
import zoneinfo
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steadyflow.backpressure.rules import DropOldest, Wait
from steadyflow.config import PipelinePriority
from steadyflow.errors import ArgumentRefused, ConfigurationError
from steadyflow.formats import AnyFormat, ArrayFormat, AudioFormat, BytesFormat, StructFormat
from steadyflow.runtime.arguments import decode_arguments, encode_arguments, parameter_names


class Colour(enum.Enum):
    RED = 1
    GREEN = object()  # a value that could not travel; the name does


class Bits(enum.IntFlag):
    A = 1
    B = 2


class Gain(msgspec.Struct, frozen=True):
    db: float
    parts: tuple[object, ...] = ()


class Doubling(msgspec.Struct):
    value: int

    def __post_init__(self):
        self.value *= 2


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    size: int
    kind: Colour = Colour.RED


@dataclasses.dataclass
class Derived:
    size: int
    squared: int = dataclasses.field(init=False)

    def __post_init__(self):
        self.squared = self.size**2
        self.cache = {}


@dataclasses.dataclass
class Forgetful:
    size: dataclasses.InitVar[int]


class Pair(NamedTuple):
    left: int
    right: int


def there_and_back(*args, **kwargs):
    return decode_arguments(encode_arguments(args, kwargs, owner="Thing"))


def is_same(left, right):
    """Compare values and types, all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(is_same, left, right))
    if isinstance(left, dict):
        return all(map(is_same, left.items(), right.items())) and len(left) == len(right)
    if isinstance(left, (float, decimal.Decimal)) and math.isnan(left):
        return math.isnan(right)
    if isinstance(left, (np.ndarray, np.generic)):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    return bool(left == right)


zones = (
    st.none()
    | st.timezones()
    | st.builds(datetime.timezone, st.timedeltas(-datetime.timedelta(hours=23), datetime.timedelta(hours=23)))
)
hashable = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters()),
    st.binary(),
    st.dates(),
    st.datetimes(timezones=zones),
    st.times(),
    st.timedeltas(),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.sampled_from([*Colour, Bits.A | Bits.B, Bits(0), PipelinePriority.HIGH, pathlib.Path("a/b"), pathlib.Path("/")]),
    st.sampled_from(
        [AudioFormat(48_000, 2), ArrayFormat("f4", (2, 3)), StructFormat(Gain), BytesFormat(5), AnyFormat()]
    ),
    st.sampled_from(
        [Wait(5, "drop_oldest"), DropOldest(), Gain(1.5), Gain(1, (Gain(2), [3])), Window(4, Colour.GREEN)]
    ),
)
arguments = st.recursive(
    st.one_of(
        hashable.filter(lambda value: not isinstance(value, Gain)),
        st.floats(),
        st.builds(bytearray, st.binary()),
        st.builds(Gain, st.floats(allow_nan=False)),
        hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, min_side=0, max_side=3)),
        hnp.from_dtype(np.dtype("f4")),
        hnp.from_dtype(np.dtype("u2")),
    ),
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(st.text() | st.integers() | st.tuples(st.integers(), st.dates()), inner),
        st.sets(st.integers() | st.text()),
        st.frozensets(st.integers() | st.tuples(st.uuids())),
    ),
    max_leaves=8,
)


@given(st.lists(arguments, max_size=3), st.dictionaries(st.text(min_size=1), arguments, max_size=3))
@example([1 << 64, -(1 << 63) - 1, 10**5000], {})
@example(["\udcff", pathlib.Path("caf\udce9")], {})
def test_arguments_travel_exactly(args, kwargs):
    decoded_args, decoded_kwargs = there_and_back(*args, **kwargs)
    assert is_same(decoded_args, tuple(args))
    assert is_same(decoded_kwargs, kwargs)


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(10, dtype=">i4")[::3],
        np.array([(1, 2.0)], dtype=[("a", "<i4"), ("b", "<f8")]),
        np.array(["x", "yz"]),
    ],
)
def test_arrays_keep_byte_order_records_and_contents(array):
    ((decoded,), _) = there_and_back(array)
    assert decoded.dtype == array.dtype
    np.testing.assert_array_equal(decoded, array)
    assert np.isfortran(decoded) == np.isfortran(array)


def test_times_keep_zone_and_fold():
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    moment = datetime.datetime(2024, 10, 27, 2, 30, tzinfo=berlin, fold=1)
    named = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1), "one"))
    clock = datetime.time(2, 30, tzinfo=datetime.UTC, fold=1)
    (decoded, decoded_named, decoded_clock), _ = there_and_back(moment, named, clock)
    assert (decoded, decoded.fold, decoded.tzinfo) == (moment, 1, berlin)
    assert decoded_named.tzname() == "one"
    assert (decoded_clock, decoded_clock.fold) == (clock, 1)


def test_structs_and_dataclasses_come_out_as_they_were_sent():
    doubling = Doubling(2)
    derived = Derived(3)
    derived.squared = 10
    (decoded_doubling, decoded_derived), _ = there_and_back(doubling, derived)
    assert decoded_doubling.value == doubling.value == 4
    assert (decoded_derived.size, decoded_derived.squared, decoded_derived.cache) == (3, 10, {})


def test_classes_are_found_through_resolve():
    payload = encode_arguments((Gain(1.0),), {}, owner="Thing")
    asked = []
    (decoded,), _ = decode_arguments(payload, lambda path: asked.append(path) or Gain)
    assert decoded == Gain(1.0)
    assert asked == [f"{__name__}:Gain"]


def make_cycle():
    cycle = []
    cycle.append(cycle)
    return cycle


class Local(enum.Enum):
    X = 1


Local.__qualname__ = "Somewhere.Else"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (len, "is the builtin_function_or_method len"),
        (make_cycle, "is the function make_cycle"),
        (Gain, "is the class Gain"),
        (Window, "is the class Window"),
        (object(), "is of type object"),
        (collections.OrderedDict(), r"is of type collections\.OrderedDict"),
        (Pair(1, 2), r"is of type .*\.Pair"),
        (1 + 2j, "is of type complex"),
        (np.array([None]), "is an array of type object, which holds Python objects"),
        (np.array(["a"], dtype=np.dtypes.StringDType()), r"is an array of type StringDType\(\)"),
        (np.array([(None,)], dtype=[("a", "O")]), "which holds Python objects"),
        (np.ma.masked_array([1]), "MaskedArray"),
        (pathlib.PurePosixPath("a"), "PurePosixPath"),
        (Local.X, "Define it at the top level"),
        (make_cycle(), "nested deeper than 64 levels, or contains itself"),
    ],
)
def test_what_cannot_travel_is_named(value, text):
    with pytest.raises(ArgumentRefused, match=text) as caught:
        encode_arguments((), {"callback": value}, owner="module 'pitch' (Pitch)")
    message = str(caught.value)
    assert message.startswith("module 'pitch' (Pitch): argument `callback`")
    assert "setup()" in message
    assert 'placement="thread"' in message


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ([1, 2, {"x": len}], "item [2]['x'],"),
        ({len: 1}, "item [key <built-in function len>],"),
        ({1: (0, len)}, "item [1][1],"),
        ([frozenset([len])], "item [0][a member],"),
        (Gain(1.0, (len,)), "item .parts[0],"),
        (Window(len), "item .size,"),
        ([Forgetful(3)], "item [0].size, is an InitVar"),
        ([datetime.datetime(2024, 1, 1, tzinfo=type("Zone", (datetime.tzinfo,), {})())], "item [0].tzinfo,"),
    ],
)
def test_the_place_within_an_argument_is_named(value, place):
    with pytest.raises(ArgumentRefused) as caught:
        encode_arguments((1, value), {}, owner="Pitch", names=("size", "callback"))
    assert f"Pitch: argument `callback`, {place}" in str(caught.value)


def test_positional_arguments_without_a_name_are_counted():
    with pytest.raises(ArgumentRefused, match="Pitch: argument 2 is the builtin"):
        encode_arguments((1, len), {}, owner="Pitch", names=("size",))


def test_parameter_names():
    class Thing:
        def __init__(self, size, callback=None, *, other=1):
            local = size  # noqa: F841

    assert parameter_names(Thing) == ("size", "callback")
    assert parameter_names(object) == ()


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", msgspec.msgpack.encode([[], 1]), msgspec.msgpack.encode([[["no such tag"]], {}])]
)
def test_other_bytes_are_refused(payload):
    with pytest.raises(ArgumentRefused, match="expected encoded constructor arguments"):
        decode_arguments(payload)


def test_a_class_that_is_not_there_is_named():
    payload = encode_arguments((Gain(1.0),), {}, owner="Thing").replace(b":Gain", b":Gone")
    with pytest.raises(ConfigurationError, match="Gone"):
        decode_arguments(payload)


def test_uuid_keeps_its_type():
    value = uuid.uuid4()
    assert there_and_back(value)[0] == (value,)
