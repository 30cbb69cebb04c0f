"""The documentation: every command and snippet runs, every link leads somewhere, the site needs no network.

A fence of a shell or of Python follows a comment that says what becomes of it here:

    <!-- run -->              runs, in order, in a copy of the digits sample that the page has for itself
    <!-- run slow -->         the same; its page also runs among the slow tests, and is whole only there
    <!-- run slow: needs X --> and only where the module X is installed
    <!-- file: NAME -->       is written to that file
    <!-- not run: REASON -->
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from cli_support import CommandLine

from evonnx.plugins import trackers

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
DIGITS = ROOT / "samples" / "digits"
WHAT = re.compile(
    r"<!-- (run|run slow|run slow: needs (?P<needs>\w+)|file: (?P<file>[\w.]+)|not run: .+) -->"
)
FENCE = re.compile(r"(?:^(<!-- [^\n]* -->)\n)?^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = {"tasks"}
"""Pages whose examples have tests beside what they are about."""
HEAVY = {"own-model"}
"""Pages that take more than ten seconds even without what is slow in them: they train a network first."""


@dataclass(frozen=True)
class Fence:
    """A block of code in a page."""

    page: str
    language: str
    text: str
    marker: str | None

    @property
    def says(self) -> re.Match[str] | None:
        return WHAT.fullmatch(self.marker or "")

    @property
    def runs(self) -> bool:
        return (self.marker or "").startswith("<!-- run")

    @property
    def slow(self) -> bool:
        return (self.marker or "").startswith("<!-- run slow")


def fences(page: Path) -> list[Fence]:
    text = page.read_text(encoding="utf-8")
    return [
        Fence(page.stem, language, body, marker or None) for marker, language, body in FENCE.findall(text)
    ]


PAGES = {page.stem: fences(page) for page in sorted(DOCS.glob("*.md"))}
RUNNABLE = [name for name, found in PAGES.items() if any(one.runs for one in found)]


@pytest.mark.parametrize("page", sorted(PAGES.keys() - ELSEWHERE))
def test_what_becomes_of_every_snippet_is_said(page):
    for one in PAGES[page]:
        if one.language in ("sh", "bash", "python", "toml"):
            assert one.says, (
                f"{page}: a {one.language} block without a word of what becomes of it:\n{one.text}"
            )


def test_the_pages_that_show_how_it_is_used_are_run():
    assert {"index", "quickstart", "own-model", "own-training", "method", "faq", "adapters"} <= set(RUNNABLE)


def run_shell(text: str, cli: CommandLine) -> None:
    """Line by line, as a shell would without a shell."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] == "evonnx", line
        done = cli(*(word.replace("python ", f"{shlex.quote(sys.executable)} ", 1) for word in words[1:]))
        assert done.code == 0, f"{line}\n{done.err}"
        assert done.out.strip(), line


def run_page(page: str, folder: Path, slow: bool, cli: CommandLine) -> int:
    """Run what is to be run, in order; how much that was."""
    ran, names = 0, {"__name__": "__main__"}
    for one in PAGES[page]:
        found = one.says
        if found and found["file"]:
            (folder / found["file"]).write_text(one.text, encoding="utf-8")
        if not one.runs or (one.slow and not slow):
            continue
        if found and found["needs"]:
            pytest.importorskip(found["needs"], reason=f"the extra `{found['needs']}` is not installed")
            if found["needs"] not in trackers():
                pytest.skip("evonnx is installed from another tree, whose entry points lack this tracker")
        if one.language == "sh":
            run_shell(one.text, cli)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of exporters, which are not ours
                exec(compile(one.text, f"{page}.md", "exec"), names)
        ran += 1
    return ran


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The digits under the names that the pages give them."""
    for name in ("train.npz", "val.npz", "test.npz"):
        shutil.copy(DIGITS / name, tmp_path)
    shutil.copy(DIGITS / "lenet5.onnx", tmp_path / "model.onnx")
    shutil.copy(DIGITS / "lenet5.toml", tmp_path / "model.toml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "160")
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        source = getattr(sys.modules[name], "__file__", None)
        if source and Path(source).is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.mark.parametrize(
    "page", [pytest.param(one, marks=pytest.mark.slow) if one in HEAVY else one for one in RUNNABLE]
)
def test_a_page_runs(page, folder, capsys):
    if any(one.language == "python" or "evolve" in one.text for one in PAGES[page] if one.runs):
        pytest.importorskip("torch")
    if all(one.slow for one in PAGES[page] if one.runs):
        pytest.skip("all of it is slow: see test_a_page_runs_whole")
    assert run_page(page, folder, False, CommandLine(capsys))


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name in RUNNABLE if any(one.slow for one in PAGES[name])])
def test_a_page_runs_whole(page, folder, capsys):
    pytest.importorskip("torch")
    assert run_page(page, folder, True, CommandLine(capsys))


# --- the site


class References(HTMLParser):
    """What a page loads, what it links to, and its anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.classes |= set(given.get("class", "").split())
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a":
            self.links += [given["href"]] if "href" in given else []
        else:
            loaded = (given.get(name, "") for name in ("src", "href", "data", "poster", "srcset"))
            self.loads += [one for one in loaded if one]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Built as `make docs` builds it."""
    for module in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(module, reason="the extra `docs` is not installed")
    target = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(target)]
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, References]:
    found = {}
    for page in site.rglob("*.html"):
        found[page] = References()
        found[page].feed(page.read_text(encoding="utf-8"))
    return found


def test_the_site_has_every_page(site, pages):
    there = {page.relative_to(site).with_suffix("").as_posix() for page in pages}
    wanted = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")}
    assert wanted <= there
    assert "evonnx.adapter.RetrainRequest" in pages[site / "api" / "contracts.html"].anchors
    assert "evonnx.evolution.loop.evolve" in pages[site / "api" / "steps.html"].anchors


def test_nothing_is_fetched_from_elsewhere(site, pages):
    for page, found in pages.items():
        for load in found.loads:
            assert not urlsplit(load).netloc, f"{page.name} loads {load}"
        # The theme's script would fetch a library for diagrams; without diagrams it does not.
        assert "mermaid" not in found.classes
    for sheet in site.rglob("*.css"):
        for target in re.findall(
            r"url\(([^)]+)\)|@import\s+[\"']([^\"']+)", sheet.read_text(encoding="utf-8")
        ):
            assert not urlsplit("".join(target).strip("\"'")).netloc, f"{sheet.name} loads {target}"


def test_every_link_leads_somewhere(site, pages):
    checked = 0
    for page, found in pages.items():
        for target in (*found.loads, *found.links):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or page.name == "404.html":
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            file = file / "index.html" if file.is_dir() else file
            assert file.is_file(), f"{page.name}: {target}"
            if parts.fragment and file in pages:
                assert unquote(parts.fragment) in pages[file].anchors, f"{page.name}: {target}"
            checked += 1
    assert checked > 500


def test_mathematics_is_drawn_without_scripts(site):
    method = (site / "method.html").read_text(encoding="utf-8")
    assert method.count('display="block"') >= 5
    assert "$`" not in method
    assert "\\frac" not in method
