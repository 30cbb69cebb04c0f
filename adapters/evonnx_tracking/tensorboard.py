"""TensorBoard: curves, parameters and tables in event files, which `tensorboard --logdir` shows.

Where a run goes on, its event files are written anew: everything in them is told again, and an event file
cannot be taken back line by line.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util

from evonnx.tracker import Point, TrackedRun, Value

_SUFFIX = ".evonnx"
_FLUSH_SECONDS = 10


class TensorBoardTracker:
    """Writes into the folder that it is told, with the run's name, else into the run directory."""

    name = "tensorboard"

    def __init__(self) -> None:
        self._writer: EventFileWriter | None = None

    def open(self, run: TrackedRun) -> str:
        """Begin the event file.

        Raises:
            OSError: it cannot be written.
        """
        folder = _folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        for old in _written(folder):
            old.unlink()
        self._writer = EventFileWriter(str(folder), flush_secs=_FLUSH_SECONDS, filename_suffix=_SUFFIX)
        return str(folder)

    def parameters(self, values: Mapping[str, Value]) -> None:
        """As hyperparameters, and as a table of text."""
        info = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
        for name, value in values.items():
            if isinstance(value, bool):  # which are numbers, too
                info.hparams[name].bool_value = value
            elif isinstance(value, int | float):
                info.hparams[name].number_value = value
            else:
                info.hparams[name].string_value = value
        data = plugin_data_pb2.HParamsPluginData(session_start_info=info)
        self._add(
            [
                summary_pb2.Summary.Value(
                    tag=hparams_metadata.SESSION_START_INFO_TAG,
                    metadata=hparams_metadata.create_summary_metadata(data),
                    tensor=hparams_metadata.NULL_TENSOR,
                )
            ],
            0,
        )
        rows = "\n".join(f"| `{name}` | {value} |" for name, value in values.items())
        self.text("parameters", f"| name | value |\n| :--- | :--- |\n{rows}\n", 0)

    def points(self, points: Sequence[Point]) -> None:
        """As scalars."""
        for point in points:
            self._add([summary_pb2.Summary.Value(tag=point.name, simple_value=point.value)], point.step)

    def text(self, name: str, markdown: str, step: int) -> None:
        """As text, which TensorBoard shows as Markdown."""
        value = summary_pb2.Summary.Value(
            tag=name,
            metadata=text_metadata.create_summary_metadata(display_name=None, description=None),
            tensor=tensor_util.make_tensor_proto([markdown.encode()]),
        )
        self._add([value], step)

    def files(self, files: Sequence[Path]) -> None:
        """TensorBoard keeps no files."""

    def close(self, finished: bool) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, values: list[summary_pb2.Summary.Value], step: int) -> None:
        assert self._writer is not None, "open comes first"
        summary = summary_pb2.Summary(value=values)
        self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))


def _folder(run: TrackedRun) -> Path:
    """The one that the run was tracked in, else one that has no events of another run."""
    first = run.place if run.where is None else Path(run.where) / run.name
    known = Path(run.known).name if run.known else ""
    if re.fullmatch(rf"{re.escape(first.name)}(-\d+)?", known):  # whatever else it says, it leads nowhere
        return first.with_name(known)
    number, folder = 1, first
    while _written(folder):
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


def _written(folder: Path) -> list[Path]:
    return list(folder.glob(f"events.out.tfevents.*{_SUFFIX}"))
