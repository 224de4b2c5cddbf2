"""One point of a sweep: train it or go on with it, whatever happens to it, and put down its row."""

import json
import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ulzoo.files import tensor_file
from ulzoo.files.atomic import write_text
from ulzoo.model.contract import STAGES, Stage
from ulzoo.registry.compile import compile_model
from ulzoo.registry.runs.export import versions
from ulzoo.registry.runs.train import TrainingCallback, train
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.sweeps.distances import DistanceConfig, measure_distances
from ulzoo.registry.sweeps.jobs import Job, timestamp
from ulzoo.registry.sweeps.locks import Busy, Lock, locked
from ulzoo.registry.sweeps.pruning import Pruner, Stopped
from ulzoo.registry.sweeps.store import ResultRow, Store
from ulzoo.training import config as configs
from ulzoo.training import monitoring
from ulzoo.training.checkpointing import CheckpointManager, TrainingState

OnStep = Callable[[str, int, int, monitoring.LogRow | None], None]
"""Told of every step: stage, step, the stage's steps, and a row of metrics where one was logged."""


def run_point(job: Job, on_step: OnStep | None = None, wait: bool = True) -> ResultRow:
    """Train and measure a point in its folder, from where it was stopped, and add its row to the store.

    Args:
        wait: for another process that trains this point, or a stage 1 that it shares; else `Busy` is raised.

    Returns:
        The row; of a point that another process settled meanwhile, its. What goes wrong with the point makes a row
        with the status "failed".
    """
    store = Store(job.store)
    folder = store.folder / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", wait):
        row = next((row for row in store.rows() if row["spec_hash"] == job.spec_hash), None)
        if row and job.settled(row) and (row["status"] == "done" or row["finished"] >= job.planned):
            return row
        started = time.monotonic()
        try:
            outcome = _outcome(row) if row and job.trained(row) else _train(job, folder, on_step, wait)
            if job.distances:
                _add_distances(outcome, job.distances, folder, job.device)
            (folder / "error.txt").unlink(missing_ok=True)
        except Busy:
            raise
        except Stopped as stopped:
            outcome = {"error": str(stopped), "status": "stopped"}
        except Exception as error:
            write_text(folder / "error.txt", traceback.format_exc())
            outcome = {"error": in_words(error)}
        row = make_row(job, time.monotonic() - started, **outcome)
        store.append(row)
    return row


def make_row(
    job: Job,
    seconds: float,
    *,
    error: str | None = None,
    status: str | None = None,
    figures: Mapping[str, Any] | None = None,
    protocol: Mapping[str, Any] | None = None,
    checkpoint_sha256: str | None = None,
) -> ResultRow:
    """The row of a point that is done, or failed with an error, or with another status."""
    return {
        "point": job.point,
        "series": job.series,
        "seed": job.seed,
        "set": job.set,
        "spec": job.spec_name,
        "spec_hash": job.spec_hash,
        "latents_hash": job.latents_hash,
        "stages": list(job.stages),
        "status": status or ("failed" if error else "done"),
        "error": error,
        "figures": dict(figures or {}),
        "protocol": dict(protocol or {}),
        "distances": job.distances.identity() if job.distances and figures else None,
        "paper": job.paper,
        "versions": versions(),
        "checkpoint_sha256": checkpoint_sha256,
        **asdict(job.cost),
        "seconds": round(seconds, 3),
        "folder": job.folder,
        "finished": timestamp(),
    }


def in_words(error: BaseException) -> str:
    """An error in one line; those that are not meant for users with their type."""
    text = " ".join(str(error).split())[:500]
    return text if text and isinstance(error, ValueError | ArithmeticError) else f"{type(error).__name__}: {text}"


