"""What a comparison measured, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Copies = Literal["none", "included", "excluded"]
"""Whether times hold the copies of inputs and outputs to and from the device; on the CPU there are none."""


@dataclass(frozen=True)
class Latency:
    """One model at one batch size."""

    index: int
    """Position among what is compared, precision by precision; 0 is the reference."""
    model: str
    batch: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    throughput: float
    """Examples per second, at the median."""
    ratio: float
    """How many times as fast as the first model: median over rounds of (its time / this time)."""
    ratio_p10: float
    ratio_p90: float
    ratio_low: float
    """95% bootstrap interval of the median ratio."""
    ratio_high: float
    samples: int
    runs_per_sample: int
    drift: float = 1.0
    """Median of the last third of samples over that of the first third."""
    spread: float = 1.0
    """90th percentile over the 10th."""
    precision: str = "fp32"
    """"fp32": the file as it is."""


@dataclass(frozen=True)
class Timed:
    """One model of a comparison, and where its nodes ran."""

    index: int
    model: str
    bytes: int
    """Of the file; of the copy in another precision."""
    nodes: Mapping[str, Sequence[str]] | None
    """Nodes of the optimised graph by execution provider; None where onnxruntime does not report them."""
    precision: str = "fp32"

    def summary(self) -> str:
        """Such as "CPUExecutionProvider 12, CUDAExecutionProvider 340"."""
        if self.nodes is None:
            return "not reported by this onnxruntime"
        return ", ".join(f"{provider} {len(nodes)}" for provider, nodes in sorted(self.nodes.items()))


@dataclass(frozen=True)
class OutputAgreement:
    """One output of a model against another model's, on the same inputs; or why it can't be compared."""

    output: str
    largest_difference: float | None = None
    """Largest absolute difference of two numbers, over all elements and examples."""
    magnitude: float | None = None
    """Largest absolute number in the other model's output."""
    relative_difference: float | None = None
    """Largest difference over magnitude; None where that is 0."""
    not_finite: int | None = None
    """Elements that are infinite or not a number in one model and something else in the other."""
    same: int | None = None
    """Outputs of shape (examples, classes): examples whose largest class is the same. Integers and truth
    values: elements that are equal. None for anything else."""
    of: int | None = None
    """How many there are of what `same` counts."""
    reason: str | None = None
    """Why there are no figures."""


@dataclass(frozen=True)
class Agreement:
    """A model's outputs against another's, at one batch size."""

    index: int
    model: str
    precision: str
    batch: int
    against: str
    """The first model in the same precision, or of a copy in another precision the file itself."""
    against_precision: str
    examples: int
    outputs: tuple[OutputAgreement, ...]
    reason: str | None = None
    """Why nothing could be compared: the other one's inputs don't fit."""


@dataclass(frozen=True)
class Memory:
    """What one model takes at one batch size, in a process that does nothing else."""

    index: int
    model: str
    batch: int
    resident_bytes: int | None
    """Peak resident memory while it is loaded and run, inputs and outputs included, over `baseline_bytes`."""
    baseline_bytes: int | None
    """Resident memory of the same process before, when it had run a model of one node."""
    reason: str | None
    """Why these are not known."""
    device_bytes: int | None
    """On a GPU: what the driver says the process holds after its runs."""
    device_reason: str | None
    """Why that is not known; None on the CPU, where there is no other memory."""
    precision: str = "fp32"


@dataclass(frozen=True)
class NodeTime:
    """One node of a model's optimised graph."""

    name: str
    """The user's, where the node is; fused and inserted ones as onnxruntime calls them."""
    op_type: str
    provider: str
    microseconds: float
    """Per run, median."""
    share: float
    """Of the sum over all nodes."""


@dataclass(frozen=True)
class OpTime:
    """All nodes of one operator type."""

    op_type: str
    nodes: int
    microseconds: float
    share: float


@dataclass(frozen=True)
class LayerTimes:
    """Where one model's time goes, as onnxruntime's profiler sees it, which costs time itself."""

    index: int
    model: str
    batch: int
    runs: int
    """That the medians are over."""
    microseconds: float
    """Sum over all nodes."""
    nodes: tuple[NodeTime, ...]
    """In order of execution."""
    op_types: tuple[OpTime, ...]
    """The largest first."""
    precision: str = "fp32"


@dataclass(frozen=True)
class Device:
    """A GPU, right after the last models were timed on it; None: the driver does not tell."""

    name: str | None = None
    driver: str | None = None
    mhz: float | None = None
    """Clock rate of its multiprocessors."""
    mhz_max: float | None = None
    watts: float | None = None
    celsius: float | None = None
    slowed: tuple[str, ...] = ()
    """Why the driver held its clocks down at that moment, in the driver's words."""
    reason: str | None = None
    """Why nothing is known."""


@dataclass(frozen=True)
class Conditions:
    """What went on on the cores of this process while models were timed; None: the platform does not tell."""

    seconds: float
    """That timing took."""
    cores: int
    """That this process may run on."""
    other_cores: float | None
    """How many of them other processes kept busy, on average."""
    stolen_share: float | None
    """Share of the cores' time that a hypervisor gave to other machines."""
    switches: int | None
    """How often this process was made to wait although it had work (involuntary context switches)."""
    throttled: int | None
    """How often a core was slowed down because it was hot."""
    mhz_before: float | None
    mhz_after: float | None
    """Mean clock rates."""


@dataclass(frozen=True)
class BenchResult:
    """A comparison: every model at every batch size, batch by batch."""

    latencies: tuple[Latency, ...]
    models: tuple[Timed, ...]
    provider: str
    precision: str
    """One, or several with commas between."""
    threads: int
    rounds: int
    seed: int
    environment: Mapping[str, str]
    notes: tuple[str, ...] = ()
    copies: Copies = "none"
    cuda_graphs: bool = False
    """Whether runs were captured as CUDA graphs and replayed, at every batch size."""
    conditions: Conditions | None = None
    device: Device | None = None
    """None on the CPU, whose name is in `environment`."""
    agreement: tuple[Agreement, ...] | None = None
    """Models against the first, copies against their files, batch by batch; None: not asked for."""
    memory: tuple[Memory, ...] | None = None
    """Every model, batch by batch; None where it was not asked for."""
    per_layer: tuple[LayerTimes, ...] | None = None
    """Every model, batch by batch; None where it was not asked for."""

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-able data."""
        return {
            **{name: getattr(self, name) for name in ("provider", "precision", "threads", "rounds", "seed")},
            "copies": self.copies,
            "cuda_graphs": self.cuda_graphs,
            "environment": dict(self.environment),
            "notes": list(self.notes),
            "models": [{**asdict(model), "placement": model.summary()} for model in self.models],
            "latencies": [asdict(latency) for latency in self.latencies],
            "conditions": None if self.conditions is None else asdict(self.conditions),
            "device": None if self.device is None else asdict(self.device),
            "agreement": _listed(self.agreement),
            "memory": _listed(self.memory),
            "per_layer": _listed(self.per_layer),
        }


def _listed(rows: Sequence[Agreement | Memory | LayerTimes] | None) -> list[dict[str, Any]] | None:
    return None if rows is None else [asdict(row) for row in rows]
