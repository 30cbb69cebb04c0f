"""From stored examples to what a graph input takes: layout, scale, dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import TaskError
from evonnx.network import Array, Network
from evonnx.tasks._settings import Settings
from evonnx.tasks.data.geometry import FittedArrays, read_geometry
from evonnx.tasks.data.images import require_pillow
from evonnx.tasks.data.sound.examples import SoundExamples, array_waves
from evonnx.tasks.data.sound.plan import AUDIO, SoundPlan, read_plan
from evonnx.tasks.data.sources import ArrayExamples, Source

LAYOUTS = ("nchw", "nhwc")
CHANNEL_ORDERS = ("rgb", "bgr")

VALUE_KEYS = ("scale", "mean", "std", "layout", "channel_order")
PREPARATION_KEYS = (*VALUE_KEYS, "size", "resize", "crop", "interpolation", AUDIO)
"""What a task file may say of an input, in [task] for all of them or in [task.inputs.NAME] for one."""

_CHECKED_AT_A_TIME = 2**22
"""Values looked at in one go for NaN."""


@dataclass(frozen=True)
class GraphInput:
    """One input that must be fed."""

    name: str
    declared: tuple[int | None, ...]
    """Dimensions; None is dynamic. Axis 0 is the batch."""
    shape: tuple[int, ...]
    """Dynamic dimensions filled, as `Network.input_shapes` has them."""
    dtype: np.dtype[Any]
    role: str = "input"
    """Or "output", of which targets are prepared alike."""

    @property
    def is_float(self) -> bool:
        """Whether it takes floating-point values (bfloat16 included)."""
        return self.dtype.kind not in "iub"


def graph_inputs(network: Network) -> tuple[GraphInput, ...]:
    """The graph's inputs that are not initializers.

    Raises:
        TaskError: an input is no numeric tensor, or its rank is not known.
    """
    found = []
    for value in network.model.graph.inputs:
        name = value.name or ""
        if name in network.model.graph.initializers:
            continue
        try:
            dtype = np.dtype(value.dtype.numpy()) if value.dtype is not None else None
        except TypeError:
            dtype = None
        if dtype is None or dtype.kind in "OSU":
            raise TaskError(
                f"Input {name!r} of {network.source} is no numeric tensor, so no task can feed it."
            )
        if value.shape is None or name not in network.input_shapes:
            raise TaskError(
                f"Input {name!r} of {network.source} declares no shape; give one with --input-shape "
                f"{name}=..."
            )
        declared = tuple(dim if isinstance(dim, int) and dim > 0 else None for dim in value.shape)
        found.append(GraphInput(name, declared, tuple(network.input_shapes[name]), dtype))
    if not found:
        raise TaskError(f"{network.source} has no inputs, so no task can feed it.")
    return tuple(found)


def only_input(network: Network) -> GraphInput:
    """The single input of a model that takes one array of examples.

    Raises:
        TaskError: it has several, or the one has no batch axis.
    """
    inputs = graph_inputs(network)
    if len(inputs) != 1:
        raise TaskError(
            f"{network.source} has {len(inputs)} inputs ({', '.join(one.name for one in inputs)}), this task "
            "feeds one; "
            'write a task class: kind = "my_task.py:MyTask".'
        )
    if len(inputs[0].declared) < 2:
        raise TaskError(f"Input {inputs[0].name!r} of {network.source} has no batch axis before its data.")
    return inputs[0]


def image_size(graph_input: GraphInput, settings: Settings) -> tuple[int, int, int] | None:
    """(height, width, channels) that an image input takes, by `size` or `crop`, or by the graph.

    Raises:
        TaskError: `size` or `crop` is not [height, width] (or one number for both), or they differ.
    """
    found = {key: settings.numbers(key) for key in ("size", "crop")}
    for key, given in found.items():
        lengths = (2,) if key == "size" else (1, 2)
        if given and (len(given) not in lengths or any(one < 1 or one != int(one) for one in given)):
            raise settings.wrong(key, "[height, width], in pixels")
    sizes = {given * 2 if len(given) == 1 else given for given in found.values() if given is not None}
    if len(sizes) > 1:
        raise settings.wrong("crop", "what size is, or left out")
    size = next(iter(sizes), None)
    if len(graph_input.shape) != 4:
        return None
    declared, shape = graph_input.declared[1:], graph_input.shape[1:]
    channels_last = declared[0] not in (1, 3) and declared[2] in (1, 3)
    channels = shape[2] if channels_last else shape[0]
    if channels not in (1, 3):
        return None
    height, width = shape[:2] if channels_last else shape[1:]
    return (int(size[0]), int(size[1]), channels) if size is not None else (height, width, channels)


@dataclass(frozen=True)
class Preparation:
    """How stored examples become a graph input: (x / scale - mean) / std, then layout, then dtype."""

    name: str
    """The graph input."""
    layout: tuple[int, ...] | None
    """Permutation of a stored example's axes; None: as stored."""
    shape: tuple[int, ...]
    """Shape of one example as the graph takes it."""
    scale: float
    mean: NDArray[np.float32]
    """Broadcasts against an example as the graph takes it; so does `std`."""
    std: NDArray[np.float32]
    dtype: np.dtype[Any]
    reverse: int | None = None
    """Axis of an example, as the graph takes it, along which channels are taken from last to first."""
    time: int | None = None
    """Of a sound: its axis of an example, as the graph takes it."""

    def __call__(self, stored: Array) -> Array:
        """(B, *stored shape) -> (B, *shape) in the input's dtype."""
        if self.layout is not None:
            stored = stored.transpose(0, *(axis + 1 for axis in self.layout))
        stored = stored.reshape(len(stored), *self.shape)
        if self.reverse is not None:
            stored = np.flip(stored, self.reverse + 1)
        if self.dtype.kind in "iub":
            return np.ascontiguousarray(stored.astype(self.dtype, copy=False))
        values = stored.astype(np.float32)
        if self.scale != 1.0:
            values /= np.float32(self.scale)
        if np.any(self.mean != 0):
            values -= self.mean
        if np.any(self.std != 1):
            values /= self.std
        return np.ascontiguousarray(values).astype(self.dtype, copy=False)


