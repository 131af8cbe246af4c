"""Exceptions as text that can always be printed and sent, whatever a module raised."""

from __future__ import annotations

import traceback


def in_one_line(problem: BaseException) -> str:
    """Return an exception as the last line of its traceback shows it."""
    return _printable(traceback.format_exception_only(problem)[-1].strip())


def with_traceback(problem: BaseException) -> str:
    """Return an exception as Python prints it when nobody catches it."""
    return _printable("".join(traceback.format_exception(problem)))


def _printable(text: str) -> str:
    # A message may hold lone surrogates, from the name of a file for instance.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
