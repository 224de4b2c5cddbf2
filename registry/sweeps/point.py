"""One point of a sweep: train it or resume it, record whatever happens to it as a row of the store."""

import json
import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, BaseFileLock, FileLock, Timeout

from ulzoo.files.atomic import write_text
from ulzoo.model.contract import NETWORKS, STAGES, Stage
from ulzoo.registry.compile import compile_model
from ulzoo.registry.runs.callbacks import TrainingCallback
from ulzoo.registry.runs.export import versions
from ulzoo.registry.runs.initialize import initialize
from ulzoo.registry.runs.stopwatch import Stopwatch
from ulzoo.registry.runs.train import RunOptions, train
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.sweeps.distances import measure_distances
from ulzoo.registry.sweeps.jobs import Job, timestamp
from ulzoo.registry.sweeps.joint_training import summarize_run, train_jointly
from ulzoo.registry.sweeps.pruning import Pruner, StoppedEarly
from ulzoo.registry.sweeps.rate_curves import measure_run_curve
from ulzoo.registry.sweeps.store import ResultRow, Store, error_line
from ulzoo.registry.zoo.catalogue import open_model
from ulzoo.training import config as configs
from ulzoo.training import monitoring
from ulzoo.training.checkpoint import TrainingState
from ulzoo.training.checkpointing import CheckpointManager

SECONDS_BETWEEN_LOCK_ATTEMPTS = 0.2

OnStep = Callable[[str, int, int, monitoring.LogRow | None], None]
"""Progress callback: stage, step, number of steps of the stage, and the row of metrics.jsonl if one was written."""


class PointBusy(Exception):
    """Another process is training the point, or a stage 1 that it shares; the message is the path of the lock."""


def run_point(job: Job, on_step: OnStep | None = None, wait: bool = True) -> ResultRow:
    """Train and measure a point in its folder, from its last checkpoint, and append its row to the store.

    Args:
        on_step: progress callback.
        wait: whether to wait while another process trains this point, or a stage 1 that it shares.

    Returns:
        The row; if another process finished the point in the meantime, the row of that process. Errors of the point
        do not raise: they make a row with the status "failed". An interruption (KeyboardInterrupt, RankKilled) makes no
        row.

    Raises:
        PointBusy: another process holds a lock of the point, and `wait` is False.
    """
    store = Store(job.store)
    folder = store.folder / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    with acquire_lock(folder / ".lock", wait):
        row = next((row for row in store.rows() if row["spec_hash"] == job.spec_hash), None)
        if row and job.is_settled(row) and (row["status"] == "done" or row["finished"] >= job.planned):
            return row
        watch = Stopwatch(folder, (row or {}).get("seconds") or 0.0)
        curve: list[dict[str, Any]] = []
        try:
            if row and job.is_trained(row):  # only distances or its curve are missing
                outcome = {key: row[key] for key in ("figures", "protocol", "checkpoint_sha256")}
            else:
                outcome = _train(job, folder, watch, on_step, wait)
            if job.distances:
                results = measure_distances(job.distances, folder, job.device)
                outcome["figures"] = outcome["figures"] | _check_finite(results["figures"])
                outcome["protocol"] = outcome["protocol"] | results["protocol"]
            if job.loss_factors:
                curve = measure_run_curve(job.loss_factors, job.distances, folder, job.device)
                for entry in curve:
                    _check_finite(entry["figures"])
            (folder / "error.txt").unlink(missing_ok=True)
        except PointBusy:
            raise
        except StoppedEarly as reason:
            outcome = {"error": str(reason), "status": "stopped"}
        except Exception as error:
            write_text(folder / "error.txt", traceback.format_exc())
            outcome, curve = {"error": error_line(error)}, []
        finally:
            watch.save()
        row = make_row(job, watch.seconds, **outcome) | ({"curve": curve} if curve else {})
        store.append(row)
    return row


