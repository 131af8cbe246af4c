"""From ``"package.module:Class"`` to the class."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from steadyflow.errors import ConfigurationError, FlowError, UnknownName
from steadyflow.module import FunctionModule, Module, Source

_PACKAGE_FOLDER = str(Path(__file__).parents[1])


def make_importable(folder: Path) -> None:
    """Put a folder first on the import path, as Python does with the folder of a script; for good."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def find_module_class(use: str, folder: Path) -> type[Module]:
    """
    Return the module class of a path. Imports what it names, so trust it like code.

    Args:
        use: ``"package.module:Class"``, or ``"package.module:Outer.Class"``.
        folder: The folder of the flow file, whose modules are offered as near misses.

    Raises:
        UnknownName: No such package, module or class; offers the nearest.
        ConfigurationError: The import raised, or the look-up; or it is no module class.
    """
    name, _, path = use.partition(":")
    if not all(part.isidentifier() for part in (*name.split("."), *path.split("."))):
        raise ConfigurationError(f'expected "package.module:Class" such as "steadyflow.audio:FileSource", got {use!r}.')
    found: Any = import_module(name, folder)
    for part in path.split("."):
        around = found
        try:
            found = getattr(around, part)
        except AttributeError:
            raise UnknownName("class", part, _module_classes(around), where=name) from None
        except FlowError:
            raise
        except (Exception, SystemExit) as error:  # a module may look its names up by a function of its own
            raise ConfigurationError(f"looking up {part} in {name} raised {describe(error)}.") from error
    if not isinstance(found, type) or not issubclass(found, Module):
        raise ConfigurationError(f"expected a class derived from steadyflow.Module, or made by @module, got {found!r}.")
    return found


def import_module(name: str, folder: Path) -> ModuleType:
    """
    Import a module.

    Raises:
        UnknownName: There is none of this name; offers the nearest.
        ConfigurationError: The import raised; names the error and the line that raised it.
    """
    try:
        return importlib.import_module(name)
    except FlowError:
        raise
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            raise UnknownName("module to import", missing, _nearest_modules(missing, folder)) from None
        raise ConfigurationError(f"importing {name} raised {describe(error)}.") from error


def describe(error: BaseException) -> str:
    """Return an exception of the user's code in one line, with the place that raised it."""
    text = f"{type(error).__name__}: {error}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(("<frozen", _PACKAGE_FOLDER)):
            return f"{text} ({frame.filename}, line {frame.lineno})"
    return text


def _module_classes(around: object) -> list[str]:
    bases = (Module, Source, FunctionModule)
    return [
        name
        for name, value in getattr(around, "__dict__", {}).items()
        if isinstance(value, type) and issubclass(value, Module) and value not in bases
    ]


def _nearest_modules(name: str, folder: Path) -> list[str]:
    """Return what can be imported under a similar name; and, at the top level, what lies beside the flow file."""
    import difflib
    import pkgutil

    package, _, last = name.rpartition(".")
    if package:
        paths = getattr(sys.modules.get(package), "__path__", [])
        return [f"{package}.{each.name}" for each in pkgutil.iter_modules(paths)]
    beside = [each.name for each in pkgutil.iter_modules([str(folder)])]
    everywhere = {*sys.builtin_module_names, *sys.stdlib_module_names, *(each.name for each in pkgutil.iter_modules())}
    return list(dict.fromkeys([*difflib.get_close_matches(last, everywhere), *beside, "steadyflow"]))
