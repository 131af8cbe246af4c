"""
The errors of steadyflow: one tree, ordered by who caused them.

::

    FlowError
    ├── ConfigurationError (ValueError)         you described something impossible
    │   ├── SeveralProblems                     more than one of these, found at once
    │   ├── UnknownName (LookupError)           no module, port, option ... of this name
    │   ├── DuplicateName                       a second thing of the same name
    │   ├── DuplicateLink                       two ports linked twice
    │   ├── FormatClash                         an output and an input that do not agree
    │   ├── CycleRefused                        a loop that would wait for itself
    │   ├── BudgetRefused                       a path that cannot be as short as it has to be
    │   ├── LimitExceeded                       more than the data plane can hold
    │   └── ArgumentRefused                     a constructor argument that cannot travel to a process
    ├── DataError (ValueError)                  you sent something that the pipeline does not carry
    │   ├── FormatMismatch                      wrong type, shape, rate or channels
    │   ├── BlockTooLarge                       more than the format allows
    │   ├── TransformError                      what a conversion cannot take
    │   └── MetadataTooLarge                    more than a block has room for
    ├── StateError (RuntimeError)               the right call at the wrong time
    │   ├── FlowNotRunning
    │   └── PipelineClosed
    ├── ObservationFailed (OSError)             a flow that runs cannot be observed
    ├── PipelineFull                            the rule `Fail` met a full pipeline
    ├── SendTimeout (TimeoutError)              no room in time
    ├── ReceiveTimeout (TimeoutError)           no block in time
    ├── EndOfStream                             the producer has finished and everything was read
    ├── SystemShortage                          this system lacks something
    │   ├── InsufficientMemory (OSError, MemoryError)
    │   ├── MissingExtra (ImportError)
    │   ├── DeviceUnavailable (OSError)
    │   ├── DeviceLost (OSError)
    │   └── SpoolUnavailable (OSError)          blocks cannot wait on this disk
    ├── FileUnreadable (OSError)
    ├── FileUnwritable (OSError)
    ├── ModuleFailed                            a module raised
    ├── WorkerDied                              a worker process ended by itself or was killed
    ├── CorruptedSegment                        shared memory holds something impossible
    └── FlowFailed (ExceptionGroup)             a run failed; holds the errors above and the report

Every message says what was expected, what came, where, and what to do. Errors that have a counterpart among the
builtins derive from it too, so that ``except TimeoutError`` or ``except ValueError`` works as one would guess.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Self, TypeAlias, TypeVar

ErrorT = TypeVar("ErrorT", bound="FlowError")


class Subject(NamedTuple):
    """
    A part of a flow that an error is about.

    Args:
        kind: What it is.
        name: Its name, or its id.
    """

    kind: Literal["module", "pipeline"]
    name: str


class FlowError(Exception):
    """
    The root of all errors that steadyflow raises on purpose.

    Attributes:
        subject: The module or pipeline that a description, refused at its start, is wrong about; None of other errors, and
            where it is the whole flow.
    """

    subject: Subject | None = None


@contextlib.contextmanager
def concerning(*, module: str = "", pipeline: str = "") -> Iterator[None]:
    """Note what an error that is raised inside is about, unless it knows more exactly; either a module or a pipeline."""
    try:
        yield
    except FlowError as error:
        if error.subject is None:
            error.subject = Subject("module", module) if module else Subject("pipeline", pipeline)
        raise


def located(error: ErrorT, where: str) -> ErrorT:
    """
    Put a place before the message of an error, such as a file and a line; the error stays what it is.

    Args:
        error: Any but `FlowFailed`, whose message cannot be changed.
        where: The place.

    Returns:
        The error itself.
    """
    message = f"{where}: {error}"
    error.args = (message,)
    if isinstance(error, MissingExtra):
        error.msg = message  # which is what an ImportError shows
    return error


# --- you described something impossible --------------------------------------------------------------------------


class ConfigurationError(FlowError, ValueError):
    """Something was described that cannot work; raised before any block flows."""


class SeveralProblems(ConfigurationError):
    """
    Several things are wrong with one description; the message lists them.

    Args:
        where: What was described, such as a file.
        problems: The errors, at least two, in the order in which they were found.
    """

    def __init__(self, where: str, problems: Sequence[FlowError]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join([f"{where}: {len(problems)} problems.", *map(str, problems)]))


class UnknownName(ConfigurationError, LookupError):
    """
    A name that nothing has; the message offers the nearest known one.

    Args:
        kind: What the name should name, in the singular, such as ``"input"``.
        name: The name that came.
        known: The names that exist.
        where: Where the name was found, such as a file or a class; the message begins with it.
    """

    def __init__(self, kind: str, name: object, known: Iterable[str], *, where: str = "") -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(str(one) for one in known)  # a member of an enumeration is shown as its value
        prefix = f"{where}: " if where else ""
        super().__init__(f"{prefix}unknown {kind} {name!r}{self._advice()}")

    def _advice(self) -> str:
        import difflib  # only on the way to an error: it costs more than the rest of this module

        if not self.known:
            return "; there is none yet."
        near = difflib.get_close_matches(str(self.name), self.known, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        return f"{hint} Known: {', '.join(self.known)}."


class DuplicateName(ConfigurationError):
    """A name is taken already."""


class DuplicateLink(ConfigurationError):
    """This output and this input are linked already."""


class FormatClash(ConfigurationError):
    """An output and an input do not agree on a format; raised before the flow starts."""


class CycleRefused(ConfigurationError):
    """Pipelines form a loop in which everybody would wait for everybody."""


class BudgetRefused(ConfigurationError):
    """What lies between two modules delays sound for longer than their path may take."""


class LimitExceeded(ConfigurationError):
    """More was asked for than the data plane can hold; the message names the limit."""


class ArgumentRefused(ConfigurationError):
    """A constructor argument of a module cannot travel to a process."""


# --- you sent something that the pipeline does not carry ----------------------------------------------------------


class DataError(FlowError, ValueError):
    """A block cannot be sent or decoded as it is; nothing of it was queued."""


class FormatMismatch(DataError):
    """The data's type, shape, rate or channels are not those of the pipeline."""


