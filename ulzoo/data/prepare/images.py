"""Folders of images to shards, decoded and resized once: for `kind: webdataset`."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Literal

from ulzoo.data.images.caption_file import SUFFIX as CAPTION
from ulzoo.data.images.caption_file import check_text, text_path
from ulzoo.data.images.decode import UnreadableImage, adm_square, read_rgb
from ulzoo.data.prepare.pack import PackConfig, Progress, pack
from ulzoo.data.source import IMAGE_SUFFIXES
from ulzoo.data.storage.class_folders import ClassFolders, count_classes
from ulzoo.data.storage.folder_walk import is_hidden
from ulzoo.data.storage.manifest import SplitSummary
from ulzoo.data.storage.shard_index import write_index

Format = Literal["png", "webp", "jpeg"]
SUFFIXES: dict[Format, str] = {"png": "png", "webp": "webp", "jpeg": "jpg"}
SAVED_AS: dict[Format, dict[str, Any]] = {
    "png": {},
    "webp": {"lossless": True, "exact": True},
    "jpeg": {"quality": 95, "subsampling": 0},
}
MAX_KEY_BYTES = 90  # a USTAR header has 100 bytes for the name
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class ImageEncoding:
    """How images are encoded.

    Args:
        resolution: side of the square in pixels; see `adm_square`.
        format: "png" and "webp" are lossless, "jpeg" has quality 95.
        text_width: dimension of the captions' token embeddings, NAME.npy beside each image; None for no captions.

    Raises:
        ValueError: a number below 1.
    """

    resolution: int
    format: Format = "png"
    text_width: int | None = None

    def __post_init__(self) -> None:
        for key in ("resolution", "text_width"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"{key} must be at least 1, not {value}")

    def settings(self) -> dict[str, Any]:
        return {
            "resolution": self.resolution,
            "resize": "adm",
            "format": self.format,
            **SAVED_AS[self.format],
            "text_width": self.text_width,
        }


@dataclass(frozen=True)
class ImageFile:
    """An image to be packed as KEY.png (.webp, .jpg), KEY.cls and KEY.npy; see `ulzoo.data.prepare.pack.Example`.

    Args:
        key: its name in the shard.
        label: number of its class; -1 for none.
        path: of the image.
    """

    key: str
    label: int
    path: str

    absent: ClassVar[str] = "no file that can be opened"

    def identity(self) -> tuple[Any, ...]:
        return self.key, self.label

    def inputs(self, encoding: ImageEncoding) -> tuple[str | Path, ...]:
        return (self.path,) if encoding.text_width is None else (self.path, text_path(self.path))

    def is_present(self) -> bool:
        return os.access(self.path, os.R_OK)

    def files(self, encoding: ImageEncoding) -> Iterator[tuple[str, bytes]]:
        image = read_rgb(self.path)
        try:
            image = adm_square(image, encoding.resolution)
        except ValueError as error:
            raise UnreadableImage(f"{self.path}: {error}") from None
        content = BytesIO()
        image.save(content, encoding.format, **SAVED_AS[encoding.format])
        yield SUFFIXES[encoding.format], content.getvalue()
        if self.label >= 0:
            yield "cls", str(self.label).encode()
        if encoding.text_width is not None:
            check_text(text_path(self.path), encoding.text_width)
            yield "npy", text_path(self.path).read_bytes()


def prepare_image_folder(
    root: Path,
    config: PackConfig,
    *,
    classes: bool,
    val_fraction: float,
    on_progress: Callable[[Progress], object] = lambda progress: None,
) -> SplitSummary:
    """Pack one split of a folder of images, as defined by `kind: image_folder`; see `pack` for resuming.

    A key is the image's path relative to `root`, without the suffix and with dots replaced by underscores. Images are
    sorted by a hash of their keys, so that every shard contains images of all classes.

    Args:
        root: the folder of images.
        config: what to write, and where; its encoding is an `ImageEncoding`.
        classes: whether the subfolders are classes.
        val_fraction: fraction held out for val if there are no folders train and val.
        on_progress: progress callback.

    Raises:
        ValueError: as `ClassFolders` and `pack` raise; two images with one key.
    """
    count = count_classes(root) if classes else None
    if count == 0:
        raise ValueError(f"{root}: no class folders in it: omit --classes, or pass the parent folder of the classes")
    files, names = ClassFolders(root, "images", IMAGE_SUFFIXES, count, val_fraction, (CAPTION,)).split(config.split)
    return _pack(_sorted_by_hash(root, files), names, config, on_progress)


def prepare_imagenet(
    root: Path,
    config: PackConfig,
    *,
    val_labels: Path | None,
    on_progress: Callable[[Progress], object] = lambda progress: None,
) -> SplitSummary:
    """Pack one split of ImageNet's ILSVRC2012: `root/train/n01440764/*.JPEG` and `root/val/`, in class folders or flat.

    Classes are numbered by their sorted WordNet identifiers, as usual.

    Args:
        root: folder with train and val.
        config: what to write, and where; its encoding is an `ImageEncoding`.
        val_labels: Kaggle's LOC_val_solution.csv, for a flat folder val.
        on_progress: progress callback.

    Raises:
        ValueError: not 1,000 class folders with such names, images without a row in the CSV; as `pack` raises.
    """
    names = sorted(entry.name for entry in (root / "train").glob("n*") if re.fullmatch(r"n\d{8}", entry.name))
    if len(names) != IMAGENET_CLASSES:
        raise ValueError(
            f"{root / 'train'}: has {len(names):,} class folders such as n01440764, not {IMAGENET_CLASSES:,}"
        )
    numbers = {name: i for i, name in enumerate(names)}
    folder = root / config.split
    if config.split == "val" and val_labels is not None:
        labels = _val_labels(val_labels, numbers)
        paths = _jpegs(folder)
        if missing := [path for path in paths if path.stem not in labels]:
            raise ValueError(f"{val_labels}: has no row for {missing[0].name} ({len(missing):,} such images)")
        files = [(str(path), labels[path.stem]) for path in paths]
    else:
        files = [(str(path), numbers[name]) for name in names for path in _jpegs(folder / name)]
    if not files:
        hint = "; for a flat folder val pass --val-labels LOC_val_solution.csv" if config.split == "val" else ""
        raise ValueError(f"{folder}: no images in it (expected n01440764/*.JPEG, ...){hint}")
    return _pack(_sorted_by_hash(root, files), names, config, on_progress)


def _jpegs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.JPEG") if not is_hidden(path.name))


def _pack(
    images: Sequence[ImageFile],
    labels: Sequence[str],
    config: PackConfig,
    on_progress: Callable[[Progress], object],
) -> SplitSummary:
    """Pack the images, and write an index beside the shards."""
    summary = pack(images, labels, config, unit="images", on_progress=on_progress)
    if summary.count:
        write_index(config.out, config.split)
    return summary


def _sorted_by_hash(root: Path, files: Sequence[tuple[str, int]]) -> list[ImageFile]:
    images: dict[str, ImageFile] = {}
    for path, label in files:
        key = _key(Path(path).relative_to(root))
        if key in images:
            raise ValueError(f"{path} and {images[key].path} would have the same key, {key!r}: rename one of them")
        images[key] = ImageFile(key, label, path)
    return sorted(images.values(), key=lambda image: blake2b(os.fsencode(image.key), digest_size=16).digest())


def _key(path: Path) -> str:
    """A short enough key without dots, since WebDataset's keys end at the first dot."""
    key = path.with_suffix("").as_posix().replace(".", "_")
    content = os.fsencode(key)
    return key if len(content) <= MAX_KEY_BYTES else blake2b(content, digest_size=16).hexdigest()


def _val_labels(path: Path, numbers: dict[str, int]) -> dict[str, int]:
    """Image -> label from Kaggle's `ImageId,PredictionString`, whose second column starts with the class."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if len(row) == 2 and row[1].split()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV file: {getattr(error, 'strerror', None) or error}") from None
    labels = {image: numbers[words.split()[0]] for image, words in rows if words.split()[0] in numbers}
    if not labels:
        raise ValueError(f"{path}: has no rows such as ILSVRC2012_val_00000001,n01751748 ...")
    return labels
