"""One number for the state of a pipeline."""

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from steadyflow.metrics.health import health_of, health_score, lost_blocks

# What one example takes depends on what else this machine does.
unhurried = settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])

GOOD = {"sent": 1000, "delivered": 1000, "lost": 0, "late": 0, "corrupted": 0, "fill": 0.0}

counts = st.integers(0, 10**12)
situations = st.fixed_dictionaries(
    {name: counts for name in GOOD if name != "fill"} | {"fill": st.floats(0, 1)},
)


def test_nothing_wrong():
    assert health_score(**GOOD) == 100
    assert health_score(**dict.fromkeys(GOOD, 0)) == 100


@pytest.mark.parametrize(
    ("trouble", "score"),
    [
        ({"lost": 5}, 70),
        ({"lost": 10}, 40),
        ({"lost": 1000}, 40),
        ({"late": 5}, 85),
        ({"late": 10}, 70),
        ({"late": 1000}, 70),
        ({"corrupted": 1}, 40),
        ({"corrupted": 1000}, 40),
        ({"fill": 0.8}, 100),
        ({"fill": 0.9}, 95),
        ({"fill": 1.0}, 90),
        ({"lost": 10, "late": 10}, 10),
        ({"lost": 10, "late": 10, "fill": 1.0}, 0),
        ({"lost": 1000, "late": 1000, "corrupted": 1000, "fill": 1.0}, 0),
    ],
)
def test_each_trouble_takes_its_share(trouble, score):
    assert health_score(**GOOD | trouble) == pytest.approx(score)


@unhurried
@given(situations)
def test_always_between_0_and_100(situation):
    assert 0 <= health_score(**situation) <= 100


@unhurried
@given(situations, st.sampled_from(["lost", "late", "corrupted"]), st.integers(1, 1000))
def test_more_trouble_is_never_healthier(situation, trouble, more):
    worse = situation | {trouble: situation[trouble] + more}
    assert health_score(**worse) <= health_score(**situation)


@pytest.mark.parametrize(
    ("score", "word"),
    [(100, "healthy"), (80, "healthy"), (79.9, "degraded"), (50, "degraded"), (49.9, "failing"), (0, "failing")],
)
def test_the_word_for_a_score(score, word):
    assert health_of(score, sent=1) == word
    assert health_of(score, sent=0) == "idle"


def test_what_the_user_asked_for_is_not_lost():
    dropped = {"oldest": 1, "newest": 2, "superseded": 4, "flushed": 8, "failed": 16, "stopped": 32}
    assert lost_blocks(dropped) == 1 + 2 + 16 + 32
    assert lost_blocks({}) == 0
