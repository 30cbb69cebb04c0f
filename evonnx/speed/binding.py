"""One run as a call without arguments: through onnxruntime's `run`, or with inputs and outputs on the device.

Bound runs take no copies: inputs are put on the device once, outputs stay there. With fixed outputs every run
uses the same buffers, which a CUDA graph needs: the first such run captures it, later ones replay it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evonnx.network import Array
from evonnx.sessions import CUDA, TENSORRT, run_session

DEVICES: Mapping[str, str] = {CUDA: "cuda", TENSORRT: "cuda"}
"""onnxruntime's name of the memory that a provider computes in."""
GRAPH_OPTIONS: Mapping[str, Mapping[str, str]] = {CUDA: {"enable_cuda_graph": "1"}}
"""Provider options that make a session capture its runs."""

Run = Callable[[], None]


def plain_run(session: Any, feeds: Mapping[str, Array]) -> Run:
    """Inputs from and outputs to numpy arrays.

    Raises:
        ModelError: the model does not run.
    """
    names = [output.name for output in session.get_outputs()]
    run_session(session, feeds, names)  # a clear error before the clock starts
    held = dict(feeds)

    def run() -> None:
        session.run(names, held)

    return run


def bound_run(
    session: Any,
    feeds: Mapping[str, Array],
    device: str,
    *,
    fixed: Mapping[str, Array] | None = None,
    values: Any = None,
) -> Run:
    """Inputs and outputs that stay on the device; a run ends when the outputs are there.

    Args:
        session: onnxruntime's.
        feeds: inputs by name.
        device: where to put them: "cuda", "cpu".
        fixed: arrays of the shapes and dtypes of all outputs, by name: these get buffers of their own, the
            same in every run. None: onnxruntime takes new ones from its arena.
        values: `onnxruntime.OrtValue`.

    Raises:
        Exception: whatever onnxruntime raises where it can't bind or run.
    """
    if values is None:
        import onnxruntime

        values = onnxruntime.OrtValue
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, values.ortvalue_from_numpy(array, device, 0))
    for output in session.get_outputs():
        if fixed is None:
            binding.bind_output(output.name, device, 0)
        else:
            like = fixed[output.name]
            buffer = values.ortvalue_from_shape_and_type(like.shape, like.dtype, device, 0)
            binding.bind_ortvalue_output(output.name, buffer)
    binding.synchronize_inputs()

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    run()
    return run
