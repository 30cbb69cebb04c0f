"""The tool's own cost of a generation: seconds by stage, and memory.

    python benchmarks/overhead.py                                   LeNet-5, ResNet-56, ResNet-50 and ViT-B/16
    python benchmarks/overhead.py MODEL ... [--keep 0.7] [--screen 1] [--threads N] [--epochs 0]
    python benchmarks/overhead.py RUN_DIR ...

A model is an ONNX file, lenet5, resnet56, or whatever benchmarks/removal.py takes, such as resnet50; all but
files have random weights. It is evolved for one generation in a temporary folder and a process of its own,
with the task file beside it or without data. Of a run directory, every generation that was timed by stage
counts (medians); it has no memory column.

The own cost is everything but gradient steps (what the adapter does) and evaluation. "peak" is the largest
resident memory that any of the tool's own stages adds to what the process held when the generation began
(interpreter, libraries, the task's data, the ancestor as a teacher), as a multiple of the model's file;
onnxruntime's sessions for the proof are in it. "held" is what the process held then beyond interpreter and
libraries, likewise. Linux only (/proc/self/clear_refs). Meant for an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from removal import exported

STAGES = ("load", "analyse", "encode", "sample", "screen", "mask", "compact", "prove", "save", "other")
MODELS = ("lenet5", "resnet56", "resnet50", "transformers-vit")
SAMPLES = {"lenet5": ("lenet5", "LeNet5"), "resnet56": ("resnet56_cifar10/train", "ResNet")}
"""Script in samples/, and the network's class there."""
MEMORY = "memory"
"""What the child prints its figures after."""


def generations(run: Path) -> list[dict[str, Any]]:
    """Rows of a run that say how long each stage took."""
    rows = json.loads((run / "run.json").read_text(encoding="utf-8"))["generations"]
    return [row for row in rows if "stage_seconds" in row]


def status(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise LookupError(field)


def forget_peak() -> None:
    """Let VmHWM start anew."""
    Path("/proc/self/clear_refs").write_text("5")


def trim() -> None:
    """Give back what was freed: what is not in use is not held."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def measured(libraries: int) -> type:
    """A stopwatch that also says how much memory each stage takes at its peak."""
    from evonnx.evolution.stopwatch import EVALUATE, RETRAIN, Stopwatch

    class Measured(Stopwatch):
        def __init__(self) -> None:
            trim()
            self.begin, self.peaks = status("VmRSS"), dict[str, int]()
            super().__init__()
            forget_peak()

        def enter(self, stage: str) -> None:
            if stage not in (RETRAIN, EVALUATE):
                self.peaks[stage] = max(self.peaks.get(stage, 0), status("VmHWM") - self.begin)

        @contextlib.contextmanager
        def timing(self, purpose: str) -> Iterator[None]:
            self.enter("other")
            forget_peak()
            try:
                with super().timing(purpose):
                    yield
            finally:
                self.enter(purpose)
                forget_peak()

        def stages(self) -> dict[str, float]:
            self.enter("other")
            figures = {"held": self.begin - libraries, "peaks": self.peaks}
            print(MEMORY, json.dumps(figures), file=sys.stderr, flush=True)
            return super().stages()

    return Measured


def child(arguments: list[str]) -> None:
    """`evonnx evolve` in this process: libraries are in memory beforehand, and the stopwatch looks at it."""
    import onnxruntime  # noqa: F401

    import evonnx.evolution.generation as generation
    import evonnx_torch.retraining  # noqa: F401
    from evonnx.cli import main as command

    trim()
    generation.Stopwatch = measured(status("VmRSS"))  # type: ignore[misc]
    sys.argv = ["evonnx", "evolve", *arguments]
    command()


def evolve(model: Path, out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One generation of a model; its memory figures."""
    command = [sys.executable, __file__, "--child", str(model), "--out", str(out), "--gens", "1"]
    command += ["--keep", str(arguments.keep), "--epochs", str(arguments.epochs), "--recovery-epochs", "0"]
    command += ["--screen", str(arguments.screen), "--best-effort", "--max-drop", "1"]
    if arguments.threads:
        command += ["--threads", str(arguments.threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode:
        sys.exit(f"{model}: {lines[-1]}")
    [figures] = [line.removeprefix(MEMORY) for line in lines if line.startswith(f"{MEMORY} ")]
    found: dict[str, Any] = json.loads(figures)
    return found


def row(name: str, rows: list[dict[str, Any]], memory: dict[str, Any] | None = None, size: int = 1) -> str:
    """A line of the table: medians over generations, in seconds; the share of the whole; memory."""
    stages = [statistics.median(one["stage_seconds"].get(stage, 0.0) for one in rows) for stage in STAGES]
    whole = [one["overhead_seconds"] + one["retrain_seconds"] + one["evaluate_seconds"] for one in rows]
    share = statistics.median(one["overhead_seconds"] / total for one, total in zip(rows, whole, strict=True))
    own = statistics.median(one["overhead_seconds"] for one in rows)
    cells = [name, *(f"{seconds:.2f}" for seconds in stages), f"{own:.2f}", f"{share:.1%}"]
    if memory is None:
        return f"| {' | '.join([*cells, '', ''])} |"
    stage, peak = max(memory["peaks"].items(), key=lambda item: int(item[1]))
    cells += [f"{peak / size:.1f}x ({stage})", f"{memory['held'] / size:.1f}x"]
    return f"| {' | '.join(cells)} |"


def sample(module: str, network: str, folder: Path) -> Path:
    """A network of samples/, with random weights."""
    import torch

    script = Path(__file__).resolve().parent.parent / "samples" / f"{module}.py"
    sys.path.insert(0, str(script.parent))
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    torch.manual_seed(0)
    path = folder / f"{network.lower()}.onnx"
    code.write_onnx(getattr(code, network)().eval(), path)
    return path


def found(name: str, folder: Path) -> Path:
    """The file of a model, written if need be."""
    if Path(name).exists():
        return Path(name)
    return sample(*SAMPLES[name], folder) if name in SAMPLES else exported(name, folder, dynamo=False)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL or RUN_DIR")
    parser.add_argument("--keep", type=float, default=0.7)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--screen", type=int, default=1)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    print(f"| model | {' | '.join(STAGES)} | own cost, s | share | peak | held |")
    print(f"|---|{'---:|' * (len(STAGES) + 4)}")
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            run, memory, size = Path(name), None, 1
            if not run.is_dir():
                model = found(name, Path(folder))
                size = model.stat().st_size
                run = Path(folder) / "run"
                memory = evolve(model, run, arguments)
            rows = generations(run)
        print(
            row(name, rows, memory, size) if rows else f"{name} has no generation that was timed by stage.",
            flush=True,
        )


if __name__ == "__main__":
    main()
