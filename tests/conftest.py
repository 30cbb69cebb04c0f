"""Shared fixtures: one thread, few and reproducible hypothesis examples, the folder of real data."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from graphs import GRAPHS
from hypothesis import HealthCheck, settings

settings.register_profile(
    "quick",
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("thorough", parent=settings.get_profile("quick"), max_examples=200)
settings.load_profile(os.environ.get("EVONNX_HYPOTHESIS", "quick"))


def shared_folder() -> Path | None:
    """The folder of real data: $EVONNX_SHARED, or `shared` beside the repository; None without either."""
    repository = Path(__file__).resolve().parent.parent
    given = os.environ.get("EVONNX_SHARED")
    folder = Path(given) if given else repository.parent / "shared"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; tests that ask for it are skipped where there is none."""
    folder = shared_folder()
    if folder is None:
        pytest.skip("no real data: set EVONNX_SHARED to the folder that holds data/onnx")
    return folder / "data"


@pytest.fixture(scope="session")
def onnxruntime_cuda() -> str:
    """The provider; tests that ask for it are skipped where onnxruntime cannot run on it, with its reason."""
    from evonnx.errors import ProviderError
    from evonnx.sessions import CUDA, make_session, probe_model

    try:
        make_session(probe_model(), threads=1, providers="cuda")
    except ProviderError as error:
        pytest.skip(str(error))
    return CUDA


@pytest.fixture(scope="session")
def torch_cuda() -> str:
    """torch's name of the device; tests that ask for it are skipped where there is none."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} finds no CUDA device")
    return "cuda"


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """JAX keeps what it has compiled, for the session: tests retrain the same graphs again and again."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture
def graph_file(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a named graph of tests/graphs.py into the test's folder and gives its path."""

    def write(name: str) -> Path:
        path = tmp_path / f"{name}.onnx"
        onnx.save(GRAPHS[name](), path)
        return path

    return write
