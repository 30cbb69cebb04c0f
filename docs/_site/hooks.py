"""What the site needs beside MkDocs: mathematics without scripts, and links that leave the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

DOCS = Path(__file__).resolve().parent.parent
_DISPLAY = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"\$`([^`]+)`\$")
_LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\(([^)\s:#]+)(#[^)\s]*)?\)")
_FENCES = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_OPTIONAL = {"Task files": "tasks.md"}
"""Pages of the navigation that may not be there."""


def on_config(config: Any) -> Any:
    """Put pages that are there into the navigation."""
    (used,) = (part["Use it"] for part in config["nav"] if "Use it" in part)
    for title, page in _OPTIONAL.items():
        if (DOCS / page).is_file() and {title: page} not in used:
            used.insert(2, {title: page})
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Mathematics becomes MathML, which browsers draw themselves; GitHub reads the same source."""
    markdown = _DISPLAY.sub(
        lambda found: f'<div class="math">{convert(found[1], display="block")}</div>', markdown
    )
    parts, end = [], 0
    for fence in _FENCES.finditer(markdown):  # code stays as it is
        parts += [_prose(markdown[end : fence.start()], page), fence[0]]
        end = fence.end()
    return "".join([*parts, _prose(markdown[end:], page)])


def _prose(text: str, page: Any) -> str:
    # In a span, or Markdown takes it for a block where a line begins with it.
    text = _INLINE.sub(lambda found: f"<span>{convert(found[1])}</span>", text)
    here = (DOCS / page.file.src_path).parent

    def inside(found: re.Match[str]) -> str:
        """A file of the repository that is no page is named, not linked."""
        target = (here / found[2]).resolve()
        if target.is_relative_to(DOCS) and target.is_file():
            return found[0]
        if not target.exists() and target.name not in _OPTIONAL.values():
            return found[0]  # MkDocs says so
        return found[1]

    return _LINK.sub(inside, text)
