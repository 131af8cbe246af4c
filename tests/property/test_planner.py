"""The planner against a search of every chain there is, over random converters."""

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from steadyflow import ArrayFormat, AudioFormat, BytesFormat, FormatClash
from steadyflow.conversion import ConversionOptions, ConversionStep
from steadyflow.formats import SAMPLE_BITS
from steadyflow.transform.converter import FunctionConverter
from steadyflow.transform.planner import cheapest_chain
from steadyflow.transform.rate import RateConverter
from steadyflow.transform.samples import SampleTypeConverter

unhurried = settings(
    deadline=None, derandomize=True, database=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow]
)

FORMATS = [ArrayFormat("f4", (number + 1,)) for number in range(6)]


class Edge:
    """A converter of one step."""

    def __init__(self, number, source, target, cost):
        self.name = f"edge-{number}"
        self.ends = (FORMATS[source], FORMATS[target])
        self.cost = cost
        self.starts = ()

    def offers(self, fmt, _goals, _options):
        if fmt == self.ends[0]:
            yield ConversionStep(
                converter=self.name, source=fmt, target=self.ends[1], does=self.name, cost_class="copy", cost=self.cost
            )


def every_chain(edges, source, goal, seen=()):
    """Yield every chain that does not come to the same format twice."""
    if source == goal:
        yield ()
        return
    for edge in edges:
        if edge.ends[0] == source and edge.ends[1] not in (*seen, source):
            for rest in every_chain(edges, edge.ends[1], goal, (*seen, source)):
                yield (edge, *rest)


@unhurried
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 4)), max_size=14),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_the_cheapest_chain_is_found_or_what_is_wrong_is_said(described, source, goal):
    edges = [Edge(number, *each) for number, each in enumerate(described)]
    chains = list(every_chain(edges, FORMATS[source], FORMATS[goal]))
    costs = sorted(sum(edge.cost for edge in chain) for chain in chains)

    def found():
        return cheapest_chain(FORMATS[source], FORMATS[goal], edges, ConversionOptions(), where="here")

    if not chains:
        with pytest.raises(FormatClash, match="here: nothing converts"):
            found()
    elif len(costs) > 1 and costs[0] == costs[1]:
        with pytest.raises(FormatClash, match="two of the same cost"):
            found()
    else:
        steps = found()
        assert sum(step.cost for step in steps) == costs[0]
        ends = [FORMATS[source], *(step.target for step in steps)]
        assert ends[-1] == FORMATS[goal]
        assert [step.source for step in steps] == ends[:-1]


def test_nothing_is_done_where_the_formats_are_the_same():
    assert cheapest_chain(BytesFormat(10), BytesFormat(20), [], ConversionOptions(), where="here") == ()


def test_a_converter_that_costs_nothing_is_refused():
    with pytest.raises(ValueError, match="expected a cost of at least 1"):
        cheapest_chain(FORMATS[0], FORMATS[1], [Edge(0, 0, 1, 0)], ConversionOptions(), where="here")


def test_converters_that_lead_to_ever_new_formats_come_to_an_end():
    class Growing:
        name = "growing"
        starts = ()

        def offers(self, fmt, _goals, _options):
            for more in (1, 2, 3):
                target = ArrayFormat("f4", (fmt.shape[0] + more,))
                yield ConversionStep(
                    converter="growing", source=fmt, target=target, does="grows", cost_class="copy", cost=1 + more
                )

    with pytest.raises(FormatClash, match="nothing converts"):
        cheapest_chain(
            ArrayFormat("f4", (10,)), ArrayFormat("f4", (5,)), [Growing()], ConversionOptions(), where="here"
        )


def described(fmt_types=("f32", "s16", "s32", "f64", "s24")):
    return st.builds(
        AudioFormat,
        st.sampled_from([16_000, 44_100, 48_000]),
        st.sampled_from([1, 2]),
        st.sampled_from(fmt_types),
        st.sampled_from(["interleaved", "planar"]),
    )


@unhurried
@given(described(), described(), st.lists(described(), max_size=3))
def test_what_users_register_leaves_the_way_between_two_formats_of_audio_as_it_was(source, goal, starts):
    """A function for mono, say, does not make another conversion go through mono because that is cheaper."""
    known = [SampleTypeConverter(), RateConverter()]
    before = cheapest_chain(source, goal, known, ConversionOptions(), where="here")
    known += [
        FunctionConverter(f"function-{number}", len, start, BytesFormat(), 5) for number, start in enumerate(starts)
    ]
    assert cheapest_chain(source, goal, known, ConversionOptions(), where="here") == before
    least_bits = min(SAMPLE_BITS[source.sample_type], SAMPLE_BITS[goal.sample_type])
    for step in before:
        assert SAMPLE_BITS[step.target.sample_type] >= least_bits
        assert step.target.channels >= min(source.channels, goal.channels)


@unhurried
@given(described(), st.lists(described(), min_size=1, max_size=3, unique=True))
def test_others_lead_to_what_users_have_registered(source, starts):
    known = [SampleTypeConverter(), RateConverter()]
    known += [
        FunctionConverter(f"function-{number}", len, start, BytesFormat(), 5 + number)
        for number, start in enumerate(starts)
    ]
    chain = cheapest_chain(source, BytesFormat(), known, ConversionOptions(), where="here")
    assert chain[-1].converter.startswith("function-")
