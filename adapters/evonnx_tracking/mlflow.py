"""MLflow: a run with parameters, metrics, tables as text, and files as artifacts.

Where: `--track mlflow=URI`, else as MLflow itself has it (MLFLOW_TRACKING_URI, else a database in the current
folder). The experiment is MLFLOW_EXPERIMENT_NAME, else "evonnx".
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from evonnx.tracker import Point, TrackedRun, Value

EXPERIMENT = "evonnx"
_MOST_METRICS, _MOST_PARAMETERS = 1000, 100
"""Of one request."""
_LONGEST_VALUE = 6000
"""Characters of a parameter."""
_UNNAMEABLE = re.compile(r"[^\w\-. /:]")


class MlflowTracker:
    """One MLflow run per run directory."""

    name = "mlflow"

    def __init__(self) -> None:
        self._client: MlflowClient | None = None
        self._run = ""
        self._there: dict[str, set[int]] = {}
        """Steps of each metric that were tracked before the run was interrupted; looked up when needed."""
        self._goes_on = False

    def open(self, run: TrackedRun) -> str:
        """Create the run, or go on with the known one.

        Raises:
            MlflowException: the store cannot be reached, or refuses.
        """
        self._client = MlflowClient(tracking_uri=run.where)
        self._goes_on = run.known is not None and self._lives(run.known)
        if run.known is not None and self._goes_on:
            self._run = run.known
            self._client.update_run(self._run, status="RUNNING")
        else:
            self._run = self._client.create_run(self._experiment(), run_name=run.name).info.run_id
        return self._run

    def parameters(self, values: Mapping[str, Value]) -> None:
        """Parameters of an MLflow run never change: those that are there stay."""
        client = self._opened()
        there = client.get_run(self._run).data.params if self._goes_on else {}
        named = {_name(name): str(value)[:_LONGEST_VALUE] for name, value in values.items()}
        fresh = [Param(name, value) for name, value in named.items() if name not in there]
        for start in range(0, len(fresh), _MOST_PARAMETERS):
            client.log_batch(self._run, params=fresh[start : start + _MOST_PARAMETERS])

    def points(self, points: Sequence[Point]) -> None:
        """Metrics, without those that are there."""
        client, now = self._opened(), int(time.time() * 1000)
        fresh = [
            Metric(_name(point.name), point.value, now, point.step)
            for point in points
            if point.step not in self._steps(_name(point.name))
        ]
        for start in range(0, len(fresh), _MOST_METRICS):
            client.log_batch(self._run, metrics=fresh[start : start + _MOST_METRICS])

    def text(self, name: str, markdown: str, step: int) -> None:
        """A Markdown file among the artifacts."""
        slug = re.sub(r"[^\w]+", "-", name).strip("-").lower()
        self._opened().log_text(self._run, markdown, f"tables/{slug}.md")

    def files(self, files: Sequence[Path]) -> None:
        """Artifacts."""
        for file in files:
            self._opened().log_artifact(self._run, str(file))

    def close(self, finished: bool) -> None:
        """Say how it ended."""
        self._opened().set_terminated(self._run, "FINISHED" if finished else "KILLED")

    def _opened(self) -> MlflowClient:
        assert self._client is not None, "open comes first"
        return self._client

    def _lives(self, known: str) -> bool:
        try:
            return bool(self._opened().get_run(known).info.lifecycle_stage == "active")
        except MlflowException:  # removed, or of another store
            return False

    def _experiment(self) -> str:
        client, name = self._opened(), os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = client.get_experiment_by_name(name)
        return str(found.experiment_id if found else client.create_experiment(name))

    def _steps(self, metric: str) -> set[int]:
        if not self._goes_on:
            return set()
        if metric not in self._there:
            history = self._opened().get_metric_history(self._run, metric)
            self._there[metric] = {one.step for one in history}
        return self._there[metric]


def _name(name: str) -> str:
    """A name as MLflow takes it."""
    return _UNNAMEABLE.sub("_", name)
