"""Files in and out: formats, stamps, pace, damage, and disks that fill up."""

import builtins
import contextlib
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steadyflow.audio import FileSink, FileSource
from steadyflow.audio import files as files_module
from steadyflow.data import Block, BlockFlag
from steadyflow.errors import ConfigurationError, FileUnreadable, FileUnwritable, MissingExtra, UnknownName
from steadyflow.formats import AudioFormat

soundfile = pytest.importorskip("soundfile")

RATE = 48_000


class Recorder:
    """Stands in for an output port."""

    def __init__(self):
        self.sent = []

    def send(self, data):
        self.sent.append(data)
        return True


class StoppedClock:
    def monotonic_ns(self):
        return 7_000


def noise(frames, channels=1, seed=0, peak=0.5):
    return np.random.default_rng(seed).uniform(-peak, peak, (frames, channels)).astype(np.float32)


def on_grid(samples, bits=16):
    """What a file of so many bits holds of the samples."""
    scale = 1 << (bits - 1)
    return (np.clip(np.rint(samples.astype(np.float64) * scale), -scale, scale - 1) / scale).astype(np.float32)


def source(path, **options):
    made = FileSource(path, **{"realtime_pace": False, **options})
    made._clock = StoppedClock()
    vars(made)["out"] = Recorder()
    return made


def play(made):
    """Run a source to its end; returns what it sent and yielded."""
    made.setup()
    try:
        yields = list(made.produce())
    finally:
        made.teardown()
    return made.out.sent, yields


def joined(sent):
    return np.concatenate([data.data for data in sent])


def sink(path, rate_hz=RATE, channels=1, **options):
    made = FileSink(path, **options)
    made.audio.format = AudioFormat(rate_hz, channels)
    made.setup()
    return made


def block(samples, first_frame=0):
    return Block(samples, AudioFormat(RATE, samples.shape[1]), first_frame=first_frame)


def record(path, samples, block_frames=480, rate_hz=RATE, **options):
    made = sink(path, rate_hz, samples.shape[1], **options)
    try:
        for first in range(0, len(samples), block_frames):
            made.process(block(samples[first : first + block_frames], first))
        made.finish()
    finally:
        made.teardown()
    return made


# --- FileSource ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "subtype", "bits"),
    [
        ("a.wav", "PCM_16", 16),
        ("a.wav", "PCM_24", 24),
        ("a.flac", "PCM_16", 16),
        ("a.flac", "PCM_24", 24),
        ("a.aiff", "PCM_16", 16),
    ],
)
@pytest.mark.parametrize("options", [{}, {"block_frames": 128}, {"block_frames": 20_000}, {"realtime_pace": True}])
def test_a_file_is_played_exactly(tmp_path, name, subtype, bits, options):
    samples = noise(50_000, channels=2)
    soundfile.write(tmp_path / name, samples, RATE, subtype=subtype)
    sent, _ = play(source(tmp_path / name, **options))
    assert {data.data.dtype for data in sent} == {np.dtype(np.float32)}
    np.testing.assert_allclose(joined(sent), on_grid(samples, bits), atol=1.01 / (1 << (bits - 1)))
    np.testing.assert_array_equal(joined(sent), soundfile.read(tmp_path / name, dtype="float32")[0])


def test_a_lossy_file_is_played_to_its_end(tmp_path):
    soundfile.write(tmp_path / "a.ogg", noise(30_000), RATE)
    sent, _ = play(source(tmp_path / "a.ogg"))
    assert len(joined(sent)) == 30_000
    assert sent[-1].flags == BlockFlag.END_OF_STREAM


def test_the_format_comes_from_the_header(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(10, channels=2), 44_100)
    formats = FileSource(tmp_path / "a.wav", block_frames=128).resolve_formats({})
    assert formats == {"out": AudioFormat(44_100, 2, "f32", "interleaved", max_block_frames=128)}


