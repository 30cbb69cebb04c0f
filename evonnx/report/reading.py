"""run.json as typed data. A run may still be going on: no offspring yet, no best model, no timings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from evonnx.errors import RunError
from evonnx.faults import Fault
from evonnx.report.descent import Raised, parents_of_rows, raised


@dataclass(frozen=True)
class Layer:
    """What is left of one weight."""

    name: str
    op_type: str
    synapses: int
    synapses_ancestor: int
    kernels: int
    kernels_ancestor: int
    filters: int
    filters_ancestor: int
    channels: int | None = None
    """Outputs that are physically there; older records don't say."""
    channels_ancestor: int | None = None

    @property
    def survival(self) -> float:
        """Share of the ancestor's synapses that live."""
        return self.synapses / self.synapses_ancestor if self.synapses_ancestor else 0.0


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call in onnxruntime, and how many times faster than the ancestor."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    """Bounds of the ratio's 95% interval."""


@dataclass(frozen=True)
class Pace:
    """Where latency was budgeted: an offspring's time as a share of the ancestor's."""

    predicted_share: float
    """By the cost table, as a pilot corrected it."""
    measured_share: float
    measured_share_low: float
    measured_share_high: float
    """Bounds of the 95% interval."""


@dataclass(frozen=True)
class Proof:
    """How the compact model was held against the masked one."""

    passed: bool
    void: bool
    """It had no power, which is not a pass."""
    tensors: int
    worst: float | None
    """Largest difference, as a share of what the tensor reacts to."""


@dataclass(frozen=True)
class Entry:
    """One line of the tables: the ancestor, an offspring, or best.onnx."""

    label: str
    generation: int
    synapses: int
    architectural_efficiency: float
    kernels: int
    cluster_efficiency: float | None
    filters: int
    filters_ancestor: int
    parameters: int
    macs: float | None
    bytes: int
    score: float | None
    score_validation: float | None
    layers: tuple[Layer, ...]
    latency: Mapping[int, Latency] = field(default_factory=dict)
    """By batch size."""
    details: Mapping[str, float] = field(default_factory=dict)
    """More figures on test data, such as precision and recall, where the task has them."""
    pace: Pace | None = None
    """None where latency was not budgeted."""
    parents: tuple[str, ...] = ()
    """Labels of whom it descends from."""
    reason: str = ""
    """Why it lives, where there were others to choose from."""
    achieved: float | None = None
    """Share of what is budgeted that it kept of its parent's."""
    bound: float | None = None
    """Share that it was to keep at most."""
    screened: int | None = None
    """Samples that were scored before it was retrained."""
    proof: Proof | None = None
    """That removal changed nothing."""
    training: tuple[float, ...] = ()
    """Loss after each epoch of retraining."""


@dataclass(frozen=True)
class Mating:
    """Of a generation that several parents were joined for."""

    generation: int
    parents: tuple[str, ...]
    """Their folders, the fittest first."""
    overlap: float
    """Share of live clusters that two of them have in common, over all pairs."""
    synapses_of_parents: tuple[int, ...]
    synapses: int
    """Of the joint network."""


@dataclass(frozen=True)
class FrontPoint:
    """An offspring on the Pareto front."""

    name: str
    kept: str | None
    """Its folder or file; None where it was not kept."""
    score_validation: float
    synapses: int
    bytes: int
    latency_share: float


