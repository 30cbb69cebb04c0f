"""Dependency rules, one file per operator family; found through the entry points
`evonnx.dependency_rules`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from evonnx.dependency.rules._base import Rule
from evonnx.errors import PluginError

__all__ = ["Rule", "rules_by_operator"]

_GROUP = "evonnx.dependency_rules"


@lru_cache(maxsize=1)
def rules_by_operator() -> Mapping[str, Rule]:
    """Every installed rule by operator. A rule of another distribution replaces a built-in one.

    Raises:
        PluginError: evonnx's own rules are not installed, a rule cannot be loaded, or two distributions give
        rules
            for one operator.
    """
    found: dict[str, tuple[Rule, str, bool]] = {}
    for point in sorted(entry_points(group=_GROUP), key=lambda point: (not _built_in(point), point.name)):
        rule = _load(point)
        for operator in sorted(rule.operators):
            before = found.get(operator)
            if before is not None and before[2] == _built_in(point):
                raise PluginError(
                    f"Two dependency rules handle {operator}: {before[1]!r} and {point.name!r}. "
                    "Remove one of the distributions that bring them."
                )
            found[operator] = (rule, point.name, _built_in(point))
    if not found:
        raise PluginError(
            "No dependency rules are installed: evonnx is not installed properly; run `pip install -e .`."
        )
    return {operator: rule for operator, (rule, _, _) in found.items()}


def _built_in(point: EntryPoint) -> bool:
    return point.value.startswith("evonnx.dependency.rules.")


def _load(point: EntryPoint) -> Rule:
    try:
        rule = point.load()()
    except Exception as error:
        raise PluginError(
            f"The dependency rule {point.name!r} ({point.value}) cannot be loaded: "
            f"{type(error).__name__}: {error}. Repair or remove the distribution that brings it."
        ) from error
    if not isinstance(rule, Rule):
        raise PluginError(
            f"The dependency rule {point.name!r} ({point.value}) lacks operators, size_slots or visit."
        )
    return rule
