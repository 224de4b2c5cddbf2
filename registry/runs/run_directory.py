"""The directory of a run: what training writes into it, and whether a run may start, resume or begin a stage there."""

import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ulzoo.files.tensor_file import DamagedFile, files_of, is_checkpoint
from ulzoo.model.contract import STAGES, Stage
from ulzoo.registry.runs.callbacks import LOG
from ulzoo.registry.runs.milestone_file import MILESTONES
from ulzoo.registry.runs.stopwatch import FILE as SECONDS
from ulzoo.registry.spec.data_paths import FILE as DATA_PATHS
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.schema import Spec, changed_on_resume
from ulzoo.registry.spec.yaml_source import SpecError, read_yaml
from ulzoo.training.checkpoint import Checkpoint
from ulzoo.training.checkpoint_steps import FOLDER
from ulzoo.training.checkpointing import CheckpointManager
from ulzoo.training.posthoc_ema import SNAPSHOTS

LOCK = ".train.lock"
MODEL = "model.safetensors"
RESULTS = ("figures.json", MODEL, f"{MODEL}.index.json")
"""Files that only a finished run has."""
INIT = "init.json"
FILES = ("spec.yaml", INIT, "metrics.jsonl", LOG, "skipped.txt", "left_out.txt", MILESTONES, *RESULTS)
_STAGE = "|".join(STAGES)
_EVENTS = re.compile(r"events\.out\.tfevents\..+")
_CHECKPOINT = re.compile(rf"{FOLDER.pattern}|\.{FOLDER.pattern}\.tmp")
EMA = "ema"
FOLDERS = {
    "checkpoints": _CHECKPOINT,
    SNAPSHOTS: _CHECKPOINT,
    EMA: re.compile(
        rf"({_STAGE})-0\.[0-9]+(-[0-9]{{5}}-of-[0-9]{{5}})?\.safetensors(\.index\.json)?|{re.escape(DATA_PATHS)}"
    ),
    "milestones": re.compile(r"pflops_\w+\.(png|svg)"),
    "samples": re.compile(r"(samples|reconstructions)\.(png|mp4|webp)"),
    "profile": re.compile(rf"({_STAGE})(\.json\.gz|\.txt|-memory\.pickle)"),
    **dict.fromkeys([*(f"tensorboard/{stage}" for stage in STAGES), "tensorboard"], _EVENTS),
}
"""The folders of a run, and the names of what training, `ulzoo ema` and `ulzoo evaluate --milestones` write there."""


def select_checkpoint(
    folder: Path, spec: Spec, stages: tuple[Stage, ...], *, resume: bool, fresh: bool
) -> Checkpoint | None:
    """The checkpoint from which to train `stages` in `folder`; None to start from scratch.

    It is of one of `stages`, to resume, or of the finished stage before them, to build on. Nothing is written.

    Args:
        resume: continue from the latest intact checkpoint, if there is one.
        fresh: start from scratch; a run in the folder will be removed.

    Raises:
        ValueError: the folder is a file, contains the files of something else or a finished run, lacks the stage
            before, or has a run of another spec.
    """
    check_folder(folder)
    order = spec.stages
    previous: Stage | None = order[order.index(stages[0]) - 1] if stages[0] != order[0] else None
    if fresh:
        if previous:
            raise ValueError(f"{folder}: --fresh would remove the stage {previous} that --stage {stages[0]} needs")
        files_of_run(folder)
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
    if not reached:
        _check_unfinished(folder, spec)
    elif begins_stage and order.index(trained := _trained_stage(folder, order)) >= order.index(stages[0]):
        raise ValueError(
            f"{folder}: contains a finished stage {trained} without its checkpoints; add --resume without --stage to "
            "train it again, or use another --out"
        )
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
        changes = [change for change in changes if not change.startswith(tuple(free))]
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


