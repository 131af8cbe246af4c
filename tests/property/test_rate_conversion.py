"""Resampling: however a stream is cut, the same samples come out, at the same places in time."""

import hypothesis.strategies as st
import numpy as np
import pytest
import soxr
from hypothesis import HealthCheck, given, settings

from steadyflow import AudioFormat, Block, BlockFlag, ConversionOptions
from steadyflow._native import RateStage
from steadyflow.payload import native_spec
from steadyflow.transform import Conversion, make_plan
from steadyflow.transform.conforming import Conforming
from steadyflow.transform.fields import Fields

unhurried = settings(
    deadline=None, derandomize=True, database=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)

rates = st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
sizes = st.lists(st.integers(1, 700), min_size=1, max_size=12)


def conversion(source_hz, target_hz, channels=1, sample_type="f32", quality="HQ"):
    source = AudioFormat(source_hz, channels, sample_type)
    return Conversion(
        make_plan(source, AudioFormat(target_hz, channels, sample_type), ConversionOptions(quality=quality))
    )


def noise(seed, frames, channels=1, dtype=np.float32):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (frames, channels)).astype(dtype)


def blocks_of(samples, sizes, fmt, *, first=0, ns_per_frame=None, flags=0):
    """Return blocks of these sizes, again and again, until the samples are used up."""
    ns_per_frame = 1e9 / fmt.sample_rate_hz if ns_per_frame is None else ns_per_frame
    blocks, begin, turn = [], 0, 0
    while begin < len(samples):
        part = samples[begin : begin + sizes[turn % len(sizes)]]
        at = first + begin
        blocks.append(
            Block(part, fmt, timestamp_ns=round(at * ns_per_frame), first_frame=at, sequence=turn, flags=flags)
        )
        begin, turn, flags = begin + len(part), turn + 1, 0
    return blocks


def joined(blocks):
    return np.concatenate([block.samples for block in blocks])


