"""The program that plays the number of each frame and judges what comes back; native, in `native/probe`."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from steadyflow.benchmarks.harness import interrupt_deferred
from steadyflow.errors import SystemShortage

__all__ = ["MODULUS", "Probe"]

MODULUS: Final = (1 << 24) - 1
"""Frame p, counted from the first one played, is the sample p % MODULUS + 1: exact in f32, and never silence."""

_PROGRAM: Final = Path(__file__).parents[1] / "jack_probe"
_PATIENCE_S: Final = 10.0

Hears = Literal["nothing", "others", "itself"]


class Probe:
    """
    Runs while its context does, or until `close`; plays from when it was made.

    Not thread-safe. Calls wait for the program's answer, which does not wait for the audio.

    Args:
        server: The name of a JACK server.
        hears: What it listens to: what others play, or its own, without anybody in between.
        limit_s: Of how long cycles and latencies are kept.

    Raises:
        SystemShortage: JACK's library is not installed, or the server is not there.
    """

    def __init__(self, server: str, hears: Hears = "nothing", *, limit_s: int = 600) -> None:
        options: Mapping[Hears, list[str]] = {"nothing": [], "others": ["--listen"], "itself": ["--loop"]}
        command = [str(_PROGRAM), server, *options[hears], "--limit-s", str(limit_s)]
        with interrupt_deferred():
            # In a session of its own: Ctrl-C is ours. It ends with its input, and so with us at the latest.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # JACK's library chats
                text=True,
                start_new_session=True,
            )
        try:
            self.ready = self._answer("ready")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reset(self) -> None:
        """Let `report` begin now."""
        self._say("reset")
        self._answer("reset")

    def report(self) -> dict[str, Any]:
        """
        Tell what happened since the last `reset`; positions are those of the first frames of cycles.

        What the probe heard is under ``"heard"``, if it listens.
        """
        self._say("report")
        return self._answer("report")

    def cycles(self, file: Path) -> npt.NDArray[np.int64]:
        """
        Tell when each cycle was played, since the start.

        Args:
            file: Written on the way.

        Returns:
            Of shape (cycles, 2): the position of the first frame, and when the probe was called, on the monotonic clock.
        """
        self._say(f"cycles {file}")
        self._answer("cycles")
        return np.fromfile(file, np.int64).reshape(-1, 2)

    def close(self) -> None:
        """End it. Idempotent."""
        with interrupt_deferred():
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            # A command that it could not take any more is lost with it.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()

    def _say(self, command: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SystemShortage("the probe has ended; has its JACK server?") from None

    def _answer(self, event: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"event": "ended", "problem": "it ended without a word"}
        if answer["event"] != event:
            raise SystemShortage(f"the probe of JACK: {answer['problem']}.")
        return answer
