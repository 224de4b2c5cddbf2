"""Copies of a run's checkpoints in an object store, from which a run continues on another machine.

    s3://bucket/run/
        checkpoints/latents-00000300/
            shard-00001-model-00001-of-00001.safetensors  uploaded by the process that wrote it
            checkpoint.json                               uploaded last, removed first; without it a copy is incomplete

The files are those of `ulzoo.training.checkpoint`, so that their digests also verify what was downloaded.
"""

import json
import shutil
import warnings
from pathlib import Path

import torch.distributed as dist

from ulzoo.data.storage.remote import RemotePath
from ulzoo.files.atomic import put_in_place
from ulzoo.files.tensor_file import CHECKPOINT, DamagedFile
from ulzoo.training.checkpoint import SHARD, Checkpoint
from ulzoo.training.checkpoint_steps import CheckpointStep, obsolete


class RemoteCheckpoints:
    """The copies of one folder of checkpoints.

    Args:
        root: the folder in the store.
        milestone_every: copies whose step is a multiple of this are never deleted.
    """

    def __init__(self, root: RemotePath, milestone_every: int | None = None):
        self.root, self.milestone_every = root, milestone_every

    def list_complete(self) -> list[CheckpointStep]:
        """The copies whose upload was finished, in the order of training. Raises ValueError: no access."""
        return [step for step in self._list() if CHECKPOINT in (self.root / step.name).list_names()]

    def upload(self, folder: Path, step: CheckpointStep, group: dist.ProcessGroup | None = None) -> None:
        """Copy a checkpoint from `folder`, then delete the obsolete copies. Every process of the group must call.

        If that fails, the main process warns, and the copies that were complete still are.
        """
        rank, target = dist.get_rank(group) if group else 0, self.root / step.name
        error: str | None = None
        try:
            for file in sorted(folder.glob(f"shard-{rank + 1:05d}-*")):
                (target / file.name).upload(file)
        except (ValueError, ImportError) as failure:
            error = str(failure)
        errors = [error]
        if group:
            errors *= dist.get_world_size(group)
            dist.all_gather_object(errors, error, group=group)
        if rank > 0:
            return
        try:
            if failures := [failure for failure in errors if failure]:
                raise ValueError(failures[0])
            (target / CHECKPOINT).upload(folder / CHECKPOINT)
        except (ValueError, ImportError) as failure:
            warnings.warn(f"{step.name} was not copied ({failure}); the last copy is kept", stacklevel=2)
            return
        try:
            for old in obsolete(self._list(), step, self.milestone_every):
                self._delete(old)
        except ValueError as failure:
            warnings.warn(f"{step.name} was copied, obsolete copies were not deleted ({failure})", stacklevel=2)

    def download(self, step: CheckpointStep, folder: Path) -> None:
        """Copy a complete checkpoint to `folder`, which does not exist, and verify it.

        Raises:
            DamagedFile: a file is missing or does not match its digest.
            ValueError: no access.
        """
        source, unfinished = self.root / step.name, folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            (source / CHECKPOINT).download(unfinished / CHECKPOINT)
            names = source.list_names()
            for name in _shards(unfinished / CHECKPOINT):
                if name not in names:
                    raise DamagedFile(f"{source}: an incomplete checkpoint (no {name})")
                (source / name).download(unfinished / name)
            Checkpoint.open(unfinished)
            put_in_place(unfinished, folder)
        except DamagedFile as error:
            raise DamagedFile(str(error).replace(f"{unfinished}: ", f"{source}: ", 1)) from None
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _list(self) -> list[CheckpointStep]:
        steps = map(CheckpointStep.parse, self.root.list_names())
        return sorted(step for step in steps if step)

    def _delete(self, step: CheckpointStep) -> None:
        """Delete a copy; files that training did not write stay."""
        folder = self.root / step.name
        names = folder.list_names()
        if CHECKPOINT in names:
            (folder / CHECKPOINT).remove()
        for name in filter(SHARD.fullmatch, names):
            (folder / name).remove()


def _shards(metadata: Path) -> list[str]:
    """The shards that checkpoint.json lists, [] if it is damaged: `Checkpoint.open` says how."""
    try:
        names = json.loads(metadata.read_text("utf-8"))["files"]
        return [name for name in names if SHARD.fullmatch(name)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
