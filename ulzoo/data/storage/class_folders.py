"""Splits and class labels of the files in a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from torchvision.datasets.folder import find_classes, make_dataset

from ulzoo.data.source import check_split


@dataclass(frozen=True)
class ClassFolders:
    """A folder of examples, with one subfolder per class if there are classes (torchvision's layout).

    The splits are `root/train` and `root/val` if both exist. If neither does, `root` itself contains the examples, and
    those whose relative path hashes below `val_fraction` are held out for val: the same ones on every machine, also
    after more files are added. With `num_classes`, the subfolders are the classes, numbered in the alphabetical order
    of the training split's; without, examples are collected at any depth and have no labels.

    Args:
        root: the folder.
        what: name of the examples in messages, e.g. "images".
        suffixes: accepted file name suffixes in lower case; matched case-insensitively.
        num_classes: number of class folders; None for no labels.
        val_fraction: fraction held out for val if there are no folders train and val.
    """

    root: Path
    what: str
    suffixes: tuple[str, ...]
    num_classes: int | None
    val_fraction: float

    def split(self, split: str) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
        """The (path, label or -1) of the split's files in alphabetical order, and the names of the classes.

        Raises ValueError: no such folder or split, no matching files in it, not `num_classes` class folders.
        """
        check_split(split)
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction must lie between 0 and 1, not {self.val_fraction}")
        folder, held_out = self._locate(split)
        names = self._classes(folder)
        files = make_dataset(folder, {name: i for i, name in enumerate(names)}, self.suffixes, allow_empty=True)
        if not files:
            raise ValueError(f"{folder}: no {self.what} in it (expected files *{', *'.join(self.suffixes)})")
        if held_out:
            files = [file for file in files if (self._hash(file[0]) < self.val_fraction) == (split == "val")]
            if not files:
                raise ValueError(
                    f"{folder}: val_fraction {self.val_fraction} of so few {self.what} leaves none for {split}"
                )
        if self.num_classes is None:
            return [(path, -1) for path, _ in files], ()
        return files, tuple(names)

    def key(self, path: str) -> str:
        """The path of a file relative to `root`."""
        return Path(path).relative_to(self.root).as_posix()

    def _locate(self, split: str) -> tuple[Path, bool]:
        """The folder with the split's examples, and whether val must be held out from it."""
        if not self.root.is_dir():
            raise ValueError(
                f"{self.root}: no such folder (expected one of {self.what}, or one with train and val in it)"
            )
        train, val = self.root / "train", self.root / "val"
        if train.is_dir() != val.is_dir():
            present, missing = (train, val) if train.is_dir() else (val, train)
            raise ValueError(f"{self.root}: has a folder {present.name} but no folder {missing.name}")
        return (self.root / split, False) if train.is_dir() else (self.root, True)

    def _classes(self, folder: Path) -> list[str]:
        """The names of the training split's class folders, for both splits; [""] if there are no classes."""
        if self.num_classes is None:
            return [""]
        train = folder if folder == self.root else self.root / "train"
        names = _folders(train)
        if len(names) != self.num_classes:
            raise ValueError(f"{train}: has {len(names)} class folders, but num_classes is {self.num_classes}")
        if unknown := sorted(set(_folders(folder)) - set(names)):
            raise ValueError(f"{folder}: has a class folder {unknown[0]!r} that {train} does not have")
        return names

    def _hash(self, path: str) -> float:
        """A number in [0, 1) that is a function of the path relative to `root`."""
        return int.from_bytes(blake2b(os.fsencode(self.key(path)), digest_size=6).digest(), "big") / 2**48


def check_num_classes(num_classes: int | None, what: str) -> None:
    """Raise ValueError for a number of classes below 1."""
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, or null for {what} without labels, not {num_classes}")


def count_classes(root: Path) -> int:
    """The number of class folders in a folder of examples, or in its training split if it has splits."""
    return len(_folders(root / "train" if (root / "train").is_dir() else root))


def _folders(folder: Path) -> list[str]:
    try:
        return find_classes(folder)[0]
    except FileNotFoundError:
        return []
