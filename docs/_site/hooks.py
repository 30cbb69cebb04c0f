"""What the site needs beside MkDocs: mathematics without scripts, and links that leave the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

DOCS = Path(__file__).resolve().parent.parent
_DISPLAY = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"\$`([^`]+)`\$")
_LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\(([^)\s:#]+)(#[^)\s]*)?\)")
_FENCES = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
REPORTS = DOCS.parent / "samples" / "results"
"""Reports of runs in it become part of the site."""


def on_files(files: Any, config: Any) -> Any:
    """Add the reports that are published."""
    for report in sorted(REPORTS.rglob("report.html")):
        files.append(File.generated(config, _on_site(report), abs_src_path=str(report)))
    return files


def _on_site(report: Path) -> str:
    """samples/results/lenet5_mnist/dense-0/report.html -> reports/lenet5_mnist-dense-0.html"""
    return f"reports/{'-'.join(report.parent.relative_to(REPORTS).parts)}.html"


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
        """A file of the repository that is no page is named, not linked; reports are pages."""
        target = (here / found[2]).resolve()
        if target.is_relative_to(DOCS) and target.is_file():
            return found[0]
        if not target.exists():
            return found[0]  # MkDocs says so
        if target.is_relative_to(REPORTS) and target.name == "report.html":
            return f"[{found[1]}]({_on_site(target)})"
        return found[1]

    return _LINK.sub(inside, text)
