"""evonnx: evolve a trained ONNX model into a smaller and faster one.

    import evonnx
    run = evonnx.evolve("model.onnx", task="model.toml", generations=10)
    run.best, run.record["best"]["score"]

or one step at a time: `load`, `analyse`, `find_clusters`, `encode`, `synthesize`, `apply_masks`, `compact`,
`evaluate`, `bench`. Every name is imported when it is first used, so that `import evonnx` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evonnx.clusters import find_clusters
    from evonnx.dependency import analyse
    from evonnx.encodings import Encoding
    from evonnx.environment import Budget
    from evonnx.evaluation import evaluate
    from evonnx.evolution import EvolveOptions, evolve
    from evonnx.genome import encode
    from evonnx.masking import apply_masks
    from evonnx.network import load_network as load
    from evonnx.resources import count
    from evonnx.speed import bench
    from evonnx.steps import compact
    from evonnx.synthesis import synthesize

__all__ = [
    "Budget",
    "Encoding",
    "EvolveOptions",
    "__version__",
    "analyse",
    "apply_masks",
    "bench",
    "compact",
    "count",
    "encode",
    "evaluate",
    "evolve",
    "find_clusters",
    "load",
    "synthesize",
]

__version__ = "0.1.0"

_HOMES = {
    "Budget": ("evonnx.environment", "Budget"),
    "Encoding": ("evonnx.encodings", "Encoding"),
    "EvolveOptions": ("evonnx.evolution", "EvolveOptions"),
    "analyse": ("evonnx.dependency", "analyse"),
    "apply_masks": ("evonnx.masking", "apply_masks"),
    "bench": ("evonnx.speed", "bench"),
    "compact": ("evonnx.steps", "compact"),
    "count": ("evonnx.resources", "count"),
    "encode": ("evonnx.genome", "encode"),
    "evaluate": ("evonnx.evaluation", "evaluate"),
    "evolve": ("evonnx.evolution", "evolve"),
    "find_clusters": ("evonnx.clusters", "find_clusters"),
    "load": ("evonnx.network", "load_network"),
    "synthesize": ("evonnx.synthesis", "synthesize"),
}
"""Where each public name lives: module and attribute."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evonnx' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
