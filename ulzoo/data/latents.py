"""Images that were encoded beforehand: z_clean in safetensors files, read at random."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ulzoo.data.source import DataContract, Sample, Source, check_split
from ulzoo.data.storage.manifest import Manifest, Shard
from ulzoo.files.atomic import one_line

SUFFIX = ".safetensors"
HINT = "`ulzoo encode MODEL --out DIR` makes them"


class Latents(Source):
    """Latents z_clean, with labels and captions, that `ulzoo encode` made of a data set: for `train.base.data`.

    They come in the order of the images that they were made of, so training sees them as it would have seen those.
    Where mirrored images were encoded too, every second one is taken mirrored, by the same draws.

    Args:
        split: "train" or "val".
        path: the folder.

    Raises:
        ValueError: no latents there, or not all that its manifest speaks of.
    """

    encoded: ClassVar[bool] = True

    def __init__(self, split: str, *, path: str) -> None:
        check_split(split)
        self.folder = Path(path).expanduser()
        entry = Manifest(self.folder).splits.get(split)
        if entry is None or "encoder_sha256" not in entry.get("settings", {}):
            raise ValueError(f"{self.folder}: no latents of {split} in it; {HINT}")
        if not entry["complete"]:
            raise ValueError(f"{self.folder}: not all of {split} is encoded: run `ulzoo encode` again to go on")
        self.settings: dict[str, Any] = entry["settings"]
        try:
            described = self.settings["images_as"]
            self.contract = DataContract(**{**described, "label_names": tuple(described["label_names"])})
            self.hflip: bool = self.settings["flips"]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{self.folder}: its manifest says nothing of the images ({one_line(str(error))})"
            ) from None
        self.files: list[Path] = []
        self.places: list[tuple[int, int]] = []  # of every example: its file and row
        for row in entry["shards"]:
            file = self.folder / f"{row['name']}{SUFFIX}"
            if not file.is_file() or file.stat().st_size != row["bytes"]:
                raise ValueError(f"{file}: missing, or not as long as the manifest says: encode it again")
            self.places += [(len(self.files), i) for i in range(row["images"])]
            self.files.append(file)
        self._opened: dict[int, _Opened] = {}

    @classmethod
    def describe(cls, **_: object) -> DataContract:
        """Raises ValueError: latents stand in for a data set in one stage, they cannot be what a spec is of."""
        raise ValueError("data must be the images themselves: give latents as train.base.data, for --stage base")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        """z_clean (c, h, w) in the pixels' place, in the type that it is stored in."""
        number, row = self.places[index]
        shard = self._shard(number)
        text = None
        if self.contract.text_tokens:
            begin = int(shard.text_ends[row - 1]) if row else 0
            text = shard.file.get_slice("text")[begin : int(shard.text_ends[row])].float()  # (L, D)
        return Sample(self._latent(shard, row, 0), int(shard.labels[row]), shard.keys[row], text)

    def mirrored(self, index: int, sample: Sample) -> Sample:
        """z_clean of the mirrored image, which is not z_clean mirrored."""
        number, row = self.places[index]
        return sample._replace(pixels=self._latent(self._shard(number), row, 1))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}  # workers open files of their own

    def _shard(self, number: int) -> _Opened:
        if number not in self._opened:
            self._opened[number] = _open(self.files[number])
        return self._opened[number]

    def _latent(self, shard: _Opened, row: int, mirrored: int) -> Tensor:
        return shard.file.get_slice("z_clean")[row, mirrored]


@dataclass(frozen=True)
class _Opened:
    """A shard: its latents stay on the disk."""

    file: Any
    keys: Sequence[str]
    labels: Tensor
    text_ends: Tensor


def _open(path: Path) -> _Opened:
    try:
        file = safe_open(path, framework="pt")
        return _Opened(file, _about(file)["keys"], file.get_tensor("label"), file.get_tensor("text_end"))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no shard of latents ({one_line(str(error))}): encode it again") from None


def write_latents(
    path: Path,
    z_clean: Tensor,
    labels: Sequence[int],
    keys: Sequence[str],
    texts: Sequence[Tensor],
    failures: dict[str, str],
    settings: str,
) -> None:
    """Write one shard.

    Args:
        path: the file.
        z_clean: (N, 1 or 2, c, h, w), the second one of the mirrored image.
        labels: N of them.
        keys: N names.
        texts: N captions (L_i, D) of z_clean's type, or none.
        failures: what should be in it and could not be read -> why.
        settings: digest of what it was made with.
    """
    tensors = {"z_clean": z_clean, "label": torch.tensor(labels, dtype=torch.int64)}
    tensors["text_end"] = torch.tensor([len(text) for text in texts], dtype=torch.int64).cumsum(0)
    if texts:
        tensors["text"] = torch.cat(list(texts))  # (sum of L_i, D)
    about = {"keys": list(keys), "failures": failures, "settings": settings}
    safetensors.torch.save_file(tensors, path, {"latents": json.dumps(about)})  # one entry: several come in any order


def finished(path: Path, settings: str) -> Shard | None:
    """The shard, if it was written whole and with these settings."""
    try:
        with safe_open(path, framework="pt") as file:
            about = _about(file)
        return Shard.of(path, len(about["keys"]), about["failures"]) if about["settings"] == settings else None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None


def _about(file: Any) -> dict[str, Any]:
    return json.loads(file.metadata()["latents"])
