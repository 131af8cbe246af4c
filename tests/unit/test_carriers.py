"""Audio in something else than an array: out and back again is the same, and what is wrong is said."""

import io
import itertools
from array import array

import numpy as np
import pytest
import soundfile

from steadyflow import AudioFormat, Block, CarrierFormat, FormatClash
from steadyflow.errors import ConfigurationError, TransformError, UnknownName
from steadyflow.formats import CARRIERS, agree, format_from_wire, format_to_wire
from steadyflow.payload import native_spec
from steadyflow.transform import DataTransformer, convert, make_plan

RATE = 44_100
CASES = [
    (carrier, sample_type, layout)
    for carrier, (types, layouts) in CARRIERS.items()
    for sample_type in types
    for layout in layouts
]


def noise(fmt, frames=97):
    shape = fmt.block_shape(frames)
    random = np.random.default_rng(5)
    if fmt.sample_type in ("f32", "f64"):
        return random.uniform(-1, 1, shape).astype(fmt.dtype)
    return random.integers(0, 256, (*shape, fmt.dtype.itemsize), np.uint8).view(fmt.dtype).reshape(shape)


@pytest.mark.parametrize(("carrier", "sample_type", "layout"), CASES)
def test_into_a_carrier_and_back_is_the_same(carrier, sample_type, layout):
    if carrier == "arrow":
        pytest.importorskip("pyarrow")
    fmt = AudioFormat(RATE, 2, sample_type, layout)
    samples = noise(fmt)
    carried = convert(samples, fmt, CarrierFormat(carrier))
    np.testing.assert_array_equal(convert(carried, CarrierFormat(carrier, fmt), fmt), samples)
    if carrier in ("wav", "flac", "typed_array", "arrow"):  # it says itself what it holds
        np.testing.assert_array_equal(convert(carried, CarrierFormat(carrier), fmt), samples)


@pytest.mark.parametrize("sample_type", ["s16", "s24", "s32", "f32", "f64"])
def test_pcm_of_the_other_byte_order(sample_type):
    fmt = AudioFormat(RATE, 2, sample_type)
    samples = noise(fmt)
    little = convert(samples, fmt, CarrierFormat("pcm"))
    big = convert(samples, fmt, CarrierFormat("pcm", big_endian=True))
    width = 3 if sample_type == "s24" else fmt.dtype.itemsize
    turned = b"".join(little[at : at + width][::-1] for at in range(0, len(little), width))
    assert big == turned
    np.testing.assert_array_equal(convert(big, CarrierFormat("pcm", fmt, big_endian=True), fmt), samples)


def test_between_any_two_of_them():
    fmt = AudioFormat(RATE, 2, "s16")
    samples = noise(fmt)
    carriers = [name for name in CARRIERS if name != "arrow"]
    for one, other in itertools.permutations(carriers, 2):
        there = convert(samples, fmt, CarrierFormat(one))
        between = convert(there, CarrierFormat(one, fmt), CarrierFormat(other))
        np.testing.assert_array_equal(convert(between, CarrierFormat(other, fmt), fmt), samples)


def test_three_lines_convert_a_file():
    raw = io.BytesIO()
    tone = np.sin(np.arange(48_000) * 2 * np.pi * 440 / 48_000) * 0.5
    soundfile.write(raw, np.stack([tone, tone], axis=1), 48_000, format="WAV", subtype="PCM_16")
    flac = convert(raw.getvalue(), CarrierFormat("wav"), CarrierFormat("flac", AudioFormat(16_000, 1, "s16")))
    samples, rate = soundfile.read(io.BytesIO(flac))
    assert rate == 16_000
    assert samples.shape == (16_000,)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(16_000)))
    assert spectrum.argmax() == 440


