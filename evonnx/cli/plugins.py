"""`evonnx plugins`: what is installed, where it comes from, and what is broken."""

from __future__ import annotations

from evonnx.cli._common import Debug, Json, command, console, emit


@command
def plugins(as_json: Json = False, debug: Debug = False) -> None:
    """List what is installed and what is broken.

    Adapters, encodings, environment factors, dependency rules, tasks, trackers and executors, each with its
    origin and version. A plugin that cannot be loaded is listed with its error.

    \b
    Examples:
      evonnx plugins
      evonnx plugins --json
    """
    from evonnx import plugins as registry
    from evonnx.report.table import Table, show

    kinds = {
        "adapters": registry.adapters(),
        "encodings": registry.encodings(),
        "environment factors": registry.environment_factors(),
        "dependency rules": registry.dependency_rules(),
        "tasks": registry.tasks(),
        "trackers": registry.trackers(),
        "executors": registry.executors(),
    }
    if as_json:
        emit(
            {
                kind.replace(" ", "_"): [
                    {"name": one.name, "origin": one.origin, "version": one.version, "error": one.error}
                    for one in found.values()
                ]
                for kind, found in kinds.items()
            }
        )
        return
    rows = tuple(
        (kind, one.name, one.origin, one.version, one.error or "ok")
        for kind, found in kinds.items()
        for one in found.values()
    )
    show(Table("Plugins", ("kind", "name", "origin", "version", "state"), rows, left=5), console())
