"""The torch module computes what onnxruntime computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import GRAPHS
from torch_support import feed_for, float32_copy, reference

torch = pytest.importorskip("torch")

from evonnx_torch.module import OnnxModule  # noqa: E402

FEEDS = {
    "silero_vad": [
        {"input": (2, 576), "state": (2, 2, 128), "sr": 16000},
        {"input": (1, 288), "state": (2, 1, 128), "sr": 8000},
    ],
    "silero_vad_16k_op15": [{"input": (3, 576), "state": (2, 3, 128), "sr": 16000}],
    "yunet_n_dynamic": [{"input": (2, 3, 64, 96)}, {"input": (1, 3, 96, 64)}],
}
FILES = (
    "mnist_cntk",
    "silero_vad",
    "silero_vad_16k_op15",
    "squeezenet_fp16",
    "ultraface_version-RFB-320",
    "ultraface_version-slim-320_simplified",
    "winml_pytorch_tutorial_imageclassifier",
    "yunet_n_320_320",
    "yunet_n_dynamic",
)


def check(model: onnx.ModelProto, feed: dict[str, np.ndarray], module: OnnxModule | None = None) -> None:
    module = module or OnnxModule(ir.from_proto(model))
    module.eval()
    want = reference(float32_copy(model), feed)
    with torch.no_grad():
        for _ in range(2):  # the second run reuses the compiled program
            got = module(module.tensors(feed))
            assert list(got) == list(want)
            for name, array in want.items():
                mine = got[name].numpy()
                assert mine.shape == array.shape, name
                # onnxruntime's Sigmoid is off by 1e-7 near zero.
                assert np.abs(mine - array).max() <= 1e-4 * np.abs(array).max() + 1e-6, name


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_agrees_with_onnxruntime_on_named_graphs(name: str) -> None:
    model = GRAPHS[name]()
    check(model, feed_for(model, np.random.default_rng(0)))


@pytest.mark.parametrize("name", FILES)
def test_agrees_with_onnxruntime_on_real_files(name: str, shared_data: Path) -> None:
    model = onnx.load(shared_data / "onnx" / f"{name}.onnx")
    module = OnnxModule(ir.from_proto(model))
    rng = np.random.default_rng(1)
    for shapes in FEEDS.get(name, [None]):
        feed = (
            feed_for(model, rng)
            if shapes is None
            else {
                key: np.array(shape, dtype=np.int64)
                if isinstance(shape, int)
                else rng.normal(size=shape).astype(np.float32)
                for key, shape in shapes.items()
            }
        )
        check(model, feed, module)