@unhurried
@given(
    rates,
    rates,
    sizes,
    st.sampled_from(["LQ", "HQ", "VHQ"]),
    st.sampled_from(["f32", "f64"]),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_streaming_gives_the_bits_of_one_shot(source_hz, target_hz, sizes, quality, sample_type, channels, seed):
    if source_hz == target_hz:
        return
    fmt = AudioFormat(source_hz, channels, sample_type)
    samples = noise(seed, 5_000, channels, fmt.dtype)
    work = conversion(source_hz, target_hz, channels, sample_type, quality)
    made = [out for block in blocks_of(samples, sizes, fmt) for out in work.push(block)] + list(work.flush())
    assert joined(made).tobytes() == soxr.resample(samples, source_hz, target_hz, quality).tobytes()
    # And nothing is missing or said twice between them.
    position = 0
    for number, block in enumerate(made):
        assert (block.first_frame, block.sequence, block.flags) == (position, number, 0)
        position += block.frames


@unhurried
@given(rates, rates, sizes, st.integers(0, 10**6))
def test_timestamps_say_where_in_the_input_a_block_begins(source_hz, target_hz, sizes, first):
    if source_hz == target_hz:
        return
    fmt = AudioFormat(source_hz, 1)
    work = conversion(source_hz, target_hz)
    made = [out for block in blocks_of(noise(1, 4_000), sizes, fmt, first=first) for out in work.push(block)]
    made += work.flush()
    begin_ns = first * 1e9 / source_hz
    for block in made:
        since_ns = (block.first_frame - made[0].first_frame) * 1e9 / target_hz
        assert block.timestamp_ns == pytest.approx(begin_ns + since_ns, abs=3)
    assert made[0].first_frame == pytest.approx(first * target_hz / source_hz, abs=0.51)


@pytest.mark.parametrize(("source_hz", "target_hz"), [(48_000, 16_000), (44_100, 48_000), (16_000, 48_000)])
def test_an_impulse_comes_out_where_its_timestamp_says(source_hz, target_hz):
    fmt = AudioFormat(source_hz, 1)
    samples = np.zeros((source_hz // 2, 1), np.float32)
    at = source_hz // 5
    samples[at] = 1
    work = conversion(source_hz, target_hz)
    made = [out for block in blocks_of(samples, [480], fmt) for out in work.push(block)] + list(work.flush())
    (block,) = [each for each in made if np.abs(each.samples).max() == np.abs(joined(made)).max()]
    peak = int(np.abs(block.samples).argmax())
    found_ns = block.timestamp_ns + peak * 1e9 / target_hz
    assert found_ns == pytest.approx(at * 1e9 / source_hz, abs=0.51e9 / target_hz)


@unhurried
@given(sizes, sizes, st.integers(1, 10_000), st.booleans(), st.integers(0, 99))
def test_what_is_missing_separates_two_streams(one_sizes, other_sizes, missing, flagged, seed):
    """Each side of a gap is what it would be alone: nothing of the one is heard in the other."""
    fmt = AudioFormat(48_000, 1)
    one, other = noise(seed, 2_000), noise(seed + 1, 1_500)
    gap = 0 if flagged else missing
    work = conversion(48_000, 16_000)
    blocks = blocks_of(one, one_sizes, fmt)
    blocks += blocks_of(other, other_sizes, fmt, first=2_000 + gap, flags=BlockFlag.DISCONTINUITY if flagged else 0)
    made = [out for block in blocks for out in work.push(block)] + list(work.flush())
    expected = [soxr.resample(each, 48_000, 16_000) for each in (one, other)]
    assert joined(made).tobytes() == np.concatenate(expected).tobytes()
    (second,) = [at for at, block in enumerate(made) if block.first_frame == round((2_000 + gap) / 3) and at]
    assert sum(block.frames for block in made[:second]) == len(expected[0])
    told = [block.flags for block in made]
    assert told[second] == (BlockFlag.DISCONTINUITY if flagged else 0)
    assert not any(told[:second] + told[second + 1 :])


@unhurried
@given(sizes, st.lists(st.integers(0, 40), max_size=6, unique=True))
def test_no_field_is_lost_or_said_twice(sizes, marked):
    fmt = AudioFormat(48_000, 1)
    work = conversion(48_000, 8_000)
    blocks = [
        Block(
            block.samples,
            fmt,
            timestamp_ns=block.timestamp_ns,
            first_frame=block.first_frame,
            metadata={f"mark-{number}": number} if number in marked else None,
        )
        for number, block in enumerate(blocks_of(noise(2, 5_000), sizes, fmt))
    ]
    made = [out for block in blocks for out in work.push(block)] + list(work.flush())
    said = [name for block in made for name in block.metadata]
    assert sorted(said) == sorted(f"mark-{number}" for number in marked if number < len(blocks))
    for block in made:
        for number in block.metadata.values():  # with the block that takes its first frame
            first = blocks[number].first_frame / 6
            assert block.first_frame - 1 <= first < block.first_frame + block.frames + (block is made[-1])


def test_there_and_back_is_the_same_above_120_db():
    """48 kHz to 44.1 kHz and back at VHQ: a sine keeps more than 120 dB."""
    rate, frames = 48_000, 96_000
    time = np.arange(frames) / rate
    for sample_type in ("f32", "f64"):
        samples = (0.9 * np.sin(2 * np.pi * 997 * time)).astype(AudioFormat(rate, 1, sample_type).dtype)[:, None]
        there = conversion(48_000, 44_100, sample_type=sample_type, quality="VHQ")
        back = conversion(44_100, 48_000, sample_type=sample_type, quality="VHQ")
        half = there.whole([Block(samples, AudioFormat(48_000, 1, sample_type))])
        whole = back.whole([half])
        assert whole.frames == frames
        inner = slice(4_000, -4_000)
        error = whole.samples[inner].astype(np.float64) - samples[inner]
        snr_db = 10 * np.log10(np.mean(samples[inner].astype(np.float64) ** 2) / np.mean(error**2))
        assert snr_db > 120, sample_type


def test_blocks_are_not_longer_than_the_plan_says():
    plan = make_plan(
        AudioFormat(16_000, 1, max_block_frames=160), AudioFormat(48_000, 1), ConversionOptions(quality="VHQ")
    )
    work = Conversion(plan)
    fmt = AudioFormat(16_000, 1, max_block_frames=160)
    made = [out for block in blocks_of(noise(3, 16_000), [160], fmt) for out in work.push(block)] + list(work.flush())
    assert max(block.frames for block in made) <= plan.target.max_block_frames == 480


def test_the_delay_of_a_plan_is_what_is_withheld():
    plan = make_plan(AudioFormat(48_000, 1), AudioFormat(16_000, 1))
    work = Conversion(plan)
    fmt, given, withheld = AudioFormat(48_000, 1), 0, 0
    for number, block in enumerate(blocks_of(noise(4, 48_000), [48], fmt), 1):
        given += sum(out.frames for out in work.push(block))
        withheld = max(withheld, number * 16 - given)
    assert withheld == plan.steps[0].delay_frames > 0
    assert plan.delay_ms == pytest.approx(withheld / 16)


def test_what_soxr_documents_gives_the_same_blocks_as_what_it_calls_itself():
    """`RateStage` is given the latter, where there is one; should it go away, the former is left."""
    fmt, target = AudioFormat(48_000, 2), AudioFormat(44_100, 2)
    stream = soxr.ResampleStream(48_000, 44_100, 2, quality="HQ")
    documented = RateStage(
        stream.resample_chunk,
        stream.clear,
        native_spec(fmt),
        target,
        4096,
        48_000,
        44_100,
        Conforming("rate", fmt),
        Fields("rate"),
    )
    plan = make_plan(fmt, target)
    assert [step.converter for step in plan.steps] == ["rate"]
    usual = Conversion(plan)
    blocks = blocks_of(noise(5, 20_000, 2), [480, 333], fmt)
    ours = [made for block in blocks for made in usual.push(block)] + list(usual.flush())
    theirs = [made for block in blocks for made in documented.push(block)] + list(documented.flush())
    assert len(ours) > 10
    assert [(b.first_frame, b.frames, b.timestamp_ns) for b in ours] == [
        (b.first_frame, b.frames, b.timestamp_ns) for b in theirs
    ]
    assert np.array_equal(joined(ours), joined(theirs))
