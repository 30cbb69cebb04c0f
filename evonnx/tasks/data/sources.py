"""Where examples come from: .npz, IDX, CIFAR-10 and STL-10 binary files, folders of images and of sounds,
told apart by what they hold.

A split is written as a path, a list of paths (their examples in order), or a table:

    train = "train.npz"                                            arrays x and y
    train = { file = "mnist.npz", x = "x_train", y = "y_train" }   arrays by other names
    train = "mnist"                                                a folder with IDX, CIFAR-10 or STL-10
                                                                   files, by their names
    train = { images = "a-idx3-ubyte.gz", labels = "b-idx1-ubyte.gz" }
    train = ["data_batch_1.bin", "data_batch_2.bin"]
    train = "train_X.bin"                                          STL-10; labels in train_y.bin beside it
    train = "photos/train"                                         one sub-folder per class; of sounds too,
                                                                   where [task.audio] says so
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import TaskError
from evonnx.network import Array
from evonnx.task import Split
from evonnx.tasks._settings import Settings
from evonnx.tasks.data.arrays import read_cifar10, read_idx, read_npz, read_stl10
from evonnx.tasks.data.geometry import read_geometry
from evonnx.tasks.data.images import Files, ImageFolder, class_folders, is_image, label_names
from evonnx.tasks.data.sound.examples import FileWaves, SoundExamples
from evonnx.tasks.data.sound.plan import SoundPlan
from evonnx.tasks.data.sound.recordings import is_sound

STL10_IMAGES, STL10_LABELS = "_X.bin", "_y.bin"
"""How names of STL-10's binary files end."""


