"""Where the result of a module's method goes, if the data plane did not call the method itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steadyflow.errors import ConfigurationError

if TYPE_CHECKING:
    from steadyflow.module import OutputPort


def send_result(result: object, output: OutputPort | None) -> None:
    """
    Send what ``process`` returned to the only output; None is no result. The module's worker; may wait for room.

    Raises:
        ConfigurationError: There is a result, and not exactly one output that it could go to.
    """
    if result is not None:
        _checked(result, output).send(result)


async def send_result_async(result: object, output: OutputPort | None) -> None:
    """Do the same in an event loop, which goes on where there is no room. Raises what `send_result` does."""
    if result is not None:
        await _checked(result, output).send_async(result)


def _checked(result: object, output: OutputPort | None) -> OutputPort:
    if output is None:
        raise ConfigurationError(
            f"expected process() to return None, because the module has not exactly one output; "
            f"got {type(result).__name__}; send it with self.<output>.send(...)"
        )
    return output
