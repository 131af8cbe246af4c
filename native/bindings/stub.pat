# What the stub generator cannot see: the types of plain CPython classes. (Format: nanobind's pattern files.)

^steadyflow\._native\.Block$:
    \from numpy.typing import NDArray
    \from steadyflow.data import MetadataValue
    \from steadyflow.formats import Format
    \from typing import Any
    class Block:
        \doc
        def __new__(
            cls,
            data: Any,
            format: Format | None = None,
            *,
            timestamp_ns: int = 0,
            first_frame: int = 0,
            sequence: int = 0,
            flags: int = 0,
            metadata: dict[str, MetadataValue] | None = None,
            sent_ns: int = 0,
        ) -> Block: ...
        @property
        def data(self) -> Any:
            """The payload: an array, a decoded struct, or bytes. Decoded once, when asked for."""
        @property
        def payload(self) -> Any:
            """The payload as it travels: the array, or the bytes that `data` decodes."""
        @property
        def samples(self) -> NDArray[Any]:
            """
            The array of an audio block, (frames, channels) or (channels, frames).

            Up to 4 KiB it is yours to change; larger ones are read-only views.

            Raises:
                AttributeError: The payload is no array.
            """
        @property
        def format(self) -> Format:
            """What the payload is."""
        @property
        def frames(self) -> int:
            """Frames in the block; 0 where it has none."""
        @property
        def timestamp_ns(self) -> int:
            """CLOCK_MONOTONIC time of capture of the first frame, in nanoseconds."""
        @property
        def first_frame(self) -> int:
            """Index of the first frame in its stream."""
        @property
        def sequence(self) -> int:
            """Number of the block on its pipeline, from 0; a missing number is a dropped block."""
        @property
        def flags(self) -> int:
            """Bits of BlockFlag."""
        @property
        def metadata(self) -> dict[str, MetadataValue]:
            """The sender's own fields; empty if there are none."""
        @property
        def has_metadata(self) -> bool:
            """Whether the sender gave fields of its own; decodes nothing."""
        @property
        def encoded_metadata(self) -> bytes:
            """The metadata as it travels, MessagePack; empty if there is none."""
        @property
        def sent_ns(self) -> int:
            """CLOCK_MONOTONIC time at which the block entered its pipeline, in nanoseconds."""
        def derived(self, data: Any, format: Format | None, flags: int = ..., /) -> Block:
            """Return a block with the same stamps, metadata and, unless given, flags that carries something else."""

^steadyflow\._native\.Loan\.__enter__$:
    def __enter__(self) -> NDArray[Any]:
        \doc

^steadyflow\._native\.Loan\.__exit__$:
    \from types import TracebackType
    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        \doc

^steadyflow\._native\.OutputCore\.loan$:
    def loan(self, frames: int | None = None) -> Loan:
        \doc

^steadyflow\._native\.Ring\.counters$:
    def counters(self) -> dict[str, Any]:
        \doc

^steadyflow\._native\.Ring\.recent_cycles$:
    def recent_cycles(self) -> list[tuple[int, int, list[float]]]:
        \doc

^steadyflow\._native\.Ring\.worst_cycle$:
    def worst_cycle(self) -> tuple[int, int, int, int, int, int, int] | None:
        \doc

^steadyflow\._native\.Ring\.histograms$:
    \import numpy as np
    def histograms(self) -> dict[str, tuple[NDArray[np.uint64], int, int]]:
        \doc

^steadyflow\._native\.bucket_bounds$:
    def bucket_bounds() -> NDArray[np.uint64]:
        \doc

^steadyflow\._native\.Inbox\.receive$:
    def receive(self, timeout_s: float | None = None) -> Block:
        \doc

^steadyflow\._native\.Inbox\.try_receive$:
    def try_receive(self, entered_ns: int, heard_ns: int) -> Block | None:
        \doc

^steadyflow\._native\.Inbox\.take$:
    def take(self) -> Delivery | None:
        \doc

^steadyflow\._native\.OutputCore\.attempt$:
    def attempt(self, data: object | None) -> bool | SendAttempt:
        \doc

^steadyflow\._native\.SendAttempt\.settle$:
    def settle(self) -> bool | None:
        \doc

^steadyflow\._native\.Delivery\.call$:
    @property
    def call(self) -> Any:
        """What the target was made with."""

^steadyflow\._native\.Delivery\.block$:
    @property
    def block(self) -> Block:
        """The block."""

^steadyflow\._native\.Delivery\.output_for$:
    \from steadyflow.module import OutputPort
    def output_for(self, result: object) -> OutputPort:
        \doc

^steadyflow\._native\.SampleConverter\.convert$:
    def convert(self, data: object, first_frame: int = 0) -> NDArray[Any] | None:
        \doc
