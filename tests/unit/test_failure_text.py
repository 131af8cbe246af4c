"""What is told of an exception of a module."""

from __future__ import annotations

import pytest

from steadyflow.errors import (
    ConfigurationError,
    DeviceUnavailable,
    FileUnreadable,
    FlowError,
    StateError,
    UnknownName,
)
from steadyflow.runtime.failure_text import explanation


@pytest.mark.parametrize("problem", [DeviceUnavailable("it is busy"), FileUnreadable("it is gone")])
@pytest.mark.parametrize("block_sequence", [None, 7])
def test_what_is_missing_explains_itself(problem: FlowError, block_sequence: int | None) -> None:
    assert explanation(problem, block_sequence) == str(problem)


@pytest.mark.parametrize("problem", [ConfigurationError("expected 1, got 2."), UnknownName("device", "x", ["y"])])
def test_a_wrong_configuration_explains_itself_at_the_start_but_not_in_the_middle_of_a_block(
    problem: FlowError,
) -> None:
    assert explanation(problem, None) == str(problem)
    assert explanation(problem, 7) == ""


@pytest.mark.parametrize("problem", [ValueError("no peak"), StateError("not now"), SystemExit(1)])
def test_a_mistake_needs_its_traceback(problem: BaseException) -> None:
    assert explanation(problem, None) == ""