def test_the_nearest_sample_type_is_taken_where_none_is_said():
    for source, target in (("u8", "s16"), ("s16", "s16"), ("f32", "s24"), ("s32", "s24"), ("f64", "s24")):
        assert make_plan(AudioFormat(RATE, 1, source), CarrierFormat("flac")).target.audio.sample_type == target
    assert make_plan(AudioFormat(RATE, 1, "s24"), CarrierFormat("array")).target.audio.sample_type == "f32"


def test_views_where_memory_allows_it():
    fmt = AudioFormat(RATE, 2)
    samples = noise(fmt)
    for carrier in ("dlpack", "buffer"):
        plan = make_plan(fmt, CarrierFormat(carrier))
        assert plan.zero_copy, str(plan)
        assert np.shares_memory(np.asarray(convert(samples, fmt, CarrierFormat(carrier))), samples)
    data = array("f", samples.ravel().tolist())
    assert make_plan(CarrierFormat("array", fmt), fmt).zero_copy
    assert np.shares_memory(convert(data, CarrierFormat("array", fmt), fmt), np.asarray(data))
    assert not make_plan(fmt, CarrierFormat("array")).zero_copy
    raw = samples.tobytes()
    assert np.shares_memory(convert(raw, CarrierFormat("pcm", fmt), fmt), np.frombuffer(raw, np.float32))
    frame = convert(samples, fmt, CarrierFormat("typed_array"))
    assert np.shares_memory(convert(frame, CarrierFormat("typed_array"), fmt), np.frombuffer(frame, np.uint8))


def test_what_may_only_be_read_is_copied_for_dlpack():
    fmt = AudioFormat(RATE, 2)
    samples = noise(fmt)
    samples.flags.writeable = False
    out = convert(samples, fmt, CarrierFormat("dlpack"))
    assert out.flags.writeable
    np.testing.assert_array_equal(out, samples)


def test_a_stream_of_frames_keeps_its_stamps():
    fmt = AudioFormat(RATE, 1, "s16")
    block = Block(
        noise(fmt),
        fmt,
        timestamp_ns=-5,
        first_frame=1 << 40,
        sequence=9,
        flags=3,
        metadata={"name": "ü", "raw": b"\0\xff", "count": 1 << 60, "gain": 0.25, "on": True, "none": None},
    )
    one, other = DataTransformer(), DataTransformer()
    (frame,) = one.transform(block, one.plan(fmt, CarrierFormat("typed_array")))
    assert frame.metadata == block.metadata
    wanted = CarrierFormat("typed_array", fmt)
    (back,) = other.transform(Block(frame.data, wanted), other.plan(wanted, fmt))
    for name in ("timestamp_ns", "first_frame", "sequence", "flags", "metadata", "frames"):
        assert getattr(back, name) == getattr(block, name), name
    np.testing.assert_array_equal(back.samples, block.samples)


FRAME = convert(np.zeros((4, 2), np.int16), AudioFormat(RATE, 2, "s16"), CarrierFormat("typed_array"))
STEREO = AudioFormat(RATE, 2, "s16")


def wav(frames=1000, subtype="PCM_16", container="WAV"):
    raw = io.BytesIO()
    samples = np.random.default_rng(1).uniform(-1, 1, (frames, 2))  # which compresses badly
    soundfile.write(raw, samples, RATE, format=container, subtype=subtype)
    return raw.getvalue()


