"""What onnxruntime says: warnings on stderr, errors with the marks of its own sources."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any


def log_lines(text: str) -> list[str]:
    """Warnings and errors in what was captured, without times and source lines."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    found = re.findall(
        r"^\d{4}-\d\d-\d\d [^\[]*\[[WEF]:[^\]]*\] (.*?)(?=^\d{4}-\d\d-\d\d |\Z)", plain, re.M | re.S
    )
    return [" ".join(message.split()) for message in found]


def clean_message(error: BaseException | str) -> str:
    """An onnxruntime error as one line, without its status prefix, source lines or a final full stop."""
    text = " ".join(str(error).split())
    text = re.sub(r"^.*?\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"/\S*onnxruntime_src/\S*:\d+ ", "", text)
    text = re.sub(r"(library )/\S*/", r"\1", text)
    return text[:600].rstrip(". ")


@contextlib.contextmanager
def captured_stderr() -> Iterator[Any]:
    """Capture file descriptor 2, C++ included; yields a function that returns the text afterwards.

    Not for use beside other threads that write there.
    """
    text: list[str] = []
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: "".join(text)
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            text.append(file.read().decode(errors="replace"))
