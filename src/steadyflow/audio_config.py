"""The settings of a pipeline of audio: its limits in milliseconds, and what they are in frames and blocks."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal, NamedTuple

import msgspec

from steadyflow.arguments import check_duration
from steadyflow.backpressure.rules import Grow, Latest, Rule
from steadyflow.config import LATE, PipelineConfig, PipelinePriority
from steadyflow.conversion import ConversionOptions
from steadyflow.errors import ConfigurationError, UnknownName
from steadyflow.formats import AudioFormat, Format
from steadyflow.validation import Validation

_MAX_PREROLL_MS: Final = 3_600_000.0
CONCEALMENTS: Final = ("silence", "fade", "repeat")
"""What may stand in for what is missing, in the order of the data plane."""


class AudioPipelineConfig(PipelineConfig):
    """
    The settings of a pipeline of audio: those of `PipelineConfig`, and limits in ms. Frozen, hashable, compared by value.

    A block lasts as long as its frames; where the first limit is reached, be it ``buffer_size`` or one in ms, it holds.
    ``connect`` and flow files make one by themselves where one of its options is given. Neither end may have replicas.

    Args:
        buffer_size: How many blocks may wait, 1 to 65,536; as many are kept back at most for a jitter buffer or pre-roll.
        max_latency_ms: The latency that this pipeline may add, the jitter buffer's included; None sets no limit.
        priority: ``"critical"``, ``"high"``, ``"normal"`` or ``"low"``: which input a worker serves first.
        backpressure_strategy: The rule for a full pipeline; None: `Wait()` where the source can wait, else
            `DropOldest()`.
        transformation_required: Whether the pipeline may convert, on its consumer's side, where its ends do not agree; else they
            are refused.
        late: What happens to a block that is older than ``max_latency_ms`` when its turn comes: ``"pass"`` counts it (by
            what steadyflow added); ``"drop"`` drops it, and the next block says `BlockFlag.DISCONTINUITY`; ``"conceal"``
            drops it, too, and gives in its place a block as long that says `BlockFlag.GAP`. It fills gaps of up to 1 s between
            blocks in the same way, also those that ``backpressure_strategy`` made.
        target_fill_ms: A jitter buffer: the consumer gets nothing before so much audio waits, and again after it ran dry.
        conversion: How it converts, where there is a choice; None: as `ConversionOptions` says.
        validation: What its audio is checked for on the consumer's side; None: nothing.
        max_buffer_bytes: How many bytes may wait, beside the other limits; None: no limit.
        preroll_ms: What an input keeps while its module does not want it (``self.audio.hold()``), and gives first when it
            does (``self.audio.release()``); 0 keeps nothing. None: it cannot be held.
        max_buffer_ms: How much audio may wait, by the frames that there are.
        concealment: What ``late="conceal"`` makes up: ``"silence"``; ``"fade"``, the last block again and again, fading to silence
            within 20 ms; ``"repeat"``, the same without fading, but for the end of 1 s.

    Raises:
        UnknownName: There is no such option or value.
        ConfigurationError: A value is impossible, not available yet, or contradicts another.
    """

    __slots__ = ("concealment", "max_buffer_ms", "preroll_ms", "target_fill_ms")

    target_fill_ms: float | None
    preroll_ms: float | None
    max_buffer_ms: float | None
    concealment: Literal["silence", "fade", "repeat"]

    OPTIONS: ClassVar[tuple[str, ...]] = (
        *PipelineConfig.OPTIONS,
        "target_fill_ms",
        "preroll_ms",
        "max_buffer_ms",
        "concealment",
    )

    def __init__(
        self,
        buffer_size: int,
        max_latency_ms: float | None = None,
        priority: PipelinePriority | str = PipelinePriority.NORMAL,
        backpressure_strategy: Rule | None = None,
        transformation_required: bool = False,
        late: Literal["pass", "drop", "conceal"] = "pass",
        conversion: ConversionOptions | None = None,
        validation: Validation | None = None,
        max_buffer_bytes: int | None = None,
        target_fill_ms: float | None = None,
        preroll_ms: float | None = None,
        max_buffer_ms: float | None = None,
        concealment: Literal["silence", "fade", "repeat"] = "fade",
    ) -> None:
        self._store(
            target_fill_ms=target_fill_ms,
            preroll_ms=preroll_ms,
            max_buffer_ms=max_buffer_ms,
            concealment=concealment,
        )
        super().__init__(
            buffer_size,
            max_latency_ms,
            priority,
            backpressure_strategy,
            transformation_required,
            late,
            conversion,
            validation,
            max_buffer_bytes,
        )

    @classmethod
    def _checked(cls, name: str, value: Any) -> Any:
        if name == "concealment" and value not in CONCEALMENTS:
            raise UnknownName("value of concealment", value, CONCEALMENTS, where=cls.__name__)
        if value is not None:
            match name:
                case "target_fill_ms":
                    check_duration(cls.__name__, name, value, " None waits for nothing.")
                case "preroll_ms":
                    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
                    if not is_number or not 0 <= value <= _MAX_PREROLL_MS:
                        raise ConfigurationError(
                            f"{cls.__name__}: expected preroll_ms to be a number of milliseconds from 0 to an hour, got "
                            f"{value!r}. None: the input cannot be held."
                        )
                case "max_buffer_ms":
                    check_duration(cls.__name__, name, value, " None: buffer_size alone is the limit.")
        return super()._checked(name, value)

    @classmethod
    def _checked_late(cls, value: str) -> str:
        if value not in LATE:
            raise UnknownName("value of late", value, LATE, where=cls.__name__)
        return value

    def _check_together(self) -> None:
        super()._check_together()
        owner = type(self).__name__
        if self.concealment != "fade" and self.late != "conceal":
            raise ConfigurationError(
                f'{owner}: expected late="conceal" beside concealment="{self.concealment}", got late="{self.late}": nothing would '
                f'be made up. Say late="conceal", or leave concealment out.'
            )
        target = self.target_fill_ms
        if target is not None and self.max_latency_ms is not None and target >= self.max_latency_ms:
            raise ConfigurationError(
                f"{owner}: expected target_fill_ms below max_latency_ms={self.max_latency_ms:g}, got {target:g}: every block "
                f"would be late for having waited. Raise max_latency_ms, or fill less."
            )
        for name in ("target_fill_ms", "preroll_ms"):
            kept = getattr(self, name)
            if kept is not None and self.max_buffer_ms is not None and kept > self.max_buffer_ms:
                raise ConfigurationError(
                    f"{owner}: expected {name} of at most max_buffer_ms={self.max_buffer_ms:g}, got {kept:g}: so much never "
                    f"waits. Raise max_buffer_ms, or lower {name}."
                )
            if kept and isinstance(self.backpressure_strategy, Latest):
                raise ConfigurationError(
                    f"{owner}: expected another rule than Latest() beside {name}={kept:g}, because it keeps one block only. "
                    f"Use DropOldest(), which keeps as many as have room."
                )


class IntakeRules(msgspec.Struct, frozen=True, kw_only=True):
    """
    What an input lets through, as the data plane counts it.

    Args:
        late: 0: late blocks pass, 1: they are dropped, 2: and concealed.
        max_age_ns: An older block is late; 0: none is.
        target_frames: Nothing comes before so many frames wait; 0: at once.
        preroll_frames: So many are kept while the input is not wanted.
        most_staged: How many blocks can be kept back; 0: none.
        most_frames: Of a block.
        rate_hz: Frames per second; 0: it is no audio.
        made_up: What stands in for what is missing: 0: silence, 1: the last block, fading, 2: the last block.
    """

    late: int
    max_age_ns: int
    target_frames: int
    preroll_frames: int
    most_staged: int
    most_frames: int
    rate_hz: float
    made_up: int


class CycleRules(msgspec.Struct, frozen=True, kw_only=True):
    """
    When the work on a block has to be finished, where somebody waits for it.

    Args:
        ns_per_frame: How long a frame lasts; 0: it is no audio.
        deadline_ns: From its sending on; 0: as long as the block lasts.
    """

    ns_per_frame: float
    deadline_ns: int


def check_audio_config(where: str, config: PipelineConfig, fmt: Format) -> None:
    """
    Check the settings of a pipeline against what flows on it.

    Raises:
        ConfigurationError: It has limits of audio, and carries none; or they do not go with the size of its blocks.
    """
    if config.max_buffer_bytes is not None and config.max_buffer_bytes < fmt.max_payload_bytes:
        raise ConfigurationError(
            f"{where}: expected max_buffer_bytes of at least one block, which may have {fmt.max_payload_bytes} bytes; got "
            f"{config.max_buffer_bytes}. Declare smaller blocks in the format, or raise max_buffer_bytes."
        )
    if not isinstance(config, AudioPipelineConfig):
        return
    if not isinstance(fmt, AudioFormat):
        raise ConfigurationError(
            f"{where}: expected audio, because the pipeline has an AudioPipelineConfig; got {fmt}. Use PipelineConfig, whose "
            f'late="drop" is for any format.'
        )
    longest_ms = _in_ms(fmt, fmt.max_block_frames)
    if config.max_buffer_ms is not None and config.max_buffer_ms < longest_ms:
        raise ConfigurationError(
            f"{where}: expected max_buffer_ms of at least one block, which may last {longest_ms:g} ms; got "
            f"{config.max_buffer_ms:g}. Declare a smaller max_block_frames in the format, or raise max_buffer_ms."
        )
    most_ms = config.buffer_size * longest_ms
    for name in ("target_fill_ms", "preroll_ms"):
        kept = getattr(config, name)
        if kept is not None and kept > most_ms:
            raise ConfigurationError(
                f"{where}: expected {name} of at most {most_ms:g}, which is what {config.buffer_size} blocks of "
                f"{fmt.max_block_frames} frames last; got {kept:g}. Raise buffer_size to "
                f"{-(-round(kept * 1e6) // round(longest_ms * 1e6))}."
            )


class RoomLimits(NamedTuple):
    """
    What may wait beside ``buffer_size`` blocks; 0: no limit.

    Args:
        bytes: Of payload.
        frames: Of audio.
    """

    bytes: int = 0
    frames: int = 0


def room_limits(config: PipelineConfig, rule: Rule | None, fmt: Format) -> RoomLimits:
    """Return what may wait in a pipeline with that rule that carries this, beside the number of blocks."""
    byte_limits, ms_limits = [config.max_buffer_bytes], [getattr(config, "max_buffer_ms", None)]
    if isinstance(rule, Grow):
        byte_limits.append(rule.max_bytes)
        ms_limits.append(rule.max_ms)
    frames = [_in_frames(fmt, each) for each in ms_limits if each is not None] if isinstance(fmt, AudioFormat) else []
    return RoomLimits(min((each for each in byte_limits if each), default=0), min(frames, default=0))


def shared_limits(limits: RoomLimits, fmt: Format, lanes: int) -> RoomLimits:
    """Return what may wait in each of so many rings that share limits: the same in all, and in each at least one block."""
    if lanes == 1:
        return limits
    frames = fmt.max_block_frames if isinstance(fmt, AudioFormat) else 0
    return RoomLimits(
        limits.bytes and max(-(-limits.bytes // lanes), fmt.max_payload_bytes),
        limits.frames and max(-(-limits.frames // lanes), frames),
    )


def staged_blocks(config: PipelineConfig) -> int:
    """Return how many blocks its consumer may keep back, beside those that wait; 0 without jitter buffer and pre-roll."""
    if isinstance(config, AudioPipelineConfig) and (config.target_fill_ms or config.preroll_ms is not None):
        return config.buffer_size
    return 0


def regulates(config: PipelineConfig) -> bool:
    """Whether an input of such a pipeline lets not everything through at once, so that there has to be a ring."""
    return config.late != "pass" or staged_blocks(config) != 0


def intake_rules(config: PipelineConfig, fmt: Format, max_latency_ns: int) -> IntakeRules | None:
    """
    Return what an input of a pipeline lets through; None: everything, at once.

    Args:
        config: The pipeline's.
        fmt: What flows on it.
        max_latency_ns: Its limit, where somebody waits for its blocks; else 0.
    """
    if not regulates(config):
        return None
    late, max_age_ns = LATE.index(config.late), max_latency_ns if config.late != "pass" else 0
    if not isinstance(config, AudioPipelineConfig) or not isinstance(fmt, AudioFormat):
        return IntakeRules(
            late=late,
            max_age_ns=max_age_ns,
            target_frames=0,
            preroll_frames=0,
            most_staged=0,
            most_frames=1,
            rate_hz=0.0,
            made_up=0,
        )
    return IntakeRules(
        late=late,
        max_age_ns=max_age_ns,
        target_frames=_in_frames(fmt, config.target_fill_ms),
        preroll_frames=_in_frames(fmt, config.preroll_ms),
        most_staged=staged_blocks(config),
        most_frames=fmt.max_block_frames,
        rate_hz=float(fmt.sample_rate_hz or 0),
        made_up=CONCEALMENTS.index(config.concealment),
    )


def cycle_rules(config: PipelineConfig, fmt: Format, max_latency_ns: int) -> CycleRules | None:
    """
    Return the deadlines of the blocks of a pipeline on which somebody waits for them; None: they have none.

    Without a budget a block has to be finished when the next one comes, after what a jitter buffer adds on purpose.
    """
    ns_per_frame = 1e9 / (fmt.sample_rate_hz or 1) if isinstance(fmt, AudioFormat) else 0.0
    deadline_ns = max_latency_ns
    target_ms = getattr(config, "target_fill_ms", None)
    if not deadline_ns and target_ms is not None and isinstance(fmt, AudioFormat):
        deadline_ns = round(target_ms * 1e6 + fmt.max_block_frames * ns_per_frame)
    return CycleRules(ns_per_frame=ns_per_frame, deadline_ns=deadline_ns) if ns_per_frame or deadline_ns else None


def _in_frames(fmt: AudioFormat, duration_ms: float | None) -> int:
    return 0 if duration_ms is None else round(duration_ms * (fmt.sample_rate_hz or 0) / 1000)


def _in_ms(fmt: AudioFormat, frames: int) -> float:
    return frames * 1000 / (fmt.sample_rate_hz or 1)
