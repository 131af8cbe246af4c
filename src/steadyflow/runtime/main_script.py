"""
Finding classes of the user's main script in a worker process.

The script runs once more there, under the name ``__mp_main__`` (as multiprocessing calls it), but only up to the first
coordinator: `stop_if_replaying` ends it at that point. So a script needs no ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from steadyflow.errors import ConfigurationError
from steadyflow.formats import resolve_class

_replaying = False


class _ScriptReached(BaseException):
    """The script has come to its first coordinator; what it defined before is all that a worker needs."""


def stop_if_replaying() -> None:
    """End the replay of a main script. Called by every new coordinator; does nothing in any other process."""
    if _replaying:
        raise _ScriptReached


def main_script_path() -> str | None:
    """Return the path of this process's main script; None in a REPL, a notebook, or with ``-c``."""
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    return path if isinstance(path, str) else None


def main_script_package() -> str | None:
    """Return the package of a main module that was run with ``-m``, for its relative imports."""
    return getattr(sys.modules.get("__main__"), "__package__", None) or None


class MainScript:
    """
    The main script, run when the first class of it is asked for.

    Args:
        path: Its file; None: there is none that could be run.
        package: Its package, if it was run with ``-m``.
    """

    def __init__(self, path: str | None, package: str | None = None) -> None:
        self._path = path
        self._package = package
        self._module: types.ModuleType | None = None

    def resolve(self, path: str) -> type:
        """
        Return the class of a path ``"module:Name"``; ``"__main__:Name"`` is looked up in the script.

        Raises:
            ConfigurationError: The class is not defined before the script's first coordinator.
        """
        module, _, name = path.partition(":")
        if module != "__main__":
            return resolve_class(path)
        found: Any = self._replayed()
        for part in name.split("."):
            found = getattr(found, part, None)
        if not isinstance(found, type):
            raise ConfigurationError(
                f"{name}: expected a class defined in {self._path} above the first DataFlowCoordinator(...), because "
                f"a worker process runs the script only up to there. Move the class up, or into a module of its own."
            )
        return found

    def _replayed(self) -> types.ModuleType:
        global _replaying
        if self._module is None:
            if self._path is None:
                raise ConfigurationError("the main script has no file; its classes cannot be found by another process")
            module = types.ModuleType("__mp_main__")
            module.__file__ = self._path
            module.__package__ = self._package
            # Under both names: pickles and annotations made by the script refer to __main__.
            sys.modules["__mp_main__"] = sys.modules["__main__"] = self._module = module
            with open(self._path, "rb") as file:  # noqa: PTH123 - pathlib is not imported for one open()
                code = compile(file.read(), self._path, "exec")
            _replaying = True
            try:
                exec(code, module.__dict__)  # the user's own script, as Python itself runs it
            except _ScriptReached:
                pass
            finally:
                _replaying = False
        return self._module
