"""What a flow is when it freewheels: the same modules, all of them in threads of this process, which take turns by one clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steadyflow.errors import ConfigurationError, concerning
from steadyflow.module import Source
from steadyflow.pipeline import Pipeline
from steadyflow.runtime.placed import Placed


def freewheeling(modules: Mapping[str, Placed], pipelines: Sequence[Pipeline]) -> dict[str, Placed]:
    """
    Return the modules as they run by a `ManualClock`: who would have a process has a thread of that name, and no replicas.

    Raises:
        ConfigurationError: The application sends or receives, or a module has a real device: neither goes by that clock.
    """
    for pipeline in pipelines:
        if pipeline.source_open or pipeline.target_open:
            with concerning(pipeline=pipeline.id):
                raise ConfigurationError(
                    f"{pipeline.id}: expected no open end in a flow that freewheels, because the application does not go by its clock. "
                    f"Let a module send and receive: testing.ScriptedSource, testing.Collect."
                )
    return {name: _in_thread(placed) for name, placed in modules.items()}


def _in_thread(placed: Placed) -> Placed:
    module = placed.module
    if isinstance(module, Source) and module.real_time_only:
        with concerning(module=placed.name):
            raise ConfigurationError(
                f"module {placed.name!r}: expected a scripted device in a flow that freewheels, because a real one goes by its own "
                f"clock; got {module!r}. Call use(testing.ScriptedDevice(...)) before the start."
            )
    worker = placed.workers[0] if placed.placement == "process" else placed.worker
    return placed._replace(placement="thread", worker=worker, realtime=None, replicas=1, ordered=False)
