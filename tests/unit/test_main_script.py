"""A main script in its worker processes: run once more, but only up to its first coordinator."""

import subprocess
import sys
import textwrap
import types

import pytest

from steadyflow import DataFlowCoordinator
from steadyflow.errors import ConfigurationError
from steadyflow.module import Module
from steadyflow.runtime import main_script
from steadyflow.runtime.main_script import MainScript, main_script_package, main_script_path


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Write a main script; what its replay does to sys.modules is undone."""
    for name in ("__main__", "__mp_main__"):
        if name in sys.modules:
            monkeypatch.setitem(sys.modules, name, sys.modules[name])
        else:
            monkeypatch.delitem(sys.modules, name, raising=False)

    def write(text, package=None):
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(text))
        return MainScript(str(path), package)

    yield write
    sys.modules.pop("__mp_main__", None)


def test_a_class_of_the_script(script):
    found = script("""\
        from steadyflow import Module

        class Outer:
            class Inner(Module):
                pass
        """).resolve("__main__:Outer.Inner")
    assert issubclass(found, Module)
    assert found.__name__ == "Inner"
    assert found.__module__ == "__mp_main__"


def test_the_replay_ends_at_the_first_coordinator(script):
    ran = types.ModuleType("ran_by_script")
    ran.lines = []
    sys.modules["ran_by_script"] = ran
    try:
        replayed = script("""\
            from ran_by_script import lines
            from steadyflow import DataFlowCoordinator

            class Early: ...

            lines.append("before")
            try:
                DataFlowCoordinator("demo")
            except Exception:  # what ends the replay is not caught by such a line
                lines.append("caught")
            finally:
                lines.append("cleaned up")
            lines.append("after")

            class Late: ...
            """)
        assert ran.lines == [], "nothing runs before the first class is asked for"
        early = replayed.resolve("__main__:Early")
        assert ran.lines == ["before", "cleaned up"]
        assert replayed.resolve("__main__:Early") is early
        assert ran.lines == ["before", "cleaned up"], "once is enough"
        with pytest.raises(ConfigurationError, match=r"Late: expected a class defined in .*script\.py above the first"):
            replayed.resolve("__main__:Late")
    finally:
        del sys.modules["ran_by_script"]
    DataFlowCoordinator("afterwards").close()  # here, nothing is being replayed


def test_the_script_sees_itself_as_multiprocessing_would_show_it(script):
    replayed = script(
        """\
        import sys

        class Facts:
            name, file, package = __name__, __file__, __package__
            guarded = __name__ == "__main__"
            same = sys.modules["__main__"] is sys.modules["__mp_main__"]
        """,
        package="some.package",
    )
    facts = replayed.resolve("__main__:Facts")
    assert facts.name == "__mp_main__"
    assert facts.file.endswith("script.py")
    assert facts.package == "some.package"
    assert not facts.guarded, "so code under a main guard does not run"
    assert facts.same


def test_a_script_without_a_coordinator_runs_to_its_end(script):
    assert script("class Only: ...\n").resolve("__main__:Only").__name__ == "Only"


@pytest.mark.parametrize("path", ["__main__:Missing", "__main__:here", "__main__:Here.missing"])
def test_what_is_no_class_of_the_script(script, path):
    with pytest.raises(ConfigurationError, match=r"expected a class defined in .*script\.py"):
        script("here = 5\nclass Here: ...\n").resolve(path)


def test_an_error_in_the_script_is_seen_as_it_is(script):
    with pytest.raises(ZeroDivisionError):
        script("1 / 0\n").resolve("__main__:Anything")
    DataFlowCoordinator("afterwards").close()


def test_a_script_that_is_no_python(script):
    with pytest.raises(SyntaxError):
        script("class :\n").resolve("__main__:Anything")


def test_a_script_without_a_file():
    with pytest.raises(ConfigurationError, match="the main script has no file"):
        MainScript(None).resolve("__main__:Anything")


def test_other_classes_are_imported_and_the_script_is_not_run():
    # It would raise: there is none.
    assert MainScript(None).resolve("steadyflow.module:Module") is Module


def test_where_the_main_script_of_this_process_is(monkeypatch):
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    assert main_script_path() is None, "a session has no file"
    assert main_script_package() is None
    module.__file__, module.__package__ = "/somewhere/script.py", ""
    assert main_script_path() == "/somewhere/script.py"
    assert main_script_package() is None
    module.__package__ = "somewhere"
    assert main_script_package() == "somewhere"


def test_a_coordinator_in_a_replay_ends_it(monkeypatch):
    monkeypatch.setattr(main_script, "_replaying", True)
    with pytest.raises(main_script._ScriptReached):
        DataFlowCoordinator("demo")
    assert not issubclass(main_script._ScriptReached, Exception), "a script's own `except Exception` must not stop it"


# --- with real programs --------------------------------------------------------------------------------------------------


PROGRAM = """\
import sys
import numpy as np
from steadyflow import *
from steadyflow.testing import Collect, ScriptedSource
{imports}
MONO = AudioFormat(48_000, 1)

class Negate(Module):
    audio = Input(MONO)
    out = Output(like="audio")

    def process(self, audio):
        return -{gain} * audio.samples

def main():
    with DataFlowCoordinator("script") as flow:
        source = flow.add(ScriptedSource([np.ones((2, 1), np.float32)], MONO))
        negate, collect = flow.add(Negate(), placement="process"), flow.add(Collect())
        flow.connect(source.out, negate.audio, buffer_size=2)
        flow.connect(negate.out, collect.data, buffer_size=2)
        flow.run()
    print(float(collect.values[0][0, 0]))

{start}
"""


def program(gain="1", imports="", start="main()"):
    return PROGRAM.format(gain=gain, imports=imports, start=start)


def ran(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=50, check=False, **options
    )


@pytest.mark.parametrize("start", ["main()", 'if __name__ == "__main__":\n    main()'])
def test_with_and_without_a_main_guard(tmp_path, start):
    file = tmp_path / "program.py"
    file.write_text(program(start=start))
    done = ran(file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "-1.0\n", "")


def test_a_module_of_a_package_with_relative_imports(tmp_path):
    package = tmp_path / "orchestra"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "settings.py").write_text("GAIN = 3\n")
    (package / "play.py").write_text(program("GAIN", "from .settings import GAIN"))
    done = ran("-m", "orchestra.play", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "-3.0\n", "")


def test_modules_beside_the_script_are_found(tmp_path):
    (tmp_path / "settings.py").write_text("GAIN = 4\n")
    file = tmp_path / "program.py"
    file.write_text(program("GAIN", "from settings import GAIN"))
    done = ran(file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "-4.0\n", "")


def test_a_script_sees_its_own_arguments(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(program("GAIN", "GAIN = float(sys.argv[1])"))
    done = ran(file, "5.0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "-5.0\n", "")


def test_a_session_says_what_to_move():
    done = ran("-c", program())
    assert done.returncode == 1
    assert "Negate is defined in an interactive session" in done.stderr
    assert "Move the class Negate to a file" in done.stderr


def test_a_class_below_the_coordinator_is_named(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(program(imports='DataFlowCoordinator("early").close()'))
    done = ran(file)
    assert done.returncode == 1
    assert "Negate: expected a class defined in" in done.stderr
    assert "above the first DataFlowCoordinator" in done.stderr
