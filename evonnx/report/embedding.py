"""What is embedded in report.html: style, script, data, and the policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

STYLES = ("page.css", "charts.css", "widgets.css")
SCRIPTS = ("base.js", "tabs.js", "charts.js", "layers.js", "compare.js", "choices.js", "start.js")
"""One module script in this order: a file uses only what stands before it."""


@cache
def style() -> str:
    """The page's style sheet."""
    return _joined(STYLES)


@cache
def script() -> str:
    """The page's script."""
    return _joined(SCRIPTS)


def _joined(names: tuple[str, ...]) -> str:
    folder = files("evonnx.report").joinpath("assets")
    return "\n" + "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


def policy() -> str:
    """Content-Security-Policy: this style and this script, by their hashes, and nothing from anywhere."""
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_hash(style())}'",
            f"script-src '{_hash(script())}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def safe_json(document: Mapping[str, Any]) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
