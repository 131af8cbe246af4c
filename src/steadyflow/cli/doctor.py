"""``steadyflow doctor``: what this system allows a flow to do, and what to do about what is missing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from steadyflow.platform import Capabilities, Library, capabilities_here

if TYPE_CHECKING:
    from rich.console import Console

State = Literal["ok", "limited", "missing"]

SCARCE_MEMORY_BYTES = 256 << 20
"""Python, numpy and a worker process take about half of this before the first block flows."""

ENOUGH_LOCKED_BYTES = 64 << 20
"""A usual flow's segments, and the parts of the interpreter that a worker touches."""

SLOW_CLOCK_NS = 500
"""A clock that is read without a system call costs a tenth of this; every block is stamped several times."""

LIMITS_FILE = "/etc/security/limits.d/audio.conf"
JOIN_GROUP = "join the group with `sudo usermod -aG audio $USER`, and log in again"


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One line of the doctor's report.

    Args:
        name: What was looked at.
        state: ``"ok"``; ``"limited"``: flows run, with the drawback that `advice` tells; ``"missing"``: not there.
        value: What was found, for a person to read.
        advice: What to do about it; empty if nothing is to be done.
        essential: Whether no flow can run without it.
    """

    name: str
    state: State
    value: str
    advice: str = ""
    essential: bool = False


def report(capabilities: Capabilities | None = None) -> list[Finding]:
    """
    Judge what the system allows.

    Blocks for about half a second unless the capabilities are given.

    Args:
        capabilities: What was found; probed, unless they have been, if None.
    """
    found = capabilities_here() if capabilities is None else capabilities
    return [
        _system(found),
        Finding("Python", "ok", found.python, essential=True),
        _cores(found),
        _memory(found),
        _shared_memory(found),
        _wake_up(found),
        _realtime(found),
        _realtime_kit(found),
        _locked_memory(found),
        _clock(found),
        _audio_files(found),
        _sample_rates(found),
        _audio_devices(found),
    ]


def doctor(as_json: bool) -> int:
    """
    Print the report to standard output.

    Args:
        as_json: One JSON object for a program, instead of a table for a person.

    Returns:
        The exit code: 0 if flows can run here, 1 if something essential is missing.
    """
    capabilities = capabilities_here()
    findings = report(capabilities)
    works = _works(findings)
    if as_json:
        content = {
            "works": works,
            "findings": [asdict(finding) for finding in findings],
            "capabilities": asdict(capabilities),
        }
        print(json.dumps(content, indent=2))
    else:
        from rich.console import Console

        render(findings, Console())
    return 0 if works else 1


def render(findings: list[Finding], console: Console) -> None:
    """
    Draw the findings as a table, the advice below it, and the verdict last.

    Args:
        findings: From `report`.
        console: Where to draw.
    """
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "limited": "yellow", "missing": "red"}
    table = Table(box=None, pad_edge=False)
    for title in ("", "state", "found"):
        table.add_column(title)
    # Text rather than strings: in a string, rich takes `steadyflow[audio]` for a style.
    for finding in findings:
        table.add_row(Text(finding.name), Text(finding.state, style=colours[finding.state]), Text(finding.value))
    console.print(table)
    for finding in findings:
        if finding.advice:
            console.print()
            console.print(Text.assemble((f"{finding.name}: ", "bold"), finding.advice))
    console.print()
    if _works(findings):
        console.print(Text("Flows can run here.", style="bold green"))
    else:
        lacking = ", ".join(finding.name for finding in findings if finding.essential and finding.state == "missing")
        console.print(Text(f"Flows cannot run here, missing: {lacking}.", style="bold red"))


def _works(findings: list[Finding]) -> bool:
    return not any(finding.essential and finding.state == "missing" for finding in findings)


# --- the judgements ----------------------------------------------------------------------------------------------


def _system(found: Capabilities) -> Finding:
    value = f"{found.system} {found.kernel}, {found.machine}"
    if found.system != "Linux":
        return Finding("system", "missing", value, "steadyflow runs on Linux for now.", essential=True)
    return Finding("system", "ok", value, essential=True)


def _cores(found: Capabilities) -> Finding:
    value = f"{found.cores} of {found.cores_total}"
    if found.isolated_cores:
        value += f", {len(found.isolated_cores)} isolated"
    quota = found.cpu_quota_cores
    if quota is not None:
        value += f", time for {quota:g}"
    if min(found.cores, quota if quota is not None else found.cores) < 2:
        advice = (
            "With less than two cores, workers wait for each other and for everything else on this machine: give the "
            "container or virtual machine a second core, or expect late blocks under load."
        )
        return Finding("cores", "limited", value, advice)
    return Finding("cores", "ok", value)


def _memory(found: Capabilities) -> Finding:
    if found.memory_available_bytes is None:
        return Finding("memory", "ok", "unknown")
    value = f"{_size(found.memory_available_bytes)} available"
    if found.memory_total_bytes is not None:
        value += f" of {_size(found.memory_total_bytes)}"
    if found.memory_limit_bytes is not None:
        value += f", limited to {_size(found.memory_limit_bytes)}"
    if found.memory_available_bytes < SCARCE_MEMORY_BYTES:
        advice = (
            "Segments are allocated when a flow starts, so a shortage shows then. Choose a smaller buffer_size or "
            "max_block_frames, use fewer process workers, or raise the limit."
        )
        return Finding("memory", "limited", value, advice)
    return Finding("memory", "ok", value)


def _shared_memory(found: Capabilities) -> Finding:
    if found.shared_memory.allowed:
        return Finding("shared memory", "ok", "memfd, sealed", essential=True)
    advice = (
        "Every pipeline lies in an anonymous memory file (memfd_create, Linux 3.17 or newer). If this is a container "
        "or a sandbox, allow that call in its security profile."
    )
    return Finding("shared memory", "missing", found.shared_memory.reason, advice, essential=True)


def _wake_up(found: Capabilities) -> Finding:
    if not found.wake_up_pipe.allowed:
        advice = "Workers wait on a pipe. If this is a sandbox, allow pipe2 and ppoll in its security profile."
        return Finding("wake-up", "missing", found.wake_up_pipe.reason, advice, essential=True)
    if not found.eventfd.allowed:
        advice = "Without eventfd, other processes cannot observe a flow (`steadyflow observe`); it runs all the same."
        return Finding("wake-up", "limited", f"pipe; eventfd: {found.eventfd.reason}", advice, essential=True)
    return Finding("wake-up", "ok", "pipe, eventfd", essential=True)


def _realtime(found: Capabilities) -> Finding:
    limit = found.realtime_priority_limit
    limited = f"RLIMIT_RTPRIO {'unlimited' if limit is None else limit}"
    if found.realtime.allowed:
        value = f"realtime=True gets SCHED_FIFO; priority up to {found.realtime_priority}, {limited}"
        return Finding("real-time scheduling", "ok", value)
    refused = f"SCHED_FIFO: {found.realtime.reason or 'not allowed'}, {limited}"
    if found.rtkit.allowed:
        value = f"realtime=True gets SCHED_RR of RealtimeKit; {refused}"
        return Finding("real-time scheduling", "ok", value)
    advice = (
        "Workers with realtime=True run at normal priority: on time while a core is idle, milliseconds late when all "
        f"are busy. To allow more, write `@audio - rtprio 95` into {LIMITS_FILE}, {JOIN_GROUP}. In a container: "
        "`--cap-add SYS_NICE --ulimit rtprio=95`."
    )
    return Finding("real-time scheduling", "limited", f"realtime=True gets nothing; {refused}", advice)


def _realtime_kit(found: Capabilities) -> Finding:
    if found.rtkit.allowed:
        return Finding("RealtimeKit", "ok", f"SCHED_RR, priority up to {found.rtkit_priority}")
    if found.realtime.allowed:
        return Finding("RealtimeKit", "ok", f"not needed; {found.rtkit.reason}")
    advice = (
        "RealtimeKit gives desktop users real-time scheduling without a limit of their own. Install it (on Debian: apt "
        'install rtkit), and its client: pip install "steadyflow[realtime]".'
    )
    return Finding("RealtimeKit", "missing", found.rtkit.reason, advice)


def _locked_memory(found: Capabilities) -> Finding:
    limit_bytes = found.locked_memory_limit_bytes
    if not found.locked_memory.allowed:
        state: State = "limited"
        value = found.locked_memory.reason
    elif limit_bytes is None:
        return Finding("locked memory", "ok", "no limit that binds")
    else:
        value = f"up to {_size(limit_bytes)}, RLIMIT_MEMLOCK"
        state = "ok" if limit_bytes >= ENOUGH_LOCKED_BYTES else "limited"
    if state == "ok":
        return Finding("locked memory", "ok", value)
    advice = (
        "Of a worker with realtime=True, only what fits is locked, the memory of the pipelines first. What is not locked may "
        "be swapped out, and reading it back takes milliseconds. To allow more, write "
        f"`@audio - memlock unlimited` into {LIMITS_FILE}, {JOIN_GROUP}. In a container: `--ulimit memlock=-1`."
    )
    return Finding("locked memory", "limited", value, advice)


def _clock(found: Capabilities) -> Finding:
    value = f"{found.clock_source or 'source unknown'}, {found.clock_read_ns} ns a reading"
    if found.clock_read_ns > SLOW_CLOCK_NS:
        advice = (
            "Reading the time takes a system call here, and every block is stamped several times. If "
            "/sys/devices/system/clocksource/clocksource0/available_clocksource lists tsc, boot with clocksource=tsc."
        )
        return Finding("clock", "limited", value, advice)
    return Finding("clock", "ok", value)


def _audio_files(found: Capabilities) -> Finding:
    if found.soundfile.loads:
        return Finding("audio files", "ok", f"soundfile {found.soundfile.version}")
    advice = 'For reading and writing audio files: pip install "steadyflow[audio]".'
    return Finding("audio files", "missing", _why_not("soundfile", found.soundfile), advice)


def _sample_rates(found: Capabilities) -> Finding:
    if found.soxr.loads:
        return Finding("sample rates", "ok", f"soxr {found.soxr.version}")
    advice = 'For pipelines that change sample rates: pip install "steadyflow[audio]".'
    return Finding("sample rates", "missing", _why_not("soxr", found.soxr), advice)


def _audio_devices(found: Capabilities) -> Finding:
    if found.sounddevice.loads:
        value = f"sounddevice {found.sounddevice.version}"
        if found.portaudio.loads:
            value += f", PortAudio {found.portaudio.version}"
            if found.portaudio_backends:
                value += f" ({', '.join(found.portaudio_backends)})"
        return Finding("audio devices", "ok", value)
    if found.portaudio.loads:
        value = f"{_why_not('sounddevice', found.sounddevice)}; PortAudio {found.portaudio.version}"
        needed = "pip install sounddevice"
    else:
        value = f"{_why_not('sounddevice', found.sounddevice)}; {_why_not('PortAudio', found.portaudio)}"
        needed = "pip install sounddevice, and the library itself, on Debian: apt install libportaudio2"
    advice = f"Files work without it. For microphones and loudspeakers: {needed}."
    return Finding("audio devices", "missing", value, advice)


def _why_not(name: str, library: Library) -> str:
    return f"{name} does not load: {library.reason}"


def _size(count_bytes: int) -> str:
    gibibytes = count_bytes / (1 << 30)
    return f"{gibibytes:.1f} GiB" if gibibytes >= 1 else f"{count_bytes / (1 << 20):.0f} MiB"
