"""The order of a run's checkpoints, their names, and which of them are obsolete."""

import re
from collections.abc import Iterable
from typing import NamedTuple, cast

from ulzoo.model.contract import STAGES, Stage

KEPT_PER_STAGE = 2
FOLDER = re.compile(rf"({'|'.join(STAGES)})-([0-9]{{8}}|[1-9][0-9]{{8,}})")
"""The names that `CheckpointStep.name` gives."""


class CheckpointStep(NamedTuple):
    """A step of a stage; they sort in the order of training."""

    stage_number: int
    step: int

    @classmethod
    def of(cls, stage: Stage, step: int) -> "CheckpointStep":
        return cls(list(STAGES).index(stage), step)

    @classmethod
    def parse(cls, name: str) -> "CheckpointStep | None":
        """The step of a checkpoint's name; None for other names."""
        match = FOLDER.fullmatch(name)
        return cls.of(cast(Stage, match[1]), int(match[2])) if match else None

    @property
    def stage(self) -> Stage:
        return list(STAGES)[self.stage_number]

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.step:08d}"


def replaced(
    steps: Iterable[CheckpointStep], saved: CheckpointStep, milestone_every: int | None
) -> list[CheckpointStep]:
    """The steps of the same stage up to the one just saved, but for the last two and the milestones."""
    reached = sorted(step for step in steps if step.stage_number == saved.stage_number and step <= saved)
    return [step for step in reached[:-KEPT_PER_STAGE] if milestone_every is None or step.step % milestone_every]


def obsolete(
    steps: Iterable[CheckpointStep], saved: CheckpointStep, milestone_every: int | None
) -> list[CheckpointStep]:
    """What a run no longer needs once it has saved a step: `replaced` steps, and later ones.

    A run that went back to an earlier checkpoint trains the later steps again.
    """
    steps = list(steps)
    return [*replaced(steps, saved, milestone_every), *(step for step in steps if step > saved)]
