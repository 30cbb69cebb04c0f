"""Copies of a model in another precision, for timing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

from evonnx.errors import ModelError

Precision = Literal["fp32", "fp16"]


def in_precision(path: Path, precision: Precision) -> str | bytes:
    """What a session is made from: the file as it is ("fp32"), or a float16 copy in memory ("fp16").

    Raises:
        ModelError: the precision is unknown, or the model can't be converted.
    """
    if precision == "fp32":
        return str(path)
    if precision != "fp16":
        raise ModelError(f"Precision {precision!r} is not known; use fp32 or fp16.")
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = convert_float_to_float16(onnx.load(path), keep_io_types=True)
        return bytes(converted.SerializeToString())
    except Exception as error:  # the converter raises whatever the graph makes it stumble over
        raise ModelError(
            f"{path} can't be converted to float16: {error}. Time it with --precision fp32."
        ) from error
