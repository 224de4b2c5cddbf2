"""Splits and class labels of the files in a folder."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from ulzoo.data.source import SPLITS, check_split
from ulzoo.data.storage.folder_walk import HIDDEN, describe_passed_over, is_hidden, list_files, list_folders

ALL = "all"
"""The split of all examples of a folder."""


@dataclass(frozen=True)
class ClassFolders:
    """A folder of examples, with one subfolder per class if there are classes (torchvision's layout).

    The splits are `root/train` and `root/val` if both exist. If neither does, `root` itself contains the examples, and
    those whose relative path hashes below `val_fraction` are held out for val: the same ones on every machine, also
    after more files are added. With `num_classes`, the subfolders are the classes, numbered in the alphabetical order
    of the training split's; without, examples are collected at any depth and have no labels. Hidden files and folders
    are passed over, and links that lead back are not followed (`ulzoo.data.storage.folder_walk`).

    Args:
        root: the folder.
        what: name of the examples in messages, e.g. "images".
        suffixes: accepted file name suffixes in lower case; matched case-insensitively.
        num_classes: number of class folders; None for no labels.
        val_fraction: fraction held out for val if there are no folders train and val.
        companions: suffixes of files that belong to the examples, such as captions.
    """

    root: Path
    what: str
    suffixes: tuple[str, ...]
    num_classes: int | None
    val_fraction: float
    companions: tuple[str, ...] = ()

    def split(self, split: str) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
        """The (path, label or -1) of the split's files in alphabetical order, and the names of the classes.

        Warns of files that are passed over, with their number by suffix. Raises ValueError: no such folder or split, no
        matching files in it, not `num_classes` class folders.
        """
        if split != ALL:
            check_split(split)
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction must lie between 0 and 1, not {self.val_fraction}")
        if split == ALL and all((self.root / half).is_dir() for half in SPLITS):
            halves = [self.split(half) for half in SPLITS]
            return [file for files, _ in halves for file in files], halves[0][1]
        folder, held_out = self._locate(split)
        names = self._classes(folder)
        passed_over: Counter[str] = Counter()
        files = self._files(folder, names, passed_over)
        if not files:
            others = f"; {describe_passed_over(passed_over)}" if passed_over else ""
            raise ValueError(f"{folder}: no {self.what} in it (expected files *{', *'.join(self.suffixes)}){others}")
        if held_out:
            files = [file for file in files if (self._hash(file[0]) < self.val_fraction) == (split == "val")]
            if not files:
                raise ValueError(
                    f"{folder}: val_fraction {self.val_fraction} of so few {self.what} leaves none for {split}"
                )
        if passed_over:
            warnings.warn(f"{folder}: {describe_passed_over(passed_over)}", stacklevel=2)
        return files, tuple(names or ())

    def key(self, path: str) -> str:
        """The path of a file relative to `root`."""
        return Path(path).relative_to(self.root).as_posix()

    def _locate(self, split: str) -> tuple[Path, bool]:
        """The folder with the split's examples, and whether val must be held out from it."""
        if not self.root.is_dir():
            raise ValueError(
                f"{self.root}: no such folder (expected one of {self.what}, or one with train and val in it)"
            )
        if split == ALL:
            return self.root, False
        train, val = self.root / "train", self.root / "val"
        if train.is_dir() != val.is_dir():
            present, missing = (train, val) if train.is_dir() else (val, train)
            raise ValueError(f"{self.root}: has a folder {present.name} but no folder {missing.name}")
        return (self.root / split, False) if train.is_dir() else (self.root, True)

    def _classes(self, folder: Path) -> list[str] | None:
        """The names of the training split's class folders, for both splits; None if there are no classes."""
        if self.num_classes is None:
            return None
        train = folder if folder == self.root else self.root / "train"
        names = list_folders(train)
        if len(names) != self.num_classes:
            raise ValueError(f"{train}: has {len(names)} class folders, but num_classes is {self.num_classes}")
        if unknown := sorted(set(list_folders(folder)) - set(names)):
            raise ValueError(f"{folder}: has a class folder {unknown[0]!r} that {train} does not have")
        return names

    def _files(self, folder: Path, names: list[str] | None, passed_over: Counter[str]) -> list[tuple[str, int]]:
        """The (path, label or -1) of a folder's examples, and what is passed over, counted by suffix or reason."""
        splits = [self.root, self.root / "train", self.root / "val"]
        if names is None:
            return [
                (path, -1) for path in self._accepted(list_files(folder, passed_over, excluded=splits), passed_over)
            ]
        present = [(label, folder / name) for label, name in enumerate(names) if (folder / name).is_dir()]
        excluded = [*splits, folder, *(path for _, path in present)]
        files = []
        for label, path in present:
            accepted = self._accepted(list_files(path, passed_over, excluded=excluded), passed_over)
            files += [(file, label) for file in accepted]
        others = Counter({HIDDEN: sum(is_hidden(name) for name in os.listdir(folder))})
        loose = [path.name for path in folder.iterdir() if not path.is_dir() and not is_hidden(path.name)]
        others["outside of the class folders"] = len(self._accepted(loose, others))
        passed_over.update(+others)
        return files

    def _accepted(self, paths: list[str], passed_over: Counter[str]) -> list[str]:
        """The paths with one of the `suffixes`; the others are counted, but for the `companions`."""
        accepted = []
        for path in paths:
            suffix = os.path.splitext(path)[1].lower()
            if suffix in self.suffixes:
                accepted.append(path)
            elif suffix not in self.companions:
                passed_over[suffix or "without a suffix"] += 1
        return accepted

    def _hash(self, path: str) -> float:
        """A number in [0, 1) that is a function of the path relative to `root`."""
        return int.from_bytes(blake2b(os.fsencode(self.key(path)), digest_size=6).digest(), "big") / 2**48


def check_num_classes(num_classes: int | None, what: str) -> None:
    """Raise ValueError for a number of classes below 1."""
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, or null for {what} without labels, not {num_classes}")


def class_names(root: Path) -> list[str]:
    """The names of the class folders in a folder of examples, or in its training split if it has splits."""
    return list_folders(root / "train" if (root / "train").is_dir() else root)


def count_classes(root: Path) -> int:
    """The number of class folders in a folder of examples, or in its training split if it has splits."""
    return len(class_names(root))