def prepare(source: Source, graph_input: GraphInput, settings: Settings) -> Preparation:
    """Decide how a source's examples become the graph's input.

    The layout is `layout` ("nchw" or "nhwc", of the data) where given, else: as stored if that fits; with a
    channel axis of 1 added; with channels moved first or last; or flattened. `scale` defaults to 255 for
    uint8 data, else 1.

    Raises:
        TaskError: the shapes cannot be made to fit, or a setting is wrong; the message names file and shapes.
    """
    layout, shape = _layout(source, graph_input, settings)
    stored = source.examples.dtype
    if stored.kind not in "iubf":
        raise TaskError(f"{source.name} holds {stored} examples; inputs are numbers.")
    scale = settings.number("scale", "a number above 0 (inputs are divided by it)", lambda value: value > 0)
    mean, std = settings.numbers("mean"), settings.numbers("std")
    if std is not None and any(value <= 0 for value in std):
        raise settings.wrong("std", "a number above 0, or a list of them")
    if not graph_input.is_float:
        given = [key for key in ("scale", "mean", "std") if key in settings.table]
        if given:
            raise TaskError(
                f"{settings.where}: {given[0]} is for floating-point inputs; {graph_input.name!r} takes "
                f"{graph_input.dtype}."
            )
        if stored.kind == "f":
            raise TaskError(
                f"{source.name} holds {stored} examples; {graph_input.name!r} takes {graph_input.dtype}."
            )
    axes = _sound_axes(source, shape)
    return Preparation(
        name=graph_input.name,
        layout=layout,
        shape=shape,
        scale=float(scale) if scale is not None else (255.0 if stored == np.uint8 else 1.0),
        mean=_per_channel("mean", mean or (0.0,), shape, settings, axes),
        std=_per_channel("std", std or (1.0,), shape, settings, axes),
        dtype=graph_input.dtype,
        reverse=_reversed_axis(shape, settings),
        time=None if axes is None else axes.time,
    )


class _SoundAxes(NamedTuple):
    """Of an example, as the graph takes it; None where it has none of its own."""

    time: int | None
    bands: int | None


def _sound_axes(source: Source, shape: tuple[int, ...]) -> _SoundAxes | None:
    """None: no sounds."""
    if not isinstance(source.examples, SoundExamples):
        return None
    plan = source.examples.plan
    if len(shape) < len(plan.shape):  # flattened
        return _SoundAxes(None, None)
    before = 1 if shape == (1, *plan.shape) else 0
    return _SoundAxes(plan.time_axis + before, None if plan.band_axis is None else plan.band_axis + before)


def _reversed_axis(shape: tuple[int, ...], settings: Settings) -> int | None:
    """The channel axis of an example where the graph takes blue first; data is stored red first."""
    if settings.text("channel_order", CHANNEL_ORDERS) != "bgr":
        return None
    axes = [axis for axis in (0, len(shape) - 1) if len(shape) == 3 and shape[axis] == 3]
    if not axes:
        raise settings.wrong("channel_order", f"left out: the input takes {list(shape)}, no 3 channels")
    return axes[0]


def of_input(settings: Settings, name: str, own: Mapping[str, Settings]) -> Settings:
    """What [task] says of an input, unless [task.inputs.NAME] says otherwise."""
    common = {key: settings.table[key] for key in PREPARATION_KEYS if key in settings.table}
    if name not in own:
        return Settings(common, settings.where, settings.folder)
    return Settings({**common, **own[name].table}, own[name].where, settings.folder)


def sound_plan(graph_input: GraphInput, settings: Settings, limit: int) -> SoundPlan | None:
    """How sounds become what an input takes, by [task.audio]; None where there is none.

    Raises:
        TaskError: as `read_plan`.
    """
    return read_plan(settings, graph_input.name, graph_input.declared, limit)


