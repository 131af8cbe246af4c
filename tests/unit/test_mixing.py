"""The published coefficients, and what follows where nothing is published."""

import math

import pytest

from steadyflow.channel_layouts import CHANNEL_LAYOUTS, POSITIONS, usual_layout
from steadyflow.transform.mixing import mixing_matrix

HALF_POWER = math.sqrt(0.5)
NAMED = [name for name in CHANNEL_LAYOUTS if name != "discrete"]


def test_5_1_to_stereo_is_that_of_bs_775():
    assert mixing_matrix("5.1", "stereo", normalize=False) == (
        (1.0, 0.0, HALF_POWER, 0.0, HALF_POWER, 0.0),
        (0.0, 1.0, HALF_POWER, 0.0, 0.0, HALF_POWER),
    )


def test_5_1_to_mono_is_that_of_bs_775():
    (row,) = mixing_matrix("5.1", "mono", normalize=False)
    assert row == pytest.approx((HALF_POWER, HALF_POWER, 1.0, 0.0, 0.5, 0.5))


def test_stereo_to_mono_is_that_of_bs_775_and_the_mean_where_nothing_may_clip():
    assert mixing_matrix("stereo", "mono", normalize=False) == ((HALF_POWER, HALF_POWER),)
    assert mixing_matrix("stereo", "mono") == ((0.5, 0.5),)


def test_mono_to_stereo_and_back_is_the_same():
    assert mixing_matrix("mono", "stereo") == ((1.0,), (1.0,))


def test_mono_stays_in_the_centre_where_there_is_one():
    assert mixing_matrix("mono", "5.1") == ((0.0,), (0.0,), (1.0,), (0.0,), (0.0,), (0.0,))


def test_an_up_mix_invents_nothing():
    assert mixing_matrix("stereo", "7.1") == (
        (1.0, 0.0),
        (0.0, 1.0),
        *((0.0, 0.0),) * 6,
    )


def test_a_pair_that_only_stands_elsewhere_is_moved_whole():
    matrix = mixing_matrix("quad", "5.1")
    assert matrix[4] == (0.0, 0.0, 1.0, 0.0)
    assert matrix[5] == (0.0, 0.0, 0.0, 1.0)


def test_two_pairs_share_the_place_of_one():
    matrix = mixing_matrix("7.1", "5.1", normalize=False)
    assert matrix[4] == pytest.approx((0, 0, 0, 0, HALF_POWER, 0, 1, 0))


@pytest.mark.parametrize("source", NAMED)
@pytest.mark.parametrize("target", NAMED)
def test_what_did_not_clip_does_not_clip_after_the_mix(source, target):
    matrix = mixing_matrix(source, target)
    assert len(matrix) == len(POSITIONS[target])
    assert all(len(row) == len(POSITIONS[source]) for row in matrix)
    assert max(sum(map(abs, row)) for row in matrix) <= 1 + 1e-12


@pytest.mark.parametrize("name", NAMED)
def test_the_same_layout_is_the_same(name):
    channels = len(POSITIONS[name])
    assert mixing_matrix(name, name) == tuple(
        tuple(float(row == column) for column in range(channels)) for row in range(channels)
    )


@pytest.mark.parametrize("source", NAMED)
@pytest.mark.parametrize("target", NAMED)
def test_left_and_right_change_places_together(source, target):
    """A mirrored source gives a mirrored target."""

    def mirror(name):
        swap = {"L": "R", "R": "L"}
        places = POSITIONS[name]
        mirrored = [place if place == "LFE" else place[:-1] + swap.get(place[-1], place[-1]) for place in places]
        return [places.index(each) for each in mirrored]

    matrix = mixing_matrix(source, target)
    for row, mirrored_row in enumerate(mirror(target)):
        for column, mirrored_column in enumerate(mirror(source)):
            assert matrix[row][column] == pytest.approx(matrix[mirrored_row][mirrored_column])


def test_only_low_frequency_effects_are_left_out():
    for source in NAMED:
        for target in NAMED:
            matrix = mixing_matrix(source, target)
            for column, place in enumerate(POSITIONS[source]):
                heard = any(row[column] for row in matrix)
                assert heard == (place != "LFE" or "LFE" in POSITIONS[target]), (source, target, place)


def test_of_discrete_channels_nothing_is_known():
    assert mixing_matrix("discrete", "stereo") is None
    assert mixing_matrix("5.1", "discrete") is None


def test_more_than_two_channels_without_a_name_are_discrete():
    assert [usual_layout(channels) for channels in (1, 2, 3, 6)] == ["mono", "stereo", "discrete", "discrete"]
