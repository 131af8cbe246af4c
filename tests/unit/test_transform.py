"""Plans, and a transformer that carries them out."""

import numpy as np
import pytest

from steadyflow import AudioFormat, Block, BytesFormat, ConversionOptions, FlowData, StructFormat
from steadyflow.audio import Level
from steadyflow.data import BlockFlag
from steadyflow.errors import ConfigurationError, DuplicateName, FormatClash, TransformError, UnknownName
from steadyflow.transform import DataTransformer, convert, make_plan, register, register_function, unregister

S16_STEREO = AudioFormat(48_000, 2, "s16")
MONO = AudioFormat(16_000, 1)


def test_the_plan_of_a_speech_model_prints_what_it_does():
    plan = DataTransformer().plan(S16_STEREO, MONO, window_frames=512, hop_frames=160)
    assert [step.converter for step in plan.steps] == ["samples", "rate"]
    text = str(plan)
    for part in (
        "audio 48000 Hz, 2 channels, s16, interleaved",
        "audio 16000 Hz, 1 channel, f32, interleaved",
        "s16 -> f32, stereo -> mono",
        "48000 Hz -> 16000 Hz, HQ",
        "512 frames, hop 160",
        "compute",
    ):
        assert part in text
    assert not plan.zero_copy
    assert plan.window_ms == 32
    assert plan.steps[1].delay_frames > 0


def test_channels_are_mixed_down_before_the_resampler_and_up_behind_it():
    down = make_plan(AudioFormat(48_000, 2), AudioFormat(16_000, 1))
    up = make_plan(AudioFormat(48_000, 1), AudioFormat(16_000, 2))
    assert [step.converter for step in down.steps] == ["samples", "rate"]
    assert [step.converter for step in up.steps] == ["rate", "samples"]


def test_samples_are_put_apart_where_there_are_fewer_of_them():
    lower = make_plan(AudioFormat(48_000, 2), AudioFormat(16_000, 2, layout="planar"))
    assert [step.converter for step in lower.steps] == ["rate", "samples"]


def test_nothing_is_lost_on_the_way_that_both_ends_keep():
    for one, other in (("s32", "s32"), ("f64", "f64"), ("s32", "f64")):
        plan = make_plan(AudioFormat(48_000, 1, one), AudioFormat(44_100, 1, other))
        assert all(step.target.sample_type in ("f64", other) for step in plan.steps)
    plan = make_plan(AudioFormat(48_000, 1, "s16"), AudioFormat(44_100, 1, "s16"))
    assert [step.target.sample_type for step in plan.steps] == ["f32", "f32", "s16"]


def test_where_the_ends_agree_there_is_nothing_to_do():
    samples = np.zeros((10, 2), np.int16)
    plan = make_plan(S16_STEREO, AudioFormat(None, None, "s16"))
    assert plan.is_empty
    assert plan.zero_copy
    assert "nothing to convert" in str(plan)
    assert convert(samples, S16_STEREO, S16_STEREO) is samples
    transformer = DataTransformer()
    block = Block(samples, S16_STEREO)
    (out,) = transformer.transform(block, plan)
    assert out is block


def test_one_channel_is_planar_and_interleaved_at_once():
    plan = make_plan(AudioFormat(48_000, 1), AudioFormat(48_000, 1, layout="planar"))
    assert plan.zero_copy
    samples = np.arange(4, dtype=np.float32)[:, None]
    planar = convert(samples, plan.source, plan.target)
    assert planar.shape == (1, 4)
    assert np.shares_memory(planar, samples)


