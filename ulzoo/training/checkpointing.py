"""Training checkpoints: folders of safetensors shards, written by torch.distributed.checkpoint in the background.

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
import shutil
import warnings
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from ulzoo.files.atomic import put_in_place, remove_unfinished, sha256, write_text
from ulzoo.files.tensor_file import CHECKPOINT, DamagedFile
from ulzoo.model.contract import STAGES, Stage
from ulzoo.runtime.processes import ProcessGroup

FORMAT = 2
KEPT_PER_STAGE = 2
FOLDER = re.compile(rf"({'|'.join(STAGES)})-([0-9]{{8}}|[1-9][0-9]{{8,}})")  # the names that `path` gives
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
        OSError: in every process, if one cannot write its shard; in the main process, if it cannot write the metadata.
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
    digests: Any = {path.name: sha256(path) for path in folder.glob(f"shard-{rank + 1:05d}-*")}
    all_digests = [digests]
    if group:
        all_digests *= dist.get_world_size(group)
        dist.all_gather_object(all_digests, digests, group=group)
    if rank == 0:
        files = {name: digest for digests in all_digests for name, digest in digests.items()}
        content = {"version": FORMAT, "stage": state.stage, "step": state.step, "files": files, **state.metadata}
        text = json.dumps({**content, "digest": _digest(content)}, indent=1, allow_nan=False)
        write_text(folder / CHECKPOINT, text + "\n")


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
        shapes = {}
        try:
            for name, tensor in self._reader().read_metadata().state_dict_metadata.items():
                assert not isinstance(tensor, dcp.BytesStorageMetadata)
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
        prefixed = {prefix + name: tensor for name, tensor in tensors.items()}
        if not prefixed:
            return
        try:
            dcp.load(prefixed, storage_reader=self._reader(), process_group=group, no_dist=group is None)
        except CheckpointException as error:
            failure, _ = next(iter(error.failures.values()))
            raise DamagedFile(f"{self.folder}: a damaged checkpoint ({failure})") from None

    def _reader(self) -> dcp.HuggingFaceStorageReader:
        return dcp.HuggingFaceStorageReader(str(self.folder))


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


def _is_ours(folder: Path) -> bool:
    """Whether `folder` is a folder, no link to one, that contains nothing but the files of a checkpoint."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    names = [path.name for path in folder.iterdir()]
    return all(SHARD.fullmatch(name) or name in (CHECKPOINT, f".{CHECKPOINT}.tmp") for name in names)


class CheckpointPath(NamedTuple):
    """The folder of one checkpoint, which may be damaged."""

    stage: Stage
    step: int
    folder: Path


