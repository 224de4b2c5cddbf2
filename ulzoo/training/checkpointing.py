"""The checkpoints of a run: what is in its folder, what is added in the background, what is deleted."""

import shutil
import warnings
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, cast

import torch.distributed as dist
from torch import Tensor

from ulzoo.files.atomic import put_in_place, remove_unfinished
from ulzoo.files.tensor_file import CHECKPOINT, DamagedFile
from ulzoo.model.contract import Stage
from ulzoo.runtime.processes import ProcessGroup
from ulzoo.training.checkpoint import SHARD, Checkpoint, TrainingState, write_checkpoint
from ulzoo.training.checkpoint_steps import FOLDER, CheckpointStep, obsolete, replaced
from ulzoo.training.remote_checkpoints import RemoteCheckpoints


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
        remote: also receives every checkpoint that is saved.
    """

    def __init__(self, folder: Path, milestone_every: int | None = None, remote: RemoteCheckpoints | None = None):
        self.folder, self.milestone_every, self.remote = folder, milestone_every, remote

    def path(self, stage: Stage, step: int) -> Path:
        """The folder of the checkpoint of a step, whether it exists or not."""
        return self.folder / CheckpointStep.of(stage, step).name

    def list_checkpoints(self) -> list[CheckpointPath]:
        """All checkpoints, in the order in which training writes them."""
        return [CheckpointPath(step.stage, step.step, self.folder / step.name) for step in self.steps()]

    def steps(self) -> list[CheckpointStep]:
        """The steps of all checkpoints, in the order of training."""
        steps = [CheckpointStep.parse(path.name) for path in self.folder.glob("*")]
        return sorted(step for step in steps if step)

    def save(self, state: TrainingState, group: dist.ProcessGroup | None = None) -> Path:
        """Write a checkpoint, then delete the obsolete ones. Every process of the group must call.

        Folders that contain anything but a checkpoint's files are kept, and so are links.

        Raises:
            OSError: the checkpoint cannot be written; the previous ones are unchanged.
        """
        step, is_main = CheckpointStep.of(state.stage, state.step), group is None or dist.get_rank(group) == 0
        path = self.folder / step.name
        unfinished = path.with_name(f".{path.name}.tmp")
        try:
            if is_main:
                shutil.rmtree(unfinished, ignore_errors=True)
            write_checkpoint(state, unfinished, group)
            if self.remote:
                self.remote.upload(unfinished, step, group)
            if is_main:
                put_in_place(unfinished, path)
        finally:
            if is_main:
                shutil.rmtree(unfinished, ignore_errors=True)
        if is_main:
            self._delete(obsolete(self.steps(), step, self.milestone_every))
        return path

    def finish_deletion(self, stage: Stage, step: int) -> None:
        """Delete what a process that was killed after it had saved this checkpoint had no time to delete."""
        saved, steps = CheckpointStep.of(stage, step), self.steps()
        if saved in steps:
            self._delete(replaced(steps, saved, self.milestone_every))

    def delete_after(self, stage: Stage, step: int) -> None:
        """Delete everything that training a stage from `step` on will replace."""
        self._delete([other for other in self.steps() if other > CheckpointStep.of(stage, step)])

    def _delete(self, steps: Iterable[CheckpointStep]) -> None:
        """Delete checkpoints, and the remains of writes and deletions that were interrupted."""
        remove_unfinished(self.folder, FOLDER.pattern)
        for step in steps:
            if _is_ours(self.folder / step.name):
                (self.folder / step.name).rename(self.folder / f".{step.name}.tmp")
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
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

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
