"""A run that is told whole, for both tests of tracking."""

from __future__ import annotations

from pathlib import Path

import pytest
from evolution_support import write_case
from tracking_support import Ear, Notebook, tracked

from evonnx.tracking import Asked


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_case(tmp_path_factory.mktemp("tracked"))


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory) -> tuple[Notebook, dict, Ear, Path]:
    """A run of two generations, as it was told and as it was recorded."""
    book, ear = Notebook(), Ear()
    out = tmp_path_factory.mktemp("whole") / "mine"
    return book, tracked(model, out, [Asked("notebook", book)], ear), ear, out
