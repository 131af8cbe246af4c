"""
Joins, declared: `Aligned` says that inputs of a module are processed together, frame by frame.

::

    class EchoDifference(Module):
        mic = Input(AudioFormat(channels=1))
        reference = Input(AudioFormat(channels=1))
        out = Output(like="mic")
        aligned = Aligned("mic", "reference", by="frame", max_wait_ms=20)

        def process(self, mic: Block, reference: Block): ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from steadyflow.arguments import check_duration
from steadyflow.errors import ConfigurationError, UnknownName
from steadyflow.formats import AnyFormat, AudioFormat, checked_integer

if TYPE_CHECKING:
    from steadyflow.module import Input

DEFAULT_HOLD_S: Final = 10
"""How much of one input is held back for another, where a declaration says nothing else."""

_BY: Final = ("frame", "time")
_MAX_HOLD_FRAMES: Final = 1 << 40


class Aligned:
    """
    Declares that inputs are processed together, as a class attribute of a module.

    ``process`` then takes one `Block` of each of these inputs, in the order named here: the same frames of each, so the
    blocks have equal ``first_frame`` and ``frames``. They are as long as what all inputs have in common, up to the
    smallest ``max_block_frames`` of the inputs. Other inputs of the module keep their ``process_<input>`` methods.

    All that came in time is delivered once, in order. Where another input has frames and this one has none, it gets
    silence, flagged ``GAP``: for frames that were lost on the way, from its end of stream on, and, with `max_wait_ms`,
    for frames that are late; those are dropped and counted when they come, and its next block is flagged
    ``DISCONTINUITY``. So are all blocks behind frames that no input has; those are passed over.

    Results inherit the stamp of the first input, and the flags of all.

    Args:
        names: The inputs, two or more, all of audio, with one sample rate; each fed by one pipeline.
        by: ``"frame"`` joins frames of equal number (`Block.first_frame`): right for streams that have been counted
            together. ``"time"`` joins frames that were captured at the same time, to the nearest frame, by the stamps of
            the first block of each input; from then on, frames are counted, so stamps that jitter or clocks that drift
            move nothing. Frame numbers then count from the first frame that is delivered.
        max_wait_ms: How long frames wait for those of the other inputs before silence takes their place; None: for ever,
            as long as the streams run.
        max_hold_frames: How many frames of one input may wait for another; None: ten seconds of them. What happens
            then: with `max_wait_ms`, the oldest go on without the other; otherwise the input is not served any more, so
            that its pipeline fills and its rule decides; and where that would stop the other input as well, because both
            come through one worker, the module fails with `LimitExceeded`.

    Raises:
        UnknownName: There is no such way to align.
        ConfigurationError: Fewer than two inputs, one twice, or an impossible limit.
    """

    __slots__ = ("by", "max_hold_frames", "max_wait_ms", "names")

    def __init__(
        self,
        *names: str,
        by: Literal["frame", "time"] = "frame",
        max_wait_ms: float | None = None,
        max_hold_frames: int | None = None,
    ) -> None:
        given: tuple[Any, ...] = names  # not checked yet
        if not all(isinstance(name, str) for name in given):
            raise ConfigurationError(
                f'Aligned: expected names of inputs, such as Aligned("mic", "far"), got {given!r}.'
            )
        if len(names) < 2 or len(set(names)) < len(names):
            raise ConfigurationError(
                f"Aligned: expected two or more inputs, each once; got {', '.join(names) or 'none'}. "
                f"One input alone needs no Aligned."
            )
        if by not in _BY:
            raise UnknownName("value of by", by, _BY, where="Aligned")
        if max_wait_ms is not None:
            check_duration("Aligned", "max_wait_ms", max_wait_ms, " None waits for as long as the streams run.")
        if max_hold_frames is not None:
            max_hold_frames = checked_integer("Aligned", "max_hold_frames", max_hold_frames, _MAX_HOLD_FRAMES)
        self.names = names
        self.by = by
        self.max_wait_ms = max_wait_ms
        self.max_hold_frames = max_hold_frames

    @property
    def max_wait_ns(self) -> int | None:
        """`max_wait_ms` in ns."""
        return None if self.max_wait_ms is None else max(1, round(self.max_wait_ms * 1e6))

    def __repr__(self) -> str:
        names = ", ".join(map(repr, self.names))
        wait = "" if self.max_wait_ms is None else f", max_wait_ms={self.max_wait_ms}"
        hold = "" if self.max_hold_frames is None else f", max_hold_frames={self.max_hold_frames}"
        return f"Aligned({names}, by={self.by!r}{wait}{hold})"


# --- checks of a class ----------------------------------------------------------------------------------------------


def check_names(where: str, aligned: Aligned, inputs: Mapping[str, Input]) -> None:
    """
    Check that the inputs exist and can be aligned.

    Raises:
        UnknownName: There is no such input; offers the nearest.
        ConfigurationError: An input is no audio, or collects windows of its own.
    """
    for name in aligned.names:
        if name not in inputs:
            raise UnknownName("input", name, inputs, where=f"{where}, {aligned!r}")
        declared = inputs[name]
        if not isinstance(declared.format, AudioFormat | AnyFormat):
            raise ConfigurationError(
                f"{where}: expected audio on all inputs of {aligned!r}, but {name!r} takes {declared.format}. "
                f"Give that input its own method, process_{name}(self, {name})."
            )
        if declared.window_frames is not None:
            raise ConfigurationError(
                f"{where}: input {name!r} has window_frames={declared.window_frames}, and is aligned. Windows of one "
                f"input would not be those of the others: leave window_frames out, and collect what process() is given."
            )


def check_methods(where: str, aligned: Aligned, cls: type, methods: set[str], inputs: Mapping[str, Input]) -> None:
    """
    Check that ``process`` takes the aligned blocks, and that every other input has its method.

    Raises:
        ConfigurationError: A method is missing, takes other blocks, or would never be called.
    """
    signature = f"process(self, {', '.join(aligned.names)})"
    if "process" not in methods:
        raise ConfigurationError(f"{where}: nothing takes the blocks of {aligned!r}. Define {signature}.")
    for name in aligned.names:
        if f"process_{name}" in methods:
            raise ConfigurationError(
                f"{where}: has process_{name}(), but the blocks of {name!r} go to process(), because of {aligned!r}. "
                f"Keep one of them."
            )
    missing = [f"process_{name}(self, {name})" for name in inputs if name not in aligned.names]
    missing = [method for method in missing if method.partition("(")[0] not in methods]
    if missing:
        raise ConfigurationError(
            f"{where}: some inputs have nothing that takes their blocks. Define {', '.join(missing)}, "
            f"or name them in Aligned, too."
        )
    _check_parameters(where, aligned, cls, signature)


def _check_parameters(where: str, aligned: Aligned, cls: type, signature: str) -> None:
    import inspect  # only who joins inputs pays for it

    process: Callable[..., object] = cls.process  # type: ignore[attr-defined]
    is_bound = isinstance(inspect.getattr_static(cls, "process"), staticmethod | classmethod)
    parameters = list(inspect.signature(process).parameters.values())[0 if is_bound else 1 :]
    try:
        inspect.Signature(parameters).bind(*aligned.names)
    except TypeError as problem:
        raise ConfigurationError(
            f"{where}: expected {signature}, because of {aligned!r}; "
            f"got process{inspect.signature(process)}: {problem}."
        ) from None
    named = tuple(parameter.name for parameter in parameters)
    if named != aligned.names and set(named) == set(aligned.names):
        raise ConfigurationError(
            f"{where}: expected {signature}, in the order of {aligned!r}; got process{inspect.signature(process)}. "
            f"Blocks come in the order in which Aligned names their inputs."
        )