def test_a_stream_is_converted_piece_by_piece():
    transformer = DataTransformer()
    plan = transformer.plan(S16_STEREO, MONO, window_frames=512, hop_frames=160)
    samples = (np.random.default_rng(1).uniform(-1, 1, (48_000, 2)) * 32767).astype(np.int16)
    whole = convert(samples, S16_STEREO, MONO)
    windows = [out for at in range(0, 48_000, 480) for out in transformer.transform(samples[at : at + 480], plan)]
    reports = transformer.reports()
    windows += transformer.flush()
    assert len(windows) == (len(whole) - 512) // 160 + 1
    for number, window in enumerate(windows):
        begin = number * 160
        np.testing.assert_array_equal(window.samples, whole[begin : begin + 512])
        assert window.first_frame == begin
        assert window.timestamp_ns == pytest.approx(begin * 1e9 / 16_000, abs=2)
    assert [report.calls for report in reports[:2]] == [100, 100]
    assert reports[0].frames == 48_000
    assert reports[0].copied_bytes == 48_000 * 4
    assert reports[1].ns_per_frame > 0


def test_the_last_window_is_padded_where_that_is_wanted():
    fmt = AudioFormat(16_000, 1)
    transformer = DataTransformer()
    plan = transformer.plan(fmt, fmt, window_frames=100, pad_last=True)
    made = [*transformer.transform(np.ones((250, 1), np.float32), plan), *transformer.flush()]
    assert [block.frames for block in made] == [100, 100, 100]
    assert [block.metadata for block in made] == [{}, {}, {"padded_frames": 50}]
    np.testing.assert_array_equal(made[2].samples[:, 0], [1.0] * 50 + [0.0] * 50)


def test_what_was_in_a_window_already_is_not_padded_again():
    fmt = AudioFormat(16_000, 1, "u8")
    transformer = DataTransformer()
    plan = transformer.plan(fmt, fmt, window_frames=100, hop_frames=50, pad_last=True)
    exact = [*transformer.transform(np.full((150, 1), 7, np.uint8), plan), *transformer.flush()]
    assert [block.first_frame for block in exact] == [0, 50]
    more = [*transformer.transform(np.full((151, 1), 7, np.uint8), plan), *transformer.flush()]
    assert [block.first_frame for block in more] == [0, 50, 100]
    assert more[2].metadata == {"padded_frames": 49}
    assert more[2].samples[-1, 0] == 128  # which is silence


def test_windows_keep_the_fields_of_the_blocks_that_begin_in_them():
    fmt = AudioFormat(16_000, 1)
    transformer = DataTransformer()
    plan = transformer.plan(fmt, fmt, window_frames=100, hop_frames=50)
    made = []
    for number in range(5):
        made += transformer.transform(FlowData(np.zeros((40, 1), np.float32), metadata={f"b{number}": number}), plan)
    assert [block.metadata for block in made] == [{"b0": 0, "b1": 1, "b2": 2}, {"b3": 3}, {"b4": 4}]


def test_one_transformer_is_for_one_stream_after_the_other():
    transformer = DataTransformer()
    one, other = transformer.plan(S16_STEREO, MONO), transformer.plan(MONO, AudioFormat(8_000, 1))
    transformer.transform(np.zeros((480, 2), np.int16), one)
    with pytest.raises(ConfigurationError, match=r"Take the end of that stream with flush\(\) first"):
        transformer.transform(np.zeros((480, 1), np.float32), other)
    assert sum(block.frames for block in transformer.flush()) > 0
    (block,) = [*transformer.transform(np.zeros((480, 1), np.float32), other), *transformer.flush()]
    assert (block.first_frame, block.frames) == (0, 240)
    assert list(transformer.flush()) == []


def test_stamps_and_fields_go_through_what_changes_no_frame():
    data = FlowData(
        np.zeros((4, 2), np.int16), timestamp_ns=5_000, first_frame=77, flags=BlockFlag.GAP, metadata={"gain": 0.5}
    )
    out = convert(data, S16_STEREO, AudioFormat(48_000, 2))
    assert isinstance(out, FlowData)
    assert (out.timestamp_ns, out.first_frame, out.flags, out.metadata) == (5_000, 77, BlockFlag.GAP, {"gain": 0.5})
    block = Block(np.zeros((4, 2), np.int16), S16_STEREO, timestamp_ns=9, first_frame=3, sequence=8, metadata={"a": 1})
    out = convert(block, S16_STEREO, AudioFormat(48_000, 1))
    assert (out.timestamp_ns, out.first_frame, out.sequence, out.metadata, out.frames) == (9, 3, 8, {"a": 1}, 4)
    assert out.format == AudioFormat(48_000, 1)


