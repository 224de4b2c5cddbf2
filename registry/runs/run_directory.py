"""The directory of a run: what training writes into it, and whether a run may start, resume or begin a stage there."""

import shutil
from pathlib import Path

from ulzoo.model.contract import STAGES, Stage
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.schema import Spec, changed_on_resume
from ulzoo.training.checkpointing import Checkpoint, CheckpointManager

CONTENTS = (
    "spec.yaml",
    "metrics.jsonl",
    "left_out.txt",
    "figures.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "checkpoints",
    "samples",
    "profile",
    "tensorboard",
)
"""Files and folders that a run writes; the parts of a large model come on top."""


def select_checkpoint(
    folder: Path, spec: Spec, stages: tuple[Stage, ...], *, resume: bool, fresh: bool
) -> Checkpoint | None:
    """The checkpoint from which to train `stages` in `folder`; None to start from scratch.

    It is of one of `stages`, to resume, or of the finished stage before them, to build on. Nothing is written.

    Args:
        resume: continue from the latest intact checkpoint, if there is one.
        fresh: start from scratch whatever the folder contains.

    Raises:
        ValueError: the folder is a file, already contains a run, lacks the stage before, or has a run of another spec.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file, not a run directory")
    order = spec.stages
    previous: Stage | None = order[order.index(stages[0]) - 1] if stages[0] != order[0] else None
    if fresh:
        if previous:
            raise ValueError(f"{folder}: --fresh would remove the stage {previous} that --stage {stages[0]} needs")
        return None
    checkpoints = CheckpointManager(folder / "checkpoints")
    reached = {stage for stage, _, _ in checkpoints.list_checkpoints()}
    if later := [stage for stage in order[order.index(stages[-1]) + 1 :] if stage in reached]:
        raise ValueError(
            f"{folder}: its stage {later[0]} depends on {stages[-1]}; leave out --stage, or use another --out"
        )
    begins_stage = previous is not None and stages[0] not in reached
    if begins_stage and previous not in reached:
        raise ValueError(
            f"{folder}: no stage {previous} to build on; run `ulzoo train … --stage {previous}` there first"
        )
    if reached and not resume and not begins_stage:
        raise ValueError(f"{folder}: already contains a run; add --resume to continue it or --fresh to start over")
    checkpoint = checkpoints.latest(previous if begins_stage else stages[-1] if len(stages) == 1 else None)
    if checkpoint is not None:
        _check_spec(folder, spec, checkpoint, stages[0] if begins_stage else None)
    return checkpoint


def _check_spec(folder: Path, spec: Spec, checkpoint: Checkpoint, begins: Stage | None) -> None:
    """Raise ValueError unless `spec` may continue from `checkpoint`.

    Args:
        begins: the stage that is to begin, on the finished stage of the checkpoint; None to resume that stage.
    """
    old, order = spec_from_dict(checkpoint.metadata["spec"]), spec.stages
    changes = changed_on_resume(old, spec)
    if begins:  # the stages that have not begun may have other networks and settings
        free = [f"{key}." for stage in order[order.index(begins) :] for key in (STAGES[stage][-1], f"train.{stage}")]
        changes = [change for change in changes if not change.startswith((*free, "name:"))]
        if checkpoint.step < getattr(old.train, checkpoint.stage).steps:
            raise ValueError(
                f"{folder}: its stage {checkpoint.stage} stopped at step {checkpoint.step}; "
                f"finish it (--stage {checkpoint.stage})"
            )
    finished = order[: order.index(checkpoint.stage) + (begins is not None)]
    for stage in finished:
        before, after = getattr(old.train, stage).steps, getattr(spec.train, stage).steps
        if before != after:
            changes.append(f"train.{stage}.steps: {before} -> {after}")
    if changes:
        more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
        raise ValueError(f"{folder}: its run has another spec, {changes[0]}{more}; use --fresh or another --out")
    if checkpoint.step > (steps := getattr(spec.train, checkpoint.stage).steps):
        raise ValueError(
            f"{folder}: has trained {checkpoint.step} steps, more than train.{checkpoint.stage}.steps, {steps}"
        )


def remove_run(folder: Path) -> None:
    """Remove what a run writes from `folder`, and nothing else."""
    parts = [path.name for path in folder.glob("model-*-of-*.safetensors")]
    for name in (*CONTENTS, *parts):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
