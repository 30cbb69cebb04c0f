"""An ONNX model as a torch module for a training loop of your own, and its weights back into the ONNX file.

    from evonnx_torch import load_module, save_weights

    module = load_module("compact.onnx")
    ...  # any loop: module(images) gives the output, module.parameters() go to any optimizer
    save_weights(module, "trained.onnx")

The graph stays what it is: only weights change, and dead synapses stay dead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from evonnx.adapter import RetrainResult, check_result
from evonnx.errors import AdapterError
from evonnx.masks import Masks, live_masks
from evonnx.network import network_of
from evonnx.onnx_io import initializer_arrays, load_model, set_array
from evonnx.run_store import load_tensors
from evonnx.steps import write_checked
from evonnx_torch.module import OnnxModule
from evonnx_training.requests import check_masks, masked


class TrainableModel(nn.Module):
    """An ONNX graph as a module, as `load_module` gives it.

    Called with the graph's inputs, in their order or by name, it gives the output, or where there are
    several, all of them by name. Parameters are the weights, in float32. Where a mask is false the weight is
    zero and its gradient too, so that it stays zero under any optimizer that moves nothing without a
    gradient; `save_weights` sees to it whatever the optimizer.
    """

    def __init__(self, source: Path, model: ir.Model, masks: Masks, device: torch.device | str) -> None:
        super().__init__()
        self.source, self.masks = source, dict(masks)
        self.graph = OnnxModule(model, device)
        check_masks(self.graph.graph, self.masks)
        self.input_names = tuple(value.name for value in self.graph.graph.inputs)
        self.output_names = tuple(self.graph.graph.outputs)
        self._buffer_of = {
            name: f"mask{number}" for number, name in enumerate(self.masks) if name in self.weights
        }
        for name, buffer in self._buffer_of.items():
            mask = torch.from_numpy(np.array(self.masks[name], np.bool_)).to(device)
            self.register_buffer(buffer, mask, persistent=False)
            with torch.no_grad():
                self.weights[name].mul_(mask)
        self._hold()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._hold()  # a copy of a parameter has no hooks

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """What is trained, by initializer name."""
        return self.graph.weights

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor | dict[str, Tensor]:
        """Run the graph.

        Args:
            inputs: in the graph's order.
            named: or by name.

        Raises:
            TypeError: an input is missing, given twice or unknown.
            AdapterError: a node cannot be run on these inputs.
        """
        given = dict(zip(self.input_names, inputs, strict=False))
        missing = [name for name in self.input_names if name not in given and name not in named]
        surplus = [name for name in named if name in given or name not in self.input_names]
        if missing or surplus or len(inputs) > len(self.input_names):
            raise TypeError(
                f"{self.source.name} has the inputs {', '.join(self.input_names)}, each to be given once; "
                f"missing: {', '.join(missing) or 'none'}, too many: "
                f"{', '.join([*surplus, *map(str, range(len(self.input_names), len(inputs)))]) or 'none'}."
            )
        ordered = {name: given[name] if name in given else named[name] for name in self.input_names}
        outputs: dict[str, Tensor] = self.graph(
            {name: self._prepared(name, tensor) for name, tensor in ordered.items()}
        )
        return outputs[self.output_names[0]] if len(outputs) == 1 else outputs

    def _prepared(self, name: str, tensor: Tensor) -> Tensor:
        if name in self.graph.steering:  # a program is compiled for its value
            return torch.tensor(tensor.reshape(-1)[0].item())
        return self.graph.laid_out(tensor)

    def _hold(self) -> None:
        for name, buffer in self._buffer_of.items():
            self.weights[name].register_hook(self._held(buffer))  # type: ignore[no-untyped-call]

    def _held(self, buffer: str) -> Callable[[Tensor], Tensor]:
        def without_the_dead(gradient: Tensor) -> Tensor:
            return gradient * self.get_buffer(buffer)

        return without_the_dead


def load_module(
    model: str | Path, masks: Masks | str | Path | None = None, device: torch.device | str = "cpu"
) -> TrainableModel:
    """An ONNX model as a torch module for any training loop.

    Args:
        model: the file, such as `gen-03/compact.onnx` or `{model}` of the command adapter.
        masks: booleans by initializer name (True lives), or a safetensors file of them, such as `{masks}` of
            the command adapter; None: weights that are zero in the file stay zero; {}: none is held.
        device: where to run; `module.to` moves it later.

    Raises:
        EvonnxError: the model or the masks cannot be read, do not fit, or an operator is unknown to the torch
            adapter; names it and its node.
    """
    source = Path(model)
    loaded = load_model(source)
    if masks is None:
        held: Masks = live_masks(network_of(loaded, str(source)))
    elif isinstance(masks, Mapping):
        held = masks
    else:
        held = {name: array.astype(np.bool_) for name, array in load_tensors(Path(masks)).items()}
    return TrainableModel(source, loaded, held, device)


def save_weights(module: TrainableModel, output: str | Path) -> Path:
    """Write the ONNX file that the module came from, with the weights that the module has now.

    Names, shapes, types, metadata and the graph are the file's own; dead synapses are exactly zero.

    Args:
        module: from `load_module`; its file must still be there.
        output: where to write, whole or not at all; may be the file itself.

    Returns:
        `output`.

    Raises:
        AdapterError: a weight is not finite, or the file is not the one that the module was made from.
        ModelError: it cannot be written.
    """
    if not isinstance(module, TrainableModel):
        raise AdapterError(f"save_weights takes what load_module gave, not a {type(module).__name__}.")
    graph = load_model(module.source)
    arrays = module.graph.arrays()
    masked(arrays, module.masks)
    check_result(initializer_arrays(graph), module.masks, RetrainResult(arrays), "torch")
    for name, array in arrays.items():
        set_array(graph, name, array)
    write_checked(graph, output, module.source)
    return Path(output)
