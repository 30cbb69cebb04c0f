"""onnxruntime sessions: pinned threads, no silent fallback, warnings that can be read.

onnxruntime is imported inside functions, so that commands that never run a model start fast. Asked for a
provider that cannot run here, onnxruntime gives the CPU without a word (and lists providers that its build
knows, whether or not the machine has them); here that is a `ProviderError`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from evonnx.errors import ModelError, ProviderError
from evonnx.lending import Loan
from evonnx.onnx_io import Detached
from evonnx.sessions.devices import CPU, CUDA, INSTALL, SHORT_NAMES, TENSORRT, missing_gpu, preload
from evonnx.sessions.log import captured_stderr, clean_message, log_lines
from evonnx.sessions.running import run_session


def default_threads() -> int:
    """Cores this process may run on: the thread count where none is given."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def make_session(
    model: str | os.PathLike[str] | bytes | Detached,
    *,
    threads: int | None = None,
    providers: str | Sequence[str] = (CPU,),
    optimize: bool = True,
    quiet: bool = True,
    spinning: bool = False,
    arena: bool = True,
    profile_prefix: str | None = None,
    provider_options: Mapping[str, Mapping[str, str]] | None = None,
) -> Any:
    """An `onnxruntime.InferenceSession` that runs where it was asked to, or an error.

    Args:
        model: a file, a serialised model, or one whose weights stand beside it, which are then not
            serialised, and without optimisations not copied either.
        threads: intra-op threads (inter-op is 1); None: `default_threads()`.
        providers: "auto", "cpu", "cuda", "tensorrt", or onnxruntime's own names in order of preference. The
            first one must truly run; the rest take the nodes it does not know.
        optimize: False turns every graph optimisation off.
        quiet: keep onnxruntime's warnings from stderr; see `load_warnings` to read them.
        spinning: let worker threads spin during a run: lower latency, but they burn cores that others need.
        arena: keep memory from run to run, some of it never used; without, a run takes what it needs.
        profile_prefix: profile every run into a file whose path starts so; `end_profiling` ends and names it.
        provider_options: onnxruntime's options by provider, for those that are among `providers`.

    Raises:
        ProviderError: the first provider cannot run here.
        ModelError: onnxruntime refuses the model.
    """
    import onnxruntime as ort

    wanted = resolve_providers(providers)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4 if quiet else 2
    options.use_deterministic_compute = True
    options.enable_cpu_mem_arena = arena
    options.enable_mem_pattern = arena  # a pattern is one block for all that a run needs, from the second on
    options.graph_optimization_level = (
        ort.GraphOptimizationLevel.ORT_ENABLE_ALL if optimize else ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    # Threads may spin within a run, but not after it, when another session may be the one that is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # What `placement` reads; onnxruntime versions that do not know the entry ignore it.
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    loan: Loan | None = None
    source: str | bytes
    if isinstance(model, Detached):
        loan = Loan(ort, model, options, optimize=optimize)
        source = loan.message
    else:
        source = model if isinstance(model, bytes) else os.fspath(model)
    label = f"{source!s}" if isinstance(source, str) else "the model"
    given = [dict((provider_options or {}).get(name, {})) for name in wanted]
    create = _create if wanted[0] == CPU else _create_on_device
    try:
        session = create(ort, source, options, wanted, given, label)
    except ModelError:
        if loan is None or not loan.show_all():
            raise
        session = create(ort, source, options, wanted, given, label)
    session.disable_fallback()
    session.evonnx_weights = loan and loan.weights  # onnxruntime does not keep what it reads where it is
    return session


def give_back_memory() -> None:
    """Have the C library return what was freed: making a session takes twice the model for a moment, and
    glibc keeps that. Nothing happens where there is no glibc."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _create(
    ort: Any,
    source: str | bytes,
    options: Any,
    wanted: Sequence[str],
    given: Sequence[dict[str, str]],
    label: str,
) -> Any:
    try:
        return ort.InferenceSession(
            source, options, providers=list(wanted), provider_options=list(given), enable_fallback=0
        )
    except Exception as error:  # onnxruntime's classes share no base but Exception
        raise ModelError(
            f"onnxruntime {ort.__version__} cannot load {label}: {clean_message(error)}. If the file is "
            "newer than this onnxruntime, upgrade it or export with an older opset."
        ) from error


def _create_on_device(
    ort: Any,
    source: str | bytes,
    options: Any,
    wanted: Sequence[str],
    given: Sequence[dict[str, str]],
    label: str,
) -> Any:
    if wanted[0] not in ort.get_available_providers():
        has = ", ".join(ort.get_available_providers())
        raise ProviderError(
            f"{wanted[0]} is not part of the installed onnxruntime {ort.__version__} (it has {has}). "
            f"{INSTALL.get(wanted[0], 'Install a build that has it')}."
        )
    if wanted[0] in (CUDA, TENSORRT) and (reason := missing_gpu()):
        # Older onnxruntimes crash where there are CUDA's libraries, but no GPU.
        raise ProviderError(
            f"{wanted[0]} was asked for and cannot run here: {reason}. {INSTALL[wanted[0]]}; or use "
            "--provider cpu."
        )
    error: ModelError | None = None
    session = None
    with captured_stderr() as log:
        preload(ort)
        try:
            session = _create(ort, source, options, wanted, given, label)
        except ModelError as caught:
            error = caught
    if session is not None and session.get_providers()[0] == wanted[0]:
        return session
    if error is not None and source != probe_model() and _working_devices(wanted[0]):
        raise error
    said = [clean_message(line) for line in log_lines(log()) if "Failed" in line or "rror" in line]
    why = said[0] if said else (str(error) if error is not None else "onnxruntime gave no reason")
    raise ProviderError(
        f"{wanted[0]} was asked for and cannot run here: {why.rstrip('.')}. "
        f"{INSTALL.get(wanted[0], 'Install what it needs')}; or use --provider cpu."
    )


@lru_cache(maxsize=4)
def _working_devices(provider: str) -> tuple[str, ...]:
    """`(provider,)` if a one-node model truly runs on it, else `()`."""
    try:
        session = make_session(probe_model(), threads=1, providers=(provider, CPU))
        run_session(session, {"x": np.zeros((1, 1), np.float32)})
    except (ProviderError, ModelError):
        return ()
    return (provider,)


def probe_model() -> bytes:
    """A serialised model of one node, (1, 1) to (1, 1), for asking whether anything runs at all."""
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "probe", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def resolve_providers(providers: str | Sequence[str]) -> tuple[str, ...]:
    """onnxruntime's provider names for "cpu", "cuda", "tensorrt", "auto", or for its own names as they are.

    "auto" is CUDA where a small model truly runs on it, else the CPU.

    Raises:
        ProviderError: an unknown name.
    """
    if not isinstance(providers, str):
        if not providers:
            raise ProviderError("No execution provider was named; use cpu, cuda, tensorrt or auto.")
        return tuple(providers)
    if providers == "auto":
        import onnxruntime as ort

        usable = CUDA in ort.get_available_providers() and bool(_working_devices(CUDA))
        return SHORT_NAMES["cuda" if usable else "cpu"]
    if providers in SHORT_NAMES:
        return SHORT_NAMES[providers]
    if providers.endswith("ExecutionProvider"):
        return (providers, CPU) if providers != CPU else (CPU,)
    raise ProviderError(f"Unknown execution provider {providers!r}; use auto, cpu, cuda or tensorrt.")


def working_providers(wanted: str) -> tuple[str, ...]:
    """`resolve_providers`, for a provider that runs here: a small model is loaded on it.

    Raises:
        ProviderError: an unknown name, or it cannot run here.
    """
    providers = resolve_providers(wanted)
    if providers != (CPU,):
        make_session(probe_model(), threads=1, providers=providers)
    return providers


def load_warnings(model: str | os.PathLike[str] | bytes | Detached) -> list[str]:
    """What onnxruntime warns about while it loads a model on the CPU, without times and source lines.

    The C++ logger writes to file descriptor 2, so that is what is captured. Not for use beside other
    threads that write there.

    Raises:
        ModelError: onnxruntime refuses the model.
    """
    with captured_stderr() as log:
        make_session(model, threads=1, quiet=False)
    return log_lines(log())


def versions() -> dict[str, str]:
    """Versions of what executes models, for records."""
    import onnx
    import onnxruntime as ort

    return {"onnxruntime": str(ort.__version__), "onnx": str(onnx.__version__), "numpy": np.__version__}