@pytest.mark.parametrize(
    ("carrier", "data", "message"),
    [
        ("dlpack", [1.0], "dlpack: expected an array on the processor"),
        ("dlpack", np.zeros((4, 2)), "dlpack: expected samples of type int16, got float64"),
        ("dlpack", np.zeros((4, 3), np.int16), r"dlpack: expected audio .* got shape \(4, 3\)"),
        ("buffer", 5, "buffer: expected something with the buffer protocol, got int"),
        ("buffer", b"12345", "buffer: expected whole samples of 2 bytes, got 5 bytes"),
        ("buffer", b"123456", "buffer: expected whole frames of 2 values, at least one; got 3 values"),
        ("array", [1, 2], "array: expected an array.array, got list"),
        ("array", array("f", [1, 2]), "array: expected samples of type int16, got float32"),
        ("array", array("h", []), "array: expected whole frames .* got 0 values"),
        ("pcm", "text", "pcm: expected bytes, bytearray or memoryview, got str"),
        ("pcm", b"12345", r"pcm: expected whole frames of 4 bytes \(2 x s16\).* got 5 bytes"),
        ("pcm", b"", "pcm: expected whole frames .* got 0 bytes"),
        ("wav", b"RIFF", "wav: expected the bytes of a WAV file, got 4 bytes"),
        ("wav", b"", "wav: expected the bytes of a WAV file, got 0 bytes"),
        ("wav", wav()[:2000], "wav: expected 1000 frames, as the header says, got 489: it was cut off"),
        ("pcm", memoryview(bytes(16))[::2], "pcm: expected bytes in one piece"),
        ("buffer", np.int16(3), "buffer: expected samples of type int16"),
        ("dlpack", np.array(3, np.int16), "dlpack: expected samples of type int16, got int16, a single one"),
        ("wav", wav(subtype="PCM_24"), "wav: expected sample_type s16; got s24"),
        ("wav", wav(subtype="ULAW"), "wav: expected samples of PCM_U8.* got ULAW"),
        ("wav", wav(container="FLAC"), "wav: expected a WAV file, got one of FLAC"),
        ("flac", wav(), "flac: expected a FLAC file, got one of WAV"),
        ("flac", wav(container="FLAC")[:300], "flac: expected"),
        ("typed_array", FRAME[:20], "typed_array: expected a header of 48 bytes, got 20 bytes"),
        ("typed_array", FRAME[:-1], "typed_array: expected 64 bytes, as the header says, got 63"),
        ("typed_array", FRAME + b"x", "typed_array: expected 64 bytes"),
        ("typed_array", b"X" + FRAME[1:], "typed_array: expected a frame that begins with b'SFA1'"),
        ("typed_array", FRAME[:5] + b"\x09" + FRAME[6:], "typed_array: expected a sample type below 5"),
        ("typed_array", FRAME[:8] + b"\0\0\0\0" + FRAME[12:], "typed_array: expected a possible format in the header"),
        ("typed_array", FRAME[:12] + b"\x03\0" + FRAME[14:], "typed_array: expected channels 2; got 3"),
        ("typed_array", FRAME[:20] + b"\x02\0\0\0" + FRAME[24:] + b"[]", "typed_array: expected fields as JSON"),
        (
            "typed_array",
            FRAME[:20] + b"\x12\0\0\0" + FRAME[24:] + b'{"a":{"base64":5}}',
            "typed_array: expected fields as JSON",
        ),
        ("typed_array", FRAME[:20] + b"\xff\xff\xff\xff" + FRAME[24:], "up to 4096 bytes of fields"),
    ],
)
def test_what_is_wrong_is_said(carrier, data, message):
    with pytest.raises(TransformError, match=message):
        convert(data, CarrierFormat(carrier, STEREO), STEREO)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("mp3",), UnknownName, "carrier 'mp3'"),
        (("pcm", "s16"), ConfigurationError, "expected audio to be an AudioFormat"),
        (
            ("flac", AudioFormat(RATE, 1, "f64")),
            ConfigurationError,
            "expected samples that flac holds, s16, s24; got f64",
        ),
        (("wav", AudioFormat(RATE, 1, layout="planar")), ConfigurationError, "interleaved; got planar"),
        (("wav", None, True), ConfigurationError, "expected big_endian of pcm only"),
    ],
)
def test_carriers_that_hold_no_such_thing_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        CarrierFormat(*arguments)


