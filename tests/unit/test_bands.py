"""What the band meter says about signals whose spectrum is known."""

import math

import numpy as np
import pytest

from steadyflow import AudioFormat, Block, DataFlowCoordinator, audio, testing
from steadyflow.audio import BandMeter, Bands
from steadyflow.codec import codec_for

FORMAT = AudioFormat(16_000, 1, max_block_frames=512)


def measure(samples, timestamp_ns=0):
    samples = np.asarray(samples, np.float32).reshape(512, 1)
    return BandMeter().process(Block(samples, FORMAT, timestamp_ns=timestamp_ns))


def sine(frequency_hz):
    return np.sin(2 * np.pi * frequency_hz * np.arange(512) / 16_000)


@pytest.mark.parametrize("band", range(16))
def test_a_sine_is_in_the_band_of_its_frequency(band):
    edges_hz = BandMeter.edges_hz
    assert len(edges_hz) == 17
    middle_hz = math.sqrt(edges_hz[band] * edges_hz[band + 1])
    levels = measure(sine(middle_hz)).levels_db
    assert int(np.argmax(levels)) == band
    power = sum(10 ** (level / 10) for level in levels)
    assert 10 * math.log10(power) == pytest.approx(-3.01, abs=1)  # a short window blurs it
    far = [level for other, level in enumerate(levels) if abs(other - band) > 4]
    assert max(far) < -30


def test_white_noise_is_shared_out_by_the_width_of_the_bands():
    noise = np.random.default_rng(3).normal(0, 0.1, (400, 512))
    power = np.mean([[10 ** (level / 10) for level in measure(part).levels_db] for part in noise], axis=0)
    widths_hz = np.diff(BandMeter.edges_hz)
    assert 10 * np.log10(power / (widths_hz / 8000 * 0.01)) == pytest.approx(np.zeros(16), abs=0.6)


def test_silence_has_the_lowest_level_and_the_stamp_of_its_window():
    assert measure(np.zeros(512), timestamp_ns=77) == Bands((-120.0,) * 16, 77)


def test_not_a_number_is_not_hidden():
    assert math.isnan(measure([math.nan] * 512).levels_db[0])


def test_bands_fit_their_format():
    codec = codec_for(BandMeter().bands.format)
    bands = Bands((-119.99999999999999,) * 16, (1 << 63) - 1)
    assert codec.decode(codec.encode(bands)) == bands


def test_any_recording_comes_as_windows_of_one_channel_at_16_khz(tmp_path):
    import soundfile

    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(44_100) / 44_100)
    soundfile.write(tmp_path / "tone.wav", np.stack([tone, tone], 1), 44_100, subtype="PCM_16")
    with DataFlowCoordinator("bands") as flow:
        source = flow.add(audio.FileSource(tmp_path / "tone.wav", realtime_pace=False))
        meter = flow.add(BandMeter())
        flow.connect(source.out, meter.audio, buffer_size=16, transformation_required=True)
        collector = flow.add(testing.Collect())
        flow.connect(meter.bands, collector.data, buffer_size=16)
        flow.run()
    assert len(collector.values) == (16_000 - 512) // 160 + 1
    loudest = {int(np.argmax(bands.levels_db)) for bands in collector.values[3:-3]}
    assert loudest == {int(np.searchsorted(BandMeter.edges_hz, 1000)) - 1}
