"""The record of a fixed run, and the same with hostile names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden"
RUN: dict[str, Any] = json.loads((GOLDEN / "run.json").read_text(encoding="utf-8"))
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&[red]:smile:[/red]\x1b[31m\x07|`*_\n# x"


def poison(value: Any) -> Any:
    """Every string that comes from the user's files, made hostile; keys stay."""
    if isinstance(value, dict):
        return {key: poison(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [poison(inner) for inner in value]
    return value + HOSTILE if isinstance(value, str) else value