def test_a_time_that_nobody_gave_stays_open():
    out = convert(FlowData(np.zeros((480, 2), np.int16)), S16_STEREO, MONO)
    assert out.timestamp_ns is None
    assert out.first_frame is None


def test_more_than_two_channels_without_names_need_a_matrix():
    source, target = AudioFormat(48_000, 4), AudioFormat(48_000, 2)
    with pytest.raises(FormatClash, match=r"4 discrete channels do not become 2 stereo ones by themselves.*mix="):
        make_plan(source, target)
    samples = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
    options = ConversionOptions(mix=((1, 0, 0, 0), (0, 0, 0.5, 0)))
    np.testing.assert_array_equal(convert(samples, source, target, options), [[1.0, 1.5]])


def test_channels_that_one_end_names_are_what_it_says():
    six = AudioFormat(48_000, 6)
    assert make_plan(six, AudioFormat(48_000, channel_layout="5.1")).is_empty
    plan = make_plan(AudioFormat(48_000, channel_layout="5.1"), AudioFormat(48_000, 2))
    assert "5.1 -> stereo" in plan.steps[0].does


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": ((1.0,),)}, "expected mix of 1 rows.*with 2 coefficients; got 1 rows with 1"),
        ({"mix": ((1.0,), (1.0,))}, "expected mix of 1 rows"),
    ],
)
def test_a_matrix_of_another_shape_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        make_plan(AudioFormat(48_000, 2), AudioFormat(48_000, 1), ConversionOptions(**options))


def test_a_matrix_between_equal_channels_is_refused():
    with pytest.raises(ConfigurationError, match=r"both are stereo. Name one of them"):
        make_plan(AudioFormat(48_000, 2), AudioFormat(48_000, 2), ConversionOptions(mix=((0, 1), (1, 0))))
    swapped = convert(
        np.array([[1.0, 2.0]], np.float32),
        AudioFormat(48_000, 2),
        AudioFormat(48_000, 2, channel_layout="discrete"),
        ConversionOptions(mix=((0, 1), (1, 0))),
    )
    np.testing.assert_array_equal(swapped, [[2.0, 1.0]])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"quality": "best"}, UnknownName),
        ({"mix": ((1.0, 0.5), (1.0,))}, ConfigurationError),
        ({"mix": ()}, ConfigurationError),
        ({"mix": ((float("nan"),),)}, ConfigurationError),
        ({"mix": "ab"}, ConfigurationError),
        ({"on_error": "ignore"}, UnknownName),
    ],
)
def test_options_that_are_none_are_refused(options, error):
    with pytest.raises(error, match="ConversionOptions"):
        ConversionOptions(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((AudioFormat(), MONO), "expected to know what there is"),
        (("s16", MONO), "expected from_format to be a format"),
        ((MONO, 16_000), "expected to_format to be a format"),
    ],
)
def test_formats_that_are_none_are_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        make_plan(*arguments)


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ({"hop_frames": 10}, "hop_frames needs window_frames"),
        ({"pad_last": True}, "pad_last needs window_frames"),
        ({"window_frames": 10, "hop_frames": 0}, "hop_frames"),
        ({"window_frames": 0}, "window_frames"),
        ({"window_frames": 10, "hop_frames": -1}, "hop_frames"),
    ],
)
def test_windows_that_are_none_are_refused(windows, message):
    with pytest.raises(ConfigurationError, match=message):
        make_plan(MONO, MONO, **windows)
    with pytest.raises(ConfigurationError, match="only audio has windows"):
        make_plan(BytesFormat(), BytesFormat(), window_frames=5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((10, 2), np.float32), "expected dtype int16; got float32"),
        (np.zeros((10, 3), np.int16), "expected 2 channels.*got 3 channels"),
        (np.zeros((2, 10), np.int16), "expected 2 channels"),
        (np.zeros((0, 2), np.int16), "at least one frame"),
        (np.zeros(20, np.int16), "expected shape"),
        ([[0, 0]], "expected a numpy array"),
        (b"\0" * 40, "expected a numpy array"),
    ],
)
def test_data_of_another_format_is_refused(data, message):
    with pytest.raises(TransformError, match=message):
        convert(data, S16_STEREO, MONO)
    transformer = DataTransformer()
    plan = transformer.plan(S16_STEREO, MONO)
    with pytest.raises(TransformError, match=message):
        transformer.transform(data, plan)
    transformer.transform(np.zeros((10, 2), np.int16), plan)  # and goes on


