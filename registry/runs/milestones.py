"""The milestones of a run as one curve: the metrics of every checkpoint that `train.*.milestone_every` keeps."""

import json
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ulzoo.files.atomic import sha256, write_text
from ulzoo.files.tensor_file import CHECKPOINT, DamagedFile
from ulzoo.registry.runs.evaluate import Evaluation, EvaluationOptions
from ulzoo.registry.runs.export import Export, matching_results, restore, set_latent_statistics
from ulzoo.registry.runs.milestone_file import MILESTONES, MilestoneRow, read_milestones
from ulzoo.registry.spec.data_paths import read_data_paths
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.runtime.processes import SINGLE_PROCESS, ProcessGroup
from ulzoo.training.checkpoint import Checkpoint
from ulzoo.training.checkpointing import CheckpointManager, CheckpointPath
from ulzoo.training.config import StageConfig

KEPT = ("figures", "protocol", "hashes", "cautions")
ProgressCallback = Callable[[str, int, int], None]


class RunMilestones:
    """The milestones of the last stage of a run that keeps some, and the end of that stage. It may still be training.

    Args:
        run: a run directory.

    Attributes:
        spec: of the run.
        stage: whose milestones they are.
        paths: their checkpoints, by increasing step.

    Raises:
        ValueError: the run has no checkpoints, keeps no milestones, or has not reached one.
    """

    def __init__(self, run: Path) -> None:
        manager = CheckpointManager(run / "checkpoints")
        latest = manager.latest() if run.is_dir() else None
        if latest is None:
            raise ValueError(f"{run}: contains no training checkpoints, so it has no milestones")
        self.run = run
        self.spec = spec_from_dict(latest.metadata["spec"]).with_data_paths(read_data_paths(run))
        configs: dict[Any, StageConfig] = {stage: getattr(self.spec.train, stage) for stage in self.spec.stages}
        stages = [stage for stage, config in configs.items() if config.milestone_every]
        if not stages:
            raise ValueError(f"{run}: keeps no milestones; set train.STAGE.milestone_every before training it")
        self.stage = stages[-1]
        every, end = configs[self.stage].milestone_every, configs[self.stage].steps
        assert every is not None
        checkpoints = [path for path in manager.list_checkpoints() if path.stage == self.stage]
        self.paths = [path for path in checkpoints if path.step % every == 0 or path.step == end]
        if not self.paths:
            raise ValueError(f"{run}: has no milestone of the stage {self.stage} yet; the first is at step {every:,}")
        reached = manager.latest(self.stage)
        assert reached is not None
        self._latest, self._results = reached, matching_results(latest)

    def rows(self) -> list[MilestoneRow]:
        """The rows in the file whose checkpoints were not replaced, in the order in which they were measured.

        Raises:
            ValueError: the file is damaged.
        """
        digests = {(path.stage, path.step): _digest(path) for path in self.paths}
        rows = read_milestones(self.run)
        return [row for row in rows if digests.get((row["stage"], row["step"]), row["checkpoint"]) == row["checkpoint"]]

    def measure(
        self,
        options: EvaluationOptions,
        device: torch.device,
        *,
        flops: Mapping[str, int],
        processes: ProcessGroup = SINGLE_PROCESS,
        on_progress: ProgressCallback = lambda phase, done, total: None,
    ) -> list[MilestoneRow]:
        """The curve, by increasing step. Milestones with a row of the same settings are not measured again.

        The file is written after each milestone, so that an interrupted evaluation continues with the next one. Damaged
        checkpoints are left out, with a warning.

        Args:
            options: what is measured.
            device: the device of the models.
            flops: of one forward pass of each network, as `summarize` counts them. Training takes 3 × those of the
                networks that the stage trains, as in the paper; frozen networks are not counted.
            processes: processes that share each evaluation; the main one reads and writes the file.
            on_progress: called with the step and phase, the number of examples processed so far, and their total.

        Raises:
            ValueError: as `Evaluation.open`, or the file is damaged.
        """
        export = self._export(self._latest, device)
        evaluation = Evaluation.open(export, options, device)
        settings = evaluation.settings_hash(export.model)
        flops_per_image = 3 * sum(flops.get(name, 0) for name in export.model.contract.trained_networks(self.stage))
        rows = processes.all_gather(self.rows() if processes.is_main else [])[0]
        curve: list[MilestoneRow] = []
        for path in self.paths:
            if row := next((row for row in rows if _is_row_of(row, path, settings)), None):
                curve.append(row)
                continue
            try:
                checkpoint = Checkpoint.open(path.folder)
            except DamagedFile as error:
                warnings.warn(f"{error}; left out", stacklevel=2)
                continue
            results = evaluation.run(
                self._export(checkpoint, device).model,
                processes=processes,
                on_progress=partial(_report, on_progress, path.step),
            )
            if processes.is_main:
                row = {
                    "stage": path.stage,
                    "step": path.step,
                    "images": checkpoint.metadata["images"],
                    "training_flops": flops_per_image * checkpoint.metadata["images"],
                    "checkpoint": _digest(path),
                    "settings": settings,
                    **{key: results[key] for key in KEPT if key in results},
                }
                rows.append(row)
                write_text(self.run / MILESTONES, json.dumps({"milestones": rows}, indent=1) + "\n")
                curve.append(row)
        return curve

    def _export(self, checkpoint: Checkpoint, device: torch.device) -> Export:
        """The model of a checkpoint, with averaged weights."""
        model, _ = restore(checkpoint, device)
        if "encoder" not in model.contract.trained_networks(self.stage):
            set_latent_statistics(model, self._results)
        return Export(model.eval(), self.spec, self._results)


def _is_row_of(row: MilestoneRow, path: CheckpointPath, settings: str) -> bool:
    return (row["stage"], row["step"], row["settings"]) == (path.stage, path.step, settings)


def _report(on_progress: ProgressCallback, step: int, phase: str, done: int, total: int) -> None:
    on_progress(f"step {step:,}, {phase}", done, total)


def _digest(path: CheckpointPath) -> str:
    """Of a checkpoint: its checkpoint.json has the digests of all files. "" if it is incomplete."""
    file = path.folder / CHECKPOINT
    return sha256(file) if file.is_file() else ""
