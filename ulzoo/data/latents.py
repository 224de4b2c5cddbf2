"""Precomputed latents: z_clean of the images of a dataset in safetensors files, with random access."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ulzoo.data.source import DataContract, Sample, Source, check_split
from ulzoo.data.storage.manifest import Manifest
from ulzoo.data.storage.remote import StoragePath, storage_path
from ulzoo.data.storage.remote_tensors import RemoteTensors
from ulzoo.runtime.messages import one_line

SUFFIX = ".safetensors"
HINT = "`ulzoo encode MODEL --out DIR` writes them"


class Latents(Source):
    """Latents z_clean, with labels and captions, computed from a dataset by `ulzoo encode`: for `train.base.data`.

    Their order is that of the images, so that training uses them in the order in which it would have used the images.
    If mirrored images were encoded too, they are used with probability 1/2, by the same random draws.

    Args:
        split: "train" or "val".
        path: the folder, or its URL: s3://…, gs://…; latents are then read by byte ranges.

    Raises:
        ValueError: no latents in the folder, or not all that its manifest lists.
    """

    encoded: ClassVar[bool] = True

    def __init__(self, split: str, *, path: str) -> None:
        check_split(split)
        self.folder = storage_path(path)
        entry = Manifest(self.folder).splits.get(split)
        if entry is None or "encoder_sha256" not in entry.get("settings", {}):
            raise ValueError(f"{self.folder}: no latents of {split} in it; {HINT}")
        if not entry["complete"]:
            raise ValueError(f"{self.folder}: {split} is not completely encoded: run `ulzoo encode` again to continue")
        self.settings: dict[str, Any] = entry["settings"]
        try:
            contract = self.settings["images_as"]
            self.contract = DataContract(**{**contract, "label_names": tuple(contract["label_names"])})
            self.hflip: bool = self.settings["flips"]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{self.folder}: its manifest does not describe the images ({one_line(str(error))})"
            ) from None
        self.files: list[StoragePath] = []
        self.places: list[tuple[int, int]] = []  # file and row of every example
        listed = {file.name: file for file in self.folder.glob(f"{split}-*{SUFFIX}")}
        for row in entry["shards"]:
            name = f"{row['name']}{SUFFIX}"
            file = listed.get(name) or self.folder / name
            if not file.is_file() or file.stat().st_size != row["bytes"]:
                raise ValueError(f"{file}: missing, or of another size than in the manifest: encode it again")
            self.places += [(len(self.files), i) for i in range(row["images"])]
            self.files.append(file)
        self._open_files: dict[int, _LatentFile] = {}

    @classmethod
    def describe(cls, **_: object) -> DataContract:
        """Raises ValueError: latents replace the data of one stage; they cannot be the `data` of a spec."""
        raise ValueError("data must be the images themselves: set latents as train.base.data, for --stage base")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        """A sample whose `pixels` are z_clean (c, h, w), in the dtype in which it is stored."""
        number, row = self.places[index]
        latents = self._file(number)
        text = None
        if self.contract.text_tokens:
            start = int(latents.text_ends[row - 1]) if row else 0
            text = latents.file.get_slice("text")[start : int(latents.text_ends[row])].float()  # (L, D)
        return Sample(latents.z_clean(row), int(latents.labels[row]), latents.keys[row], text)

    def mirror(self, index: int, sample: Sample) -> Sample:
        """z_clean of the mirrored image, which differs from the mirrored z_clean."""
        number, row = self.places[index]
        return sample._replace(pixels=self._file(number).z_clean(row, mirrored=True))

    def recorded_content(self, index: int) -> int | None:
        """The `content_number` of image `index` of the source when it was encoded; None if it could not be read then.

        Raises:
            ValueError: the manifest or the shard does not record it.
        """
        try:
            number, row = divmod(index, self.settings["images_per_shard"])
            shard = self._file(number)
            if index in shard.failures:
                return None
            return int(shard.content[row - sum(failure < index for failure in shard.failures)])
        except (KeyError, IndexError, TypeError, ArithmeticError):
            raise ValueError(f"{self.folder}: does not record the content of image {index}: encode it again") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open_files": {}}  # workers open their own

    def _file(self, number: int) -> _LatentFile:
        if number not in self._open_files:
            self._open_files[number] = _LatentFile.open(self.files[number])
        return self._open_files[number]


@dataclass(frozen=True)
class _LatentFile:
    """An open shard; z_clean and captions are read from disk on access."""

    file: Any
    keys: Sequence[str]
    labels: Tensor
    text_ends: Tensor
    content: Tensor
    failures: frozenset[int]

    @classmethod
    def open(cls, path: StoragePath) -> _LatentFile:
        try:
            file = _open_tensors(path)
            metadata = _metadata(file)
            content = file.get_tensor("content") if "content" in file.keys() else torch.empty(0)  # noqa: SIM118
            failures = frozenset(map(int, metadata.get("failures", {})))
            return cls(file, metadata["keys"], file.get_tensor("label"), file.get_tensor("text_end"), content, failures)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a shard of latents ({one_line(str(error))}): encode it again") from None

    def z_clean(self, row: int, mirrored: bool = False) -> Tensor:
        return self.file.get_slice("z_clean")[row, int(mirrored)]


@dataclass(frozen=True)
class Origin:
    """What a shard was computed from.

    Attributes:
        settings: digest of the settings it was computed with.
        files: digest of the sizes and times of modification of the images' files.
        content: `content_number` of each image in the shard.
        failures: number in the source of each image that could not be read -> reason.
    """

    settings: str
    files: str = ""
    content: Sequence[int] = ()
    failures: dict[str, str] = field(default_factory=dict)


def content_number(content: bytes) -> int:
    """A hash of the content of an example (`Source.content`), as a signed 64-bit number."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big", signed=True)


def write_latents(
    path: Path,
    z_clean: Tensor,
    *,
    labels: Sequence[int],
    keys: Sequence[str],
    texts: Sequence[Tensor],
    origin: Origin,
) -> None:
    """Write one shard.

    Args:
        path: the file.
        z_clean: (N, 1 or 2, c, h, w); the second latent is that of the mirrored image.
        labels: N labels.
        keys: N names.
        texts: N captions (L_i, D) in z_clean's dtype, or none.
        origin: what it was computed from.
    """
    tensors = {"z_clean": z_clean, "label": torch.tensor(labels, dtype=torch.int64)}
    tensors["text_end"] = torch.tensor([len(text) for text in texts], dtype=torch.int64).cumsum(0)
    if texts:
        tensors["text"] = torch.cat(list(texts))  # (sum of L_i, D)
    tensors["content"] = torch.tensor(list(origin.content), dtype=torch.int64)
    metadata = {"keys": list(keys), "failures": origin.failures, "settings": origin.settings, "files": origin.files}
    safetensors.torch.save_file(tensors, path, {"latents": json.dumps(metadata)})  # several entries have no fixed order


def read_origin(path: StoragePath) -> Origin | None:
    """What the shard at `path` was computed from; None if there is no complete shard."""
    try:
        file = _open_tensors(path)
        metadata, content = _metadata(file), file.get_tensor("content").tolist()
        assert len(content) == len(metadata["keys"])
        return Origin(metadata["settings"], metadata["files"], content, dict(metadata["failures"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AssertionError):
        return None


def _open_tensors(path: StoragePath) -> Any:
    return safe_open(path, framework="pt") if isinstance(path, Path) else RemoteTensors(path)


def _metadata(file: Any) -> dict[str, Any]:
    return json.loads(file.metadata()["latents"])
