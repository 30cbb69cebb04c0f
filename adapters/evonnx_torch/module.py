"""`OnnxModule`: an ONNX graph run as a torch module whose parameters are its own constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from evonnx.network import Array
from evonnx_torch.ops._base import NormState, Renorm
from evonnx_torch.program import SUPPORTED, Program, Setting, compile_program, shapes_of, to_tensor
from evonnx_torch.runtime import to_device
from evonnx_training.graph import Graph, is_float, read_graph
from evonnx_training.roles import Roles, find_roles

_PROGRAMS = 16
"""Compiled programs kept; each belongs to one set of input shapes."""


class OnnxModule(nn.Module):
    """A graph as a module.

    Parameters are the trained constants (see `evonnx_training.roles`), in float32, reachable by tensor name
    through `weights`; norm statistics are buffers, reachable through `statistics`. Programs are compiled per
    input shapes on first use. In training mode BatchNormalization uses batch statistics and Dropout is
    active.

    Args:
        model: the model; read, never changed.
        device: where to run.

    Raises:
        AdapterError: an operator is unknown; names operator and node.
    """

    def __init__(self, model: ir.Model, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.device = torch.device(device)
        self.graph: Graph = read_graph(model, SUPPORTED, "torch")
        self.roles: Roles = find_roles(self.graph)
        self.norm = NormState()
        self.renorms: dict[str, Renorm] = {}
        self.weights: dict[str, nn.Parameter] = {}
        self.statistics: dict[str, Tensor] = {}
        # Parameter names may hold no dots, tensor names may: number them and keep the mapping here.
        for number, name in enumerate(self.roles.trained):
            self.weights[name] = nn.Parameter(to_tensor(self.graph.constants[name]).to(self.device))
            self.register_parameter(f"p{number}", self.weights[name])
        for number, name in enumerate(self.roles.statistics):
            self.statistics[name] = to_tensor(self.graph.constants[name]).to(self.device)
            self.register_buffer(f"s{number}", self.statistics[name])
        self._programs: dict[Any, Program] = {}
        self._channels_last = False
        self._host = frozenset(value.name for value in self.graph.inputs if value.is_host_scalar)
        leading = {
            value.dims[0] if value.dims else None for value in self.graph.inputs if not value.is_host_scalar
        }
        self._declared = leading.pop() if len(leading) == 1 else None

    @property
    def declared_batch(self) -> int | None:
        """The fixed leading size that all inputs share, None where it is free."""
        return self._declared

    @property
    def steering(self) -> frozenset[str]:
        """Scalar inputs whose value a program is compiled for; they stay on the CPU."""
        return self._host

    def forward(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Run.

        Args:
            inputs: every graph input by name.
            outputs: tensor names to return, inner ones too; None: the graph outputs. What they don't need is
                not run.

        Raises:
            AdapterError: a node cannot be run on these inputs.
        """
        results = self._program(inputs, outputs).run(inputs)
        # Under autocast the last layers may have computed in bfloat16; losses need more.
        return {n: x.float() if x.dtype is torch.bfloat16 else x for n, x in results.items()}

    def activation_elements(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> int:
        """Elements of all tensors that one forward pass on these inputs makes."""
        return self._program(inputs, outputs).elements

    def _program(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] | None) -> Program:
        wanted = self.graph.outputs if outputs is None else tuple(outputs)
        key = (
            self.training,
            wanted,
            *(
                (n, x.item()) if n in self._host else (n, x.shape, x.dtype, x.is_contiguous())
                for n, x in inputs.items()
            ),
        )
        program = self._programs.get(key)
        if program is None:
            program = self._compile(inputs, wanted)
            if len(self._programs) >= _PROGRAMS:
                self._programs.pop(next(iter(self._programs)))
            self._programs[key] = program
        return program

    def _compile(self, inputs: Mapping[str, Tensor], wanted: tuple[str, ...]) -> Program:
        data = {name: x for name, x in inputs.items() if name not in self._host}
        host = {name: x.cpu() for name, x in inputs.items() if name in self._host}
        actual = next((x.shape[0] for x in data.values() if x.ndim), 1)
        relaxed = self._declared is not None and actual != self._declared
        setting = Setting(
            training=self.training,
            outputs=wanted,
            device=self.device,
            norm=self.norm,
            renorms=self.renorms,
            batch=None,
        )
        leaves = {**self.weights, **self.statistics}
        if relaxed:
            declared = self._declared or 1
            few = {n: x[torch.arange(declared) % len(x)] if x.ndim else x for n, x in data.items()}
            shapes = shapes_of(self.graph, leaves, few, host, replace(setting, training=False))
            setting = replace(setting, batch=(declared, actual), declared_shapes=shapes)
        return compile_program(self.graph, leaves, data, host, setting)

    def use_channels_last(self) -> None:
        """Lay out 4-D weights, and from now on inputs, with channels innermost: convolutions run faster."""
        self._channels_last = True
        for parameter in self.weights.values():
            if parameter.ndim == 4:
                parameter.data = _channels_innermost(parameter.data)
        self.forget_programs()

    def forget_programs(self) -> None:
        """Compile anew on next use: something that programs bind has changed."""
        self._programs.clear()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OnnxModule:
        probe = fn(torch.empty(0, device=self.device))
        if probe.dtype is not torch.float32:
            raise RuntimeError(
                f"An ONNX graph trains in float32, not {probe.dtype}; use torch.autocast for less."
            )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for number, name in enumerate(self.weights):  # may be other objects now
            self.weights[name] = self.get_parameter(f"p{number}")
        for number, name in enumerate(self.statistics):
            self.statistics[name] = self.get_buffer(f"s{number}")
        self.device = probe.device
        self.forget_programs()
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Programs hold the weights of the module that they were compiled for; a copy compiles its own.
        return {**self.__dict__, "_programs": {}}

    def tensors(self, batch: Mapping[str, Array]) -> dict[str, Tensor]:
        """Numpy inputs as tensors on the device (scalars that steer the graph stay on the CPU)."""
        result = {}
        for value in self.graph.inputs:
            array = np.asarray(batch[value.name])
            if is_float(value.dtype) and array.dtype != np.float32:
                array = array.astype(np.float32)
            if value.name in self._host:
                result[value.name] = torch.tensor(array.reshape(-1)[0].item())
            else:
                # torch wants memory that it may write to.
                tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
                result[value.name] = self.laid_out(to_device(tensor, self.device))
        return result

    def laid_out(self, tensor: Tensor) -> Tensor:
        """An input in the memory layout that the module runs in."""
        if self._channels_last and tensor.ndim == 4:
            return _channels_innermost(tensor)
        return tensor.contiguous()

    def arrays(self) -> dict[str, Array]:
        """Parameters and norm statistics by tensor name, in the stored dtype.

        A value beyond the range of a narrower stored dtype becomes its largest finite value.
        """
        return {
            name: self._stored(name, tensor)
            for name, tensor in (*self.weights.items(), *self.statistics.items())
        }

    def _stored(self, name: str, tensor: Tensor) -> Array:
        dtype = self.graph.constants[name].dtype
        array = tensor.detach().cpu().numpy().astype(np.float32)
        if dtype == np.float16:
            limit = float(np.finfo(np.float16).max)
            array = np.clip(array, -limit, limit)
        return np.array(array, dtype=dtype, order="C")


def _channels_innermost(tensor: Tensor) -> Tensor:
    """(N, C, H, W), stored as (N, H, W, C)."""
    _, channels, height, width = tensor.shape
    # Strides are spelt out because torch tells layouts apart by them, and with one channel both layouts are
    # one order of elements.
    strides = (height * width * channels, 1, width * channels, channels)
    return tensor.contiguous(memory_format=torch.channels_last).as_strided(tensor.shape, strides)
