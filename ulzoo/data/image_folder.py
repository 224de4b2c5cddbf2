"""A folder of the user's own images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from ulzoo.data.contract import DataContract
from ulzoo.data.decode import UnreadableImage, read_rgb, square
from ulzoo.data.source import Sample, Source, check_split


class ImageFolder(Source):
    """Images in a folder of the user's, one folder a class where there are classes (torchvision's layout).

    The split: `root/train` and `root/val` where both exist. Where neither does, `root` itself holds the images, and
    those whose path in it hashes below `val_fraction` are held out: the same ones on every machine, whatever else is
    added. With `num_classes` the folders below are the classes, numbered in the alphabetical order of the training
    split's; without, images are taken from any depth and have no labels. An image's key is its path below `root`.

    Images are decoded as they are asked for: see `read_rgb` and `square` in `ulzoo.data.decode` for colours and sizes.

    Args:
        split: "train" or "val".
        root: the folder.
        resolution: side of the square that an image is resized and cropped to.
        hflip: mirror every second training image at random.
        num_classes: how many class folders there are; null for images without labels.
        val_fraction: share of the images held out where there are no folders train and val.
        verify: read every image through once before anything starts. Without it a damaged image is met only when its
            turn comes.
        skip_unreadable: leave out, with a warning, the images that cannot be read; otherwise they are an error.

    Raises:
        ValueError: no such folder, no images in it, not `num_classes` class folders, unreadable images, or keys that
            make no sense.
    """

    def __init__(
        self,
        split: str,
        *,
        root: str,
        resolution: int,
        hflip: bool = True,
        num_classes: int | None = None,
        val_fraction: float = 0.1,
        verify: bool = True,
        skip_unreadable: bool = False,
    ) -> None:
        check_split(split)
        contract = self.describe(resolution=resolution, num_classes=num_classes)
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction must lie between 0 and 1, not {val_fraction}")
        if skip_unreadable and not verify:
            raise ValueError("skip_unreadable finds its images by verify: set verify to true")
        self.root = Path(root).expanduser()
        self.hflip = hflip

        folder, held_out = self._locate(split)
        names = self._classes(folder, num_classes)
        files = make_dataset(folder, {name: i for i, name in enumerate(names)}, IMG_EXTENSIONS, allow_empty=True)
        if not files:
            raise ValueError(f"{folder}: no images in it (expected files *{', *'.join(IMG_EXTENSIONS)})")
        if held_out:
            files = [(path, label) for path, label in files if (self._hash(path) < val_fraction) == (split == "val")]
            if not files:
                raise ValueError(f"{folder}: val_fraction {val_fraction} of so few images leaves none to {split}")
        if verify:
            files = self._verified(files, skip_unreadable)
        self.paths = [path for path, _ in files]
        self.labels = [label if num_classes else -1 for _, label in files]
        self.contract = DataContract(
            contract.channels, contract.resolution, contract.num_classes, tuple(names) if num_classes else ()
        )

    @classmethod
    def describe(cls, *, resolution: int, num_classes: int | None, **_: object) -> DataContract:
        """The contract of these keys, with `label_names` left to the disk. Raises ValueError on a number below 1."""
        if resolution < 1:
            raise ValueError(f"resolution must be at least 1, not {resolution}")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, or null for images without labels, not {num_classes}")
        return DataContract(channels=3, resolution=resolution, num_classes=num_classes or 0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Raises UnreadableImage, a ValueError that names the file."""
        path = self.paths[index]
        image = square(read_rgb(path), self.contract.resolution)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, H, W)
        return pixels, self.labels[index], self._key(path)

    def _locate(self, split: str) -> tuple[Path, bool]:
        """The folder of the split's images, and whether the split has yet to be made."""
        if not self.root.is_dir():
            raise ValueError(f"{self.root}: no such folder (expected one of images, or one with train and val in it)")
        train, val = self.root / "train", self.root / "val"
        if train.is_dir() != val.is_dir():
            there, missing = (train, val) if train.is_dir() else (val, train)
            raise ValueError(f"{self.root}: has a folder {there.name} but none called {missing.name}")
        return (self.root / split, False) if train.is_dir() else (self.root, True)

    def _classes(self, folder: Path, num_classes: int | None) -> list[str]:
        """The names of the class folders, those of the training split for both splits; [""] for no classes at all."""
        if num_classes is None:
            return [""]
        train = folder if folder == self.root else self.root / "train"
        names = self._folders(train)
        if len(names) != num_classes:
            raise ValueError(f"{train}: has {len(names)} class folders, but num_classes is {num_classes}")
        if unknown := sorted(set(self._folders(folder)) - set(names)):
            raise ValueError(f"{folder}: has a class folder {unknown[0]!r} that {train} has not")
        return names

    @staticmethod
    def _folders(folder: Path) -> list[str]:
        try:
            return find_classes(folder)[0]
        except FileNotFoundError:
            return []

    def _key(self, path: str) -> str:
        return Path(path).relative_to(self.root).as_posix()

    def _hash(self, path: str) -> float:
        """A number in [0, 1) that depends on the image's path below `root` alone."""
        return int.from_bytes(blake2b(os.fsencode(self._key(path)), digest_size=6).digest(), "big") / 2**48

    def _verified(self, files: Sequence[tuple[str, int]], skip_unreadable: bool) -> list[tuple[str, int]]:
        with ThreadPoolExecutor() as threads:
            errors = list(threads.map(_error, (path for path, _ in files)))
        unreadable = [error for error in errors if error]
        if not unreadable:
            return list(files)
        count = f"{len(unreadable)} of {len(files)} images cannot be read"
        if len(unreadable) == len(files):
            raise ValueError(f"{count}; the first is {unreadable[0]}")
        if not skip_unreadable:
            raise ValueError(f"{count} (`skip_unreadable: true` leaves them out); the first is {unreadable[0]}")
        warnings.warn(f"{count} and are left out: {'; '.join(unreadable[:3])}", stacklevel=3)
        return [file for file, error in zip(files, errors, strict=True) if not error]


def _error(path: str) -> str | None:
    """What is wrong with an image file, if anything."""
    try:
        read_rgb(path, fast=True)
    except UnreadableImage as error:
        return str(error)
    return None
