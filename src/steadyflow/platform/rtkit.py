"""
RealtimeKit, which gives threads of ordinary users real-time priority, within limits: a client over the D-Bus system bus.

The library is jeepney (the extra ``realtime``): pure Python, and its calls block, which is what a worker wants before it
starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
from collections.abc import Iterator
from typing import Any, Final

BUS_NAME: Final = "org.freedesktop.RealtimeKit1"
OBJECT_PATH: Final = "/org/freedesktop/RealtimeKit1"

ANSWER_TIMEOUT_S: Final = 5.0
"""The daemon is started by the bus when it is called for the first time."""

_SILENCE: Final = "the D-Bus system bus did not answer in time"


class RealtimeKitRefusal(Exception):
    """RealtimeKit is not there, or does not allow what was asked; says why."""


class RealtimeKit:
    """
    The service, while the connection is open; `realtime_kit` makes one.

    Args:
        connection: To the system bus.
    """

    def __init__(self, connection: Any) -> None:
        from jeepney import DBusAddress

        self._connection = connection
        self._address = DBusAddress(OBJECT_PATH, BUS_NAME, BUS_NAME)
        self.max_priority: int = self._property("MaxRealtimePriority")
        """The highest real-time priority that it gives."""
        self.rttime_max_us: int = self._property("RTTimeUSecMax")
        """What it gives needs an RLIMIT_RTTIME, in µs, of at most so much."""

    def promote(self, thread_id: int, priority: int) -> None:
        """
        Give a thread of this process real-time priority (SCHED_RR with reset on fork, unless it was set up otherwise).

        Blocks for at most `ANSWER_TIMEOUT_S`.

        Args:
            thread_id: As the kernel counts threads; of the main thread, that is the process's.
            priority: At most `max_priority`.

        Raises:
            RealtimeKitRefusal: It does not allow it.
        """
        from jeepney import new_method_call

        self._ask(new_method_call(self._address, "MakeThreadRealtime", "tu", (thread_id, priority)))

    def _property(self, name: str) -> int:
        from jeepney import Properties

        (answer,) = self._ask(Properties(self._address).get(name))
        match answer:
            case (_, int(value)):
                return value
        raise RealtimeKitRefusal(f"expected its property {name} to be a number, got {answer!r}")

    def _ask(self, message: Any) -> tuple[Any, ...]:
        from jeepney.wrappers import DBusErrorResponse, unwrap_msg

        try:
            answer: tuple[Any, ...] = unwrap_msg(self._connection.send_and_get_reply(message, timeout=ANSWER_TIMEOUT_S))
        except DBusErrorResponse as refusal:
            said = f": {refusal.data[0]}" if refusal.data else ""
            raise RealtimeKitRefusal(f"it answered {refusal.name}{said}") from None
        except TimeoutError:
            raise RealtimeKitRefusal(_SILENCE) from None
        except OSError as problem:
            raise RealtimeKitRefusal(f"the D-Bus system bus is gone: {problem}") from None
        return answer


@contextlib.contextmanager
def realtime_kit() -> Iterator[RealtimeKit]:
    """
    Connect to RealtimeKit, where the variable DBUS_SYSTEM_BUS_ADDRESS says, or where the system bus usually is.

    Blocks, at most for `ANSWER_TIMEOUT_S` for each question.

    Raises:
        RealtimeKitRefusal: There is no client library, no bus, or no such service.
    """
    try:
        from jeepney.auth import AuthenticationError
        from jeepney.io.blocking import open_dbus_connection
    except ImportError:
        raise RealtimeKitRefusal('its client is not installed: pip install "steadyflow[realtime]"') from None
    try:
        connection = open_dbus_connection(bus="SYSTEM")
    except AuthenticationError as problem:
        raise RealtimeKitRefusal(f"the D-Bus system bus does not know this user: {problem}") from None
    except TimeoutError:
        raise RealtimeKitRefusal(_SILENCE) from None
    except (OSError, RuntimeError, ValueError) as problem:  # the last two: an address that is none
        raise RealtimeKitRefusal(f"the D-Bus system bus cannot be reached: {problem}") from None
    with connection:
        yield RealtimeKit(connection)


def _try() -> dict[str, str | int]:
    """Ask for the highest priority, for this process and for good."""
    try:
        with realtime_kit() as kit:
            hard_us = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
            limit_us = kit.rttime_max_us if hard_us < 0 else min(hard_us, kit.rttime_max_us)
            resource.setrlimit(resource.RLIMIT_RTTIME, (limit_us, limit_us))
            kit.promote(os.getpid(), kit.max_priority)
    except RealtimeKitRefusal as refusal:
        return {"priority": 0, "reason": str(refusal)}
    return {"priority": os.sched_getparam(0).sched_priority, "reason": ""}


if __name__ == "__main__":
    print(json.dumps(_try()))  # noqa: T201 -- read by whoever started this
