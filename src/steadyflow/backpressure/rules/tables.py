"""Rules as files write them."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from steadyflow.backpressure.rules import (
    Adaptive,
    DropByPriority,
    DropNewest,
    DropOldest,
    Fail,
    Grow,
    Latest,
    Rule,
    Sample,
    Spill,
    Throttle,
    Wait,
)
from steadyflow.errors import ConfigurationError, UnknownName

_RULES: Final[dict[str, type[Rule]]] = {
    "wait": Wait,
    "throttle": Throttle,
    "drop_oldest": DropOldest,
    "drop_newest": DropNewest,
    "drop_by_priority": DropByPriority,
    "latest": Latest,
    "sample": Sample,
    "fail": Fail,
    "grow": Grow,
    "spill": Spill,
    "adaptive": Adaptive,
}
assert set(_RULES.values()) == set(typing.get_args(Rule))


def rule_from_table(table: Mapping[str, Any] | str) -> Rule:
    """
    Read a rule as a file writes it: ``"drop_oldest"`` or ``{kind = "wait", timeout_ms = 5000}``.

    Raises:
        UnknownName: There is no such rule, or the rule has no such option.
        ConfigurationError: A value is impossible, or one is missing.
    """
    options: object = {"kind": table} if isinstance(table, str) else table
    if not isinstance(options, Mapping) or "kind" not in options:
        raise ConfigurationError(f'expected a rule such as {{kind = "wait", timeout_ms = 5000}}, got {table!r}.')
    kind = options["kind"]
    if not isinstance(kind, str) or kind not in _RULES:
        raise UnknownName("rule", kind, _RULES)
    rule = _RULES[kind]
    values = {name: value for name, value in options.items() if name != "kind"}
    for name in values:
        if name not in rule.__struct_fields__:
            raise UnknownName(f"option of the rule {kind!r}", name, rule.__struct_fields__)
    required = [field.name for field in msgspec.structs.fields(rule) if field.required]
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigurationError(f"expected {' and '.join(missing)} of the rule {kind!r}, got {dict(options)!r}.")
    return rule(**values)


def rule_to_table(rule: Rule) -> dict[str, Any]:
    """Write a rule as a file does, without the options that have their default: ``{kind = "wait", timeout_ms = 5000}``."""
    kind = next(kind for kind, each in _RULES.items() if each is type(rule))
    options = {
        field.name: getattr(rule, field.name)
        for field in msgspec.structs.fields(type(rule))
        if field.required or getattr(rule, field.name) != field.default
    }
    return {"kind": kind, **options}
