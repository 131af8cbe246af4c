"""The tree of errors: what each one is also an instance of, and what its message tells."""

import pytest

from steadyflow import errors
from steadyflow.errors import (
    ConfigurationError,
    CorruptedSegment,
    FlowError,
    FlowFailed,
    InsufficientMemory,
    MissingExtra,
    ModuleFailed,
    SeveralProblems,
    Subject,
    UnknownName,
    WorkerDied,
    concerning,
    located,
)

ALL_ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, FlowError)]


def test_the_docstring_draws_exactly_the_tree():
    drawn = {line.split("─")[-1].split()[0] for line in errors.__doc__.splitlines() if "── " in line}
    assert drawn == {cls.__name__ for cls in ALL_ERRORS} - {"FlowError"}


@pytest.mark.parametrize("cls", ALL_ERRORS, ids=lambda cls: cls.__name__)
def test_every_error_explains_itself(cls):
    assert cls.__doc__


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ConfigurationError", ValueError),
        ("UnknownName", LookupError),
        ("DataError", ValueError),
        ("StateError", RuntimeError),
        ("SendTimeout", TimeoutError),
        ("ReceiveTimeout", TimeoutError),
        ("InsufficientMemory", MemoryError),
        ("InsufficientMemory", OSError),
        ("MissingExtra", ImportError),
        ("FileUnreadable", OSError),
        ("FileUnwritable", OSError),
        ("FlowFailed", ExceptionGroup),
    ],
)
def test_errors_are_also_the_builtins_one_would_guess(name, builtin):
    assert issubclass(getattr(errors, name), builtin)


@pytest.mark.parametrize("cls", [errors.FileUnreadable, errors.SendTimeout, InsufficientMemory, CorruptedSegment])
def test_a_message_comes_out_as_it_went_in(cls):
    assert str(cls("expected this, got that")) == "expected this, got that"


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("expected this"),
        UnknownName("input", "adio", ["audio"]),
        errors.FileUnreadable("a.wav: missing"),
        MissingExtra("audio", "a flow"),
        InsufficientMemory("too little"),
        SeveralProblems("a.toml", [ConfigurationError("one"), ConfigurationError("two")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_place_can_be_put_before_a_message(error):
    before = str(error)
    assert located(error, "a.toml, line 3") is error
    assert str(error) == f"a.toml, line 3: {before}"


def test_several_problems_are_listed():
    one, two = ConfigurationError("one"), UnknownName("input", "adio", ["audio"])
    error = SeveralProblems("a.toml", [one, two])
    assert error.problems == (one, two)
    assert str(error).splitlines() == ["a.toml: 2 problems.", "one", str(two)]


def test_unknown_name_offers_the_near_miss():
    error = UnknownName("input", "adio", ["audio", "level"], where="class Loudness")
    assert str(error) == "class Loudness: unknown input 'adio'; did you mean 'audio'? Known: audio, level."
    assert (error.kind, error.name, error.known) == ("input", "adio", ("audio", "level"))
    assert isinstance(error, ConfigurationError)


def test_unknown_name_without_a_near_miss_lists_what_there_is():
    assert str(UnknownName("rule", "zzz", ["wait", "fail"])) == "unknown rule 'zzz'. Known: wait, fail."
    assert str(UnknownName("module", "pitch", [])) == "unknown module 'pitch'; there is none yet."


def test_missing_extra_says_what_to_install():
    error = MissingExtra("audio", "audio.FileSource")
    assert "pip install 'steadyflow[audio]'" in str(error)
    assert error.extra == "audio"


def test_module_failed_tells_module_worker_block_and_traceback():
    error = ModuleFailed("pitch", "dsp", "ValueError: no peak", block_sequence=17, traceback_text="Traceback: ...\n")
    assert str(error) == "module 'pitch' failed in worker 'dsp', at block 17: ValueError: no peak\nTraceback: ..."
    assert (error.module, error.worker, error.block_sequence) == ("pitch", "dsp", 17)
    assert error.traceback_text == "Traceback: ...\n"
    assert (error.problem, error.explanation) == ("ValueError: no peak", "")


def test_module_failed_outside_of_a_block():
    assert str(ModuleFailed("pitch", "dsp", "OSError: gone")) == "module 'pitch' failed in worker 'dsp': OSError: gone"


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        ({"signal": 9}, "was killed by SIGKILL"),
        ({"signal": 11}, "was killed by SIGSEGV"),
        ({"signal": 200}, "was killed by signal 200"),
        ({"exit_code": 3}, "exited with code 3"),
        ({}, "exited with an unknown code"),
    ],
)
def test_worker_died_names_the_worker_and_how(ending, text):
    error = WorkerDied("pitch", 123, **ending)
    assert str(error).startswith(f"worker 'pitch' (pid 123) {text}")
    assert (error.worker, error.pid) == ("pitch", 123)


def test_corrupted_segment_names_the_pipeline():
    assert str(CorruptedSegment("state 7 of 5", pipeline="a->b")) == "pipeline 'a->b': state 7 of 5"


def test_flow_failed_carries_the_report_through_except_star():
    report = object()
    failed = FlowFailed("the flow failed", [WorkerDied("w", 1), ValueError("x")], report)
    seen = []
    with pytest.raises(FlowFailed) as caught:
        try:
            raise failed
        except* ValueError as group:
            seen.append(group)
    for group, kind in ((seen[0], ValueError), (caught.value, WorkerDied)):
        assert group.report is report
        assert [type(error) for error in group.exceptions] == [kind]


def test_flow_failed_is_a_flow_error_with_a_message():
    failed = FlowFailed("2 modules failed", [ValueError("x")])
    assert failed.report is None
    assert isinstance(failed, FlowError)
    assert "2 modules failed" in str(failed)


def test_an_error_is_about_the_innermost_part():
    def wrong(**inner):
        with pytest.raises(ConfigurationError) as caught, concerning(module="a"), concerning(**inner):
            raise ConfigurationError("x")
        return caught.value.subject

    assert wrong(pipeline="a.out->b.in") == Subject("pipeline", "a.out->b.in")
    assert wrong(module="b") == ("module", "b")
    assert ConfigurationError("x").subject is None


def test_other_errors_are_about_nothing():
    with pytest.raises(ZeroDivisionError) as caught, concerning(module="a"):
        raise ZeroDivisionError
    assert not hasattr(caught.value, "subject")
