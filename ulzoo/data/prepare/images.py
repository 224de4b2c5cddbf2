"""Folders of images to shards of them, decoded and resized once: for `kind: webdataset`."""

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

from torchvision.datasets.folder import IMG_EXTENSIONS

from ulzoo.data.images.caption_file import check_text, text_path
from ulzoo.data.images.decode import UnreadableImage, adm_square, read_rgb
from ulzoo.data.prepare.pack import Progress, pack
from ulzoo.data.storage.class_folders import ClassFolders, count_classes
from ulzoo.data.storage.manifest import SplitSummary
from ulzoo.data.storage.shard_index import write_index

Format = Literal["png", "webp", "jpeg"]
SUFFIXES: dict[Format, str] = {"png": "png", "webp": "webp", "jpeg": "jpg"}
SAVED_AS: dict[Format, dict[str, Any]] = {
    "png": {},
    "webp": {"lossless": True, "exact": True},
    "jpeg": {"quality": 95, "subsampling": 0},
}
LONGEST_KEY = 90  # bytes; a tar of the plainest kind has room for names of 100
CLASSES_OF_IMAGENET = 1000


@dataclass(frozen=True)
class ImageEncoding:
    """How images are written.

    Args:
        resolution: side of the square, by ADM's rule.
        format: "png" and "webp" without loss, "jpeg" at quality 95.
        text_width: of the captions, NAME.npy beside each image; None for none.

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
class Picture:
    """One image to be packed, as `ulzoo.data.prepare.pack.Example`: KEY.png (.webp, .jpg), KEY.cls, KEY.npy.

    Args:
        key: its name in the shard.
        label: number of its class; -1 for none.
        path: of the image.
    """

    key: str
    label: int
    path: str

    absent: ClassVar[str] = "no file that can be opened"

    def described(self) -> tuple[Any, ...]:
        return self.key, self.label

    def there(self) -> bool:
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
    out: Path,
    split: str,
    encoding: ImageEncoding,
    *,
    classes: bool,
    val_fraction: float,
    images_per_shard: int,
    workers: int,
    on_progress: Callable[[Progress], object] = lambda progress: None,
) -> SplitSummary:
    """Pack one split of a folder of images as `kind: image_folder` sees it; see `pack` for how it resumes.

    A key is the image's path below `root`, without its suffix and with dots as underscores. Images are in the order of
    a hash of their keys, so that every shard holds some of every class.

    Args:
        classes: whether the folders are classes.
        val_fraction: share held out where there are no folders train and val.

    Raises:
        ValueError: what `ClassFolders` and `pack` raise; two images of one key.
    """
    count = count_classes(root) if classes else None
    if count == 0:
        raise ValueError(f"{root}: no class folders in it: leave out --classes, or choose the folder above them")
    files, names = ClassFolders(root, "images", IMG_EXTENSIONS, count, val_fraction).split(split)
    return _pack(_pictures(root, files), names, out, split, encoding, images_per_shard, workers, on_progress)


def prepare_imagenet(
    root: Path,
    out: Path,
    split: str,
    encoding: ImageEncoding,
    *,
    val_labels: Path | None,
    images_per_shard: int,
    workers: int,
    on_progress: Callable[[Progress], object] = lambda progress: None,
) -> SplitSummary:
    """Pack one split of ImageNet's ILSVRC2012: `root/train/n01440764/*.JPEG` and `root/val/`, in class folders or flat.

    Classes are numbered by their sorted WordNet identifiers, as everywhere.

    Args:
        val_labels: Kaggle's LOC_val_solution.csv, for a flat folder val.

    Raises:
        ValueError: not 1,000 class folders of such names, images that the CSV does not speak of; what `pack` raises.
    """
    names = sorted(entry.name for entry in (root / "train").glob("n*") if re.fullmatch(r"n\d{8}", entry.name))
    if len(names) != CLASSES_OF_IMAGENET:
        raise ValueError(
            f"{root / 'train'}: has {len(names):,} class folders such as n01440764, not {CLASSES_OF_IMAGENET:,}"
        )
    numbers = {name: i for i, name in enumerate(names)}
    folder = root / split
    if split == "val" and val_labels is not None:
        labels = _val_labels(val_labels, numbers)
        paths = sorted(folder.glob("*.JPEG"))
        if without := [path for path in paths if path.stem not in labels]:
            raise ValueError(f"{val_labels}: has no row of {without[0].name} ({len(without):,} such images)")
        files = [(str(path), labels[path.stem]) for path in paths]
    else:
        files = [(str(path), numbers[name]) for name in names for path in sorted((folder / name).glob("*.JPEG"))]
    if not files:
        hint = "; for a flat folder val give --val-labels LOC_val_solution.csv" if split == "val" else ""
        raise ValueError(f"{folder}: no images in it (expected n01440764/*.JPEG, ...){hint}")
    return _pack(_pictures(root, files), names, out, split, encoding, images_per_shard, workers, on_progress)


def _pack(
    pictures: Sequence[Picture],
    names: Sequence[str],
    out: Path,
    split: str,
    encoding: ImageEncoding,
    per_shard: int,
    workers: int,
    on_progress: Callable[[Progress], object],
) -> SplitSummary:
    """`pack`, and an index of the shards beside them."""
    told: dict[str, Any] = {"unit": "images", "per_shard": per_shard, "workers": workers, "on_progress": on_progress}
    summary = pack(pictures, names, out, split, encoding, **told)
    if summary.count:
        write_index(out, split)
    return summary


def _pictures(root: Path, files: Sequence[tuple[str, int]]) -> list[Picture]:
    found: dict[str, Picture] = {}
    for path, label in files:
        key = _key(Path(path).relative_to(root))
        if key in found:
            raise ValueError(f"{path} and {found[key].path} would have one key, {key!r}: rename one of them")
        found[key] = Picture(key, label, path)
    return sorted(found.values(), key=lambda picture: blake2b(os.fsencode(picture.key), digest_size=16).digest())


def _key(path: Path) -> str:
    """WebDataset's keys end at the first dot."""
    key = path.with_suffix("").as_posix().replace(".", "_")
    content = os.fsencode(key)
    return key if len(content) <= LONGEST_KEY else blake2b(content, digest_size=16).hexdigest()


def _val_labels(path: Path, numbers: dict[str, int]) -> dict[str, int]:
    """Image -> label of Kaggle's `ImageId,PredictionString`, whose second column begins with the class."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if len(row) == 2 and row[1].split()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV file: {getattr(error, 'strerror', None) or error}") from None
    labels = {image: numbers[words.split()[0]] for image, words in rows if words.split()[0] in numbers}
    if not labels:
        raise ValueError(f"{path}: has no rows such as ILSVRC2012_val_00000001,n01751748 ...")
    return labels
