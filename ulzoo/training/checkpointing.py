"""One training checkpoint: a folder of safetensors shards, by torch.distributed.checkpoint, and what they are.

    latents-00000300/
        shard-00001-model-00001-of-00001.safetensors    what the first process wrote, and so on
        checkpoint.json                                 stage, step, spec …; SHA-256 of each shard and of itself

Any number of processes reads what any other number wrote, each the parts that it holds. Nothing is ever unpickled.
"""

import hashlib
import json
import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from ulzoo.files.atomic import sha256, write_text
from ulzoo.files.tensor_file import CHECKPOINT, DamagedFile
from ulzoo.model.contract import STAGES, Stage

FORMAT = 2
SHARD = re.compile(r"shard-\d{5,}-model-00001-of-00001\.safetensors")

warnings.filterwarnings("ignore", "torch.distributed is (disabled|unavailable|uninitialized)")  # one process is enough


@dataclass(frozen=True)
class State:
    """All a stage needs to go on: tensors under "model.", "ema." and "optimizer.", and where it stood, as JSON."""

    stage: Stage
    step: int
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def write(state: State, folder: Path, group: dist.ProcessGroup | None = None) -> None:
    """Fill a folder, which is made; every process of the group must call, and writes its part.

    Raises:
        OSError: one of them cannot write; on all of them, but for the last small file, which the first one writes.
    """
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
    written: Any = {path.name: sha256(path) for path in folder.glob(f"shard-{rank + 1:05d}-*")}
    parts = [written]
    if group:
        parts *= dist.get_world_size(group)
        dist.all_gather_object(parts, written, group=group)
    if rank == 0:
        files = {name: digest for part in parts for name, digest in part.items()}
        content = {"version": FORMAT, "stage": state.stage, "step": state.step, "files": files, **state.metadata}
        text = json.dumps({**content, "digest": _digest(content)}, indent=1, allow_nan=False)
        write_text(folder / CHECKPOINT, text + "\n")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on a disk, found whole; its tensors are read when they are asked for."""

    stage: Stage
    step: int
    metadata: dict[str, Any]
    folder: Path

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Check every byte, and hold none.

        Raises:
            ValueError: not a whole checkpoint (`DamagedFile`), or of a newer format.
        """
        try:
            content = json.loads((folder / CHECKPOINT).read_text("utf-8"))
            digest = content.pop("digest")
            if _digest(content) != digest:
                raise ValueError(f"{CHECKPOINT} does not match the digest it carries")
            version, stage, step = (content.pop(name) for name in ("version", "stage", "step"))
            if type(version) is not int or type(step) is not int or stage not in STAGES:
                raise ValueError(f"{CHECKPOINT} is not of ulzoo's making")
            if version == FORMAT:
                _check_files(folder, content.pop("files"))
        except FileNotFoundError as error:
            raise DamagedFile(f"{folder}: not a whole checkpoint (no {Path(error.filename).name})") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedFile(f"{folder}: a damaged checkpoint ({error})") from None
        if version != FORMAT:
            raise ValueError(f"{folder}: written in format {version}, this ulzoo reads format {FORMAT}; upgrade ulzoo")
        return cls(stage, step, content, folder)

    def sizes(self, prefix: str) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Shape and type of the tensors under `prefix`, by their names without it.

        Raises:
            DamagedFile: the shards do not make up whole tensors.
        """
        found = {}
        try:
            for name, tensor in self._reader().read_metadata().state_dict_metadata.items():
                assert not isinstance(tensor, dcp.BytesStorageMetadata)
                if sum(math.prod(chunk.sizes) for chunk in tensor.chunks) != math.prod(tensor.size):
                    raise ValueError(f"{name} is not whole")
                if name.startswith(prefix):
                    found[name.removeprefix(prefix)] = (tensor.size, tensor.properties.dtype)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise DamagedFile(f"{self.folder}: a damaged checkpoint ({error})") from None
        return found

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The whole tensors under `prefix`, by their names without it."""
        tensors = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in self.sizes(prefix).items()}
        self.fill(prefix, tensors)
        return tensors

    def fill(self, prefix: str, tensors: dict[str, Tensor], group: dist.ProcessGroup | None = None) -> None:
        """Write what was saved under `prefix` into tensors of the same shapes; into a DTensor, the part held here.

        Every process of the group must call.

        Raises:
            DamagedFile: there are no such tensors of such shapes.
        """
        under = {prefix + name: tensor for name, tensor in tensors.items()}
        if not under:
            return
        try:
            dcp.load(under, storage_reader=self._reader(), process_group=group, no_dist=group is None)
        except CheckpointException as error:
            failure, _ = next(iter(error.failures.values()))
            raise DamagedFile(f"{self.folder}: a damaged checkpoint ({failure})") from None

    def _reader(self) -> dcp.HuggingFaceStorageReader:
        return dcp.HuggingFaceStorageReader(str(self.folder))


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_files(folder: Path, files: dict[str, str]) -> None:
    """Refuse shards that are altered, that miss, or of which the checkpoint does not know: all there are are read."""
    if strange := sorted({path.name for path in folder.glob("*.safetensors")} - files.keys()):
        raise ValueError(f"{strange[0]} does not belong there")
    for name, digest in files.items():
        if not SHARD.fullmatch(name):
            raise ValueError(f"no shard is called {name!r}")
        if sha256(folder / name) != digest:
            raise ValueError(f"{name} does not match its digest")