def test_a_carrier_that_does_not_say_what_it_holds_needs_to_be_told():
    with pytest.raises(ConfigurationError, match="expected to know what there is, got pcm of any audio"):
        convert(b"\0\0", CarrierFormat("pcm"), AudioFormat(RATE, 1))


def test_carriers_travel_and_agree():
    for fmt in (CarrierFormat("wav"), CarrierFormat("pcm", STEREO, big_endian=True)):
        assert format_from_wire(format_to_wire(fmt)) == fmt
    full = CarrierFormat("wav", STEREO)
    assert agree(full, CarrierFormat("wav"), where="here") == full
    assert agree(CarrierFormat("wav"), full, where="here") == full
    with pytest.raises(FormatClash, match="the carrier differs"):
        agree(full, CarrierFormat("flac"), where="here")


def test_only_bytes_may_flow():
    assert native_spec(CarrierFormat("wav", STEREO)) is not None
    with pytest.raises(ConfigurationError, match="is an object of one process"):
        native_spec(CarrierFormat("array", STEREO))


def test_a_file_that_promises_more_than_it_has_takes_no_memory():
    flac = bytearray(wav(container="FLAC"))
    flac[21] = flac[21] & 0xF0 | 0x0F  # 36 bits say how many frames there are
    flac[22:26] = b"\xff" * 4
    with pytest.raises(TransformError, match=r"flac: expected 68719476735 frames|damage after"):
        convert(bytes(flac), CarrierFormat("flac", STEREO), STEREO)


def test_channels_of_a_file_may_be_named():
    raw = io.BytesIO()
    soundfile.write(raw, np.ones((100, 6)) * 0.1, RATE, format="WAV", subtype="FLOAT")
    named = CarrierFormat("wav", AudioFormat(channel_layout="5.1"))
    assert convert(raw.getvalue(), named, AudioFormat(channels=2)).shape == (100, 2)
    with pytest.raises(TransformError, match="expected channels 2, got data of audio"):
        convert(raw.getvalue(), CarrierFormat("wav", AudioFormat(channels=2)), AudioFormat(channels=2))


def test_encoders_check_what_they_are_given():
    for carrier in ("pcm", "typed_array", "array", "buffer", "dlpack", "wav"):
        with pytest.raises(TransformError, match=f"{carrier} encoded: expected"):
            transformer = DataTransformer()
            transformer.transform(
                Block(np.zeros((4, 2), np.float32), STEREO), transformer.plan(STEREO, CarrierFormat(carrier))
            )


def test_pieces_of_pcm_follow_each_other():
    fmt, target = AudioFormat(48_000, 1, "s16"), AudioFormat(16_000, 1)
    samples = np.random.default_rng(1).integers(-9_000, 9_000, (9_600, 1), np.int16)
    transformer = DataTransformer()
    carried = CarrierFormat("pcm", fmt)
    plan = transformer.plan(carried, target)
    made = [out for at in range(0, 9_600, 480) for out in transformer.transform(samples[at : at + 480].tobytes(), plan)]
    made += transformer.flush()
    np.testing.assert_array_equal(np.concatenate([block.samples for block in made]), convert(samples, fmt, target))


def test_what_encoders_do_is_counted():
    transformer = DataTransformer()
    plan = transformer.plan(STEREO, CarrierFormat("pcm"))
    transformer.transform(np.zeros((100, 2), np.int16), plan)
    (report,) = transformer.reports()
    assert (report.frames, report.copied_bytes) == (100, 400)


def test_floats_that_json_has_no_word_for_come_back():
    fmt = AudioFormat(RATE, 1)
    block = Block(np.zeros((4, 1), np.float32), fmt, metadata={"gain": float("-inf"), "text": "inf"})
    one, other = DataTransformer(), DataTransformer()
    (frame,) = one.transform(block, one.plan(fmt, CarrierFormat("typed_array")))
    (back,) = other.transform(Block(frame.data, frame.format), other.plan(frame.format, fmt))
    assert back.metadata == block.metadata
