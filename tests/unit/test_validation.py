"""Checks of what flows: what is found, and what follows."""

import numpy as np
import pytest

from steadyflow import AudioFormat, Block, BytesFormat
from steadyflow.errors import ConfigurationError, TransformError, UnknownName
from steadyflow.transform import Conversion, DataTransformer, make_plan
from steadyflow.validation import Validation, validation_from_table

FMT = AudioFormat(1_000, 1)
GOOD = np.sin(np.arange(100))[:, None].astype(np.float32)


def run(blocks, fmt=FMT, **options):
    """Return what came out, and the report of the check."""
    work = Conversion(make_plan(fmt, fmt), Validation(**options))
    out, first = [], 0
    for samples in blocks:
        out += work.push(Block(samples, fmt, first_frame=first, sequence=len(out)))
        first += len(samples)
    return out, work.reports()[0]


def wrong(value, at=3):
    samples = GOOD.copy()
    samples[at] = value
    return samples


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (np.nan, "1 samples that are no finite numbers"),
        (np.inf, "1 samples that are no finite numbers"),
        (1.5, "an amplitude of 1.5, expected up to 1"),
        (-7.0, "an amplitude of 7, expected up to 1"),
    ],
)
def test_samples_that_are_wrong_are_found(value, problem):
    _, report = run([GOOD, wrong(value), GOOD])
    assert (report.calls, report.invalid, report.repaired) == (3, 1, 0)
    with pytest.raises(TransformError, match=f"validation: expected audio .*; block 1 has {problem}") as failed:
        run([GOOD, wrong(value)], on_invalid="reject")
    assert failed.value.dropped
    with pytest.raises(TransformError) as failed:
        run([GOOD, wrong(value)], on_invalid="fail")
    assert failed.value.dropped is False


def test_what_can_be_repaired_is_repaired():
    blocks = [wrong(np.nan), wrong(np.inf), wrong(-np.inf), wrong(3.0), GOOD]
    out, report = run(blocks, on_invalid="repair")
    assert [block.samples[3, 0] for block in out] == [0.0, 1.0, -1.0, 1.0, GOOD[3, 0]]
    assert out[4].samples is GOOD
    assert (report.invalid, report.repaired) == (4, 4)
    assert np.isnan(blocks[0][3, 0])  # the sender's own stays as it was


def test_a_constant_part_is_found_after_a_second():
    blocks = [GOOD * 0.5 + np.float32(0.2)] * 25
    _, report = run(blocks, max_stuck_ms=None)
    assert 10 <= report.invalid <= 16
    _, report = run(blocks, max_stuck_ms=None, max_dc=None)
    assert report.invalid == 0
    _, report = run([np.tile([[0.2], [-0.2]], (50, 1)).astype(np.float32)] * 25, max_stuck_ms=None)
    assert report.invalid == 0


def test_a_channel_of_integers_has_a_constant_part_too():
    fmt = AudioFormat(1_000, 2, "s16", "planar")
    samples = np.zeros((2, 100), np.int16)
    samples[1] = 8_000
    work = Conversion(make_plan(fmt, fmt), Validation(max_stuck_ms=None))
    for number in range(20):
        work.push(Block(samples, fmt, first_frame=number * 100))
    assert work.reports()[0].invalid > 5


def test_a_driver_that_is_stuck_is_found():
    moving = [GOOD + np.float32(0.001 * number) for number in range(3)]
    _, report = run([*moving, *[GOOD] * 8], max_dc=None, max_amplitude=None)
    assert report.invalid == 3  # the sixth to the eighth of the same: for more than 500 ms
    _, report = run([np.zeros((100, 1), np.float32)] * 20, max_dc=None)
    assert report.invalid == 0  # silence may last
    _, report = run([GOOD] * 20, max_dc=None, max_stuck_ms=None)
    assert report.invalid == 0


def test_a_sample_of_the_blocks_is_checked():
    blocks = [wrong(np.nan)] * 20
    _, report = run(blocks, mode="sample", sample_every=5, max_stuck_ms=None)
    assert report.invalid == 4
    _, report = run(blocks, max_stuck_ms=None)
    assert report.invalid == 20


def test_a_block_of_another_shape_is_wrong():
    with pytest.raises(TransformError, match="validation: expected 1 channels"):
        run([np.zeros((5, 2), np.float32)], on_invalid="fail")


def test_a_transformer_checks_before_it_converts():
    transformer = DataTransformer(Validation(on_invalid="repair"))
    plan = transformer.plan(FMT, AudioFormat(1_000, 1, "s16"))
    (block,) = transformer.transform(wrong(np.nan), plan)
    assert block.samples[3, 0] == 0
    check, samples = transformer.reports()
    assert (check.repaired, samples.not_a_number) == (1, 0)


def test_only_audio_is_checked():
    with pytest.raises(ConfigurationError, match="validation: expected audio"):
        Conversion(make_plan(BytesFormat(), BytesFormat()), Validation())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mode": "sometimes"}, UnknownName),
        ({"on_invalid": "ignore"}, UnknownName),
        ({"sample_every": 0}, ConfigurationError),
        ({"max_dc": -1}, ConfigurationError),
        ({"max_amplitude": True}, ConfigurationError),
        ({"max_stuck_ms": float("inf")}, ConfigurationError),
    ],
)
def test_rules_that_are_none_are_refused(options, error):
    with pytest.raises(error, match="Validation"):
        Validation(**options)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("off", None),
        ("full", Validation()),
        ("sample", Validation(mode="sample")),
        ({"mode": "sample", "on_invalid": "repair"}, Validation(mode="sample", on_invalid="repair")),
    ],
)
def test_files_say_it_too(table, expected):
    assert validation_from_table(table) == expected


def test_files_that_say_something_else_are_refused():
    for table, error in (("on", UnknownName), (5, ConfigurationError), ({"modus": "full"}, UnknownName)):
        with pytest.raises(error):
            validation_from_table(table)