def acquire_lock(path: Path, wait: bool) -> AcquireReturnProxy:
    """Lock a file against other processes of this machine, and of others on a shared file system that supports locks.

    The lock ends with the process that holds it, even if that is killed. The file stays.

    Returns:
        A context manager that releases the lock; its attribute `lock` can be released earlier.

    Raises:
        PointBusy: another process holds the lock, and `wait` is False.
    """
    lock = FileLock(path, timeout=-1 if wait else 0, thread_local=False)
    try:
        return lock.acquire(poll_interval=SECONDS_BETWEEN_LOCK_ATTEMPTS)
    except Timeout:
        raise PointBusy(str(path)) from None


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
    """The row of a point. Its status, unless given, is "failed" if there is an error, else "done"."""
    return {
        "point": job.point,
        "series": job.series,
        "seed": job.seed,
        "set": job.set,
        "overrides": job.overrides,
        "spec": job.spec_name,
        "resolved": job.spec,
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


def _train(job: Job, folder: Path, watch: Stopwatch, on_step: OnStep | None, wait: bool) -> dict[str, Any]:
    """Train the stages of a job. Returns metrics, protocol and digest of the run, as `make_row` takes them."""
    spec = job.load_spec()
    lock = _reuse_stage1(job, spec, folder, wait)
    try:
        callback = ProgressForwarder(on_step, lock, Pruner(job) if job.prune else None)
        if len(job.devices) > 1:
            outcome = train_jointly(job, spec, callback)
        else:
            options = RunOptions(job.stage_to_train, resume=True, device=job.device, open_model=open_model)
            result = train(spec, folder, options, callback=callback, watch=watch)
            assert result is not None
            outcome = summarize_run(result)
    finally:
        if lock:
            lock.release()
    _check_finite(outcome["figures"])
    return outcome


def _check_finite(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics, numbers or lists with one per frame. ValueError if one of them is not finite."""
    for name, value in metrics.items():
        if not all(map(math.isfinite, value if isinstance(value, list) else [value])):
            raise ValueError(f"{name} is {value}")
    return metrics


def _reuse_stage1(job: Job, spec: Spec, folder: Path, wait: bool) -> BaseFileLock | None:
    """Copy a stage 1 that another point has finished.

    Returns:
        If the stage still has to be trained, the lock under which this process trains it for all points that share it.
    """
    if job.siblings is None or "latents" not in spec.stages:
        return None
    steps = spec.train.latents.steps  # type: ignore[union-attr]
    checkpoints = CheckpointManager(folder / "checkpoints").list_checkpoints()
    if any(checkpoint.stage != "latents" or checkpoint.step == steps for checkpoint in checkpoints):
        return None
    lock = acquire_lock(folder.parent / f".latents-{job.latents_hash}.lock", wait).lock
    for sibling in job.siblings:
        run = Path(job.store) / sibling
        is_finished = CheckpointManager(run / "checkpoints").path("latents", steps).is_dir()
        if is_finished and _copy_stage1(run, spec, folder, job.device):
            lock.release()
            return None
    return lock


def _copy_stage1(run: Path, spec: Spec, folder: Path, device: str) -> bool:
    """Write the last checkpoint of stage 1 of `spec` from that of another run; False if all of that run are damaged.

    Since the two specs may differ in their base, the networks that stage 1 does not train are initialised by `spec`.
    """
    try:
        checkpoint = CheckpointManager(run / "checkpoints").latest("latents")
    except ValueError:  # all are damaged
        return False
    if checkpoint is None or checkpoint.step != spec.train.latents.steps:  # type: ignore[union-attr]
        return False
    trained = tuple(f"model.{network}." for network in STAGES["latents"])
    model = compile_model(spec, device)
    if spec.init:
        later = [network for network in NETWORKS if network not in STAGES["latents"]]
        initialize(model, spec, open_model(spec.init.model), later)
    initial = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors = {name: tensor for name, tensor in initial.items() if not name.startswith(trained)}
    for name, tensor in checkpoint.read("").items():
        if name.startswith(trained) or not name.startswith("model."):
            tensors[name] = tensor
    metadata = {**checkpoint.metadata, "spec": spec.to_dict(), "spec_hash": spec.hash}
    write_text(folder / "spec.yaml", spec.to_yaml())  # marks the folder as a run
    (folder / "checkpoints").mkdir(exist_ok=True)
    state = TrainingState("latents", checkpoint.step, tensors, metadata)
    CheckpointManager(folder / "checkpoints").save(state)
    rows = [row for row in monitoring.read_rows(run / "metrics.jsonl") if row["stage"] == "latents"]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return True


class ProgressForwarder(TrainingCallback):
    """Forwards the steps of a run, releases the lock of a shared stage 1 when it is finished, reports to the pruner."""

    def __init__(self, forward: OnStep | None, lock: BaseFileLock | None, pruner: Pruner | None) -> None:
        self.forward, self.lock, self.pruner = forward, lock, pruner
        self.name, self.steps = "", 0

    def on_stage(self, stage: Stage, config: configs.StageConfig, start: int) -> None:
        self.name, self.steps = stage, config.steps
        if self.lock and stage != "latents":
            self.lock.release()
        self.on_step(start, None)

    def on_step(self, step: int, row: monitoring.LogRow | None) -> None:
        if self.forward:
            self.forward(self.name, step, self.steps, row)
        if self.pruner and self.name == "latents" and row:
            self.pruner.report(row)
