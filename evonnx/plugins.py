"""Plugins: adapters, encodings, environment factors, dependency rules, tasks, trackers and executors, found
through entry points.

The built-in ones come in by the same door. Nothing is imported until it is asked for; a plugin that cannot be
imported is listed with its error and never breaks the list.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from evonnx.errors import EvonnxError, PluginError

Kind = Literal[
    "adapters", "encodings", "environment_factors", "dependency_rules", "tasks", "trackers", "executors"
]

KINDS: Mapping[Kind, str] = {
    "adapters": "adapter",
    "encodings": "encoding",
    "environment_factors": "environment factor",
    "dependency_rules": "dependency rule",
    "tasks": "task",
    "trackers": "tracker",
    "executors": "executor",
}
"""Entry point group (after `evonnx.`) -> what one of them is called."""

OWN_DISTRIBUTION = "evonnx"


@dataclass(frozen=True)
class Plugin:
    """One named thing that a distribution offers."""

    name: str
    """What the user types. `name@distribution` where another distribution already offers the plain name."""
    kind: Kind
    origin: str
    """The distribution that offers it."""
    version: str
    value: str
    """Where it is: `module:attribute`."""
    note: str = ""
    """What the user should know, such as a name offered twice."""
    entry_point: EntryPoint | None = field(default=None, compare=False, repr=False)

    def load(self) -> Any:
        """Import it.

        Raises:
            PluginError: importing failed, for whatever reason; the reason is in the message.
        """
        entry_point = self.entry_point or EntryPoint(self.name, self.value, f"evonnx.{self.kind}")
        try:
            return entry_point.load()
        except EvonnxError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"The {KINDS[self.kind]} {self.name!r} of {self.origin} {self.version} ({self.value}) cannot "
                "be "
                f"loaded: {type(error).__name__}: {error}. {_advice(error, self)}"
            ) from error

    @cached_property
    def error(self) -> str | None:
        """Why it cannot be loaded, or None. Looking imports it."""
        try:
            self.load()
        except EvonnxError as error:
            return str(error)
        return None


def _advice(error: BaseException, plugin: Plugin) -> str:
    if (
        isinstance(error, ModuleNotFoundError)
        and plugin.origin == OWN_DISTRIBUTION
        and plugin.kind in ("adapters", "trackers", "executors")
    ):
        return f"Install what it needs: `pip install 'evonnx[{plugin.name}]'`."
    return f"Repair or remove the distribution {plugin.origin!r}."


def plugins_of(kind: Kind, found: Iterable[EntryPoint] | None = None) -> dict[str, Plugin]:
    """Every plugin of a kind by name, evonnx's own first, without importing any.

    Where two distributions offer one name, evonnx's own keeps it (else the first by distribution name) and
    the others are listed as `name@distribution`; both carry a note.

    Args:
        kind: which of `KINDS`.
        found: entry points to use instead of the installed ones.
    """
    points = list(entry_points(group=f"evonnx.{kind}") if found is None else found)
    offered = [_plugin(kind, point) for point in points]
    offered.sort(
        key=lambda plugin: (plugin.origin != OWN_DISTRIBUTION, plugin.name, plugin.origin, plugin.value)
    )
    listed: dict[str, Plugin] = {}
    for plugin in offered:
        first = listed.get(plugin.name)
        if first is None:
            listed[plugin.name] = plugin
            continue
        other = _free_name(f"{plugin.name}@{plugin.origin}", listed)
        listed[other] = _copy(plugin, other, f"the name {plugin.name!r} belongs to {first.origin}")
        both = f"{plugin.origin} offers this name too, as {other!r}"
        listed[plugin.name] = _copy(first, first.name, f"{first.note}; {both}" if first.note else both)
    return listed


def _free_name(name: str, taken: Mapping[str, Plugin]) -> str:
    numbered = (f"{name}#{number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def _plugin(kind: Kind, point: EntryPoint) -> Plugin:
    distribution = point.dist
    origin = distribution.metadata["Name"] if distribution is not None else "an unknown distribution"
    version = distribution.version if distribution is not None else "?"
    return Plugin(point.name, kind, origin, version, point.value, entry_point=point)


def _copy(plugin: Plugin, name: str, note: str) -> Plugin:
    return Plugin(name, plugin.kind, plugin.origin, plugin.version, plugin.value, note, plugin.entry_point)


def adapters() -> dict[str, Plugin]:
    """Retraining adapters by name."""
    return plugins_of("adapters")


def encodings() -> dict[str, Plugin]:
    """Genetic encodings by name."""
    return plugins_of("encodings")


def environment_factors() -> dict[str, Plugin]:
    """Budgets by name."""
    return plugins_of("environment_factors")


def dependency_rules() -> dict[str, Plugin]:
    """Dependency rules of third parties by name."""
    return plugins_of("dependency_rules")


def tasks() -> dict[str, Plugin]:
    """Kinds of tasks by name."""
    return plugins_of("tasks")


def trackers() -> dict[str, Plugin]:
    """Experiment trackers by name."""
    return plugins_of("trackers")


def executors() -> dict[str, Plugin]:
    """Executors by name."""
    return plugins_of("executors")


def get(kind: Kind, name: str) -> Any:
    """The named plugin, imported: an adapter class, an encoding, a task class, ...

    `name` may also point at any code of the user's own: `package.module:Attribute` or `file.py:Attribute`.

    Raises:
        PluginError: no such plugin (with the closest name and the list), or it cannot be imported.
    """
    listed = plugins_of(kind)
    if name in listed:
        return listed[name].load()
    if ":" in name:
        return load_object(name, Path.cwd())
    close = difflib.get_close_matches(name, listed, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    known = ", ".join(listed) if listed else "none"
    raise PluginError(
        f"There is no {KINDS[kind]} called {name!r}.{guess} Installed: {known}. "
        f"`evonnx plugins` lists them all.{installation_note(listed)}"
    )


def installation_note(listed: Mapping[str, Plugin]) -> str:
    """A sentence for the user where evonnx's own plugins are missing because it was never installed, else
    ""."""
    if any(plugin.origin == OWN_DISTRIBUTION for plugin in listed.values()):
        return ""
    return (
        " evonnx's own plugins are not among them: it runs from a source tree whose entry points are not "
        "installed; "
        "run `pip install -e .` there."
    )


def load_object(reference: str, folder: Path) -> Any:
    """The attribute that `module:Attribute` or `file.py:Attribute` names. This runs the user's own code.

    Args:
        reference: what to load; the part after the colon may have dots.
        folder: what a relative file path is relative to.

    Raises:
        PluginError: the file, module or attribute is missing, or importing it failed.
    """
    source, _, attribute = reference.rpartition(":")
    if not source or not attribute:
        raise PluginError(f"{reference!r} names no code: write `file.py:Class` or `package.module:Class`.")
    found: Any = (
        _module_from_file(folder / source, reference)
        if source.endswith(".py")
        else _module(source, reference)
    )
    for part in attribute.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(
                part, [name for name in dir(found) if not name.startswith("_")], n=1
            )
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise PluginError(f"{source} has no {part!r}, which {reference!r} asks for.{guess}")
        found = getattr(found, part)
    return found


def _module(name: str, reference: str) -> Any:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{reference!r} cannot be loaded: importing {name} failed with {type(error).__name__}: {error}."
        ) from error


def _module_from_file(path: Path, reference: str) -> Any:
    path = path.resolve()
    if not path.is_file():
        raise PluginError(f"{reference!r} cannot be loaded: there is no file {path}.")
    # One module per file however often it is asked for, and no clash between two files of one name.
    name = f"_evonnx_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{reference!r} cannot be loaded: {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PluginError(
            f"{reference!r} cannot be loaded: running {path} failed with {type(error).__name__}: {error}."
        ) from error
    return module
