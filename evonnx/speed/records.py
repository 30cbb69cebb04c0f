"""What a comparison measured, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Latency:
    """One model at one batch size."""

    index: int
    """Position of the model among those compared; 0 is the reference."""
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


@dataclass(frozen=True)
class Timed:
    """One model of a comparison, and where its nodes ran."""

    index: int
    model: str
    bytes: int
    nodes: Mapping[str, Sequence[str]] | None
    """Nodes of the optimised graph by execution provider; None where onnxruntime does not report them."""

    def summary(self) -> str:
        """Such as "CPUExecutionProvider 12, CUDAExecutionProvider 340"."""
        if self.nodes is None:
            return "not reported by this onnxruntime"
        return ", ".join(f"{provider} {len(nodes)}" for provider, nodes in sorted(self.nodes.items()))


@dataclass(frozen=True)
class BenchResult:
    """A comparison: every model at every batch size, batch by batch."""

    latencies: tuple[Latency, ...]
    models: tuple[Timed, ...]
    provider: str
    precision: str
    threads: int
    rounds: int
    seed: int
    environment: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The result as JSON-able data."""
        return {
            **{name: getattr(self, name) for name in ("provider", "precision", "threads", "rounds", "seed")},
            "environment": dict(self.environment),
            "notes": list(self.notes),
            "models": [{**asdict(model), "placement": model.summary()} for model in self.models],
            "latencies": [asdict(latency) for latency in self.latencies],
        }
