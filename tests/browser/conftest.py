"""A headless Chromium, and reports to open in it. Without one, the tests are skipped and say why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_support import RUNS
from chromium import find

from evonnx.report import write_report

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of the reports, by name."""
    found = {}
    for name, make in RUNS.items():
        folder = tmp_path_factory.mktemp("report")
        (folder / "run.json").write_text(json.dumps(make()), encoding="utf-8")
        found[name] = write_report(folder)[0].as_uri()
    return found


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: `make test-browser` installs it")
    path = find()
    if path is None:
        pytest.skip("no Chromium: install one, or name it in EVONNX_CHROMIUM; `make test-browser` tries to")
    with api.sync_playwright() as playwright:
        # No sandbox: tests may run as root, where Chromium refuses to start with one.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """Opens reports, offline, and collects whatever goes wrong in them."""

    def __init__(self, browser: Any, reports: dict[str, str]) -> None:
        self._browser, self._reports = browser, reports
        self._contexts: list[Any] = []
        self.faults: list[str] = []
        self.requests: list[str] = []

    def __call__(
        self, name: str = "whole", panel: str = "", width: int = 1280, script: bool = True, **more: Any
    ) -> Any:
        """A page; `more` goes to the context: color_scheme, has_touch, forced_colors."""
        context = self._browser.new_context(
            viewport={"width": width, "height": 800},
            java_script_enabled=script,
            offline=True,
            reduced_motion="reduce",
            **more,
        )
        self._contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("console", lambda one: self.faults.append(f"{one.type}: {one.text}"))
        page.on("pageerror", lambda one: self.faults.append(str(one)))
        page.on("dialog", lambda one: (self.faults.append(f"dialog: {one.message}"), one.dismiss()))
        page.on("request", lambda one: self.requests.append(one.url))
        page.goto(self._reports[name] + (f"#{panel}" if panel else ""))
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def opened(chromium: Any, reports: dict[str, str]) -> Iterator[Opened]:
    """Opens reports; at the end, nothing went wrong in them and nothing was asked for but the files."""
    pages = Opened(chromium, reports)
    yield pages
    pages.close()
    assert pages.faults == []
    assert {url.partition("#")[0] for url in pages.requests} <= set(reports.values())