@dataclass(frozen=True)
class Run:
    """A run as the report needs it."""

    model: str
    task: str
    metric: str
    unit: str
    higher_is_better: bool
    entries: tuple[Entry, ...]
    """The ancestor first, then the offspring, then best.onnx if the run got so far."""
    has_best: bool
    recovered: bool
    """Whether best.onnx was trained once more than the offspring it comes from."""
    notes: tuple[str, ...]
    facts: Mapping[str, str]
    """What the run was made with: seed, encoding, versions, machine ..."""
    batches: tuple[int, ...] = ()
    """Batch sizes that were timed."""
    bench: Mapping[str, Any] | None = None
    """The timings as they were recorded."""
    faults: tuple[tuple[str, Fault], ...] = ()
    """What went wrong, with the label of the generation; empty for the run as a whole."""
    pinned: Mapping[str, Any] | None = None
    """What no offspring can lose, as it was recorded; None in older records."""
    raised: tuple[Raised, ...] = ()
    """All that were retrained, where a run bred from several parents."""
    matings: tuple[Mating, ...] = ()
    front: tuple[FrontPoint, ...] = ()
    """The Pareto front, the smallest first; empty where a run kept no record of all that it raised."""
    front_of: int = 0
    """How many were compared."""

    @property
    def line(self) -> tuple[Entry, ...]:
        """The line of descent: the ancestor and the offspring, without best.onnx."""
        return self.entries[:-1] if self.has_best else self.entries

    @property
    def marked(self) -> tuple[int, ...]:
        """Rows of tables over `entries` to set off: best.onnx."""
        return (len(self.entries) - 1,) if self.has_best else ()

    @property
    def metric_column(self) -> str:
        """Heading of the score."""
        return f"{self.metric} {self.unit}".strip()

    @property
    def details(self) -> tuple[str, ...]:
        """Names of the figures beside the score."""
        return tuple(dict.fromkeys(name for one in self.entries for name in one.details))

    def score(self, value: float | None) -> str:
        """A score as tables show it, under a heading that has the unit."""
        if value is None:
            return "-"
        return f"{100 * value:.2f}" if self.unit == "%" else f"{value:.4g}"

    def score_with_unit(self, value: float | None) -> str:
        """A score as sentences show it."""
        return f"{self.score(value)}%" if self.unit == "%" else f"{self.score(value)} {self.unit}".strip()


def _matings(document: Mapping[str, Any]) -> Iterator[Mating]:
    for row in document["generations"]:
        if one := row.get("mating"):
            yield Mating(
                generation=int(row["generation"]),
                parents=tuple(map(str, one["parents"])),
                overlap=float(one["overlap"]),
                synapses_of_parents=tuple(map(int, one["synapses_of_parents"])),
                synapses=int(one["synapses"]),
            )


def _front_point(one: Mapping[str, Any]) -> FrontPoint:
    return FrontPoint(
        name=str(one["name"]),
        kept=None if one["kept"] is None else str(one["kept"]),
        score_validation=float(one["score_validation"]),
        synapses=int(one["synapses"]),
        bytes=int(one["bytes"]),
        latency_share=float(one["latency_share"]),
    )


def read_run(document: Mapping[str, Any], source: str = "run.json") -> Run:
    """Check and type a run's document.

    Args:
        document: what run.json holds (design: section 5).
        source: its name, for messages.

    Raises:
        RunError: something is missing or of another type.
    """
    if "configuration" in document and not document.keys() & {"ancestor", "best"}:
        raise RunError(
            f"The run of {source} has begun, and its ancestor is not scored yet: ask again in a moment, or "
            "if it was killed, continue it with --resume."
        )
    with of_a_record(source):
        return _read(document)


