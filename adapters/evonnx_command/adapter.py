"""Hand model, masks and data to a program, and take its weights back under the same checks as everybody's."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx

from evonnx.adapter import RetrainRequest, RetrainResult, check_result
from evonnx.errors import AdapterError
from evonnx.network import Array
from evonnx.onnx_io import initializer_arrays, load_model
from evonnx.task import Batch
from evonnx_command.program import run_program
from evonnx_command.template import fill, placeholders, split_command
from evonnx_command.weights import find_output, read_weights

DATA_BATCH = 256
DATA_LIMIT = 2**32
"""Bytes of training data that are written for {data}."""


class CommandAdapter:
    """Retrains by running a command of the user's.

    Options: `command`, the command line (placeholders: `evonnx_command.template.PLACEHOLDERS`); `time_limit`,
    seconds (none by default); `task`, the path of the task file for {task}.

    The program runs in the folder that evonnx was started in; its files are in a temporary folder that is
    removed afterwards, but for {checkpoint}, where it may keep its progress: if the program sees to it, a
    retraining that is killed goes on from there. Lines it prints such as `epoch 1/3 loss 0.25` become
    progress and history, other lines go to stderr.
    """

    name = "command"

    def retrain(self, request: RetrainRequest) -> RetrainResult:
        """Run the command and read what it wrote.

        Raises:
            AdapterError: the command is wrong, the program fails or takes too long, or its output is missing,
                unreadable or breaks the contract.
        """
        words = split_command(request.options.get("command", ""))
        limit = _time_limit(request.options)
        if request.budget.epochs == 0:
            return RetrainResult({})
        known = initializer_arrays(load_model(request.model))
        with tempfile.TemporaryDirectory(prefix="evonnx-command-") as name:
            folder = Path(name)
            values = _values(request, folder, placeholders(words))
            history = run_program(fill(words, values), request.progress, limit)
            weights = read_weights(find_output(Path(values["output"])), known, request.masks)
        result = RetrainResult(
            {name: _as_stored(array, known[name]) for name, array in weights.items()}, history
        )
        check_result(known, request.masks, result, self.name)
        return result


def _time_limit(options: Mapping[str, str]) -> float | None:
    text = options.get("time_limit")
    if text is None:
        return None
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        raise AdapterError(
            f"The command adapter's time_limit must be a number of seconds above 0, not {text!r}."
        )
    return limit


def _as_stored(array: Array, stored: Array) -> Array:
    """Shapes [] and [1] are the same to many frameworks; everything else must fit as it is."""
    return array.reshape(stored.shape) if array.size == stored.size == 1 else array


def _values(request: RetrainRequest, folder: Path, used: set[str]) -> dict[str, str]:
    """What takes the place of each placeholder; files are written only for those in use."""
    values = {
        "model": str(_model_copy(request.model, folder)),
        "masks": str(folder / "masks.safetensors"),
        "output": str(folder / "output"),
        "checkpoint": str((request.checkpoint or folder / "checkpoint").resolve()),
        "epochs": str(request.budget.epochs),
        "seed": str(request.seed),
    }
    _write_masks(request, folder / "masks.safetensors")
    if "task" in used:
        if "task" not in request.options:
            raise AdapterError(
                "The command uses {task}, but the task comes from no file; use {data} instead."
            )
        values["task"] = str(Path(request.options["task"]).resolve())
    if "ancestor" in used:
        if request.ancestor is None:
            raise AdapterError("The command uses {ancestor}, but there is none to distil from.")
        values["ancestor"] = str(request.ancestor.resolve())
    if "data" in used:
        values["data"] = str(folder / "data.npz")
        _write_data(request, folder / "data.npz")
    return values


def _model_copy(model: Path, folder: Path) -> Path:
    """A copy that the program can't harm; a model with external data is named where it lies."""
    proto = onnx.load(model, load_external_data=False)
    if any(one.data_location == onnx.TensorProto.EXTERNAL for one in proto.graph.initializer):
        return model.resolve()
    return Path(shutil.copyfile(model, folder / "model.onnx"))


def _write_masks(request: RetrainRequest, path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(mask, np.bool_) for name, mask in request.masks.items()}, path)


def _target_arrays(batch: Batch) -> Iterator[tuple[str, Array]]:
    """Targets under the names they have in {data}."""
    if isinstance(batch.targets, Mapping):
        for output, (values, weights) in batch.targets.items():
            yield f"targets.{output}", values
            if weights is not None:
                yield f"weights.{output}", np.broadcast_to(weights, values.shape)
    elif batch.targets is not None:
        yield "targets", batch.targets


def _write_data(request: RetrainRequest, path: Path) -> None:
    columns: dict[str, list[Array]] = {}
    size = 0
    for batch in request.task.batches("train", DATA_BATCH):
        arrays = dict(batch.inputs)
        for name, array in _target_arrays(batch):
            if name in arrays:
                raise AdapterError(f"The model has an input called {name!r}, a name of labels in {{data}}.")
            arrays[name] = array
        for name, array in arrays.items():
            columns.setdefault(name, []).append(array)
            size += array.nbytes
        if size > DATA_LIMIT:
            raise AdapterError(
                f"The training data is larger than the {DATA_LIMIT >> 30} GiB that are written for {{data}}; "
                "let the program read it itself."
            )
    # Not numpy.savez, whose own arguments clash with inputs called like them.
    with zipfile.ZipFile(path, "w") as archive:
        for name, parts in columns.items():
            joined = np.concatenate([np.atleast_1d(part) for part in parts])
            plain = (
                joined.astype(np.float32) if joined.dtype.kind == "V" else joined
            )  # bfloat16 is unknown to .npy
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, plain, allow_pickle=False)
