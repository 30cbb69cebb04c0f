"""What JAX runs on: its threads, its device, its errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from evonnx.errors import AdapterError, AdapterMemoryError

_THREADS = "NPROC"
"""XLA's thread pool on the CPU has this many threads; it is read once, when the first device is asked for."""
_started: list[int | None] = []
"""The number that was asked for when JAX was started in this process, if it was started here."""


def start(threads: int | None) -> list[str]:
    """Start JAX with so many threads (None: its own choice); notes where it runs with others already."""
    if not _started:
        # onnxruntime may need the GPU's memory too, most of which JAX would take at once.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        before = os.environ.get(_THREADS)
        if threads is not None:
            os.environ[_THREADS] = str(threads)
        try:
            jax.devices()
        finally:
            if before is not None:
                os.environ[_THREADS] = before
            elif threads is not None:
                del os.environ[_THREADS]
        _started.append(threads)
    (first,) = _started
    if threads is None or threads == first:
        return []
    return [
        f"{threads} threads were asked for, but JAX keeps those that it was first started with in this "
        f"process ({'its own choice' if first is None else first})"
    ]


def compiled(function: Callable[..., Any], **how: Any) -> Any:
    """A function as XLA compiles it, for the same bits each time."""
    # On the CPU it always gives them.
    options = {} if jax.default_backend() == "cpu" else {"xla_gpu_deterministic_ops": True}
    return jax.jit(function, compiler_options=options, **how)


@contextmanager
def told(model: str) -> Iterator[None]:
    """JAX's own errors, told as an adapter's."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in reason:
            raise AdapterMemoryError(
                f"JAX ran out of memory on {model}: {reason} Try a smaller batch size."
            ) from error
        raise AdapterError(f"JAX failed on {model}: {reason} Try another adapter.") from error
