"""What the program wrote: ONNX or safetensors, read without unpickling anything."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from evonnx.errors import AdapterError, EvonnxError
from evonnx.masks import Masks
from evonnx.network import Array
from evonnx.onnx_io import initializer_arrays, load_model


def find_output(stem: Path) -> Path:
    """The file that was written: the given name, or that with `.onnx` or `.safetensors` appended.

    Raises:
        AdapterError: there is none.
    """
    for path in (stem, stem.with_name(stem.name + ".onnx"), stem.with_name(stem.name + ".safetensors")):
        if path.is_file():
            return path
    raise AdapterError(
        "The program ended well but wrote nothing to {output}. It must write ONNX or safetensors there."
    )


def read_weights(path: Path, known: Mapping[str, Array], masks: Masks) -> dict[str, Array]:
    """Weights by name from a safetensors or ONNX file, told apart by their content.

    A safetensors file may leave weights out, which then stay as they were, but must not have others. An ONNX
    file may have others (an export adds constants), but must have every prunable weight by its name.

    Args:
        path: what the program wrote.
        known: the model's own arrays.
        masks: the prunable weights' masks.

    Raises:
        AdapterError: unreadable, or the names are not the model's.
    """
    if _is_safetensors(path):
        arrays = _read_safetensors(path)
        for name in sorted(set(arrays) - set(known)):
            close = difflib.get_close_matches(name, known, n=1)
            guess = f" Did it mean {close[0]!r}?" if close else ""
            raise AdapterError(
                f"The program returned weights for {name!r}, which the model does not have.{guess} "
                "Use the names of the initializers in {model}."
            )
        if not arrays:
            raise AdapterError("The program returned a safetensors file without any weights.")
        return arrays
    try:
        found = initializer_arrays(load_model(path))
    except EvonnxError as error:
        raise AdapterError(
            f"The program's output is neither safetensors nor a readable ONNX file: {error}"
        ) from error
    missing = sorted(set(masks) - set(found))
    if missing:
        raise AdapterError(
            f"The ONNX file that the program wrote lacks {len(missing)} of the model's {len(masks)} weights, "
            "such as "
            f"{missing[0]!r}. Exporting renames weights; write safetensors with the names of the "
            "initializers instead."
        )
    return {name: array for name, array in found.items() if name in known}


def _is_safetensors(path: Path) -> bool:
    """A safetensors file begins with the length of a JSON header, 8 bytes, and its opening brace."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _read_safetensors(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"The safetensors file that the program wrote cannot be read: {error}.") from error
