"""Command lines with placeholders, such as `python my_train.py {model} {masks} {output}`. No shell is
involved."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping

from evonnx.errors import AdapterError

PLACEHOLDERS: Mapping[str, str] = {
    "model": "the compact ONNX file to retrain (a copy; yours to read)",
    "masks": "safetensors with one boolean tensor per prunable weight, by name: false must stay zero",
    "output": "where to write the result: ONNX, or safetensors of weights by name (.onnx and .safetensors "
    "may be appended)",
    "task": "the task file",
    "data": "an .npz file with the training inputs by graph input name, and `targets` where there are labels "
    "(`targets.OUTPUT` and `weights.OUTPUT` where the loss has several terms)",
    "ancestor": "the ancestor's ONNX file, to distil from",
    "checkpoint": "a file for the program's own progress: not there at first, and as the program left it "
    "where evonnx was killed and asks the same again (write it beside and rename it; it is removed "
    "afterwards)",
    "epochs": "how many epochs to train",
    "seed": "a whole number to seed with",
}
"""What stands in braces, and what takes its place."""

_FIELD = re.compile(r"\{\{|\}\}|\{(\w+)\}")


def split_command(command: str) -> list[str]:
    """The words of a command line, by POSIX quoting rules, placeholders still in them.

    Raises:
        AdapterError: no words, a quote that does not close, an unknown placeholder, or no {output}.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise AdapterError(f"The command {command!r} cannot be split into words: {error}.") from error
    if not words:
        raise AdapterError(
            'The command adapter needs a command: --command "python my_train.py {model} {masks} {output}".'
        )
    used = placeholders(words)
    for name in sorted(used):
        if name not in PLACEHOLDERS:
            close = difflib.get_close_matches(name, PLACEHOLDERS, n=1)
            guess = f" Did you mean {{{close[0]}}}?" if close else ""
            known = ", ".join(f"{{{one}}}" for one in PLACEHOLDERS)
            raise AdapterError(
                f"The command has an unknown placeholder {{{name}}}.{guess} Known: {known}; write "
                f"{{{{ and }}}} for braces."
            )
    if "output" not in used:
        raise AdapterError(
            "The command has no {output}, so the program does not know where to write the weights."
        )
    return words


def placeholders(words: list[str]) -> set[str]:
    """Names in braces."""
    return {match.group(1) for word in words for match in _FIELD.finditer(word) if match.group(1)}


def fill(words: list[str], values: Mapping[str, str]) -> list[str]:
    """The words with placeholders replaced, each within its own word whatever the value holds."""

    def one(match: re.Match[str]) -> str:
        return values[match.group(1)] if match.group(1) else match.group(0)[0]

    return [_FIELD.sub(one, word) for word in words]
