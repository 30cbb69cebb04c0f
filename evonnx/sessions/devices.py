"""Execution providers by name, what they need, and where nodes were placed."""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from collections.abc import Mapping
from typing import Any

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

SHORT_NAMES: Mapping[str, tuple[str, ...]] = {
    "cpu": (CPU,),
    "cuda": (CUDA, CPU),
    "tensorrt": (TENSORRT, CUDA, CPU),
}

INSTALL = {
    CUDA: "It needs an NVIDIA GPU with its driver, and `pip install 'evonnx[gpu]'` (onnxruntime-gpu with its "
    "CUDA and cuDNN libraries)",
    TENSORRT: "It needs an NVIDIA GPU with its driver, `pip install 'evonnx[gpu]'` and the TensorRT "
    "libraries on the loader's path",
}
"""What to do where one cannot run."""


def missing_gpu() -> str | None:
    """Why NVIDIA's driver can't be used here; None: it can."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"NVIDIA's driver ({library}) is not installed"
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status:
        return f"NVIDIA's driver reports error {status}"
    return None if count.value else "NVIDIA's driver sees no GPU"


def preload(ort: Any) -> None:
    """Find the CUDA libraries that pip installed beside onnxruntime; it prints to stdout, which is ours."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(OSError):
            ort.preload_dlls()


def placement(session: Any) -> dict[str, list[str]] | None:
    """Which provider executes which node of the optimised graph.

    Returns:
        {provider: ["name (OpType)", ...]}; None where the installed onnxruntime does not report it.
    """
    report = getattr(session, "get_provider_graph_assignment_info", None)
    if report is None:
        return None
    nodes: dict[str, list[str]] = {}
    for part in report():
        labels = [f"{node.name} ({node.op_type})" if node.name else node.op_type for node in part.get_nodes()]
        nodes.setdefault(part.ep_name, []).extend(labels)
    return nodes
