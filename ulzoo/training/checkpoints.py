"""The training checkpoints of a run: atomic, checked when read, the last two kept."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ulzoo import tensorfile
from ulzoo.contract import STAGES, Stage
from ulzoo.files import remove_unfinished

KEEP = 2
NAME = re.compile(rf"({'|'.join(STAGES)})-(\d+)\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """All a stage needs to go on: tensors under "model.", "ema." and "optimizer.", and where it stood."""

    stage: Stage
    step: int
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix`, without it."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


class Checkpoints:
    """The folder `checkpoints/` of a run, one file "{stage}-{step}.safetensors" each.

    Args:
        folder: need not be there.
        milestone_every: steps of whose multiples the checkpoints are kept for good.
    """

    def __init__(self, folder: Path, milestone_every: int | None = None):
        self.folder, self.milestone_every = folder, milestone_every

    def files(self) -> list[tuple[Stage, int, Path]]:
        """(stage, step, path) in the order in which training wrote them."""
        matches = [(NAME.fullmatch(path.name), path) for path in self.folder.glob("*")]
        found = [(cast(Stage, match[1]), int(match[2]), path) for match, path in matches if match]
        order = list(STAGES)
        return sorted(found, key=lambda entry: (order.index(entry[0]), entry[1]))

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint; let go of later ones, and of the stage's older ones but the one before and milestones.

        Later ones are there when a run went back behind damaged files: they belong to a future trained again.
        """
        path = self.folder / f"{checkpoint.stage}-{checkpoint.step:08d}.safetensors"
        metadata = {"stage": checkpoint.stage, "step": checkpoint.step, **checkpoint.metadata}
        tensorfile.write(path, "checkpoint", checkpoint.tensors, metadata)
        files = self.files()
        here = [entry[2] for entry in files].index(path)
        older = [entry for entry in files[: here + 1] if entry[0] == checkpoint.stage][:-KEEP]
        if self.milestone_every:
            older = [entry for entry in older if entry[1] % self.milestone_every]
        for _, _, gone in older + files[here + 1 :]:
            gone.unlink()
        remove_unfinished(self.folder, NAME.pattern)
        return path

    def latest(self, stage: Stage | None = None) -> Checkpoint | None:
        """The newest checkpoint (of `stage`) that is whole; a damaged one is named in a warning and passed over.

        Raises:
            ValueError: there are checkpoints, but all are damaged.
        """
        files = [entry for entry in self.files() if stage in (None, entry[0])]
        for found, step, path in reversed(files):
            try:
                content = tensorfile.read(path, "checkpoint")
            except tensorfile.DamagedFile as error:
                warnings.warn(f"{error}; going back to the checkpoint before", stacklevel=2)
                continue
            return Checkpoint(found, step, content.tensors, content.metadata)
        if files:
            raise ValueError(f"{self.folder}: every checkpoint is damaged; start again with --fresh")
        return None
