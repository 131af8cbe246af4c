"""There and back: what a block says about itself survives every conversion, and times account for what it takes."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

from steadyflow import AudioFormat, Block, BlockFlag, CarrierFormat
from steadyflow.transform import DataTransformer

unhurried = settings(
    deadline=None, derandomize=True, database=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow]
)

values = st.one_of(
    st.text(max_size=8),
    st.binary(max_size=8),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
)
fields = st.dictionaries(st.text(max_size=6), values, max_size=3)
STAMPS = ("timestamp_ns", "first_frame", "sequence", "flags", "metadata", "frames")


@st.composite
def streams(draw, most_blocks=6):
    """Return blocks of s16 stereo that follow each other, each with a time, flags and fields of its own."""
    fmt = AudioFormat(48_000, 2, "s16", max_block_frames=256)
    first, sequence, blocks = draw(st.integers(0, 2**40)), draw(st.integers(0, 2**40)), []
    time_ns = draw(st.integers(0, 2**50))
    for _ in range(draw(st.integers(1, most_blocks))):
        frames = draw(st.integers(1, 200))
        samples = np.random.default_rng(first % 2**32).integers(-30_000, 30_000, (frames, 2), np.int16)
        flags = draw(st.sampled_from([0, 0, int(BlockFlag.CORRUPTED), int(BlockFlag.GAP), int(BlockFlag.REPEATED)]))
        blocks.append(
            Block(
                samples,
                fmt,
                timestamp_ns=time_ns,
                first_frame=first,
                sequence=sequence,
                flags=flags,
                metadata=draw(fields) or None,
            )
        )
        first, sequence = first + frames, sequence + 1
        time_ns += frames * 1_000_000_000 // 48_000
    return blocks


def through(blocks, source, target):
    transformer = DataTransformer()
    plan = transformer.plan(source, target)
    made = [out for block in blocks for out in transformer.transform(block, plan)]
    return [*made, *transformer.flush()]


@unhurried
@given(
    streams(),
    st.sampled_from(
        [
            AudioFormat(48_000, 2, "f32", "planar"),
            AudioFormat(48_000, 2, "s32"),
            AudioFormat(48_000, 2, "f64", "planar"),
            CarrierFormat("typed_array", AudioFormat(48_000, 2, "s16")),
            CarrierFormat("typed_array", AudioFormat(48_000, 2, "f32", "planar")),
        ]
    ),
)
def test_what_changes_no_frame_changes_nothing_that_a_block_says(blocks, between):
    source = AudioFormat(48_000, 2, "s16")
    back = through(through(blocks, source, between), between, source)
    assert len(back) == len(blocks)
    for block, out in zip(blocks, back, strict=True):
        assert [getattr(out, name) for name in STAMPS] == [getattr(block, name) for name in STAMPS]
        np.testing.assert_array_equal(out.samples, block.samples)


@unhurried
@given(streams(), st.sampled_from([16_000, 44_100, 96_000]))
def test_another_rate_and_back_keeps_the_times_and_every_field(blocks, rate_hz):
    assume(sum(block.frames for block in blocks) >= 16)  # of less, nothing may come out
    source, between = AudioFormat(48_000, 2, "s16"), AudioFormat(rate_hz, 2, "s16")
    back = through(through(blocks, source, between), between, source)
    first = blocks[0]
    for out in back:
        since_ns = (out.first_frame - first.first_frame) * 1e9 / 48_000
        # The first frame at the other rate lies at most half a frame, of either rate, from the first one of this.
        assert out.timestamp_ns - first.timestamp_ns == pytest.approx(since_ns, abs=1.1e9 / min(rate_hz, 48_000))
    said = {name: value for out in back for name, value in out.metadata.items()}
    expected = {name: value for block in blocks for name, value in block.metadata.items()}
    assert said == expected
    frames = sum(block.frames for block in blocks)
    assert sum(out.frames for out in back) == pytest.approx(frames, abs=48_000 // min(rate_hz, 48_000) + 1)
    assert any(out.flags for out in back) == any(block.flags for block in blocks)