def _train(job: Job, folder: Path, on_step: OnStep | None, wait: bool) -> dict[str, Any]:
    """Figures, protocol and digest of the finished run."""
    spec = spec_from_dict(job.spec)
    shared = _share(job, spec, folder, wait)
    try:
        stage: Any = "all" if job.stages == spec.stages else job.stages[-1]
        watch = ProgressForwarder(on_step, shared, Pruner(job) if job.prune else None)
        result = train(spec, folder, stage=stage, resume=True, device=job.device, watch=watch)
        assert result is not None
    finally:
        if shared:
            shared.release()
    figures = _finite(result.results["figures"])
    digest = tensor_file.digest_of(result.export)
    return {"figures": figures, "protocol": result.results["protocol"], "checkpoint_sha256": digest}


def _outcome(row: ResultRow) -> dict[str, Any]:
    """What a point that is trained gave, of which only distances are missing."""
    return {key: row[key] for key in ("figures", "protocol", "checkpoint_sha256")}


def _add_distances(outcome: dict[str, Any], asked: DistanceConfig, folder: Path, device: str) -> None:
    results = measure_distances(asked, folder, device)
    outcome["figures"] = outcome["figures"] | _finite(results["figures"])
    outcome["protocol"] = outcome["protocol"] | results["protocol"]


def _finite(figures: dict[str, float]) -> dict[str, float]:
    for name, value in figures.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}")
    return figures


def _share(job: Job, spec: Spec, folder: Path, wait: bool) -> Lock | None:
    """Take over the finished stage 1 of another point; where none has it, the lock under which to train it for all."""
    if job.siblings is None or "latents" not in spec.stages:
        return None
    steps = spec.train.latents.steps  # type: ignore[union-attr]
    checkpoints = CheckpointManager(folder / "checkpoints").list_checkpoints()
    if any(stage != "latents" or step == steps for stage, step, _ in checkpoints):
        return None
    lock = Lock(folder.parent / f".latents-{job.latents_hash}.lock", wait)
    for sibling in job.siblings:
        run = Path(job.store) / sibling
        if CheckpointManager(run / "checkpoints").path("latents", steps).is_dir() and _take_over(
            run, spec, folder, job.device
        ):
            lock.release()
            return None
    return lock


def _take_over(run: Path, spec: Spec, folder: Path, device: str) -> bool:
    """Write the last checkpoint of stage 1 that `spec` would have written, from that of `run`; False if it is damaged.

    The other spec may have another base, so that what stage 1 does not train comes from this one.
    """
    try:
        found = CheckpointManager(run / "checkpoints").latest("latents")
    except ValueError:  # all are damaged
        return False
    if found is None or found.step != spec.train.latents.steps:  # type: ignore[union-attr]
        return False
    trained = tuple(f"model.{network}." for network in STAGES["latents"])
    fresh = compile_model(spec, device).state_dict()
    tensors = {f"model.{name}": tensor for name, tensor in fresh.items() if not f"model.{name}".startswith(trained)}
    tensors |= {name: t for name, t in found.read("").items() if name.startswith(trained) or name[:6] != "model."}
    identity = {"spec": spec.to_dict(), "spec_hash": spec.hash}
    (folder / "checkpoints").mkdir(exist_ok=True)
    rows = [row for row in monitoring.read_rows(run / "metrics.jsonl") if row["stage"] == "latents"]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    CheckpointManager(folder / "checkpoints").save(
        TrainingState("latents", found.step, tensors, {**found.metadata, **identity})
    )
    return True


class ProgressForwarder(TrainingCallback):
    """Passes on the steps, lets others have stage 1 when it is finished, and ends a point that is behind."""

    def __init__(self, on_step: OnStep | None, shared: Lock | None, pruner: Pruner | None) -> None:
        self.on_step, self.shared, self.pruner = on_step, shared, pruner
        self.name, self.steps = "", 0

    def stage(self, stage: Stage, config: configs.StageConfig, start: int) -> None:
        self.name, self.steps = stage, config.steps
        if self.shared and stage != "latents":
            self.shared.release()
        self.step(start, None)

    def step(self, step: int, row: monitoring.LogRow | None) -> None:
        if self.on_step:
            self.on_step(self.name, step, self.steps, row)
        if self.pruner and self.name == "latents" and row:
            self.pruner.hear(row)
