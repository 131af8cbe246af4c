"""The arguments of a module, from what a file says to what its constructor takes."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any, Final

from steadyflow.errors import ConfigurationError, FlowError, UnknownName
from steadyflow.flow_files.classes import describe
from steadyflow.module import Module
from steadyflow.toml import Key, Problems, TomlDocument, converted

_BY_NAME: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def construct(cls: type[Module], arguments: Mapping[str, Any], document: TomlDocument, key: Key) -> Module:
    """
    Construct a module.

    A value is converted to the type of its parameter, where the annotation says one that a file can express; else it
    is passed as TOML has it. Nothing is evaluated.

    Args:
        cls: Its class.
        arguments: The keyword arguments.
        document: The file that says them.
        key: Where; for messages.

    Raises:
        UnknownName: The constructor has no such parameter, or a value is none of those possible; offers the nearest.
        ConfigurationError: An argument is missing or of another type, or the constructor raised.
        SeveralProblems: Several of these.
    """
    parameters = _parameters(cls)
    by_name = {name: each for name, each in parameters.items() if each.kind in _BY_NAME}
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    values: dict[str, Any] = {}
    problems = Problems()
    for name, value in arguments.items():
        with problems.noted():
            if name in by_name:
                values[name] = converted(value, by_name[name].annotation, document, (*key, name))
            elif takes_any:
                values[name] = value
            elif by_name:
                where = f"{document.where(*key, name)}: {cls.__name__}"
                raise UnknownName("argument", name, by_name, where=where)
            else:
                where = document.where(*key, name)
                raise ConfigurationError(f"{where}: {cls.__name__} takes no arguments, got {name} = {value!r}.")
    missing = [name for name, each in by_name.items() if each.default is each.empty and name not in arguments]
    if missing and not problems.found:  # a misspelt one is not a missing one
        problems.add(
            ConfigurationError(
                f"{document.where(*key)}: {cls.__name__} needs the argument {missing[0]}, which is missing. Its "
                f"arguments: {', '.join(by_name)}."
            )
        )
    problems.raise_if_any(document.where(*key))
    with document.place(*key):
        try:
            return cls(**values)
        except FlowError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigurationError(f"{cls.__name__}(...) raised {describe(error)}.") from error


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return the parameters of a constructor by name, with their types where these can be found."""
    constructor: Any = cls.__init__ if cls.__init__ is not object.__init__ else cls.__new__  # type: ignore[misc]
    if constructor is object.__new__:
        return {}
    try:
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
    except (TypeError, ValueError):  # written in C, without a description
        return {"arguments": inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)}
    return {each.name: each.replace(annotation=_type_of(each, constructor)) for each in parameters}


def _type_of(parameter: inspect.Parameter, constructor: Any) -> Any:
    """Return the annotated type; `Any` where there is none, or where it is imported for type checkers only."""
    if parameter.annotation is parameter.empty:
        return Any
    # One by one: `get_type_hints` of the constructor would find none if one of them cannot be found.
    namespace = getattr(inspect.unwrap(constructor), "__globals__", {})
    alone = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        hints = typing.get_type_hints(alone, namespace, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError):
        return Any
    return hints[parameter.name]
