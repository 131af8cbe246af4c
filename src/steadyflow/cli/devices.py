"""``steadyflow devices``: the audio devices of this system, and what they can do."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from steadyflow.audio.devices import list_devices, supported_rates_hz
from steadyflow.audio.driver import Device


def devices(*, rates: bool, as_json: bool) -> int:
    """
    Print them to standard output.

    Args:
        rates: Ask each device which rates it takes; takes a while, and a device that is busy takes none.
        as_json: One JSON array for a program, instead of a table for a person.

    Returns:
        The exit code: 1 if there is no device at all.
    """
    found = list_devices()
    described = [_described(device, rates) for device in found]
    if as_json:
        print(json.dumps(described, indent=2))
    elif not found:
        print("No audio device. Is a sound server running, and may this user use the devices (group audio)?")
    else:
        _print_table(described)
    return 0 if found else 1


def _described(device: Device, rates: bool) -> dict[str, Any]:
    described: dict[str, Any] = msgspec.to_builtins(device)
    if rates:
        described["input_rates_hz"] = supported_rates_hz(device, "input") if device.input_channels else []
        described["output_rates_hz"] = supported_rates_hz(device, "output") if device.output_channels else []
    return described


def _print_table(described: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "device", "host", "in", "out", "rate", "latency in / out", box=None, pad_edge=False)
    for each in described:
        default = "".join(sign for sign, key in ((">", "is_default_input"), ("<", "is_default_output")) if each[key])
        rates = sorted({*each.get("input_rates_hz", ()), *each.get("output_rates_hz", ())})
        table.add_row(
            f"{each['index']}{default}",
            each["name"],
            each["host"],
            str(each["input_channels"]),
            str(each["output_channels"]),
            ", ".join(map(str, rates)) if rates else f"{each['default_sample_rate_hz']} Hz",
            f"{each['low_input_latency_ms']:.1f} / {each['low_output_latency_ms']:.1f} ms",
        )
    console = Console()
    console.print(table)
    console.print("> captured from and < played to by default", style="dim")
