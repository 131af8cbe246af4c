"""What stands between the blocks of a pipeline and a module: conversions, and windows."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isawaitable
from typing import TYPE_CHECKING, Final

from steadyflow.data import Block, BlockFlag
from steadyflow.runtime.results import send_result, send_result_async

if TYPE_CHECKING:
    from steadyflow._native import ModuleContext
    from steadyflow.module import OutputPort
    from steadyflow.transform.stream import StreamConversion

_INHERITED: Final = int(BlockFlag.DISCONTINUITY | BlockFlag.GAP | BlockFlag.CORRUPTED)


class InputStages:
    """
    Gives a module what a conversion makes of the blocks of one of its inputs.

    Args:
        stream: The conversion.
        process: The module's method.
        output: Where its results go; None if the module has not exactly one output.
        context: The module's context, so that results inherit the stamps of what they are made of.
    """

    def __init__(
        self,
        stream: StreamConversion,
        process: Callable[[Block], object],
        output: OutputPort | None,
        context: ModuleContext,
    ) -> None:
        self._stream = stream
        self._process = process
        self._output = output
        self._context = context

    def push(self, block: Block) -> None:
        """Take a block and process everything that comes out. The module's worker."""
        for made in self._stream.push(block):
            self._set_stamps(made)
            send_result(self._process(made), self._output)

    def flush(self) -> None:
        """Process what is left at the end of the stream. The module's worker."""
        for made in self._stream.flush():
            self._set_stamps(made)
            send_result(self._process(made), self._output)

    async def push_async(self, block: Block) -> None:
        """Do what `push` does for an asynchronous module. Its worker's event loop."""
        for made in self._stream.push(block):
            await self._process_async(made)

    async def flush_async(self) -> None:
        """Do what `flush` does for an asynchronous module. Its worker's event loop."""
        for made in self._stream.flush():
            await self._process_async(made)

    async def _process_async(self, made: Block) -> None:
        self._set_stamps(made)
        result = self._process(made)
        await send_result_async(await result if isawaitable(result) else result, self._output)

    def _set_stamps(self, block: Block) -> None:
        self._context.set_stamps(block.timestamp_ns, block.first_frame, block.frames, block.flags & _INHERITED)
