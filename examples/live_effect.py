"""
A microphone through an effect to a loudspeaker: a low-pass and a gain, computed in Python in a process of its own.

With one device, its capture and its playback have one clock, so that nothing drifts (`Duplex`). With two (--in and --out)
each has its own: as they drift apart, the jitter buffer runs dry, or blocks become too old and are dropped, from time to
time. Once a second it says what the way through Python adds to the device's own latency, how much of the time of a cycle
the effect and the device's callback take, and what was missing.

Run it: python examples/live_effect.py --lowpass-hz 800 --gain-db -6
        python examples/live_effect.py --in USB --out HDMI --buffer-ms 40

Ctrl-C ends it. It needs the extra audio: pip install 'steadyflow[audio]'. Mind the feedback: take headphones.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import numpy.typing as npt

from steadyflow import AudioFormat, Block, DataFlowCoordinator, FlowError, FlowFailed, FlowReport, Input, Module, Output
from steadyflow.audio import Duplex, Microphone, Speaker

TAPS = 63  # odd, so that the filter delays by whole frames: 31, which are 0.65 ms at 48 kHz


def low_pass(cutoff_hz: float, rate_hz: int) -> npt.NDArray[np.float64]:
    """Return the taps of a low-pass: a windowed sinc, which leaves the phase alone."""
    at = np.arange(TAPS) - TAPS // 2
    taps = np.sinc(2 * cutoff_hz / rate_hz * at) * np.hamming(TAPS)
    return np.asarray(taps / taps.sum())


class Effect(Module):
    """
    Filters and amplifies.

    Ports ``audio`` and ``out``: mono, any rate.

    Args:
        lowpass_hz: Where the filter begins to take away.
        gain_db: How much louder.
    """

    audio = Input(AudioFormat(channels=1))
    out = Output(like="audio")

    def __init__(self, lowpass_hz: float, gain_db: float) -> None:
        self._lowpass_hz = lowpass_hz
        self._gain = 10 ** (gain_db / 20)

    def setup(self) -> None:
        """Compute the filter for the rate of the device, which is known by now."""
        fmt = self.audio.format
        assert isinstance(fmt, AudioFormat)
        assert fmt.sample_rate_hz is not None
        self._taps = self._gain * low_pass(self._lowpass_hz, fmt.sample_rate_hz)
        self._past = np.zeros(TAPS - 1)

    def process(self, audio: Block) -> npt.NDArray[np.float32]:
        """Filter a block, going on from the last frames of the one before."""
        heard = np.concatenate([self._past, audio.samples[:, 0]])
        self._past = heard[1 - TAPS :]
        return np.convolve(heard, self._taps, "valid").astype(np.float32)


def describe(flow: DataFlowCoordinator, options: argparse.Namespace) -> None:
    """Add what captures, the effect, and what plays, to a flow."""
    effect = Effect(options.lowpass_hz, options.gain_db)
    flow.add(effect, name="effect", placement="process", realtime=True)
    if options.source is None:
        duplex = Duplex(options.device, sample_rate_hz=options.rate)
        flow.add(duplex, name="duplex", realtime=True)
        out, audio = duplex.out, duplex.audio
    else:
        out = flow.add(Microphone(options.source, sample_rate_hz=options.rate), name="microphone", realtime=True).out
        audio = flow.add(Speaker(options.target), name="speaker", realtime=True).audio
    flow.connect(out, effect.audio, buffer_size=64, priority="critical")
    # Playing begins when so much waits: what a block may be late without being missed. After a longer delay everything behind
    # it would stay as late, so what is far too old is left out.
    flow.connect(
        effect.out,
        audio,
        buffer_size=256,
        target_fill_ms=options.buffer_ms,
        max_latency_ms=4 * options.buffer_ms,
        late="drop",
        priority="critical",
    )


def status(report: FlowReport) -> str:
    """Say what the way adds, what share of a cycle is taken, and what was missing so far."""
    there, back = report.pipelines.values()
    added_ms = there.latency_p50_ms + there.busy_p50_ms + back.latency_p50_ms
    played = next(way.playback for way in report.devices.values() if way.playback is not None)
    loads = ", ".join(f"{name} {way.worst_load:.1%} at worst" for name, way in report.devices.items())
    lost = sum(way.capture.lost_frames for way in report.devices.values() if way.capture is not None)
    return (
        f"{report.duration_s:6.1f} s  added {added_ms:.2f} ms; load: effect {there.load_p99:.1%} at p99, {loads}; "
        f"underruns {played.underruns}, dropped {there.dropped_total + back.dropped_total}, frames lost {lost}"
    )


def play(options: argparse.Namespace) -> FlowReport:
    """Run the flow until the time is over, or Ctrl-C."""
    with DataFlowCoordinator("live-effect") as flow:
        describe(flow, options)
        flow.start()
        try:
            ends_s = time.monotonic() + options.seconds
            while (left_s := ends_s - time.monotonic()) > 0 and not flow.wait(min(1.0, left_s)):
                print(status(flow.report()), flush=True)
        except KeyboardInterrupt:
            pass
        return flow.stop()  # what was captured by now is still played


def main() -> int:
    """Return the exit code: 0, 1 where it failed, and 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        description="Play what a microphone hears through a low-pass and a gain, until Ctrl-C.",
        epilog="example: %(prog)s --lowpass-hz 800 --gain-db -6; `steadyflow devices` shows what there is",
    )
    parser.add_argument("--device", type=device, help="number, name or a part of the name; else the default one")
    parser.add_argument("--in", dest="source", type=device, metavar="DEVICE", help="capture from this one ...")
    parser.add_argument("--out", dest="target", type=device, metavar="DEVICE", help="... and play on this one")
    parser.add_argument("--rate", type=int, metavar="HZ", help="frames per second; else the device's own")
    parser.add_argument("--lowpass-hz", type=float, default=2000.0, metavar="HZ", help="default: %(default)s")
    parser.add_argument("--gain-db", type=float, default=-6.0, metavar="DB", help="default: %(default)s")
    parser.add_argument(
        "--buffer-ms", type=float, default=10.0, metavar="MS", help="jitter buffer; default: %(default)s"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    options = parser.parse_args()
    if (options.source is None) != (options.target is None) or (
        options.source is not None and options.device is not None
    ):
        parser.error("expected --in and --out together, or --device for both")
    try:
        report = play(options)
    except FlowFailed as failed:
        for problem in failed.exceptions:
            print(f"live_effect: {getattr(problem, 'explanation', '') or problem}", file=sys.stderr)
        return 1
    except FlowError as error:
        print(f"live_effect: {error}", file=sys.stderr)
        return 1
    print(report)
    return 0


def device(text: str) -> int | str:
    """Return a device as the flow takes it: a number is one, not a name."""
    return int(text) if text.isdigit() else text


if __name__ == "__main__":
    sys.exit(main())
