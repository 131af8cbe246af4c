"""``steadyflow observe NAME``: the pipelines of a flow that runs in another process."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec

from steadyflow import observe as open_observation
from steadyflow.cli.screens import devices_table, pipelines_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from steadyflow import Observation

_REFRESHES_PER_SECOND: Final = 4


def observe(flow: str | None, *, pid: int | None, as_json: bool) -> int:
    """
    Show the pipelines of a running flow: on a terminal until it ends, elsewhere as they are now.

    Args:
        flow: Its name; None: the only one that runs.
        pid: Its process, where several have that name.
        as_json: One JSON document, as it is now.

    Returns:
        The exit code.

    Raises:
        FlowError: No such flow, or it cannot be observed.
    """
    from rich.console import Console

    with open_observation(flow, pid=pid) as observation:
        if as_json:
            print(json.dumps(_document(observation), indent=2))
            return 0
        if sys.stdout.isatty():
            _watch(observation)
        Console().print(_picture(observation))
    return 0


def _watch(observation: Observation) -> None:
    """Draw until the flow ends, and leave the terminal as it was."""
    from rich.live import Live

    live = Live(_picture(observation), auto_refresh=False, transient=True)
    try:
        live.start(refresh=True)  # hides the cursor: not outside of this try
        while not observation.wait(1 / _REFRESHES_PER_SECOND):
            live.update(_picture(observation), refresh=True)
    finally:
        live.stop()


def _picture(observation: Observation) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    flow = observation.description
    title = f"{flow.flow} (pid {flow.pid}), {'ended' if observation.ended else 'running'}"
    metrics = {name: pipeline.statistics() for name, pipeline in observation.pipelines.items()}
    devices = {name: device.report() for name, device in observation.devices.items()}
    tables = [pipelines_table(metrics), *([devices_table(devices)] if devices else [])]
    return Group(Text(title, style="bold"), "", *tables)


def _document(observation: Observation) -> dict[str, Any]:
    metrics = {name: pipeline.statistics() for name, pipeline in observation.pipelines.items()}
    document: dict[str, Any] = msgspec.to_builtins(observation.description)
    reports = {name: msgspec.to_builtins(device.report()) for name, device in observation.devices.items()}
    measured = {"metrics": msgspec.to_builtins(metrics), "device_reports": reports}
    return document | {"ended": observation.ended} | measured