class CheckpointManager:
    """The folder `checkpoints/` of a run: what is in it, what is added, what is deleted.

    Args:
        folder: need not exist.
        milestone_every: checkpoints whose step is a multiple of this are never deleted.
    """

    def __init__(self, folder: Path, milestone_every: int | None = None):
        self.folder, self.milestone_every = folder, milestone_every

    def path(self, stage: Stage, step: int) -> Path:
        """The folder of the checkpoint of a step, whether it exists or not."""
        return self.folder / f"{stage}-{step:08d}"

    def list_checkpoints(self) -> list[CheckpointPath]:
        """All checkpoints, in the order in which training writes them."""
        matches = [(FOLDER.fullmatch(path.name), path) for path in self.folder.glob("*")]
        paths = [CheckpointPath(cast(Stage, match[1]), int(match[2]), path) for match, path in matches if match]
        order = list(STAGES)
        return sorted(paths, key=lambda path: (order.index(path.stage), path.step))

    def save(self, state: TrainingState, group: dist.ProcessGroup | None = None) -> Path:
        """Write a checkpoint, then delete the obsolete ones. Every process of the group must call.

        Obsolete are those of the same stage but for the last two and the milestones, and all that come later in the
        order of training: a run that went back to an earlier checkpoint trains those steps again. Folders that
        contain anything but a checkpoint's files are kept, and so are links.

        Raises:
            OSError: the checkpoint cannot be written; the previous ones are unchanged.
        """
        path, is_main = self.path(state.stage, state.step), group is None or dist.get_rank(group) == 0
        unfinished = path.with_name(f".{path.name}.tmp")
        try:
            if is_main:
                shutil.rmtree(unfinished, ignore_errors=True)
            write_checkpoint(state, unfinished, group)
            if is_main:
                put_in_place(unfinished, path)
        finally:
            if is_main:
                shutil.rmtree(unfinished, ignore_errors=True)
        if is_main:
            paths = self.list_checkpoints()
            later = paths[next(i for i, other in enumerate(paths) if other.folder == path) + 1 :]
            self._delete([*self._older(state.stage, state.step), *later])
        return path

    def finish_deletion(self, stage: Stage, step: int) -> None:
        """Delete what a process that was killed after it had saved this checkpoint had no time to delete."""
        if self.path(stage, step).is_dir():
            self._delete(self._older(stage, step))

    def delete_after(self, stage: Stage, step: int) -> None:
        """Delete everything that training a stage from `step` on will replace."""
        order = list(STAGES)
        paths = self.list_checkpoints()
        self._delete([path for path in paths if (order.index(path.stage), path.step) > (order.index(stage), step)])

    def _older(self, stage: Stage, step: int) -> list[CheckpointPath]:
        """The checkpoints of a stage that are obsolete once that of a step exists."""
        reached = [path for path in self.list_checkpoints() if path.stage == stage and path.step <= step]
        return [path for path in reached[:-KEPT_PER_STAGE] if not self._is_milestone(path.step)]

    def _is_milestone(self, step: int) -> bool:
        return self.milestone_every is not None and step % self.milestone_every == 0

    def _delete(self, paths: Iterable[CheckpointPath]) -> None:
        """Delete checkpoints, and the remains of writes and deletions that were interrupted."""
        remove_unfinished(self.folder, FOLDER.pattern)
        for path in paths:
            if _is_ours(path.folder):
                path.folder.rename(path.folder.with_name(f".{path.folder.name}.tmp"))
        remove_unfinished(self.folder, FOLDER.pattern)

    def latest(self, stage: Stage | None = None) -> Checkpoint | None:
        """The newest intact checkpoint (of `stage`); damaged ones are skipped with a warning. None if there is none.

        Raises:
            ValueError: all checkpoints are damaged, or one has a newer format.
        """
        paths = [path for path in self.list_checkpoints() if stage in (None, path.stage)]
        for path in reversed(paths):
            try:
                return Checkpoint.open(path.folder)
            except DamagedFile as error:
                warnings.warn(f"{error}; going back to the checkpoint before", stacklevel=2)
        if paths:
            raise ValueError(f"{self.folder}: every checkpoint is damaged; start again with --fresh")
        return None


class AsyncCheckpointer:
    """Writes checkpoints in a background thread, one at a time; leaving the context waits for the last one.

    If a checkpoint cannot be written, the previous one is kept and training continues with a warning.
    """

    def __init__(self, checkpoints: CheckpointManager, processes: ProcessGroup):
        self.checkpoints, self.processes = checkpoints, processes
        self.group = processes.cpu_group
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.pending: tuple[int, str, Future] | None = None

    def save(self, state: TrainingState, checkpoints: CheckpointManager | None = None) -> None:
        """Copy the state to CPU memory and start writing it. Every process must call.

        Args:
            checkpoints: the folder of snapshots, if the state is one.
        """
        self.wait()
        stager = DefaultStager(StagingOptions(False, False, False, False))  # in this thread, to unpinned memory
        tensors = cast(dict[str, Tensor], stager.stage(state.tensors))
        stager.close()
        copy = replace(state, tensors=tensors)
        kind, manager = ("snapshot", checkpoints) if checkpoints else ("checkpoint", self.checkpoints)
        self.pending = state.step, kind, self.thread.submit(manager.save, copy, self.group)

    def wait(self, required: bool = False) -> None:
        """Block until the pending checkpoint is written.

        Args:
            required: raise if it cannot be written, instead of a warning.

        Raises:
            OSError: the checkpoint is required and cannot be written.
        """
        if self.pending is None:
            return
        (step, kind, write), self.pending = self.pending, None
        try:
            write.result()
        except OSError as error:
            if required:
                raise
            if self.processes.is_main:
                reason = error.strerror or error
                message = f"step {step}: no {kind} was written ({reason}); the last one is kept"
                warnings.warn(message, stacklevel=2)

    def __enter__(self) -> "AsyncCheckpointer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.wait()
        finally:
            self.thread.shutdown()
