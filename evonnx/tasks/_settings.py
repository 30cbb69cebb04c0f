"""Tables of a task file, read strictly: every key is known, every value has its type, errors name file and
key."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evonnx.errors import TaskError


@dataclass(frozen=True)
class Settings:
    """One table with the place it came from."""

    table: Mapping[str, Any]
    where: str
    """For messages, such as `digits.toml, [task]`."""
    folder: Path
    """What relative paths in it are relative to."""

    def with_table(self, **values: Any) -> Settings:
        """The same place, with other values."""
        return replace(self, table={**self.table, **values})

    def only(self, known: Iterable[str]) -> None:
        """Refuse keys that nobody reads.

        Raises:
            TaskError: an unknown key, with the closest known one.
        """
        known = sorted(known)
        for key in self.table:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                guess = f"Did you mean {close[0]!r}? " if close else ""
                raise TaskError(f"{self.where}: unknown key {key!r}. {guess}Known keys: {', '.join(known)}.")

    def wrong(self, key: str, want: str) -> TaskError:
        """The error for a value that does not fit."""
        return TaskError(f"{self.where}: {key} must be {want}, not {self.table[key]!r}.")

    def text(self, key: str, choices: Iterable[str] | None = None) -> str | None:
        """A string, or None where the key is absent."""
        if key not in self.table:
            return None
        value = self.table[key]
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        if choices is not None and value not in choices:
            close = difflib.get_close_matches(value, list(choices), n=1)
            guess = f" (did you mean {close[0]!r}?)" if close else ""
            raise self.wrong(key, f"one of {', '.join(choices)}{guess}")
        return value

    def number(self, key: str, want: str, fits: Callable[[float], bool]) -> float | None:
        """A finite number for which `fits` holds, or None where the key is absent; `want` says it in
        words."""
        if key not in self.table:
            return None
        value = self.table[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(key, want)
        if not fits(value):
            raise self.wrong(key, want)
        return value

    def integer(self, key: str, minimum: int) -> int | None:
        """A whole number of at least `minimum`, or None where the key is absent."""
        if key not in self.table:
            return None
        value = self.table[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.wrong(key, f"a whole number of at least {minimum}")
        return value

    def numbers(self, key: str) -> tuple[float, ...] | None:
        """One number or a list of numbers as a tuple, or None where the key is absent."""
        if key not in self.table:
            return None
        value = self.table[key]
        values = value if isinstance(value, list) else [value]
        good = [
            isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one)
            for one in values
        ]
        if not values or not all(good):
            raise self.wrong(key, "a number or a list of numbers")
        return tuple(float(one) for one in values)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.table.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def names(self, key: str) -> tuple[str, ...] | None:
        """One string or a list of different ones as a tuple, or None where the key is absent."""
        return (self.table[key],) if isinstance(self.table.get(key), str) else self.strings(key)

    def tables(self, key: str, names: Iterable[str]) -> dict[str, Settings]:
        """Tables by name, `[task.KEY.NAME]`; none where the key is absent.

        Raises:
            TaskError: it holds something else, or a name that is not among `names`.
        """
        found = self.table.get(key, {})
        if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
            raise self.wrong(key, f"tables by name, such as [task.{key}.NAME]")
        Settings(found, f"{self.where}, {key}", self.folder).only(names)
        return {
            name: Settings(table, f"{self.where}, {key}.{name}", self.folder) for name, table in found.items()
        }

    def strings(self, key: str) -> tuple[str, ...] | None:
        """A list of different strings as a tuple, or None where the key is absent."""
        if key not in self.table:
            return None
        value = self.table[key]
        if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
            raise self.wrong(key, "a list of strings")
        if len(set(value)) != len(value):
            raise self.wrong(key, "a list of different strings")
        return tuple(value)
