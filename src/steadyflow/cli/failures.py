"""What went wrong, for a person who called a command."""

from __future__ import annotations

import traceback

from steadyflow.errors import FlowError, FlowFailed, ModuleFailed


def describe(problem: Exception) -> str:
    """
    Return the message of an error; of a failed flow, those of all its problems, with remote tracebacks.

    Args:
        problem: Any exception; one that steadyflow did not raise on purpose gets its traceback.
    """
    if isinstance(problem, FlowFailed):
        return "\n\n".join(describe(each) for each in problem.exceptions)
    if isinstance(problem, ModuleFailed) and problem.explanation:
        return problem.explanation  # it says what to do; where in a module it was raised helps nobody
    if isinstance(problem, FlowError):
        return str(problem)
    return "".join(traceback.format_exception(problem)).rstrip()
