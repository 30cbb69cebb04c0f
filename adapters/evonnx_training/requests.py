"""What is read of a request before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from evonnx.adapter import RetrainRequest
from evonnx.errors import AdapterError
from evonnx.masks import Masks
from evonnx.network import Array
from evonnx.task import Batch, Task
from evonnx_training.graph import Graph

INTEGER_WEIGHTS = (
    "every weight of the model is stored as integers behind DequantizeLinear, which training leaves as they "
    "are; give the model before quantisation to retrain"
)
"""A note where there is nothing to train."""


def is_quantized(graph: Graph) -> bool:
    """Whether weights may be stored as integers."""
    return any(node.op_type == "DequantizeLinear" for node in graph.nodes)


def read_options(
    request: RetrainRequest, choices: Mapping[str, tuple[str, ...]], adapter: str
) -> dict[str, str]:
    """The adapter's own settings, the first of each where none is given.

    Raises:
        AdapterError: a value is none of the choices.
    """
    chosen = {name: request.options.get(name, values[0]) for name, values in choices.items()}
    for name, value in chosen.items():
        if value not in choices[name]:
            raise AdapterError(
                f"The {adapter} adapter's option {name!r} is {value!r}; "
                f"it must be one of {', '.join(choices[name])}."
            )
    return chosen


def check_masks(graph: Graph, masks: Masks) -> None:
    """Hold masks against the graph.

    Raises:
        AdapterError: the graph has no such tensor, or one of another shape.
    """
    for name, mask in masks.items():
        constant = graph.constants.get(name)
        if constant is None or constant.shape != mask.shape:
            shape = "no such tensor" if constant is None else f"shape {list(constant.shape)}"
            raise AdapterError(
                f"There is a mask of shape {list(mask.shape)} for {name!r}, "
                f"but the model has {shape} under that name."
            )


def stored(graph: Graph, names: tuple[str, ...]) -> dict[str, Array]:
    """Copies of constants as the file has them."""
    return {name: np.array(graph.constants[name]) for name in names}


def masked(arrays: dict[str, Array], masks: Masks) -> dict[str, Array]:
    """The arrays, with exact positive zeros where masked."""
    for name, mask in masks.items():
        if name in arrays:
            arrays[name][~mask] = 0
    return arrays


def first_batch(task: Task, size: int) -> Batch:
    """Of the training split in its own order.

    Raises:
        AdapterError: there is none.
    """
    for batch in task.batches("train", size):
        return batch
    raise AdapterError(f"Task {task.name!r} has no training examples, so there is nothing to retrain on.")