@pytest.mark.parametrize("realtime_pace", [True, False])
@pytest.mark.parametrize(
    ("frames", "lengths"), [(1200, [480, 480, 240]), (960, [480, 480]), (1, [1]), (480, [480]), (481, [480, 1])]
)
def test_blocks_are_stamped_from_the_start_and_the_last_one_is_flagged(tmp_path, frames, lengths, realtime_pace):
    soundfile.write(tmp_path / "a.wav", noise(frames), 44_100)
    sent, yields = play(source(tmp_path / "a.wav", realtime_pace=realtime_pace))
    firsts = [sum(lengths[:index]) for index in range(len(lengths))]
    assert [len(data.data) for data in sent] == lengths
    assert [data.first_frame for data in sent] == firsts
    assert [data.timestamp_ns for data in sent] == [7_000 + first * 1_000_000_000 // 44_100 for first in firsts]
    assert [data.flags for data in sent] == [0] * (len(lengths) - 1) + [BlockFlag.END_OF_STREAM]
    # Each yield says when the next block is due; there is nothing to wait for after the last one.
    assert yields == ([data.timestamp_ns for data in sent[1:]] if realtime_pace else [None] * (len(lengths) - 1))


def test_the_pace_does_not_drift(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(441_000), 44_100)
    sent, yields = play(source(tmp_path / "a.wav", block_frames=1000, realtime_pace=True))
    assert yields[-1] == 7_000 + (len(sent) - 1) * 1000 * 1_000_000_000 // 44_100


def test_a_source_is_paced_unless_told_otherwise(tmp_path):
    assert FileSource(tmp_path / "a.wav").paced
    assert not FileSource(tmp_path / "a.wav", realtime_pace=False).paced
    assert not FileSource(tmp_path / "a.wav").live


# --- files that cannot be played ----------------------------------------------------------------------------------------


def assert_unreadable(path, message):
    with pytest.raises(FileUnreadable, match=message) as caught:
        FileSource(path).resolve_formats({})
    assert str(path) in str(caught.value)
    with pytest.raises(FileUnreadable, match=message):
        FileSource(path).setup()


def test_a_missing_file_is_named(tmp_path):
    assert_unreadable(tmp_path / "none.wav", "No such file or directory")


def test_a_folder_is_no_file(tmp_path):
    assert_unreadable(tmp_path, "Is a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(10), RATE)
    (tmp_path / "a.wav").chmod(0)
    assert_unreadable(tmp_path / "a.wav", "Permission denied")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_an_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    assert_unreadable(tmp_path / name, "0 bytes")


@pytest.mark.parametrize("name", ["a.wav", "a.ogg"])
def test_a_file_without_frames(tmp_path, name):
    soundfile.write(tmp_path / name, noise(0), RATE)
    assert_unreadable(tmp_path / name, "0 frames")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.txt", "a.raw", "noname"])
@pytest.mark.parametrize("content", [b"hello, this is text\n" * 10, b"RIFF", b"fLaC", bytes(1000)])
def test_a_file_that_is_not_audio(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert_unreadable(tmp_path / name, "expected an audio file|0 frames")


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=200), head=st.sampled_from([b"", b"RIFF\x00\x10\x00\x00WAVE", b"fLaC", b"OggS"]))
def test_whatever_the_bytes_are_there_is_one_kind_of_error(tmp_path_factory, content, head):
    path = tmp_path_factory.mktemp("bytes") / "a.wav"
    path.write_bytes(head + content)
    made = source(path)
    with contextlib.suppress(FileUnreadable):
        play(made)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
@pytest.mark.parametrize("options", [{"block_frames": 128}, {"block_frames": 20_000}, {"realtime_pace": True}])
def test_of_a_file_that_was_cut_off_everything_is_played(tmp_path, name, options):
    path = tmp_path / name
    soundfile.write(path, noise(50_000), RATE)
    whole = soundfile.read(path, dtype="float32", always_2d=True)[0]
    os.truncate(path, path.stat().st_size * 2 // 3)
    made = source(path, **options)
    with pytest.raises(FileUnreadable) as caught:
        play(made)
    samples = joined(made.out.sent)
    assert 28_000 < len(samples) < 34_000
    np.testing.assert_array_equal(samples, whole[: len(samples)])
    assert f"expected 50000 frames (1.042 s), got {len(samples)} frames" in str(caught.value)
    # It is not the end of the stream, but a failure.
    assert not any(data.flags for data in made.out.sent)


def test_a_damaged_file_is_played_up_to_the_damage(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(50_000), RATE)
    whole = soundfile.read(path, dtype="float32", always_2d=True)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    made = source(path)
    with pytest.raises(FileUnreadable, match="expected 50000 frames"):
        play(made)
    samples = joined(made.out.sent)
    assert 20_000 < len(samples) < 30_000
    np.testing.assert_array_equal(samples[:16_000], whole[:16_000])


@pytest.mark.parametrize("size", [0, 0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_a_wav_that_was_streamed_has_no_length_to_keep(tmp_path, size):
    """Writers that cannot seek leave a placeholder for the size; that is no damage."""
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(5000), RATE)
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    if not size:
        content[4:8] = struct.pack("<I", 8)
    path.write_bytes(content)
    sent, _ = play(source(path))
    assert len(joined(sent)) == 5000
    assert sent[-1].flags == BlockFlag.END_OF_STREAM


def test_other_chunks_of_a_wav_are_passed_over(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(5000), RATE)
    content = path.read_bytes()
    at = content.index(b"data")
    content = content[:at] + b"LIST" + struct.pack("<I", 101) + bytes(102) + content[at:]
    path.write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    assert len(joined(play(source(path))[0])) == 5000
    os.truncate(path, 8000)
    with pytest.raises(FileUnreadable, match="expected 5000 frames"):
        play(source(path))


@pytest.mark.parametrize("container", ["RF64", "WAVEX"])
def test_large_wavs_promise_their_length_too(tmp_path, container):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(5000, channels=2), RATE, format=container, subtype="PCM_24")
    assert len(joined(play(source(path))[0])) == 5000
    os.truncate(path, 12_000)
    with pytest.raises(FileUnreadable, match="expected 5000 frames"):
        play(source(path))


def test_a_compressed_wav_promises_nothing(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(8000), 8000, subtype="MS_ADPCM")
    assert len(joined(play(source(path))[0])) >= 8000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5,), "path"),
        (("",), "path"),
        ((b"a.wav",), "path"),
        (("a.wav", 0), "block_frames"),
        (("a.wav", 480.0), "block_frames"),
        (("a.wav", True), "block_frames"),
        (("a.wav", 480, "yes"), "realtime_pace"),
    ],
)
def test_impossible_arguments_of_a_source_are_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        FileSource(*arguments)