class Examples(Protocol):
    """Inputs by index, without labels."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        ...

    def __len__(self) -> int: ...

    def take(self, indices: NDArray[np.int64]) -> Array:
        """Examples by index, in that order."""
        ...


@dataclass(frozen=True)
class ArrayExamples:
    """Examples along axis 0 of an array in memory."""

    array: Array

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.array.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return self.array.dtype

    def __len__(self) -> int:
        return len(self.array)

    def take(self, indices: NDArray[np.int64]) -> Array:
        """Examples by index, in that order."""
        taken: Array = self.array[indices]
        return taken


@dataclass(frozen=True)
class Source:
    """Examples with their labels, if there are any, and where they come from."""

    name: str
    """For messages and tables, as the user wrote it."""
    examples: Examples
    labels: NDArray[np.int64] | None
    labels_name: str
    """The file that the labels come from."""
    channels_last: bool = False
    """Whether the examples are known to be (height, width, channels)."""
    classes: Mapping[str, int] | None = None
    """Class index by folder name, of an image folder."""

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True)
class Reader:
    """How to read sources for one task."""

    settings: Settings
    image_size: tuple[int, int, int] | None
    """(height, width, channels) for image folders; None: not known."""
    limit: int
    """Bytes that one array may take."""
    wants_labels: bool
    classes: Mapping[str, int] | None = None
    """Class index by folder name; None: from the folders themselves."""
    sounds: SoundPlan | None = None
    """How the files of a folder become examples, where they are sounds."""

    def read(self, split: Split) -> Source:
        """Read the source that the task file gives for a split.

        Raises:
            TaskError: whatever is wrong with the file, which is named.
        """
        value = self.settings.table[split]
        if isinstance(value, str):
            return self._path(split, value)
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            return _join([self._path(split, one) for one in value], ", ".join(value))
        if isinstance(value, dict):
            table = Settings(value, f"{self.settings.where}, {split}", self.settings.folder)
            if "images" in value:
                return self._idx_table(table)
            if "file" in value:
                return self._npz_table(table)
        raise self.settings.wrong(
            split,
            'a path, a list of paths, {file = "...", x = "...", y = "..."} or {images = "...", labels = '
            '"..."}',
        )

    def _path(self, split: Split, text: str) -> Source:
        path = self.settings.folder / text
        if not path.exists():
            raise TaskError(f"{self.settings.where}: {split} = {text!r} does not exist (looked for {path}).")
        if path.is_dir():
            return self._folder(split, text, path)
        try:
            with path.open("rb") as file:
                head = file.read(4)
        except OSError as error:
            raise TaskError(f"{path} cannot be read: {error.strerror or error}.") from error
        if head[:2] == b"PK":
            return self._npz(text, path, "x", "y")
        if path.name.endswith(STL10_IMAGES):
            return self._stl10(text, path)
        if path.suffix == ".bin":
            return self._cifar10(text, [path])
        if head[:2] in (b"\0\0", b"\x1f\x8b"):
            return self._idx(text, path, _paired_labels(path) if self.wants_labels else None)
        raise TaskError(
            f"{path} is none of the files that hold examples: .npz with arrays x and y, IDX (plain or .gz), "
            "CIFAR-10 binary (.bin), STL-10 binary (_X.bin), or a folder of images."
        )

    def _npz_table(self, table: Settings) -> Source:
        table.only(("file", "x", "y"))
        text = table.text("file") or ""
        path = table.folder / text
        if not path.is_file():
            raise TaskError(f"{table.where}: file = {text!r} does not exist (looked for {path}).")
        return self._npz(text, path, table.text("x") or "x", table.text("y") or "y")

    def _npz(self, text: str, path: Path, inputs: str, labels: str) -> Source:
        found = read_npz(path, inputs, self.limit)
        if found.ndim == 0:
            raise TaskError(f"{path}: array {inputs!r} is a single value; axis 0 must count the examples.")
        answers = None
        if self.wants_labels:
            answers = as_labels(read_npz(path, labels, self.limit), f"{path}, array {labels!r}")
        return _source(text, ArrayExamples(found), answers, f"{path}, array {labels!r}")

    def _idx_table(self, table: Settings) -> Source:
        table.only(("images", "labels"))
        images = table.text("images") or ""
        labels = table.text("labels")
        if labels is None and self.wants_labels:
            raise TaskError(f"{table.where}: the key 'labels' is missing beside 'images'.")
        for text in (images, labels):
            if text is not None and not (table.folder / text).is_file():
                raise TaskError(f"{table.where}: {text!r} does not exist (looked for {table.folder / text}).")
        paired = table.folder / labels if labels is not None and self.wants_labels else None
        return self._idx(images, table.folder / images, paired)

    def _idx(self, text: str, images: Path, labels: Path | None) -> Source:
        found = read_idx(images, self.limit)
        if found.ndim < 2:
            raise TaskError(f"{images} holds labels, not images: its shape is {list(found.shape)}.")
        answers = as_labels(read_idx(labels, self.limit), str(labels)) if labels is not None else None
        return _source(text, ArrayExamples(found), answers, str(labels or images))

    def _cifar10(self, text: str, paths: Sequence[Path]) -> Source:
        images, labels = read_cifar10(paths, self.limit)
        return _source(text, ArrayExamples(images), labels if self.wants_labels else None, str(paths[0]))

    def _stl10(self, text: str, path: Path) -> Source:
        beside = path.with_name(path.name.removesuffix(STL10_IMAGES) + STL10_LABELS)
        if self.wants_labels and not beside.is_file():
            raise TaskError(f"No labels were found for {path} (looked for {beside.name} beside it).")
        images, labels = read_stl10(path, beside if self.wants_labels else None, self.limit)
        return _source(text, ArrayExamples(images), labels, str(beside))

    def _folder(self, split: Split, text: str, path: Path) -> Source:
        files = sorted(file for file in path.iterdir() if file.is_file())
        if self.sounds is not None:
            return self._sounds(text, path, [file for file in files if is_sound(file)], self.sounds)
        idx = [file for file in files if "idx3" in file.name or "images" in file.name]
        if idx:
            chosen = _of_split(idx, split)
            if len(chosen) != 1:
                raise TaskError(
                    f"{path} has {len(chosen)} IDX files of images for {split}; "
                    f'name them: {split} = {{images = "...", labels = "..."}}.'
                )
            return self._idx(text, chosen[0], _paired_labels(chosen[0]) if self.wants_labels else None)
        stl10 = [file for file in files if file.name.endswith(STL10_IMAGES)]
        if stl10:
            chosen = _of_split(stl10, split)
            if len(chosen) != 1:
                raise TaskError(
                    f"{path} has {len(chosen)} STL-10 files of images for {split}; name one: "
                    f'{split} = "..._X.bin".'
                )
            return self._stl10(text, chosen[0])
        binary = [file for file in files if file.suffix == ".bin"]
        if binary:
            chosen = _of_split(binary, split)
            if not chosen:
                raise TaskError(f"{path} has no CIFAR-10 file for {split}; name the files: {split} = [...].")
            return self._cifar10(text, chosen)
        return self._images(text, path, [file for file in files if is_image(file)])

    def _images(self, text: str, path: Path, loose: list[Path]) -> Source:
        groups = _by_class(path, is_image)
        if not groups and not (loose and not self.wants_labels):
            if _by_class(path, is_sound) or any(is_sound(file) for file in path.iterdir()):
                raise TaskError(
                    f"{path} holds sounds; say how they are read: a table [task.audio] with at least "
                    "sample_rate."
                )
            raise TaskError(
                f"{path} holds no examples: expected IDX files, CIFAR-10 or STL-10 .bin files, or one "
                "sub-folder of images per class."
            )
        if self.image_size is None:
            raise TaskError(
                f"{self.settings.where}: the model does not say how large its images are; "
                "add size = [height, width] to [task]."
            )
        geometry = read_geometry(self.settings, self.image_size[:2])
        examples = ImageFolder(self._files(groups, loose), geometry, self.image_size[2])
        return self._classed(text, path, groups, examples, channels_last=True)

    def _sounds(self, text: str, path: Path, loose: list[Path], plan: SoundPlan) -> Source:
        groups = _by_class(path, is_sound)
        if not groups and not (loose and not self.wants_labels):
            raise TaskError(
                f"{path} holds no sounds: expected one sub-folder of sound files (.wav, .flac, .ogg, .mp3, "
                "...) per class."
            )
        examples = SoundExamples(FileWaves(self._files(groups, loose)), plan)
        return self._classed(text, path, groups, examples, channels_last=False)

    def _files(self, groups: Mapping[str, list[Path]], loose: list[Path]) -> Files:
        paths = [file for group in groups.values() for file in group]
        return Files(paths if self.wants_labels else loose + paths)

    def _classed(
        self,
        text: str,
        path: Path,
        groups: Mapping[str, list[Path]],
        examples: Examples,
        *,
        channels_last: bool,
    ) -> Source:
        """Files of class folders, with the folders' classes."""
        if not self.wants_labels:
            return Source(text, examples, None, str(path), channels_last=channels_last)
        classes = self.classes if self.classes is not None else label_names(list(groups))
        unknown = [name for name in groups if name not in classes]
        if unknown:
            raise TaskError(
                f"{path} has a class {unknown[0]!r} that is not among the classes {', '.join(classes)}."
            )
        labels = [np.full(len(files), classes[name], np.int64) for name, files in groups.items()]
        return Source(
            text, examples, np.concatenate(labels), str(path), channels_last=channels_last, classes=classes
        )


