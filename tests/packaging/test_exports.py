"""The public names of steadyflow: those of the contract, sorted, and nothing else by accident."""

from __future__ import annotations

import importlib.metadata
import types

import steadyflow

LAZY = {"audio", "events", "recording", "testing", "transform"}
"""Parts that load when they are first used."""

CONTRACT = {
    "Aligned",
    "AnyFormat",
    "ArrayFormat",
    "AudioFormat",
    "Block",
    "BytesFormat",
    "DataFlowCoordinator",
    "DropNewest",
    "DropOldest",
    "Fail",
    "FlowData",
    "FlowMetrics",
    "Input",
    "Latest",
    "Module",
    "Observation",
    "Output",
    "PipelineConfig",
    "Source",
    "StructFormat",
    "Wait",
    "load_flow",
    "module",
    "observable_flows",
    "observe",
}
"""What the documentation promises; a name leaves this set only with a major version."""


def test_all_is_sorted():
    assert list(steadyflow.__all__) == sorted(steadyflow.__all__)


def test_all_holds_every_public_name_and_no_other():
    # Submodules become attributes when something imports them: those are not exports unless they are named.
    public = {
        name
        for name, value in vars(steadyflow).items()
        if not name.startswith("_") and name != "annotations" and not isinstance(value, types.ModuleType)
    }

    assert {name for name in steadyflow.__all__ if not name.startswith("_")} - LAZY == public


def test_all_keeps_the_contract():
    assert set(steadyflow.__all__) >= CONTRACT | LAZY


def test_the_version_is_that_of_the_distribution():
    assert steadyflow.__version__ == importlib.metadata.version("steadyflow")


def test_every_name_is_there():
    for name in steadyflow.__all__:
        assert hasattr(steadyflow, name), name


def test_dir_shows_what_can_be_used():
    assert set(steadyflow.__all__) <= set(dir(steadyflow))