# --- FileSink -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sample_type", "bits"),
    [
        ("a.wav", "u8", 8),
        ("a.wav", "s16", 16),
        ("a.wav", "s24", 24),
        ("a.wav", "s32", 32),
        ("a.flac", "s16", 16),
        ("a.flac", "s24", 24),
        ("A.WAV", "s16", 16),
    ],
)
def test_samples_are_rounded_to_the_nearest(tmp_path, name, sample_type, bits):
    samples = noise(5000, channels=2, peak=1.0)
    record(tmp_path / name, samples, sample_type=sample_type)
    stored, rate_hz = soundfile.read(tmp_path / name, dtype="float64")
    assert rate_hz == RATE
    np.testing.assert_array_equal(stored.astype(np.float32), on_grid(samples, bits))


@pytest.mark.parametrize("sample_type", ["f32", "f64"])
def test_a_float_file_keeps_everything(tmp_path, sample_type):
    samples = noise(1000, peak=3.0)
    made = record(tmp_path / "a.wav", samples, sample_type=sample_type)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav", dtype="float32", always_2d=True)[0], samples)
    assert made.clipped_samples == 0


def test_a_lossy_file_sounds_alike(tmp_path):
    samples = (0.5 * np.sin(np.arange(48_000) * 0.05)).astype(np.float32)[:, np.newaxis]
    record(tmp_path / "a.ogg", samples)
    stored = soundfile.read(tmp_path / "a.ogg", dtype="float32", always_2d=True)[0]
    assert stored.shape == samples.shape
    assert np.sqrt(np.mean((stored - samples) ** 2)) < 0.01


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_what_was_recorded_is_played_and_recorded_again_unchanged(tmp_path, name):
    record(tmp_path / name, noise(5000, channels=2))
    sent, _ = play(source(tmp_path / name))
    record(tmp_path / f"again-{name}", joined(sent), block_frames=777)
    first, second = (soundfile.read(tmp_path / other, dtype="int16")[0] for other in (name, f"again-{name}"))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("name", "sample_type"), [("a.wav", "u8"), ("a.wav", "s16"), ("a.flac", "s24"), ("a.wav", "s32")]
)
def test_what_does_not_fit_is_clipped_and_counted(tmp_path, name, sample_type, caplog):
    samples = np.array([[0.0, 1.0], [-1.0, 1.001], [-1.5, 100.0], [np.inf, -np.inf], [np.nan, 0.5]], np.float32)
    made = record(tmp_path / name, samples, sample_type=sample_type)
    stored = soundfile.read(tmp_path / name)[0]
    expected = [[0.0, 1.0], [-1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [0.0, 0.5]]
    np.testing.assert_allclose(stored, expected, atol=1 / 127)
    assert made.clipped_samples == 6
    assert "clipped 6 samples" in caplog.text


def test_full_scale_is_not_clipping(tmp_path, caplog):
    made = record(tmp_path / "a.wav", np.array([[1.0], [-1.0]], np.float32))
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist() == [32_767, -32_768]
    assert made.clipped_samples == 0
    assert not caplog.text


def test_not_a_number_does_no_harm_to_a_lossy_file(tmp_path):
    samples = noise(10_000)
    samples[5000] = np.nan
    record(tmp_path / "a.ogg", samples)
    assert np.isfinite(soundfile.read(tmp_path / "a.ogg")[0]).all()


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_very_long_blocks_are_written_whole(tmp_path, name):
    record(tmp_path / name, noise(300_000), block_frames=300_000)
    assert soundfile.info(tmp_path / name).frames == 300_000


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_a_recording_without_blocks_is_no_error(tmp_path, name):
    record(tmp_path / name, noise(0))
    assert (tmp_path / name).exists()


def test_a_sink_completes_its_file_when_another_module_fails(tmp_path):
    made = sink(tmp_path / "a.flac")
    made.process(block(noise(1000)))
    made.teardown()  # without finish()
    assert soundfile.info(tmp_path / "a.flac").frames == 1000
    made.teardown()


def test_a_sink_has_a_worker_of_its_own():
    assert FileSink.blocking
    assert not FileSource.blocking


@pytest.mark.parametrize("suffix", [".mp3", ".aiff", "", ".flacc"])
def test_other_containers_are_refused_with_a_list(tmp_path, suffix):
    with pytest.raises(UnknownName, match=r"Known: \.wav, \.flac, \.ogg"):
        FileSink(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    ("name", "sample_type", "known"),
    [
        ("a.flac", "f32", "Known: s16, s24"),
        ("a.ogg", "s24", "Known: s16, f32"),
        ("a.wav", "s17", "did you mean 's16'"),
        ("a.wav", [], "Known"),
    ],
)
def test_a_sample_type_that_the_container_lacks_is_refused_with_a_list(tmp_path, name, sample_type, known):
    with pytest.raises(UnknownName, match=known):
        FileSink(tmp_path / name, sample_type=sample_type)


@pytest.mark.parametrize("path", [None, "", 3, b"a.wav"])
def test_a_path_is_text(path):
    with pytest.raises(ConfigurationError, match="path"):
        FileSink(path)


def test_an_unconnected_sink_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="not connected"):
        FileSink(tmp_path / "a.wav").setup()
    assert not (tmp_path / "a.wav").exists()