class BlockTooLarge(DataError):
    """The block is larger than its format allows."""


class TransformError(DataError):
    """
    A step of a conversion got what it does not take, or what the pipeline's checks reject.

    What can be known before the start, such as formats that nothing converts, is a `FormatClash`.

    Args:
        message: The step, what was expected, and what came.
        dropped: Whether a flow goes on without the block, or else its module fails; None: as `ConversionOptions.on_error` says.
    """

    def __init__(self, message: str, *, dropped: bool | None = None) -> None:
        super().__init__(message)
        self.dropped = dropped


class MetadataTooLarge(DataError):
    """The metadata of a block is larger than the room that every block has for it."""


# --- the right call at the wrong time -----------------------------------------------------------------------------


class StateError(FlowError, RuntimeError):
    """The call is right, but not now."""


class FlowNotRunning(StateError):
    """The flow has not been started, or has been stopped."""


class PipelineClosed(StateError):
    """The pipeline has been closed by one of its ends."""


class ObservationFailed(FlowError, OSError):
    """A flow cannot be observed: it does not answer, it refuses, or what it answers makes no sense."""


# --- what a pipeline answers --------------------------------------------------------------------------------------


class PipelineFull(FlowError):
    """The pipeline is full and its rule is `Fail`; the block was not queued."""


class SendTimeout(FlowError, TimeoutError):
    """The pipeline had no room within the time of its `Wait` rule; the block was not queued."""


class ReceiveTimeout(FlowError, TimeoutError):
    """No block came in time; none was taken."""


class EndOfStream(FlowError):
    """The producer has finished, and every block has been received."""


# --- the system -----------------------------------------------------------------------------------------------------


class SystemShortage(FlowError):
    """This system lacks something that the flow needs."""


class InsufficientMemory(SystemShortage, OSError, MemoryError):
    """Too little shared memory; the message says how much is needed."""


class MissingExtra(SystemShortage, ImportError):
    """
    An optional part of steadyflow is not installed.

    Args:
        extra: The extra to install, such as ``"audio"``.
        needed_for: What needs it, such as ``"audio.FileSource"``.
    """

    def __init__(self, extra: str, needed_for: str) -> None:
        self.extra = extra
        super().__init__(f"{needed_for} needs the extra {extra!r}. Install it with: pip install 'steadyflow[{extra}]'")


class DeviceUnavailable(SystemShortage, OSError):
    """An audio device is not there, is busy, or does not run as asked."""


class DeviceLost(SystemShortage, OSError):
    """An audio device went away while it ran."""


SpoolFailure: TypeAlias = Literal["directory", "permission", "full", "locked", "damaged", "removed", "io"]
"""
Why blocks cannot wait on disk: the folder is missing, nothing may be written there, the disk is full, another one uses the file, it is
damaged, it is no longer where it was, or the disk fails.
"""


