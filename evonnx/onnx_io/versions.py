"""Which opsets and IR versions are read: from 7 to the newest that the installed onnxruntime loads."""

from __future__ import annotations

import functools
from pathlib import Path

import onnx

from evonnx.errors import ModelError

DEFAULT_DOMAINS = ("", "ai.onnx")
"""Two spellings of the standard operator set."""
OLDEST_OPSET = 7
"""onnxruntime guarantees nothing below it."""
_SURE_OPSET, _SURE_IR = 21, 10
"""Accepted by every onnxruntime this package allows, so no probe is needed up to here."""


def check_versions(proto: onnx.ModelProto, file: Path) -> None:
    """Refuse a model that the installed onnxruntime does not load because of its opset or IR version.

    Raises:
        ModelError: naming the version and the newest (or oldest) accepted.
    """
    opset = max((o.version for o in proto.opset_import if o.domain in DEFAULT_DOMAINS), default=0)
    if opset and opset < OLDEST_OPSET:
        raise ModelError(
            f"{file} uses opset {opset}; onnxruntime supports {OLDEST_OPSET} and newer. "
            "Convert it with onnx.version_converter, or export it again."
        )
    if opset > _SURE_OPSET and opset > (newest := _newest("opset")):
        raise ModelError(
            f"{file} uses opset {opset}; the newest that the installed onnxruntime loads is {newest}. "
            f"Export it with opset {newest} or older, or install a newer onnxruntime."
        )
    if proto.ir_version > _SURE_IR and proto.ir_version > (newest := _newest("ir")):
        raise ModelError(
            f"{file} has IR version {proto.ir_version}; the newest that the installed onnxruntime loads "
            f"is {newest}. Save it with IR version {newest} or older, or install a newer onnxruntime."
        )


def newest_supported() -> tuple[int, int]:
    """(opset, IR version): the newest that the installed onnxruntime loads, found by asking it."""
    return _newest("opset"), _newest("ir")


@functools.cache
def _newest(what: str) -> int:
    version = _SURE_OPSET if what == "opset" else _SURE_IR
    while (
        _runtime_accepts(version + 1, _SURE_IR)
        if what == "opset"
        else _runtime_accepts(_SURE_OPSET, version + 1)
    ):
        version += 1
    return version


def _runtime_accepts(opset: int, ir_version: int) -> bool:
    # Imported here: only files newer than every allowed onnxruntime need the question asked.
    import onnxruntime

    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "probe",
        [value("x", onnx.TensorProto.FLOAT, [1])],
        [value("y", onnx.TensorProto.FLOAT, [1])],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=ir_version
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime's error classes are private; refusal is the answer sought
        return False
    return True