def _by_class(folder: Path, fits: Callable[[Path], bool]) -> dict[str, list[Path]]:
    """Files of each class folder that has any, both by name."""
    return {
        place.name: sorted(file for file in place.iterdir() if fits(file))
        for place in class_folders(folder, fits)
    }


def _source(name: str, examples: Examples, labels: NDArray[np.int64] | None, labels_name: str) -> Source:
    if len(examples) == 0:
        raise TaskError(f"{name} holds no examples.")
    if labels is not None and len(labels) != len(examples):
        raise TaskError(
            f"{name} holds {len(examples)} examples, but {labels_name} holds {len(labels)} labels; there "
            "must be one each."
        )
    return Source(name, examples, labels, labels_name)


def as_labels(array: Array, where: str) -> NDArray[np.int64]:
    """Class indices, one per example, from what a file holds.

    Raises:
        TaskError: not whole numbers, or not one per example.
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise TaskError(
            f"{where} has shape {list(array.shape)}; labels are one class index per example, of shape [N] "
            "(for one-hot rows: y.argmax(axis=1))."
        )
    if array.dtype.kind not in "iubf":
        raise TaskError(f"{where} holds {array.dtype}; labels are class indices, whole numbers from 0.")
    values = array.astype(np.float64)
    whole = np.isfinite(values) & (values == np.floor(values))
    if not whole.all():
        first = int(np.argmin(whole))
        raise TaskError(f"{where}: label {values[first]} at index {first} is not a whole number.")
    return array.astype(np.int64)


def _join(sources: list[Source], name: str) -> Source:
    if len(sources) == 1:
        return sources[0]
    arrays = []
    for source in sources:
        if not isinstance(source.examples, ArrayExamples):
            raise TaskError(f"{source.name} is a folder; a list of sources can hold only files.")
        first = sources[0].examples
        if source.examples.sample_shape != first.sample_shape or source.examples.dtype != first.dtype:
            raise TaskError(
                f"{source.name} holds {source.examples.dtype}{list(source.examples.sample_shape)} examples, "
                f"{sources[0].name} {first.dtype}{list(first.sample_shape)}; files of one split must agree."
            )
        arrays.append(source.examples.array)
    labels = [source.labels for source in sources if source.labels is not None]
    return Source(
        name,
        ArrayExamples(np.concatenate(arrays)),
        np.concatenate(labels) if len(labels) == len(sources) else None,
        ", ".join(source.labels_name for source in sources),
    )


_SPLIT_NAMES = {"train": ("train", "data_batch"), "validation": ("val",), "test": ("test", "t10k")}


def _of_split(files: list[Path], split: Split) -> list[Path]:
    """Files whose names say the split; all of them where no name says any."""
    said = {name: [f for f in files if f.name.startswith(_SPLIT_NAMES[name])] for name in _SPLIT_NAMES}
    return said[split] if any(said.values()) else files


def _paired_labels(images: Path) -> Path:
    """The file of labels that belongs to an IDX file of images, by name."""
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    plain = name.removesuffix(".gz")
    for candidate in (name, plain, plain + ".gz"):
        path = images.with_name(candidate)
        if candidate != images.name and path.is_file():
            return path
    raise TaskError(
        f"No labels were found for {images} (looked for {name} beside it); "
        'name both: {images = "...", labels = "..."}.'
    )
