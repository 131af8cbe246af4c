"""How a pipeline is divided among the replicas that send into it."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from steadyflow.backpressure.room import divided


@given(lanes=st.integers(1, 15), more=st.integers(0, 200))
def test_the_room_of_a_pipeline_is_divided_evenly(lanes, more):
    buffer_size = lanes + more
    sizes = divided(buffer_size, lanes)
    assert len(sizes) == lanes
    assert sum(sizes) == buffer_size
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
