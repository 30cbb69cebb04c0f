"""From an architecture to an ONNX file, by either of torch's exporters, with reproducible weights."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo import ZOO, Architecture

Exporter = Literal["torchscript", "dynamo"]
EXPORTERS: tuple[Exporter, ...] = ("torchscript", "dynamo")


def export(name: str, exporter: Exporter, folder: Path) -> Path:
    """Write `<name>-<exporter>.onnx`.

    TorchScript: opset 17, dynamic batch (and image size, sequence length where the row says so). Dynamo: its
    own opset, static shapes, or a dynamic batch where the row says so.
    """
    row = ZOO[name]
    module = seeded(name, row)
    path = folder / f"{name}-{exporter}.onnx"
    examples = _examples(row)
    axes = row.dynamic or dict.fromkeys(row.inputs, (0,))
    options: dict[str, Any] = {"input_names": list(row.inputs)}
    if exporter == "torchscript":
        options |= {
            "opset_version": 17,
            "dynamo": False,
            "dynamic_axes": {name: {axis: _symbol(axis) for axis in free} for name, free in axes.items()},
        }
    else:
        options |= {"dynamo": True, "external_data": False}
        if row.dynamo_dynamic:
            batch = torch.export.Dim("batch", min=1, max=64)
            options["dynamic_shapes"] = tuple({0: batch} for _ in examples)
    with _quiet():
        torch.onnx.export(module, examples, str(path), **options)
    return path


def seeded(name: str, row: Architecture) -> nn.Module:
    """The architecture in evaluation mode; nothing is left zero or one that training would have moved."""
    torch.manual_seed(zlib.crc32(name.encode()))
    with _quiet():
        module = row.build().eval()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.running_mean.normal_(0, 0.2)
                part.running_var.uniform_(0.5, 1.5)
        for label, parameter in module.named_parameters():
            if parameter.dim() <= 1 or bool((parameter == parameter.flatten()[0]).all()):
                _move(label, parameter)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def _move(label: str, parameter: Tensor) -> None:
    """Biases and scales as trained ones look: small, or within a half of their first value."""
    if bool((parameter == 0).all()) or label.endswith("bias"):
        parameter.normal_(0, 0.2)
    else:
        parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 1.5))


def _examples(row: Architecture) -> tuple[Tensor, ...]:
    made = []
    for name, shape in row.inputs.items():
        if name == "input_ids":
            made.append(torch.randint(row.ids, shape))
        elif name == "attention_mask":
            made.append(torch.ones(shape, dtype=torch.int64))
        else:
            made.append(torch.randn(shape))
    return tuple(made)


def _symbol(axis: int) -> str:
    return ("batch", "length", "height", "width")[axis]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn and print about what they trace; none of it is about the graphs' correctness."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)