# --- targets that cannot be written ---------------------------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileUnwritable, match="No such file or directory") as caught:
        sink(tmp_path / "none" / "a.wav")
    assert "0 frames" in str(caught.value)


def test_a_pipe_in_place_of_the_file(tmp_path):
    """Nobody reads from it: opening it would wait for ever."""
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(FileUnwritable, match=r"expected a file, or none yet, got something else"):
        sink(tmp_path / "a.wav")


def test_a_folder_in_place_of_the_file(tmp_path):
    (tmp_path / "a.wav").mkdir()
    with pytest.raises(FileUnwritable, match="Is a directory"):
        sink(tmp_path / "a.wav")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(FileUnwritable, match="Permission denied"):
        sink(tmp_path / "a.wav")


def test_channels_that_a_container_cannot_hold(tmp_path):
    with pytest.raises(FileUnwritable, match="FLAC file cannot hold audio 48000 Hz, 9 channels"):
        sink(tmp_path / "a.flac", channels=9)
    assert not (tmp_path / "a.flac").exists()


@contextlib.contextmanager
def room_for(size_bytes):
    """Let no file of this process grow beyond a size: it is a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


CONTAINERS = [
    ("a.wav", "s16"),
    ("a.wav", "s24"),
    ("a.wav", "f32"),
    ("a.flac", "s16"),
    ("a.flac", "s24"),
    ("a.ogg", "s16"),
]


@pytest.mark.parametrize(("name", "sample_type"), CONTAINERS)
@pytest.mark.parametrize("size_bytes", [30_000, 50_001, 65_536])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_full_disk_is_reported_and_the_file_readable_up_to_there(tmp_path, name, sample_type, size_bytes, channels):
    path = tmp_path / name
    samples = noise(480_000, channels)
    with room_for(size_bytes):
        with pytest.raises(FileUnwritable) as caught:
            record(path, samples, sample_type=sample_type)
        # Nothing more can be read than what the error says; and all of that.
        stored = soundfile.read(path, dtype="float32", always_2d=True)[0]
    assert str(path) in str(caught.value)
    assert "File too large" in str(caught.value)
    assert f"at {len(stored)} frames ({len(stored) / RATE:.3f} s)" in str(caught.value)
    assert len(stored) > 1000
    assert path.stat().st_size <= size_bytes
    if not name.endswith(".ogg"):
        written = on_grid(samples, int(sample_type[1:])) if sample_type != "f32" else samples
        np.testing.assert_array_equal(stored, written[: len(stored)])
    # Our own source agrees that the file is sound.
    assert len(joined(play(source(path))[0])) == len(stored)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_a_disk_that_fills_up_at_the_very_end_is_noticed(tmp_path, name):
    """An encoder writes its last samples when it is closed, and libsndfile says nothing if they are lost."""
    path = tmp_path / name
    samples = noise(6000)
    record(path, samples)
    size = path.stat().st_size
    for missing in [1, 2, 100, 2000]:
        with room_for(size - missing), pytest.raises(FileUnwritable) as caught:
            record(path, samples)
        frames = int(str(caught.value).split(" at ")[1].split()[0])
        assert frames == (soundfile.info(path).frames if frames else 0)
        assert frames < 6000
    with room_for(size):
        record(path, samples)
    assert soundfile.info(path).frames == 6000


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
@pytest.mark.parametrize("size_bytes", [0, 10, 43, 200])
def test_a_disk_without_room_for_a_header(tmp_path, name, size_bytes):
    with room_for(size_bytes), pytest.raises(FileUnwritable, match=r"File too large, at \d+ frames"):
        record(tmp_path / name, noise(48_000))


def test_after_a_failed_write_the_reason_is_not_lost(tmp_path, monkeypatch):
    """If there is room again when the reason is asked for, libsndfile's words have to do."""
    made = sink(tmp_path / "a.wav")
    made.process(block(noise(480)))

    def fail(samples):
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(made._file, "write", fail, raising=False)
    with pytest.raises(FileUnwritable, match=r"System error, at 480 frames \(0.010 s\)"):
        made.process(block(noise(480)))
    assert made.teardown() is None