@contextmanager
def of_a_record(source: str) -> Iterator[None]:
    """What goes wrong inside is the record's fault: something is missing in it, or of another type.

    Raises:
        RunError: naming `source`.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise RunError(
            f"{source} is not the record of an evonnx run, or of another version of evonnx: {reason}."
        ) from error


def _read(document: Mapping[str, Any]) -> Run:
    configuration, task = document["configuration"], document["task"]
    rows = [document["ancestor"], *document["generations"]]
    labels = [str(row["generation"]) for row in rows]
    best = document.get("best")
    if best is not None:
        rows.append(best)
        labels.append(f"best ({best['generation']})")
    bench, pareto = document.get("bench"), document.get("pareto") or {"of": 0, "front": []}
    latencies = _latencies(bench, len(rows)) if bench else [{} for _ in rows]
    entries = tuple(map(_entry, rows, labels, latencies, parents_of_rows(rows, labels)))
    return Run(
        model=str(configuration["model"]),
        task=str(task["description"]),
        metric=str(task["metric"]),
        unit=str(task["unit"]),
        higher_is_better=bool(task["higher_is_better"]),
        entries=entries,
        has_best=best is not None,
        recovered=best is not None and bool(best.get("recovered")),
        notes=tuple(str(note) for note in document.get("notes", ())),
        facts=_facts(document),
        batches=tuple(latencies[0]),
        bench=bench,
        matings=tuple(_matings(document)),
        front=tuple(map(_front_point, pareto["front"])),
        front_of=int(pareto["of"]),
        faults=tuple(
            (label, Fault(**{name: str(one[name]) for name in Fault.__annotations__}))
            for label, row in (*zip(labels, rows, strict=True), ("", document))
            for one in row.get("faults", ())
        ),
        pinned=document["ancestor"].get("pinned"),
        raised=tuple(raised(document)),
    )


def _entry(
    row: Mapping[str, Any], label: str, latency: Mapping[int, Latency], parents: tuple[str, ...]
) -> Entry:
    return Entry(
        label=label,
        generation=int(row["generation"]),
        synapses=int(row["synapses"]),
        architectural_efficiency=float(row["architectural_efficiency"]),
        kernels=int(row["kernels"]),
        cluster_efficiency=_number(row["cluster_efficiency"]),
        filters=int(row["filters"]),
        filters_ancestor=int(row["filters_ancestor"]),
        parameters=int(row["parameters"]),
        macs=_number(row["macs"]),
        bytes=int(row["bytes"]),
        score=_number(row["score"]),
        score_validation=_number(row["score_validation"]),
        layers=tuple(map(_layer, row["layers"])),
        latency=latency,
        details={str(name): float(value) for name, value in row.get("details", {}).items()},
        pace=Pace(*(float(row["latency"][name]) for name in Pace.__annotations__))
        if row.get("latency")
        else None,
        parents=parents,
        reason=str((row.get("selection") or {}).get("reason", "")),
        achieved=_number(row.get("achieved")),
        bound=_number(row.get("budget")),
        screened=int(row["screened"]) if row.get("screened") is not None else None,
        proof=_proof(row["proof"]) if row.get("proof") else None,
        training=tuple(
            float(epoch["loss"])
            for epoch in (row.get("training") or {}).get("history", ())
            if "loss" in epoch
        ),
    )


def _proof(record: Mapping[str, Any]) -> Proof:
    worst = record.get("worst_difference", record.get("worst"))
    return Proof(bool(record["passed"]), bool(record["void"]), int(record["tensors"]), _number(worst))


_COUNTS = ("synapses", "synapses_ancestor", "kernels", "kernels_ancestor", "filters", "filters_ancestor")


def _layer(row: Mapping[str, Any]) -> Layer:
    return Layer(
        str(row["name"]),
        str(row["op_type"]),
        *(int(row[name]) for name in _COUNTS),
        *(None if row.get(name) is None else int(row[name]) for name in ("channels", "channels_ancestor")),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


_OF_TABLES = ("provider", "threads", "batch", "align", "ancestor_ms", "calibration", "median_error")
"""What of a cost table a reader wants to know; the rest is in run.json."""


def _facts(document: Mapping[str, Any]) -> dict[str, str]:
    """What the run was made with, in words."""
    configuration, task = document["configuration"], document["task"]
    machine, versions = document.get("machine", {}), configuration.get("versions", {})
    choices = dict(document.get("choices", {}))
    for name in ("timings", "remedies"):  # they have tables of their own
        choices.pop(name, None)
    if "latency" in choices:
        table = choices["latency"]
        choices["latency"] = {name: table[name] for name in _OF_TABLES if name in table}
    facts = {
        "task": task.get("found"),
        "encoding": configuration.get("encoding"),
        "options": _pairs(configuration.get("options", {})),
        "training": _pairs(configuration.get("training", {})),
        "choices": _pairs(choices),
        "seed": document.get("seed"),
        "threads": configuration.get("threads") or "onnxruntime's own choice",
        "machine": _pairs(machine),
        "versions": _pairs(versions),
        "model (SHA-256)": configuration.get("model_sha256"),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _pairs(values: Mapping[str, Any]) -> str:
    """`a = 1, b.c = 2`, leaving out what was not set."""
    shown: list[str] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            inner = _pairs(value)
            shown += [f"{name}.{part}" for part in inner.split(", ")] if inner else []
        elif value is not None:
            shown.append(f"{name} = {value}")
    return ", ".join(shown)


def _latencies(bench: Mapping[str, Any], models: int) -> list[dict[int, Latency]]:
    """Per model, in the order they were timed, by batch size."""
    found: list[dict[int, Latency]] = [{} for _ in range(models)]
    for one in bench["latencies"]:
        figures = (float(one[name]) for name in Latency.__annotations__)
        found[one["index"]][int(one["batch"])] = Latency(*figures)
    return found
