"""Where detection data comes from: folders in KITTI's or YOLO's layout, and lists of images.

A split is written as

    train = "kitti/training"     a folder with image_2/ and label_2/ (KITTI), or images/ and labels/ (YOLO)
    train = "train.txt"          a list, one image a line, absolute or relative to the list's own folder

An image's labels lie where its path leads with `image_2` replaced by `label_2`, or `images` by `labels`
(the last folder of that name), and the suffix by .txt. A YOLO image without a label file shows nothing; a
KITTI image must have one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evonnx.errors import TaskError
from evonnx.tasks._settings import Settings
from evonnx.tasks.data.images import is_image, opened_image
from evonnx.tasks.detection.labels import NOTHING, Objects, Vocabulary, read_kitti, read_yolo

LAYOUTS = {"image_2": "label_2", "images": "labels"}
"""Folder of images -> folder of labels: KITTI's, then YOLO's."""

LARGEST_LIST = 2**26
"""Bytes of a list of images."""


@dataclass(frozen=True)
class Scenes:
    """Images with their objects, in the order of their names or of the list."""

    name: str
    """As the user wrote it."""
    images: tuple[Path, ...]
    objects: tuple[Objects, ...]


def read_scenes(settings: Settings, split: str, vocabulary: Vocabulary) -> Scenes:
    """Find a split's images and read their labels.

    Raises:
        TaskError: whatever is wrong with folder, list, or a label; the file is named.
    """
    text = settings.text(split)
    if text is None:
        raise TaskError(f"{settings.where}: {split} names no data.")
    path = settings.folder / text
    if path.is_dir():
        images = _in_folder(path)
    elif path.is_file() and path.suffix == ".txt":
        images = _in_list(path)
    elif path.exists():
        raise settings.wrong(split, "a folder in KITTI's or YOLO's layout, or a .txt list of images")
    else:
        raise TaskError(f"{settings.where}: {split} = {text!r} does not exist (looked for {path}).")
    if not images:
        raise TaskError(f"{path} has no images.")
    return Scenes(text, tuple(images), tuple(_objects_of(image, vocabulary) for image in images))


def _in_folder(folder: Path) -> list[Path]:
    for name in LAYOUTS:
        if (folder / name).is_dir():
            return sorted(path for path in (folder / name).rglob("*") if path.is_file() and is_image(path))
    raise TaskError(
        f"{folder} has neither image_2/ and label_2/ (KITTI) nor images/ and labels/ (YOLO); "
        "name the folder above them, or a .txt list of images."
    )


def _in_list(path: Path) -> list[Path]:
    try:
        if path.stat().st_size > LARGEST_LIST:
            raise TaskError(f"The list {path} is larger than {LARGEST_LIST:,} bytes; is it a list of images?")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"The list of images {path} cannot be read: {error}.") from error
    images = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        image = path.parent / line.strip()
        if not image.is_file():
            raise TaskError(f"{path}, line {number}: there is no image {image}.")
        images.append(image)
    return images


def label_file(image: Path) -> tuple[Path, str]:
    """(an image's label file, the folder of images that told), by `LAYOUTS`.

    Raises:
        TaskError: no folder in its path has one of the names.
    """
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] in LAYOUTS:
            parts_of_label = [*parts[:index], LAYOUTS[parts[index]], *parts[index + 1 :]]
            return Path(*parts_of_label).with_suffix(".txt"), parts[index]
    raise TaskError(
        f"The labels of {image} cannot be found: images lie in a folder called "
        f"{' or '.join(LAYOUTS)}, labels beside it in {' or '.join(LAYOUTS.values())}."
    )


def _objects_of(image: Path, vocabulary: Vocabulary) -> Objects:
    path, layout = label_file(image)
    if layout == "images":
        return read_yolo(path, vocabulary) if path.is_file() else NOTHING
    if not path.is_file():
        raise TaskError(f"The image {image} has no label file (looked for {path}); KITTI has one for each.")
    return read_kitti(path, _size_of(image), vocabulary)


def _size_of(image: Path) -> tuple[int, int]:
    """(width, height) from the file's head; nothing is decoded."""
    with opened_image(image) as opened:
        width, height = opened.size
    return int(width), int(height)
