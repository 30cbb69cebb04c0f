"""The tool's own cost of a generation: seconds by stage, and memory.

    python benchmarks/overhead.py                                   LeNet-5, ResNet-56, ResNet-50 and ViT-B/16
    python benchmarks/overhead.py MODEL ... [--keep 0.7] [--screen 1] [--threads N] [--epochs 0]
    python benchmarks/overhead.py RUN_DIR ...

A model is an ONNX file, lenet5, resnet56, or whatever benchmarks/removal.py takes, such as resnet50; all but
files have random weights. It is evolved for one generation in a temporary folder and a process of its own,
with the task file beside it or without data. Of a run directory, every generation that was timed by stage
counts (medians); it has no memory column.

The own cost is everything but gradient steps (what the adapter does) and evaluation; with --epochs 0 (the
default) there are none, and no share. "peak" is the largest resident memory that one of the tool's own stages
adds to what the process held when the generation began (interpreter, libraries, the task's data, the ancestor
as a teacher) and to what retraining and evaluation left behind, in MiB and as a multiple of the model's file;
onnxruntime's sessions for the proof are in it. Linux only (/proc/self/clear_refs).

Meant for an idle machine. On one that is not, --cpu counts seconds of processor time, all threads together:
an upper limit of what an idle machine takes, but for waiting on disks.
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
import time
from collections.abc import Callable, Iterator
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


def seconds_of(row: dict[str, Any], stage: str) -> float:
    """A stage's; those that most generations do not have count as "other"."""
    spent: dict[str, float] = row["stage_seconds"]
    if stage != "other":
        return spent.get(stage, 0.0)
    return sum(seconds for name, seconds in spent.items() if name == stage or name not in STAGES)


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


def measured(clock: Callable[[], float]) -> type:
    """A stopwatch that also says how much memory each stage takes at its peak."""
    from evonnx.evolution.stopwatch import EVALUATE, RETRAIN, Stopwatch

    class Measured(Stopwatch):
        def __init__(self) -> None:
            trim()
            self.given, self.peaks = status("VmRSS"), dict[str, int]()
            forget_peak()
            super().__init__(clock)

        def look(self, stage: str) -> None:
            self.peaks[stage] = max(self.peaks.get(stage, 0), status("VmHWM") - self.given)
            forget_peak()

        @contextlib.contextmanager
        def timing(self, purpose: str) -> Iterator[None]:
            self.look("other")
            before = status("VmRSS")
            with super().timing(purpose):
                yield
            if purpose in (RETRAIN, EVALUATE):
                trim()
                self.given += max(0, status("VmRSS") - before)
                forget_peak()
            else:
                self.look(purpose)

        def stages(self) -> dict[str, float]:
            self.look("other")
            print(MEMORY, json.dumps(self.peaks), file=sys.stderr, flush=True)
            return super().stages()

    return Measured


def child(cpu: bool, arguments: list[str]) -> None:
    """`evonnx evolve` in this process: libraries are in memory beforehand, and the stopwatch looks at it."""
    import onnxruntime  # noqa: F401

    import evonnx.evolution.generation as generation
    import evonnx_torch.retraining  # noqa: F401
    from evonnx.cli import main as command

    clock = time.process_time if cpu else time.perf_counter
    generation.Stopwatch = measured(clock)  # type: ignore[misc]
    sys.argv = ["evonnx", "evolve", *arguments]
    command()


def evolve(model: Path, out: Path, arguments: argparse.Namespace) -> dict[str, int]:
    """One generation of a model: bytes at the peak of each stage."""
    clock = "cpu" if arguments.cpu else "wall"
    command = [sys.executable, __file__, "--child", clock, str(model), "--out", str(out), "--gens", "1"]
    command += ["--keep", str(arguments.keep), "--epochs", str(arguments.epochs), "--recovery-epochs", "0"]
    command += ["--screen", str(arguments.screen), "--best-effort", "--max-drop", "1"]
    if arguments.threads:
        command += ["--threads", str(arguments.threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode:
        sys.exit(f"{model}: {lines[-1]}")
    [figures] = [line.removeprefix(MEMORY) for line in lines if line.startswith(f"{MEMORY} ")]
    peaks: dict[str, int] = json.loads(figures)
    return peaks


def row(name: str, rows: list[dict[str, Any]], share: bool = True, memory: str = "") -> str:
    """A line of the table: medians over generations, in seconds; the share of a whole generation; memory."""
    stages = [statistics.median(seconds_of(one, stage) for one in rows) for stage in STAGES]
    whole = [one["overhead_seconds"] + one["retrain_seconds"] + one["evaluate_seconds"] for one in rows]
    part = statistics.median(one["overhead_seconds"] / total for one, total in zip(rows, whole, strict=True))
    own = statistics.median(one["overhead_seconds"] for one in rows)
    cells = [name, *(f"{seconds:.2f}" for seconds in stages), f"{own:.2f}"]
    return f"| {' | '.join([*cells, f'{part:.1%}' if share else '', memory])} |"


def worst(peaks: dict[str, int], size: int) -> str:
    """The stage that takes most memory, beside the size of the model's file."""
    stage, peak = max(peaks.items(), key=lambda item: item[1])
    return f"{peak / 2**20:.0f} MiB, {peak / size:.1f}x ({stage})"


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
        child(sys.argv[2] == "cpu", sys.argv[3:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL or RUN_DIR")
    parser.add_argument("--keep", type=float, default=0.7)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--screen", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cpu", action="store_true", help="seconds of processor time")
    arguments = parser.parse_args()
    print(f"| model | {' | '.join(STAGES)} | own cost, s | share | peak |")
    print(f"|---|{'---:|' * (len(STAGES) + 3)}")
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            run, share, memory = Path(name), True, ""
            if not run.is_dir():
                model, run = found(name, Path(folder)), Path(folder) / "run"
                share, memory = (
                    arguments.epochs > 0,
                    worst(evolve(model, run, arguments), model.stat().st_size),
                )
            rows = generations(run)
        missing = f"{name} has no generation that was timed by stage."
        print(row(name, rows, share, memory) if rows else missing, flush=True)


if __name__ == "__main__":
    main()