def fitted(source: Source, graph_input: GraphInput, settings: Settings, limit: int) -> Source:
    """The source, with images of an array resized and cut as `resize` and `crop` say, and waveforms of an
    array made what [task.audio] says; `limit` in bytes.

    Raises:
        TaskError: they are said of something that is no array of images or waveforms, or Pillow is missing.
    """
    examples = source.examples
    if isinstance(examples, ArrayExamples) and AUDIO in settings.table:
        plan = sound_plan(graph_input, settings, limit)
        waves = array_waves(examples.array, source.name)
        return source if plan is None else replace(source, examples=SoundExamples(waves, plan))
    if not isinstance(examples, ArrayExamples) or not {"resize", "crop"} & set(settings.table):
        return source
    size, shape = image_size(graph_input, settings), examples.sample_shape
    if size is None or len(shape) not in (2, 3):
        raise TaskError(
            f"{settings.where}: resize and crop are for images; {source.name} holds examples of shape "
            f"{list(shape)}, and input {graph_input.name!r} takes {list(graph_input.shape[1:])}."
        )
    require_pillow()
    said = settings.text("layout", LAYOUTS)
    first = said == "nchw" or (said is None and shape[0] in (1, 3) and shape[-1] not in (1, 3))
    geometry = read_geometry(settings, size[:2])
    return replace(source, examples=FittedArrays(examples.array, geometry, first and len(shape) == 3))


def _layout(
    source: Source, graph_input: GraphInput, settings: Settings
) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """(permutation of an example's axes or None, shape of an example as the graph takes it)."""
    stored, want = source.examples.sample_shape, graph_input.declared[1:]
    said = settings.text("layout", LAYOUTS) or ("nhwc" if source.channels_last else None)
    first, last = (2, 0, 1), (1, 2, 0)
    ways: list[tuple[tuple[int, ...] | None, tuple[int, ...]]] = []
    if said is None or (len(stored) != 3 and len(want) != 1):
        ways.append((None, stored))
    if stored in ((), (1,)):
        ways += [(None, (1,)), (None, ())]
    if len(stored) in (1, 2):
        ways += [(None, (1, *stored)), (None, (*stored, 1))]
    if len(stored) == 3:
        moved_first = (first, tuple(stored[axis] for axis in first))
        moved_last = (last, tuple(stored[axis] for axis in last))
        # Said: stored as it is if the graph has the same layout, else moved to the other one.
        ways += [moved_first, moved_last] if said is None else []
        ways += [(None, stored), moved_last] if said == "nchw" else []
        ways += [moved_first, (None, stored)] if said == "nhwc" else []
    if len(want) == 1 and len(stored) > 1:
        ways.append((None, (int(np.prod(stored)),)))
    for permutation, shape in ways:
        if len(shape) == len(want) and all(w is None or w == s for w, s in zip(want, shape, strict=True)):
            return permutation, shape
    wanted = ", ".join("any" if dim is None else str(dim) for dim in want)
    verb = "takes" if graph_input.role == "input" else "gives"
    raise TaskError(
        f"{source.name} holds examples of shape {list(stored)}; the model's {graph_input.role} "
        f"{graph_input.name!r} {verb} [{wanted}] each. Reshape the data, or export the model for its shape."
    )


def _per_channel(
    key: str,
    values: tuple[float, ...],
    shape: tuple[int, ...],
    settings: Settings,
    sound: _SoundAxes | None,
) -> NDArray[np.float32]:
    array = np.asarray(values, np.float32)
    if len(values) == 1:
        return array.reshape((1,) * len(shape))
    if sound is not None:
        if sound.bands is not None and shape[sound.bands] == len(values):
            return array.reshape([-1 if axis == sound.bands else 1 for axis in range(len(shape))])
        raise settings.wrong(key, f"one number, or one per band of features, for the input {list(shape)}")
    if shape[0] == len(values):
        return array.reshape(-1, *(1 for _ in shape[1:]))
    if shape[-1] == len(values):
        return array
    raise settings.wrong(key, f"one number or one per channel of the input {list(shape)}")


def check_finite(source: Source) -> None:
    """Refuse floating-point data with NaN or infinite values.

    Raises:
        TaskError: with the index of the first such example.
    """
    examples = source.examples
    if not isinstance(examples, ArrayExamples) or examples.dtype.kind != "f":
        return
    step = max(1, _CHECKED_AT_A_TIME // max(1, int(np.prod(examples.sample_shape))))
    for start in range(0, len(examples), step):
        finite = np.isfinite(examples.array[start : start + step]).reshape(
            -1, int(np.prod(examples.sample_shape))
        )
        if not finite.all():
            bad = start + int(np.argmin(finite.all(axis=1)))
            raise TaskError(f"{source.name}: example {bad} has NaN or infinite values; clean the data.")


def task_settings(config: Mapping[str, Any]) -> Settings:
    """The [task] table with the place it came from (`file` and `directory` are put there by `load_task`)."""
    table = {key: value for key, value in config.items() if key not in ("file", "directory")}
    where = f"{config['file']}, [task]" if "file" in config else "[task]"
    return Settings(table, where, Path(str(config.get("directory", "."))))
