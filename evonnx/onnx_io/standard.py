"""The ONNX standard: the full checker, which includes strict shape and type inference.

Some real models fail this as given and still run; compare an offspring's verdict with its ancestor's.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx

from evonnx.errors import ModelError
from evonnx.onnx_io.detached import BESIDE, Detached
from evonnx.onnx_io.message import first_line


def check_file(path: str | os.PathLike[str]) -> None:
    """Hold a file to the standard.

    Raises:
        ModelError: the checker or shape inference refuses the file.
    """
    _check(Path(path), os.fspath(path))


def check_detached(model: Detached, label: str) -> None:
    """Hold a model to the standard, without its weights: the checker looks at their shapes and types only.

    Args:
        model: to check.
        label: what to call it in messages.

    Raises:
        ModelError: the checker or shape inference refuses the model.
    """
    with tempfile.TemporaryDirectory(prefix="evonnx-") as folder:
        draft = Path(folder) / "model.onnx"
        draft.write_bytes(model.proto.SerializeToString())
        (Path(folder) / BESIDE).write_bytes(b"")  # must exist; its content is not read
        _check(draft, label)


def _check(file: Path, label: str) -> None:
    try:
        onnx.checker.check_model(os.fspath(file), full_check=True)
    except Exception as error:  # ValidationError, InferenceError, DecodeError, OSError: all are verdicts here
        raise ModelError(f"{label} fails the ONNX checker: {first_line(error)}.") from error
