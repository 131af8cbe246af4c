"""Exceptions as text that can always be printed and sent, whatever a module raised."""

from __future__ import annotations

import traceback
from typing import Final

from steadyflow.errors import ConfigurationError, FileUnreadable, FileUnwritable, SystemShortage

_EXPLAINED: Final = (FileUnreadable, FileUnwritable, SystemShortage)


def in_one_line(problem: BaseException) -> str:
    """Return an exception as the last line of its traceback shows it."""
    return _printable(traceback.format_exception_only(problem)[-1].strip())


def with_traceback(problem: BaseException) -> str:
    """Return an exception as Python prints it when nobody catches it."""
    return _printable("".join(traceback.format_exception(problem)))


def explanation(problem: BaseException, block_sequence: int | None) -> str:
    """
    Return what an exception says if it tells by itself what to do; else nothing, because then its traceback is needed.

    Args:
        problem: What a module raised.
        block_sequence: The block that it was processing; None: none. There a wrong configuration is its author's mistake.
    """
    explained = isinstance(problem, _EXPLAINED) or (isinstance(problem, ConfigurationError) and block_sequence is None)
    return _printable(str(problem)) if explained else ""


def _printable(text: str) -> str:
    # A message may hold lone surrogates, from the name of a file for instance.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