def test_blocks_that_lie_are_refused_by_every_step():
    for target in (AudioFormat(48_000, 2), AudioFormat(16_000, 2, "s16"), AudioFormat(48_000, 2, "s16")):
        transformer = DataTransformer()
        plan = transformer.plan(S16_STEREO, target, window_frames=4)
        with pytest.raises(TransformError, match="expected"):
            transformer.transform(Block(np.zeros((10, 2), np.float32), S16_STEREO), plan)
    floats = AudioFormat(48_000, 2)
    transformer = DataTransformer()
    plan = transformer.plan(floats, AudioFormat(16_000, 2))
    for wrong in (np.zeros((10, 3), np.float32), np.zeros((10, 2)), np.zeros((10, 2), np.int16)):
        with pytest.raises(TransformError, match="rate: expected"):
            transformer.transform(Block(wrong, floats), plan)


def test_strided_data_is_taken():
    samples = np.arange(40, dtype=np.int16).reshape(10, 4)
    np.testing.assert_array_equal(
        convert(samples[:, ::2], S16_STEREO, AudioFormat(48_000, 2)), samples[:, ::2].astype(np.float32) / 32768
    )
    floats = samples.astype(np.float32)
    strided = convert(floats[:, ::2], AudioFormat(48_000, 2), AudioFormat(24_000, 2))
    whole = convert(np.ascontiguousarray(floats[:, ::2]), AudioFormat(48_000, 2), AudioFormat(24_000, 2))
    np.testing.assert_array_equal(strided, whole)


def test_clipping_is_counted_and_never_wraps():
    transformer = DataTransformer()
    plan = transformer.plan(AudioFormat(48_000, 1), AudioFormat(48_000, 1, "s16"))
    (block,) = transformer.transform(np.array([[2.0], [-2.0], [0.5], [np.nan]], np.float32), plan)
    np.testing.assert_array_equal(block.samples[:, 0], [32767, -32768, 16384, 0])
    (report,) = transformer.reports()
    assert (report.clipped, report.not_a_number) == (2, 1)


# --- what users add -----------------------------------------------------------------------------------------------------


@pytest.fixture
def registered():
    names = []

    def add(function, source, target, **options):
        names.append(options.setdefault("name", function.__name__))
        register_function(function, source, target, **options)

    yield add
    for name in names:
        unregister(name)


def test_a_function_becomes_a_step(registered):
    registered(lambda text: text.upper(), BytesFormat(10), StructFormat(Level), name="upper")
    plan = make_plan(BytesFormat(10), StructFormat(Level))
    assert [step.converter for step in plan.steps] == ["upper"]
    assert convert(b"abc", BytesFormat(10), StructFormat(Level)) == b"ABC"


def test_others_lead_to_what_a_function_takes(registered):
    def level(samples):
        return Level(float(np.abs(samples).max()), 0.0, 0)

    registered(level, AudioFormat(16_000, 1), StructFormat(Level))
    plan = make_plan(S16_STEREO, StructFormat(Level))
    assert [step.converter for step in plan.steps] == ["samples", "rate", "level"]


