"""Named graphs in the QDQ format, as onnxruntime's own static quantisation writes it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import onnx

from evonnx.network import Array


class _Calibration:
    """A few random batches for every input of a model."""

    def __init__(self, model: onnx.ModelProto, batches: int = 4) -> None:
        rng = np.random.default_rng(0)
        known = {tensor.name for tensor in model.graph.initializer}
        shapes = {
            value.name: [
                dim.dim_value or (1 if axis == 0 else 16)
                for axis, dim in enumerate(value.type.tensor_type.shape.dim)
            ]
            for value in model.graph.input
            if value.name not in known
        }
        self._feeds: Iterator[dict[str, Array]] = iter(
            [
                {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
                for _ in range(batches)
            ]
        )

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def quantized(model: onnx.ModelProto, weights: type = np.int8, per_channel: bool = False) -> onnx.ModelProto:
    """A float32 model in the QDQ format: uint8 activations, `weights` int8 or uint8, biases int32."""
    import tempfile
    from pathlib import Path

    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    logging.getLogger().setLevel(logging.ERROR)  # it advises to preprocess, which is for large models
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "float.onnx", Path(folder) / "qdq.onnx"
        onnx.save(model, paths[0])
        quantize_static(
            paths[0],
            paths[1],
            _Calibration(model),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8 if weights is np.int8 else QuantType.QUInt8,
        )
        return onnx.load(paths[1])