def test_a_wav_is_not_written_beyond_what_its_header_can_say(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "_MOST_WAV_BYTES", 4000)
    with pytest.raises(FileUnwritable, match=r"4 GiB, which ends at 1000 frames .* Record to \.flac"):
        record(tmp_path / "a.wav", noise(48_000, channels=2))
    assert soundfile.info(tmp_path / "a.wav").frames == 1000


# --- the extra ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [FileSource, FileSink])
@pytest.mark.parametrize("error", [ImportError("none"), OSError("sndfile library not found")])
def test_without_soundfile_the_extra_is_named(tmp_path, monkeypatch, make, error):
    true_import = builtins.__import__

    def import_without_soundfile(name, *arguments, **options):
        if name == "soundfile":
            raise error
        return true_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", import_without_soundfile)
    with pytest.raises(MissingExtra, match=rf"audio\.{make.__name__}.*pip install 'steadyflow\[audio\]'"):
        make(tmp_path / "a.wav")


def test_soundfile_is_imported_only_where_it_is_used():
    code = "import sys, steadyflow.audio; print('soundfile' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_modules_say_what_they_are(tmp_path):
    assert repr(FileSource("a.wav", 128)) == "<FileSource 'a.wav', 128 frames per block, real-time pace>"
    assert repr(FileSink(Path("b.flac"))) == "<FileSink 'b.flac', FLAC s16>"