def test_two_ways_of_the_same_cost_are_refused(registered):
    registered(lambda data: data, BytesFormat(10), StructFormat(Level), name="one")
    registered(lambda data: data, BytesFormat(10), StructFormat(Level), name="other")
    with pytest.raises(FormatClash, match=r"two of the same cost: one .* other"):
        make_plan(BytesFormat(10), StructFormat(Level))
    registered(lambda data: data, BytesFormat(10), StructFormat(Level), name="cheaper", cost=5)
    assert make_plan(BytesFormat(10), StructFormat(Level)).steps[0].converter == "cheaper"


def test_what_a_function_raises_names_the_step(registered):
    def broken(data):
        raise KeyError("x")

    registered(broken, BytesFormat(10), StructFormat(Level))
    with pytest.raises(
        TransformError, match="broken: expected bytes, up to 10 that it can convert; it raised KeyError"
    ):
        convert(b"abc", BytesFormat(10), StructFormat(Level))


def test_what_nobody_converts_is_said(registered):
    with pytest.raises(FormatClash, match=r"no converter between these kinds of data is registered.*samples, rate"):
        make_plan(MONO, StructFormat(Level))


def test_a_name_is_taken_once(registered):
    registered(lambda data: data, BytesFormat(10), StructFormat(Level), name="once")
    with pytest.raises(DuplicateName, match="once"):
        register_function(lambda data: data, BytesFormat(10), StructFormat(Level), name="once")
    with pytest.raises(ConfigurationError, match="expected a converter"):
        register(print)
    with pytest.raises(UnknownName, match="converter 'twice'"):
        unregister("twice")


@pytest.mark.parametrize(
    "arguments",
    [
        ("s16", MONO, 5),
        (MONO, "s16", 5),
        (MONO, StructFormat(Level), 0),
        (MONO, StructFormat(Level), "cheap"),
    ],
)
def test_what_is_no_function_between_formats_is_not_registered(arguments):
    source, target, cost = arguments
    with pytest.raises(ConfigurationError, match="register_function: expected"):
        register_function(len, source, target, name="wrong", cost=cost)
    with pytest.raises(ConfigurationError, match="register_function: expected a function"):
        register_function(5, MONO, StructFormat(Level), name="wrong")
    with pytest.raises(ConfigurationError, match="which is built in"):
        unregister("rate")


def test_a_function_that_changes_the_rate_says_where_its_blocks_begin(registered):
    registered(
        lambda samples: samples[::3].copy(),
        AudioFormat(48_000, 1, "u8"),
        AudioFormat(16_000, 1, "u8"),
        name="third",
        cost=1,
    )
    transformer = DataTransformer()
    fmt = AudioFormat(48_000, 1, "u8")
    plan = transformer.plan(fmt, AudioFormat(16_000, 1, "u8"), window_frames=300)
    assert [step.converter for step in plan.steps] == ["third"]
    windows = [out for _ in range(10) for out in transformer.transform(np.zeros((480, 1), np.uint8), plan)]
    assert [window.first_frame for window in windows] == [0, 300, 600, 900, 1200]


def test_what_a_function_returns_is_checked(registered):
    registered(
        lambda samples: samples.astype(np.float64),
        AudioFormat(48_000, 1),
        AudioFormat(48_000, 1, "s16"),
        name="wide",
        cost=1,
    )
    with pytest.raises(TransformError, match="wide: expected dtype int16; got float64"):
        convert(np.zeros((10, 1), np.float32), AudioFormat(48_000, 1), AudioFormat(48_000, 1, "s16"))


def test_what_nobody_says_is_asked_for(registered):
    registered(lambda data: data, BytesFormat(10), AudioFormat(), name="audio")
    with pytest.raises(ConfigurationError, match="expected to know what is wanted"):
        make_plan(BytesFormat(10), AudioFormat())


