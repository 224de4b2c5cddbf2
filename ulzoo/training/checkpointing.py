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
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

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


KEEP = 2
NAME = re.compile(rf"({'|'.join(STAGES)})-(\d+)")


class CheckpointManager:
    """The folder `checkpoints/` of a run, with a folder "{stage}-{step}" for each.

    Args:
        folder: need not be there.
        milestone_every: steps of whose multiples the checkpoints are kept for good.
    """

    def __init__(self, folder: Path, milestone_every: int | None = None):
        self.folder, self.milestone_every = folder, milestone_every

    def path(self, stage: Stage, step: int) -> Path:
        """Where the checkpoint of a step is, if there is one."""
        return self.folder / f"{stage}-{step:08d}"

    def found(self) -> list[tuple[Stage, int, Path]]:
        """(stage, step, path) in the order in which training wrote them."""
        matches = [(NAME.fullmatch(path.name), path) for path in self.folder.glob("*")]
        found = [(cast(Stage, match[1]), int(match[2]), path) for match, path in matches if match]
        order = list(STAGES)
        return sorted(found, key=lambda entry: (order.index(entry[0]), entry[1]))

    def save(self, state: State, group: dist.ProcessGroup | None = None) -> Path:
        """Write a checkpoint; let go of later ones, and of the stage's older ones but the one before and milestones.

        Later ones are there when a run went back behind damaged ones: they belong to a future trained again. Every
        process of the group must call.

        Raises:
            OSError: it cannot be written; those before are as they were.
        """
        path, first = self.path(state.stage, state.step), group is None or dist.get_rank(group) == 0
        aside = path.with_name(f".{path.name}.tmp")
        try:
            if first:
                shutil.rmtree(aside, ignore_errors=True)
            write(state, aside, group)
            if first:
                put_in_place(aside, path)
        finally:
            if first:
                shutil.rmtree(aside, ignore_errors=True)
        if first:
            self._let_go(path)
        return path

    def _let_go(self, newest: Path) -> None:
        found = self.found()
        here = next(number for number, entry in enumerate(found) if entry[2] == newest)
        older = [entry for entry in found[: here + 1] if entry[0] == found[here][0]][:-KEEP]
        if self.milestone_every:
            older = [entry for entry in older if entry[1] % self.milestone_every]
        for _, _, gone in older + found[here + 1 :]:
            shutil.rmtree(gone)
        remove_unfinished(self.folder, NAME.pattern)

    def latest(self, stage: Stage | None = None) -> Checkpoint | None:
        """The newest checkpoint (of `stage`) that is whole; a damaged one is named in a warning and passed over.

        Raises:
            ValueError: there are checkpoints, but all are damaged; or one is of a newer format.
        """
        found = [path for of, _, path in self.found() if stage in (None, of)]
        for path in reversed(found):
            try:
                return Checkpoint.open(path)
            except DamagedFile as error:
                warnings.warn(f"{error}; going back to the checkpoint before", stacklevel=2)
        if found:
            raise ValueError(f"{self.folder}: every checkpoint is damaged; start again with --fresh")
        return None


class AsyncCheckpointer:
    """Writes one checkpoint at a time; the next one waits for it, and so does the end of the context.

    Where a checkpoint cannot be written the last one stays, and training goes on with a warning.
    """

    def __init__(self, checkpoints: CheckpointManager, processes: ProcessGroup):
        self.checkpoints, self.processes = checkpoints, processes
        self.group = processes.cpu_group
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.writing: tuple[int, Future] | None = None

    def save(self, state: State) -> None:
        """Begin to write a checkpoint; all processes must."""
        self.wait()
        stager = DefaultStager(StagingOptions(False, False, False, False))  # in this thread, to plain memory
        tensors = cast(dict[str, Tensor], stager.stage(state.tensors))
        stager.close()
        copy = State(state.stage, state.step, tensors, state.metadata)
        self.writing = state.step, self.thread.submit(self.checkpoints.save, copy, self.group)

    def wait(self, must: bool = False) -> None:
        """Until what was begun is written.

        Raises:
            OSError: it could not be, but `must`.
        """
        if self.writing is None:
            return
        (step, written), self.writing = self.writing, None
        try:
            written.result()
        except OSError as error:
            if must:
                raise
            if self.processes.is_main:
                why = error.strerror or error
                message = f"step {step}: no checkpoint was written ({why}); the last one is kept"
                warnings.warn(message, stacklevel=2)

    def __enter__(self) -> "AsyncCheckpointer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.wait()
        finally:
            self.thread.shutdown()
