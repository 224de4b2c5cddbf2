"""Files in a folder of the user's: which belong to a split, and what class they are of."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from torchvision.datasets.folder import find_classes, make_dataset

from ulzoo.data.source import check_split


@dataclass(frozen=True)
class ClassFolders:
    """A folder of examples, one folder a class where there are classes (torchvision's layout).

    The split: `root/train` and `root/val` where both exist. Where neither does, `root` itself holds the examples, and
    those whose path in it hashes below `val_fraction` are held out: the same ones on every machine, whatever else is
    added. With `num_classes` the folders below are the classes, numbered in the alphabetical order of the training
    split's; without, examples are taken from any depth and have no labels.

    Args:
        root: the folder.
        what: what the examples are called in messages, e.g. "images".
        suffixes: how their names end, in lower case; the case of the files' own does not matter.
        num_classes: how many class folders there are; None for no labels.
        val_fraction: share held out where there are no folders train and val.
    """

    root: Path
    what: str
    suffixes: tuple[str, ...]
    num_classes: int | None
    val_fraction: float

    def split(self, split: str) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
        """The split's (path, label or -1), in alphabetical order, and the names of the classes.

        Raises ValueError: no such folder or split, none of these files in it, not `num_classes` class folders.
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
                    f"{folder}: val_fraction {self.val_fraction} of so few {self.what} leaves none to {split}"
                )
        if self.num_classes is None:
            return [(path, -1) for path, _ in files], ()
        return files, tuple(names)

    def key(self, path: str) -> str:
        """The file's path below `root`."""
        return Path(path).relative_to(self.root).as_posix()

    def _locate(self, split: str) -> tuple[Path, bool]:
        """The folder of the split's examples, and whether the split has yet to be made."""
        if not self.root.is_dir():
            raise ValueError(
                f"{self.root}: no such folder (expected one of {self.what}, or one with train and val in it)"
            )
        train, val = self.root / "train", self.root / "val"
        if train.is_dir() != val.is_dir():
            there, missing = (train, val) if train.is_dir() else (val, train)
            raise ValueError(f"{self.root}: has a folder {there.name} but none called {missing.name}")
        return (self.root / split, False) if train.is_dir() else (self.root, True)

    def _classes(self, folder: Path) -> list[str]:
        """The names of the class folders, those of the training split for both splits; [""] for no classes at all."""
        if self.num_classes is None:
            return [""]
        train = folder if folder == self.root else self.root / "train"
        names = _folders(train)
        if len(names) != self.num_classes:
            raise ValueError(f"{train}: has {len(names)} class folders, but num_classes is {self.num_classes}")
        if unknown := sorted(set(_folders(folder)) - set(names)):
            raise ValueError(f"{folder}: has a class folder {unknown[0]!r} that {train} has not")
        return names

    def _hash(self, path: str) -> float:
        """A number in [0, 1) that depends on the file's path below `root` alone."""
        return int.from_bytes(blake2b(os.fsencode(self.key(path)), digest_size=6).digest(), "big") / 2**48


def check_num_classes(num_classes: int | None, what: str) -> None:
    """Raise ValueError on a number of classes below 1."""
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, or null for {what} without labels, not {num_classes}")


def count_classes(root: Path) -> int:
    """How many class folders a folder of examples has, those of its training split if it has splits."""
    return len(_folders(root / "train" if (root / "train").is_dir() else root))


def _folders(folder: Path) -> list[str]:
    try:
        return find_classes(folder)[0]
    except FileNotFoundError:
        return []
