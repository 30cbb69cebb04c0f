"""How onnxruntime gets at the weights of a detached model: where they are, and copied as little as it allows.

Without optimisations nothing is made of weights, so that a session can use the arrays themselves. To load the
model onnxruntime then wants no more than a file where the message says that weights are. With optimisations
it has to see the numbers: those in a spool it maps from there, the others it copies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from evonnx.onnx_io import Detached

_FOLDER = "session.model_external_initializers_file_folder_path"
_EMPTY = Path(__file__).parent / "empty"
"""Has an empty file of the name that messages give (`onnx_io.detached.BESIDE`)."""


class Loan:
    """The weights of one model, for the options of one session."""

    def __init__(self, ort: Any, model: Detached, options: Any, *, optimize: bool) -> None:
        """
        Args:
            ort: onnxruntime.
            model: whose weights are lent.
            options: of the session, which are told where the weights are.
            optimize: whether the session optimises its graph.
        """
        self._options = options
        self._model = model
        self.weights = {name: ort.OrtValue.ortvalue_from_numpy(one) for name, one in model.arrays.items()}
        """Values over the memory of the arrays, to be kept as long as the session."""
        self._unread: list[str] = []
        places: dict[str, tuple[int, int]] = {}
        if optimize:
            if model.spool is not None:
                found = {name: model.spool.place(name) for name in self.weights}
                places = {name: place for name, place in found.items() if place is not None}
                options.add_session_config_entry(_FOLDER, str(model.spool.path.parent))
        else:
            # Integers may be indices, which are looked at when shapes are inferred.
            self._unread = [name for name, one in model.arrays.items() if one.dtype.kind == "f"]
            options.add_session_config_entry(_FOLDER, str(_EMPTY))
            options.add_session_config_entry("session.disable_prepacking", "1")
            for name, value in self.weights.items():
                options.add_initializer(name, value)
        self._show([name for name in self.weights if name not in places and name not in set(self._unread)])
        self.message: bytes = _placed(model, places).SerializeToString()
        """The model without its weights."""

    def show_all(self) -> bool:
        """Have onnxruntime look at (and copy) all weights, for the case that it must; False if it does."""
        unread, self._unread = self._unread, []
        self._show(unread)
        return bool(unread)

    def _show(self, names: list[str]) -> None:
        if names:
            self._options.add_external_initializers(names, [self.weights[name] for name in names])


def _placed(model: Detached, places: dict[str, tuple[int, int]]) -> onnx.ModelProto:
    """The model's message, that says of some weights where in the spool they are."""
    if not places or model.spool is None:
        return model.proto
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in places:
            offset, length = places[tensor.name]
            del tensor.external_data[:]
            for key, value in (("location", model.spool.path.name), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
    return proto
