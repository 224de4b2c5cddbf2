"""A training checkpoint: a folder of safetensors shards, written by torch.distributed.checkpoint.

    checkpoints/
        latents-00000300/
            shard-00001-model-00001-of-00001.safetensors    the tensors that the first process saved, and so on
            checkpoint.json                                 stage, step, spec …; SHA-256 of every shard and of itself

Any number of processes reads what any other number wrote, each the parts that it holds. Nothing is ever unpickled.
"""

import hashlib
import json
import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from ulzoo.files.atomic import sha256, write_text
from ulzoo.files.tensor_file import CHECKPOINT, DamagedFile
from ulzoo.model.contract import STAGES, Stage

if TYPE_CHECKING:  # else where it is used: the import takes seconds, and files of weights do not need it
    from torch.distributed.checkpoint import HuggingFaceStorageReader

FORMAT = 2
SHARD = re.compile(r"shard-[0-9]{5,}-model-00001-of-00001\.safetensors")

warnings.filterwarnings("ignore", "torch.distributed is (disabled|unavailable|uninitialized)")  # single process


@dataclass(frozen=True)
class TrainingState:
    """Everything that a stage needs to resume.

    Attributes:
        tensors: by name, with the prefixes "model.", "ema.", "optimizer." and, if there are any, "posthoc_ema.".
        metadata: the rest, as JSON: the run's identity, counters, the structure of the optimizer's state.
    """

    stage: Stage
    step: int
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def write_checkpoint(state: TrainingState, folder: Path, group: dist.ProcessGroup | None = None) -> None:
    """Write a state into `folder`, which is created. Every process of the group must call, and writes its shard.

    Raises:
        OSError: in every process, if one cannot write its shard or the main one the metadata.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
        tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
        dcp.save(tensors, storage_writer=writer, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        for failure, _ in error.failures.values():
            if isinstance(failure, OSError | SafetensorError):
                raise OSError(*failure.args) from None
        raise
    rank = dist.get_rank(group) if group else 0
    digests: Any = {path.name: sha256(path) for path in folder.glob(f"shard-{rank + 1:05d}-*")}
    all_digests = [digests]
    if group:
        all_digests *= dist.get_world_size(group)
        dist.all_gather_object(all_digests, digests, group=group)
    unwritten: list[OSError | None] = [None]
    if rank == 0:
        files = {name: digest for digests in all_digests for name, digest in digests.items()}
        content = {"version": FORMAT, "stage": state.stage, "step": state.step, "files": files, **state.metadata}
        text = json.dumps({**content, "digest": _digest(content)}, indent=1, allow_nan=False)
        try:
            write_text(folder / CHECKPOINT, text + "\n")
        except OSError as error:
            unwritten = [error]
    if group:
        dist.broadcast_object_list(unwritten, group_src=0, group=group)
    if unwritten[0]:
        raise unwritten[0]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose integrity has been verified. Its tensors are read on demand."""

    stage: Stage
    step: int
    metadata: dict[str, Any]
    folder: Path

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Verify the digests of all files, without keeping their content in memory.

        Raises:
            DamagedFile: the folder is not a complete, intact checkpoint.
            ValueError: it has a newer format.
        """
        try:
            content = json.loads((folder / CHECKPOINT).read_text("utf-8"))
            digest = content.pop("digest")
            if _digest(content) != digest:
                raise ValueError(f"{CHECKPOINT} does not match the digest it carries")
            version, stage, step = (content.pop(name) for name in ("version", "stage", "step"))
            if type(version) is not int or type(step) is not int or stage not in STAGES:
                raise ValueError(f"{CHECKPOINT} was not written by ulzoo")
            if version == FORMAT:
                _check_files(folder, content.pop("files"))
        except FileNotFoundError as error:
            raise DamagedFile(f"{folder}: an incomplete checkpoint (no {Path(error.filename).name})") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedFile(f"{folder}: a damaged checkpoint ({error})") from None
        if version != FORMAT:
            raise ValueError(f"{folder}: written in format {version}, this ulzoo reads format {FORMAT}; upgrade ulzoo")
        return cls(stage, step, content, folder)

    def shapes(self, prefix: str) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Shape and dtype of the tensors under `prefix`, by their names without it.

        Raises:
            DamagedFile: the shards do not add up to complete tensors.
        """
        from torch.distributed.checkpoint import BytesStorageMetadata

        shapes = {}
        try:
            for name, tensor in self._reader().read_metadata().state_dict_metadata.items():
                assert not isinstance(tensor, BytesStorageMetadata)
                if sum(math.prod(chunk.sizes) for chunk in tensor.chunks) != math.prod(tensor.size):
                    raise ValueError(f"{name} is incomplete")
                if name.startswith(prefix):
                    shapes[name.removeprefix(prefix)] = (tensor.size, tensor.properties.dtype)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise DamagedFile(f"{self.folder}: a damaged checkpoint ({error})") from None
        return shapes

    def read(self, prefix: str) -> dict[str, Tensor]:
        """The full tensors under `prefix`, by their names without it."""
        tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in self.shapes(prefix).items()}
        self.read_into(tensors, prefix)
        return tensors

    def read_into(self, tensors: dict[str, Tensor], prefix: str, group: dist.ProcessGroup | None = None) -> None:
        """Copy the saved tensors under `prefix` into `tensors`, named without it; into a DTensor, its local shard.

        Every process of the group must call.

        Raises:
            DamagedFile: the checkpoint does not have these tensors in these shapes.
        """
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.api import CheckpointException

        prefixed = {prefix + name: tensor for name, tensor in tensors.items()}
        if not prefixed:
            return
        try:
            dcp.load(prefixed, storage_reader=self._reader(), process_group=group, no_dist=group is None)
        except CheckpointException as error:
            failure, _ = next(iter(error.failures.values()))
            raise DamagedFile(f"{self.folder}: a damaged checkpoint ({failure})") from None

    def _reader(self) -> "HuggingFaceStorageReader":
        from torch.distributed.checkpoint import HuggingFaceStorageReader

        return HuggingFaceStorageReader(str(self.folder))


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_files(folder: Path, files: dict[str, str]) -> None:
    """Refuse missing, altered or unlisted shards; torch.distributed.checkpoint would read the unlisted ones too."""
    if unlisted := sorted({path.name for path in folder.glob("*.safetensors")} - files.keys()):
        raise ValueError(f"{unlisted[0]} does not belong to it")
    for name, digest in files.items():
        if not SHARD.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a shard")
        if sha256(folder / name) != digest:
            raise ValueError(f"{name} does not match its digest")
