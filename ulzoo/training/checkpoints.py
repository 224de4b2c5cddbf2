"""The training checkpoints of a run: put in their place when whole, checked when read, the last two kept."""

import re
import shutil
import warnings
from pathlib import Path
from typing import cast

import torch.distributed as dist

from ulzoo.files.atomic import put_in_place, remove_unfinished
from ulzoo.files.tensor_file import DamagedFile
from ulzoo.model.contract import STAGES, Stage
from ulzoo.training.checkpointing import Checkpoint, State, write

KEEP = 2
NAME = re.compile(rf"({'|'.join(STAGES)})-(\d+)")


class Checkpoints:
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