class SpoolUnavailable(SystemShortage, OSError):
    """
    The file of a spool cannot be used, or no longer.

    Args:
        message: What was expected, what came, and what to do.
        reason: Which of the causes it is.
    """

    def __init__(self, message: str, *, reason: SpoolFailure = "io") -> None:
        self.reason: SpoolFailure = reason
        super().__init__(message)


class FileUnreadable(FlowError, OSError):
    """A file is missing, not permitted, empty, cut off, or not of the expected kind."""


class FileUnwritable(FlowError, OSError):
    """A file cannot be created or written further; the message says how far it got."""


# --- what went wrong while the flow ran ------------------------------------------------------------------------------


class ModuleFailed(FlowError):
    """
    A module raised an exception, in this process or in a worker's.

    Args:
        module: The module's name in the flow.
        worker: The worker that ran it.
        problem: The exception in one line, such as ``"ValueError: no peak"``.
        block_sequence: The sequence number of the block being processed; None outside of processing.
        traceback_text: The formatted traceback, which may come from another process.
        explanation: What the exception says, if steadyflow raised it on purpose and nobody needs a traceback to know what to do:
            a device or a file that is not there, an extra that is missing, a wrong name at the start. Else empty.
    """

    def __init__(
        self,
        module: str,
        worker: str,
        problem: str,
        *,
        block_sequence: int | None = None,
        traceback_text: str = "",
        explanation: str = "",
    ) -> None:
        self.module = module
        self.worker = worker
        self.problem = problem
        self.explanation = explanation
        self.block_sequence = block_sequence
        self.traceback_text = traceback_text
        block = "" if block_sequence is None else f", at block {block_sequence}"
        remote = f"\n{traceback_text.rstrip()}" if traceback_text else ""
        super().__init__(f"module {module!r} failed in worker {worker!r}{block}: {problem}{remote}")


class WorkerDied(FlowError):
    """
    A worker process ended although nobody had asked it to.

    Args:
        worker: The worker's name.
        pid: Its process id.
        signal: The number of the signal that killed it, or None.
        exit_code: The code it exited with, or None.
    """

    def __init__(self, worker: str, pid: int, *, signal: int | None = None, exit_code: int | None = None) -> None:
        self.worker = worker
        self.pid = pid
        self.signal = signal
        self.exit_code = exit_code
        super().__init__(f"worker {worker!r} (pid {pid}) {self._ending()}")

    def _ending(self) -> str:
        import signal as signals  # only on the way to an error

        if self.signal is None:
            code = "an unknown code" if self.exit_code is None else f"code {self.exit_code}"
            return f"exited with {code} while the flow was running. Its own output on stderr may say why."
        try:
            name = signals.Signals(self.signal).name
        except ValueError:
            name = f"signal {self.signal}"
        if name == "SIGKILL":
            return "was killed by SIGKILL. If you did not do it, look for the out-of-memory killer in the system's log."
        return f"was killed by {name}."


class CorruptedSegment(FlowError):
    """
    Shared memory holds something that no part of steadyflow writes.

    Args:
        message: What was found, and what is possible.
        pipeline: The pipeline it was found in; empty where it is not known.
    """

    def __init__(self, message: str, *, pipeline: str = "") -> None:
        self.problem = message
        self.pipeline = pipeline
        super().__init__(f"pipeline {pipeline!r}: {message}" if pipeline else message)


class FlowFailed(FlowError, ExceptionGroup[Exception]):
    """
    A run failed. An exception group of everything that went wrong, so ``except*`` works on it.

    Args:
        message: The failure in one line.
        exceptions: The errors of modules and workers, in the order in which they happened.
        report: The report of the run up to the failure, or None.
    """

    report: object | None

    def __new__(cls, message: str, exceptions: Sequence[Exception], report: object | None = None) -> Self:
        """Make the group; an exception group takes its members here."""
        self = super().__new__(cls, message, exceptions)
        self.report = report
        return self

    def __init__(self, message: str, exceptions: Sequence[Exception], report: object | None = None) -> None:
        super().__init__(message, exceptions)

    def derive(self, exceptions: Sequence[Exception], /) -> FlowFailed:  # type: ignore[override]
        """Return a group of some of the exceptions that keeps the report; ``except*`` and `split` call it."""
        return FlowFailed(self.message, exceptions, self.report)