def check_folder(folder: Path) -> None:
    """Raise ValueError if `folder` is a file or contains the files of something else."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file, not a run directory")
    names = [name for name in (*FILES, *FOLDERS) if os.path.lexists(folder / name)]
    if names and not is_run(folder):
        raise ValueError(f"{folder}: contains {', '.join(names)}, but not of a run of ulzoo; use another --out")


def is_run(folder: Path) -> bool:
    """Whether `folder` has a checkpoint of ulzoo, or a `spec.yaml` as training writes it."""
    if any(is_checkpoint(path.folder) for path in CheckpointManager(folder / "checkpoints").list_checkpoints()):
        return True
    spec = read_spec(folder)
    if spec is None:
        return False
    if any((folder / name).is_file() for name in ("metrics.jsonl", *RESULTS)):
        return True
    return (folder / "spec.yaml").read_text("utf-8") == spec.to_yaml()  # else a spec that the user wrote


def read_spec(folder: Path) -> Spec | None:
    """The spec in `spec.yaml`; None if there is none, or it is not a resolved spec."""
    try:
        return spec_from_dict(read_yaml(folder / "spec.yaml", "spec.yaml").plain())
    except SpecError:
        return None


def _check_unfinished(folder: Path, spec: Spec) -> None:
    """Raise ValueError if the run in `folder`, which has no checkpoint, is finished or of another spec than `spec`."""
    if results := [name for name in RESULTS if (folder / name).exists()]:
        raise ValueError(
            f"{folder}: contains {results[0]} of a finished run without its checkpoints; use --fresh to start over, "
            "or another --out"
        )
    old = read_spec(folder)
    if old and (changes := changed_on_resume(old, spec)):
        raise ValueError(f"{folder}: its run has another spec, {changes[0]}; use --fresh or another --out")


def _trained_stage(folder: Path, stages: tuple[Stage, ...]) -> Stage:
    """The last stage that the metrics of a run were measured after; the first of `stages` if there are no metrics."""
    try:
        stage = json.loads((folder / "figures.json").read_text("utf-8"))["trained"]["stage"]
    except (OSError, ValueError, KeyError, TypeError):
        return stages[0]
    return stage if stage in stages else stages[0]


class RunLock:
    """A lock of a run directory against other trainings, of other machines on a shared file system too.

    It ends with the process that holds it, even if that is killed. Its file is removed with it, or stays after a kill.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / LOCK, thread_local=False)
        self._checked = self._state()

    @property
    def exists(self) -> bool:
        """Whether there is a lock file: of another process, of this one, or of one that was killed."""
        return (self.folder / LOCK).exists()

    @property
    def is_held(self) -> bool:
        return self._lock.is_locked

    def acquire(self) -> None:
        """Lock the directory, which is created; nothing happens if this object holds the lock.

        Raises:
            ValueError: another training holds the lock, or has changed the run since this object was created.
        """
        if self.is_held:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"{self.folder}: another process is training there; wait for it, or use another --out"
            ) from None
        except OSError as error:
            raise ValueError(f"{self.folder}: cannot be written: {error.strerror or error}") from None
        if self._state() != self._checked:
            self.release()
            raise ValueError(f"{self.folder}: another process has just trained there; use --resume to continue its run")

    def _state(self) -> dict[Path, int]:
        """When the files and checkpoints of the run were last changed."""
        paths = [*(self.folder / name for name in FILES), *(self.folder / "checkpoints").glob("*")]
        return {path: path.lstat().st_mtime_ns for path in paths if os.path.lexists(path)}

    def release(self) -> None:
        """Unlock the directory; nothing happens if it is not locked by this object."""
        if self.is_held:
            (self.folder / LOCK).unlink(missing_ok=True)  # before it is unlocked, when it may be of another process
            self._lock.release()


def files_of_run(folder: Path) -> list[Path]:
    """The files of the run in `folder`, and its checkpoints, which are folders. Nothing is written.

    Raises:
        ValueError: they cannot be removed: one is a link to a folder, of another type, or in a read-only folder.
    """
    paths = [folder / name for name in (*FILES, SECONDS, DATA_PATHS)]
    with suppress(DamagedFile):  # an index that does not name the parts
        paths += files_of(folder / MODEL)
    for name, pattern in FOLDERS.items():
        parent = folder / name
        if parent.is_symlink():
            raise ValueError(f"{parent}: is a link, which --fresh does not follow; remove it, or use another --out")
        if parent.exists() and not parent.is_dir():
            raise ValueError(f"{parent}: is a file, not a folder of a run; use another --out")
        paths += [path for path in parent.glob("*") if pattern.fullmatch(path.name)]
    paths = [path for path in dict.fromkeys(paths) if os.path.lexists(path)]
    for path in paths:
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder is not _is_checkpoint_path(folder, path):
            raise ValueError(
                f"{path}: is {'a folder' if is_folder else 'no folder'}, unlike in a run; use another --out"
            )
        for parent in (path.parent, *([path] if is_folder else [])):
            if not os.access(parent, os.W_OK | os.X_OK):
                raise ValueError(f"{parent}: is read-only, so that --fresh cannot remove the run; use another --out")
    return paths


def _is_checkpoint_path(folder: Path, path: Path) -> bool:
    return path.parent in (folder / "checkpoints", folder / SNAPSHOTS)


def remove_run(folder: Path) -> None:
    """Remove the files of the run in `folder`, and the folders that they leave empty. Raises as `files_of_run` does."""
    for path in files_of_run(folder):
        if _is_checkpoint_path(folder, path):
            shutil.rmtree(path)
        else:
            path.unlink()
    for name in FOLDERS:
        if (folder / name).is_dir() and not any((folder / name).iterdir()):
            (folder / name).rmdir()
