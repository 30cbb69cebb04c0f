"""One nursery for all tests here, and one run that was left alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from crash_support import Alone, Case, Nursery


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    with Nursery() as made:
        yield made


@pytest.fixture(scope="session")
def alone(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    folder = tmp_path_factory.mktemp("alone")
    case = Case.written(folder / "case")
    ended = nursery.run(case.words(folder / "run"), folder / "log")
    assert ended.code == 0, ended.said
    return Alone(case, folder / "run", ended)