def test_more_than_a_block_may_have_is_converted_whole():
    frames = (1 << 24) + 100_000
    samples = np.zeros((frames, 1), np.int16)
    samples[-1] = 16384
    out = convert(samples, AudioFormat(48_000, 1, "s16"), AudioFormat(48_000, 1))
    assert out.shape == (frames, 1)
    assert (out[0, 0], out[-1, 0]) == (0.0, 0.5)


def test_subclasses_of_arrays_are_taken(tmp_path):
    samples = np.memmap(tmp_path / "samples", np.float32, "w+", shape=(480, 1))
    assert convert(samples, AudioFormat(48_000, 1), MONO).shape == (160, 1)


def test_one_channel_may_come_without_an_axis():
    for data in (np.zeros(480, np.float32), Block(np.zeros(480, np.float32), AudioFormat(48_000, 1))):
        out = convert(data, AudioFormat(48_000, 1), MONO)
        assert (out.samples if isinstance(out, Block) else out).shape == (160, 1)


def test_data_that_says_it_is_something_else_is_refused():
    samples = np.zeros((480, 1), np.float32)
    for data in (FlowData(samples, AudioFormat(44_100, 1)), Block(samples, AudioFormat(44_100, 1))):
        with pytest.raises(TransformError, match=r"expected audio 48000 Hz.* got data of audio 44100 Hz"):
            convert(data, AudioFormat(48_000, 1), MONO)


def test_a_refused_block_leaves_the_stream_as_it_was():
    """What comes after it does not follow what came before, and both sides are what they would be alone."""
    transformer, fmt = DataTransformer(), AudioFormat(48_000, 1)
    plan = transformer.plan(fmt, MONO)
    noise = np.random.default_rng(2).uniform(-1, 1, (1_440, 1)).astype(np.float32)

    def block(first, samples):
        return Block(samples, fmt, first_frame=first)

    made = list(transformer.transform(block(0, noise[:480]), plan))
    with pytest.raises(TransformError):
        transformer.transform(block(480, noise[480:960].astype(np.float64)), plan)
    made += transformer.transform(block(960, noise[960:]), plan)
    made += transformer.flush()
    alone = [convert(part, fmt, MONO) for part in (noise[:480], noise[960:])]
    np.testing.assert_array_equal(np.concatenate([each.samples for each in made]), np.concatenate(alone))


def test_fields_that_do_not_fit_into_one_block_give_way_to_later_ones():
    fmt = AudioFormat(16_000, 1)
    transformer = DataTransformer()
    plan = transformer.plan(fmt, fmt, window_frames=400)
    for number in range(3):
        data = FlowData(np.zeros((100, 1), np.float32), metadata={f"text-{number}": "x" * 100})
        assert not transformer.transform(data, plan)
    (window,) = transformer.transform(np.zeros((100, 1), np.float32), plan)
    assert set(window.metadata) == {"text-1", "text-2"}


def test_flags_are_said_of_the_frames_that_they_are_of():
    fmt = AudioFormat(16_000, 1)
    transformer = DataTransformer()
    plan = transformer.plan(fmt, fmt, window_frames=100, hop_frames=50)
    made = []
    for number in range(5):
        flags = BlockFlag.CORRUPTED if number == 2 else 0
        made += transformer.transform(FlowData(np.zeros((100, 1), np.float32), flags=flags), plan)
    assert [block.first_frame for block in made if block.flags] == [150, 200, 250]


def test_what_is_derived_from_a_block_is_its_own():
    block = Block(np.zeros((4, 2), np.int16), S16_STEREO, metadata={"a": 1})
    out = convert(block, S16_STEREO, AudioFormat(48_000, 2))
    out.metadata["b"] = 2
    assert block.metadata == {"a": 1}


def test_reports_stay_until_the_next_stream():
    transformer = DataTransformer()
    plan = transformer.plan(AudioFormat(48_000, 1), MONO)
    transformer.transform(np.zeros((4_800, 1), np.float32), plan)
    before = transformer.reports()[0].frames
    transformer.flush()
    assert transformer.reports()[0].frames == 1_600 > before
