"""Conversion: sample type and layout in one pass, sample rate, and ends that agree; speed, and what resamplers do to sound."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from steadyflow.benchmarks.blocks import WINDOW_BLOCKS, per_block_ns
from steadyflow.benchmarks.harness import (
    FULL,
    QUICK,
    Contestant,
    Effort,
    Figure,
    Measured,
    Recording,
    Result,
    Say,
    Target,
    Workload,
    silent,
    target_ratio,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

__all__ = ["run"]

_IN_HZ: Final = 48_000
_OUT_HZ: Final = 16_000


def run(quick: bool = False, *, effort: Effort | None = None, say: Say = silent) -> Result:
    """Measure all figures."""
    effort = effort or (QUICK if quick else FULL)
    recording = Recording("transform", effort, say)
    for frames, contestants in _SAMPLES.items():
        recording.compare(
            f"f32 -> s16, stereo interleaved -> planar, {frames} frames",
            "one block, array to array",
            contestants,
            effort.unpaced(times=0.2),
            targets=_sample_targets,
            notes=["libswresample, frame to frame: without the way from an array into its frame and back"],
        )
    for frames, contestants in _RATES.items():
        recording.compare(
            f"48 -> 16 kHz, mono f32, {frames} frames",
            "one block of a stream",
            contestants,
            effort.unpaced(times=0.2),
            targets=_rate_targets,
        )
    recording.compare(
        "ends that agree",
        "five hops of 512 bytes in one worker",
        _EQUAL,
        effort.unpaced(),
        targets=lambda figure: [
            target_ratio(figure, "steadyflow, without the word", "p50", 0.97, "no converter is called: within noise")
        ],
    )
    return recording.result()


def _sample_targets(figure: Figure) -> list[Target]:
    return [
        target_ratio(figure, "numpy", "p50", 3, "≥ 3× faster than the numpy expression"),
        target_ratio(figure, "libswresample, frame to frame", "p50", 1, "no slower than libswresample"),
    ]


def _rate_targets(figure: Figure) -> list[Target]:
    return [target_ratio(figure, "soxr alone", "p50", 0.9, "within 10 % of soxr alone")]


def _timed(work: Workload, call: Callable[[Any], object], block: Any) -> Measured:
    """Time calls with the same block."""
    marks_ns = []
    for _ in range(max(work.all_blocks // WINDOW_BLOCKS, 2)):
        for _ in range(WINDOW_BLOCKS):
            call(block)
        marks_ns.append(time.monotonic_ns())
    return Measured(per_block_ns(marks_ns, work))


def _noise(frames: int, channels: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).uniform(-1, 1, (frames, channels)).astype(np.float32)


# --- sample type and layout ---------------------------------------------------------------------------------------------


def _plan_of_samples(frames: int) -> tuple[Any, Any]:
    from steadyflow import AudioFormat, Block
    from steadyflow.transform import Conversion, make_plan

    source = AudioFormat(_IN_HZ, 2, max_block_frames=frames)
    conversion = Conversion(make_plan(source, AudioFormat(_IN_HZ, 2, "s16", "planar")))
    return conversion.push, Block(_noise(frames, 2), source)


def _our_samples(work: Workload, frames: int) -> Measured:
    push, block = _plan_of_samples(frames)
    return _timed(work, push, block)


def _our_kernel(work: Workload, frames: int) -> Measured:
    from steadyflow import AudioFormat
    from steadyflow._native import SampleConverter
    from steadyflow.payload import native_spec

    source = AudioFormat(_IN_HZ, 2, max_block_frames=frames)
    target = AudioFormat(_IN_HZ, 2, "s16", "planar", max_block_frames=frames)
    return _timed(work, SampleConverter(native_spec(source), native_spec(target), [], False).convert, _noise(frames, 2))


def _numpy_samples(work: Workload, frames: int) -> Measured:
    def convert(samples: Any) -> Any:
        return np.clip(np.rint(samples.T * np.float32(32768)), -32768, 32767).astype(np.int16)

    return _timed(work, convert, _noise(frames, 2))


def _av_samples(work: Workload, frames: int, *, arrays: bool) -> Measured:
    import av

    resampler = av.AudioResampler("s16p", "stereo", _IN_HZ)

    def frame_of(samples: Any) -> Any:
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "flt", "stereo")
        frame.sample_rate = _IN_HZ
        return frame

    def convert(samples: Any) -> Any:
        return [out.to_ndarray() for out in resampler.resample(frame_of(samples))]

    samples = _noise(frames, 2)
    return _timed(work, convert, samples) if arrays else _timed(work, resampler.resample, frame_of(samples))


def our_samples_128(work: Workload) -> Measured:
    """Convert 128 frames as a pipeline does."""
    return _our_samples(work, 128)


def our_kernel_128(work: Workload) -> Measured:
    """Call the native kernel."""
    return _our_kernel(work, 128)


def numpy_samples_128(work: Workload) -> Measured:
    """Evaluate a numpy expression."""
    return _numpy_samples(work, 128)


def av_samples_128(work: Workload) -> Measured:
    """Let libswresample convert an array."""
    return _av_samples(work, 128, arrays=True)


def av_frames_128(work: Workload) -> Measured:
    """Let libswresample convert a frame."""
    return _av_samples(work, 128, arrays=False)


def our_samples_4800(work: Workload) -> Measured:
    """Convert 4800 frames as a pipeline does."""
    return _our_samples(work, 4800)


def our_kernel_4800(work: Workload) -> Measured:
    """Call the native kernel."""
    return _our_kernel(work, 4800)


def numpy_samples_4800(work: Workload) -> Measured:
    """Evaluate a numpy expression."""
    return _numpy_samples(work, 4800)


def av_samples_4800(work: Workload) -> Measured:
    """Let libswresample convert an array."""
    return _av_samples(work, 4800, arrays=True)


def av_frames_4800(work: Workload) -> Measured:
    """Let libswresample convert a frame."""
    return _av_samples(work, 4800, arrays=False)


# --- sample rate --------------------------------------------------------------------------------------------------------


def _judged(measured: Measured, resample: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]) -> Measured:
    """Add what a resampler does to sound."""
    from steadyflow.benchmarks.resampling_quality import quality

    figures = quality(resample, _IN_HZ, _OUT_HZ)
    said = (
        f"THD+N {figures['thd_n_db']:.0f} dB, SNR of a sweep {figures['sweep_snr_db']:.0f} dB, ripple {figures['ripple_db']:.4f} dB, "
        f"aliases {figures['alias_db']:.0f} dB"
    )
    return Measured(measured.samples_ns, measured.facts | figures | {"quality": said})


def _in_blocks(
    samples: npt.NDArray[np.float32],
    frames: int,
    push: Callable[[npt.NDArray[np.float32]], Any],
    last: Callable[[], Any],
) -> npt.NDArray[Any]:
    parts = [push(samples[at : at + frames]) for at in range(0, len(samples), frames)]
    return np.concatenate([np.asarray(part).ravel() for part in [*parts, last()]])


def _our_rate(work: Workload, frames: int, quality: str) -> Measured:
    from steadyflow import AudioFormat, Block, ConversionOptions
    from steadyflow.transform import Conversion, convert, make_plan

    source, target = AudioFormat(_IN_HZ, 1, max_block_frames=frames), AudioFormat(_OUT_HZ, 1)
    options = ConversionOptions(quality=quality)
    push = Conversion(make_plan(source, target, options)).push
    samples = _noise(frames, 1)
    # A block of a stream comes after the one before; making it is the data plane's work, and is not counted here.
    blocks = (Block(samples, source, first_frame=number * frames) for number in itertools.count())
    marks_ns = []
    for _ in range(max(work.all_blocks // WINDOW_BLOCKS, 2)):
        window = list(itertools.islice(blocks, WINDOW_BLOCKS))
        began_ns = time.monotonic_ns()
        for block in window:
            push(block)
        marks_ns.append(time.monotonic_ns() - began_ns)
    measured = Measured(per_block_ns(list(itertools.accumulate(marks_ns)), work))
    return _judged(measured, lambda signal: convert(signal[:, None], source, target, options)[:, 0])


def _soxr_alone(work: Workload, frames: int, quality: str) -> Measured:
    import soxr

    stream = soxr.ResampleStream(_IN_HZ, _OUT_HZ, 1, quality=quality)
    measured = _timed(work, stream.resample_chunk, _noise(frames, 1))

    def resample(signal: Any) -> Any:
        fresh = soxr.ResampleStream(_IN_HZ, _OUT_HZ, 1, quality=quality)
        empty = np.empty(0, np.float32)
        return _in_blocks(signal, frames, fresh.resample_chunk, lambda: fresh.resample_chunk(empty, last=True))

    return _judged(measured, resample)


def _av_rate(work: Workload, frames: int) -> Measured:
    import av

    def made() -> Callable[[Any], Any]:
        resampler = av.AudioResampler("flt", "mono", _OUT_HZ)

        def push(samples: Any) -> Any:
            frame = None
            if samples is not None:
                frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "flt", "mono")
                frame.sample_rate = _IN_HZ
            parts = [out.to_ndarray() for out in resampler.resample(frame)]
            return np.concatenate(parts, axis=1) if parts else np.empty(0, np.float32)

        return push

    measured = _timed(work, made(), _noise(frames, 1))

    def resample(signal: Any) -> Any:
        push = made()
        return _in_blocks(signal, frames, push, lambda: push(None))

    return _judged(measured, resample)


def _scipy_rate(work: Workload, frames: int) -> Measured:
    from scipy.signal import resample_poly

    def push(samples: Any) -> Any:
        return resample_poly(samples, 1, _IN_HZ // _OUT_HZ)

    measured = _timed(work, push, _noise(frames, 1)[:, 0])
    return _judged(measured, lambda signal: _in_blocks(signal, frames, push, lambda: np.empty(0, np.float32)))


def _numpy_rate(work: Workload, frames: int) -> Measured:
    wanted = np.arange(0, frames, _IN_HZ / _OUT_HZ)
    there = np.arange(frames)

    def push(samples: Any) -> Any:
        return np.interp(wanted[: -(-len(samples) * _OUT_HZ // _IN_HZ)], there[: len(samples)], samples)

    measured = _timed(work, push, _noise(frames, 1)[:, 0])
    return _judged(measured, lambda signal: _in_blocks(signal, frames, push, lambda: np.empty(0, np.float32)))


def our_rate_480(work: Workload) -> Measured:
    """Resample 480 frames as a pipeline does."""
    return _our_rate(work, 480, "HQ")


def soxr_480(work: Workload) -> Measured:
    """Call soxr."""
    return _soxr_alone(work, 480, "HQ")


def av_rate_480(work: Workload) -> Measured:
    """Let libswresample do it."""
    return _av_rate(work, 480)


def scipy_rate_480(work: Workload) -> Measured:
    """Filter each block by itself."""
    return _scipy_rate(work, 480)


def numpy_rate_480(work: Workload) -> Measured:
    """Interpolate."""
    return _numpy_rate(work, 480)


def our_rate_4800(work: Workload) -> Measured:
    """Resample 4800 frames as a pipeline does."""
    return _our_rate(work, 4800, "HQ")


def our_vhq_4800(work: Workload) -> Measured:
    """Do it at the highest quality."""
    return _our_rate(work, 4800, "VHQ")


def soxr_4800(work: Workload) -> Measured:
    """Call soxr."""
    return _soxr_alone(work, 4800, "HQ")


def av_rate_4800(work: Workload) -> Measured:
    """Let libswresample do it."""
    return _av_rate(work, 4800)


def scipy_rate_4800(work: Workload) -> Measured:
    """Filter each block by itself."""
    return _scipy_rate(work, 4800)


def numpy_rate_4800(work: Workload) -> Measured:
    """Interpolate."""
    return _numpy_rate(work, 4800)


# --- ends that agree ----------------------------------------------------------------------------------------------------


def _equal_ends(work: Workload, *, allowed: bool) -> Measured:
    from steadyflow.benchmarks.flows import run_flow

    return run_flow(work, modules_between=4, links={"transformation_required": allowed})


def with_the_word(work: Workload) -> Measured:
    """Run a chain of pipelines that may convert, and need not."""
    return _equal_ends(work, allowed=True)


def without_the_word(work: Workload) -> Measured:
    """Run a chain of pipelines that may not."""
    return _equal_ends(work, allowed=False)


_BY_BLOCK = "each block by itself, without what came before: clicks at every border"


def _sample_contestants(kernel: Any, pipeline: Any, numpy: Any, av: Any, av_frames: Any) -> list[Contestant]:
    return [
        Contestant("steadyflow", kernel, note="an array in, an array out"),
        Contestant("steadyflow, as a pipeline", pipeline, note="a block in, a block with its stamps out, counted"),
        Contestant("numpy", numpy, note="clip(rint(x.T * 32768)).astype(int16)"),
        Contestant("libswresample", av, requires="av", note="through PyAV, an array in, an array out"),
        Contestant("libswresample, frame to frame", av_frames, requires="av", note="through PyAV"),
    ]


_SAMPLES: Final = {
    128: _sample_contestants(our_kernel_128, our_samples_128, numpy_samples_128, av_samples_128, av_frames_128),
    4800: _sample_contestants(our_kernel_4800, our_samples_4800, numpy_samples_4800, av_samples_4800, av_frames_4800),
}
_RATES: Final = {
    480: [
        Contestant("steadyflow", our_rate_480, requires="soxr", note="HQ"),
        Contestant("soxr alone", soxr_480, requires="soxr", note="HQ"),
        Contestant("libswresample", av_rate_480, requires="av", note="its own resampler, through PyAV"),
        Contestant("scipy, resample_poly", scipy_rate_480, requires="scipy", note=_BY_BLOCK),
        Contestant("numpy, interp", numpy_rate_480, note=_BY_BLOCK),
    ],
    4800: [
        Contestant("steadyflow", our_rate_4800, requires="soxr", note="HQ"),
        Contestant("steadyflow, VHQ", our_vhq_4800, requires="soxr", note="VHQ"),
        Contestant("soxr alone", soxr_4800, requires="soxr", note="HQ"),
        Contestant("libswresample", av_rate_4800, requires="av", note="its own resampler, through PyAV"),
        Contestant("scipy, resample_poly", scipy_rate_4800, requires="scipy", note=_BY_BLOCK),
        Contestant("numpy, interp", numpy_rate_4800, note=_BY_BLOCK),
    ],
}
_EQUAL: Final = [
    Contestant("steadyflow", with_the_word, note="transformation_required=True"),
    Contestant("steadyflow, without the word", without_the_word, note="transformation_required=False"),
]
