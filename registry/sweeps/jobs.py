"""The jobs of a sweep: every point and seed as plain data that can be sent to another process or machine.

An engine trains jobs: it has `run(jobs) -> Iterator[ResultRow]`, which yields a row for every job, in any order, once
the row is in the store. A job whose process dies is restarted from its last checkpoint up to `RETRIES` times.
"""

import copy
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal, cast

from ulzoo.model.contract import Stage
from ulzoo.registry.cost.plan import count_images
from ulzoo.registry.cost.summary import ModelSummary, summarize
from ulzoo.registry.runs.initialize import open_init
from ulzoo.registry.runs.rate_curve import spread_loss_factors
from ulzoo.registry.spec.conflicts import rate_range
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.schema import Spec, without_nulls
from ulzoo.registry.spec.sweep import Point, Sweep, point_word
from ulzoo.registry.spec.yaml_source import SpecError, list_overrides, parse_override
from ulzoo.registry.sweeps.distances import DistanceConfig, check_distances
from ulzoo.registry.sweeps.store import ResultRow, Store
from ulzoo.registry.zoo.catalogue import open_model
from ulzoo.runtime.processes import ProcessGroup

LOSS_FACTOR = "decoder.weighting.loss_factor"
RETRIES = 2


@dataclass(frozen=True)
class Cost:
    """The cost of a point by stage of training or by network. FLOPs are counted as in `ModelSummary`."""

    training_images: dict[str, int]
    training_flops: dict[str, int]
    gflops: dict[str, float]
    parameters: dict[str, int]

    @property
    def flops(self) -> int:
        return sum(self.training_flops.values())


@dataclass(frozen=True)
class Job:
    """A point of a sweep with its seed, which can be trained on any machine that has access to the sweep's folder.

    Attributes:
        store: the sweep's folder.
        folder: the run directory, relative to `store`.
        overrides: key path -> value of what the command sets for all points, after what the points set.
        stages: the stages to train; the spec may have more.
        siblings: run directories, relative to `store`, that may contain the same stage 1; None: do not share it.
        distances: what is measured besides rate and PSNR.
        loss_factors: where a variable-rate model is measured besides its default.
        prune: whether to stop it early when it falls behind, see registry/sweeps/pruning.py.
        planned: time of the plan; rows of failures before that time do not settle the job.
        data_paths: of the spec, which is plain data here.
        devices, threads: where to train, by one process per device, and the number of CPU threads of each; set by an
            engine.
    """

    store: str
    folder: str
    point: str
    series: str
    seed: int
    set: dict[str, Any]
    overrides: dict[str, Any]
    paper: dict[str, float]
    spec_name: str
    spec: dict[str, Any]
    spec_hash: str
    latents_hash: str
    stages: tuple[str, ...]
    cost: Cost
    siblings: tuple[str, ...] | None = None
    distances: DistanceConfig | None = None
    loss_factors: tuple[float, ...] = ()
    prune: bool = False
    planned: str = ""
    data_paths: dict[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu",)
    threads: int = 1

    @property
    def label(self) -> str:
        """Name for display: the point, and the seed if that is not 0."""
        return f"{self.point} seed {self.seed}" if self.seed else self.point

    @property
    def device(self) -> str:
        """The device of what a single process does, such as measuring distances."""
        return self.devices[0]

    @property
    def stage_to_train(self) -> Stage | Literal["all"]:
        """The stages, as `RunOptions` takes them."""
        every = self.stages == self.load_spec().stages
        return "all" if every else cast(Stage, self.stages[-1])

    def load_spec(self) -> Spec:
        """The spec, with the paths of its data."""
        return spec_from_dict(self.spec).with_data_paths(self.data_paths)

    def is_settled(self, row: ResultRow | None, retry_failed: bool = False) -> bool:
        """Whether the job need not run, given the row of its spec in the store."""
        if row is None:
            return False
        if row["status"] == "stopped":
            return self.prune and not retry_failed
        if row["status"] == "failed":
            return not retry_failed
        measured = self.distances is None or row.get("distances") == self.distances.identity()
        curve = tuple(entry["loss_factor"] for entry in row.get("curve") or ())
        return measured and curve == self.loss_factors and self.is_trained(row)

    def is_trained(self, row: ResultRow) -> bool:
        """Whether all stages of the job are trained according to a row."""
        return row["status"] == "done" and set(self.stages) <= set(row.get("stages", ()))


class SweepCallback:
    """Callback of an engine; the methods of this base class do nothing."""

    def started(self, job: Job) -> None:
        """Called when the training of a job starts."""

    def step(self, job: Job, stage: str, step: int, steps: int, images_per_second: float | None) -> None:
        """Called repeatedly with the current step of a job and the number of steps of its stage."""

    def note(self, job: Job, message: str) -> None:
        """Called with messages for the user."""


@dataclass(frozen=True)
class JobOptions:
    """How every point of a sweep is trained and measured.

    Attributes:
        seeds: number of seeds; the first is the spec's own, and every stage counts up from its own.
        stage: "latents" omits the stages after stage 1.
        reuse_latents: whether points may start from a stage 1 that another point has trained.
        distances: what to measure besides rate and PSNR.
        prune: whether to stop points early when they fall behind others.
        processes: number of processes that train a point together, each with a share of every batch.
    """

    seeds: int = 1
    stage: Literal["latents", "all"] = "all"
    reuse_latents: bool = False
    distances: DistanceConfig | None = None
    prune: bool = False
    processes: int = 1


def plan_jobs(
    sweep: Sweep, store: Store, options: JobOptions | None = None, *, overrides: Iterable[str] = ()
) -> list[Job]:
    """A job for every point and seed, the seeds of a point next to each other. Nothing is written.

    Args:
        overrides: settings for all points, as `a.b=value`.

    Raises:
        SpecError: the spec of a point is invalid, its parts do not fit, its batches cannot be shared by the processes,
            or the model of its `init` cannot be opened.
    """
    options, overrides = options or JobOptions(), list_overrides(overrides)
    resolved, settings = sweep.resolve(overrides), settings_of(overrides)
    line = _line_key([point for point, _ in resolved])
    existing = {path.name[-8:]: f"points/{path.name}" for path in store.points.glob("*-????????")}
    now, jobs = timestamp(), []
    open_once = cache(open_model)  # points may start from the same model; its SHA-256 is part of their hashes
    resolved = [(point, open_init(spec, open_once)[0]) for point, spec in resolved]
    curves = _loss_factors(sweep, [spec for _, spec in resolved])
    for (point, first), loss_factors in zip(resolved, curves, strict=True):
        stages = first.select_stages(options.stage)
        for stage in stages:
            first.check_batch_size(stage, ProcessGroup(world_size=options.processes))
        cost = _cost(first, summarize(first), stages)
        if options.distances:
            check_distances(options.distances, first, stages)
        for number in range(options.seeds):
            spec = _reseeded(first, number)
            safe_name = re.sub(r"[^A-Za-z0-9._-]+", "-", point.name).strip("-.")[:80]
            jobs.append(
                Job(
                    store=os.path.abspath(store.folder),
                    folder=existing.get(spec.hash[:8], f"points/{safe_name}-{spec.hash[:8]}"),
                    point=point.name,
                    series=_series(point, spec, line),
                    seed=getattr(spec.train, spec.stages[0]).seed,
                    set=json.loads(json.dumps(point.set)),
                    overrides=settings,
                    paper=point.paper,
                    spec_name=spec.name,
                    spec=spec.to_dict(),
                    spec_hash=spec.hash,
                    latents_hash=stage1_hash(spec),
                    stages=stages,
                    cost=cost,
                    distances=options.distances,
                    loss_factors=loss_factors,
                    prune=options.prune and "latents" in stages,
                    planned=now,
                    data_paths=first.data_paths,
                )
            )
    return _with_siblings(jobs, store) if options.reuse_latents else jobs


def unsettled_jobs(jobs: Iterable[Job], rows: Iterable[ResultRow], retry_failed: bool = False) -> list[Job]:
    """The jobs that still have to run, one for each spec."""
    row_of = {row["spec_hash"]: row for row in rows}
    unique: dict[str, Job] = {}
    for job in jobs:
        unique.setdefault(job.spec_hash, job)
    return [job for job in unique.values() if not job.is_settled(row_of.get(job.spec_hash), retry_failed)]


def flops_to_train(jobs: Iterable[Job]) -> Counter[str]:
    """Training FLOPs of all jobs by stage. A stage 1 that jobs share is counted once."""
    total, trained = Counter[str](), set[str]()
    for job in jobs:
        for stage, flops in job.cost.training_flops.items():
            if stage == "latents" and job.siblings is not None and job.latents_hash in trained:
                continue
            total[stage] += flops
        trained.add(job.latents_hash)
    return total


def check_data(jobs: Iterable[Job]) -> None:
    """Check that the data of every job exists, without reading it. SpecError if it does not."""
    checked = set()
    for job in jobs:
        data = json.dumps(job.spec["data"], sort_keys=True)
        if data not in checked and not job.spec["data"].get("download"):
            checked.add(data)
            spec = job.load_spec()
            try:
                count_images(spec)
            except ValueError as error:
                raise spec.error("data", str(error)) from None


def stage1_hash(spec: Spec) -> str:
    """SHA-256 (hex) of everything that stage 1 depends on: specs with the same hash train the same autoencoder."""
    content = spec.to_dict()
    for key in ("name", "description", "base", "final_decoder", "distilled", "sample"):
        content.pop(key, None)
    content["train"] = {
        key: value for key, value in content["train"].items() if key not in ("base", "decoder", "distill")
    }
    canonical = json.dumps(without_nulls(content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def timestamp() -> str:
    """The current time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def settings_of(overrides: Iterable[str]) -> dict[str, Any]:
    """`a.b=value` -> {"a.b": value}; of a key that is set twice the last value."""
    settings: dict[str, Any] = {}
    for text in overrides:
        keys = [key.strip() for key in text.partition("=")[0].split(".")]
        settings[".".join(keys)] = json.loads(json.dumps(parse_override(text).at(tuple(keys)).plain(), default=str))
    return settings


def _with_siblings(jobs: list[Job], store: Store) -> list[Job]:
    """The jobs with the folders, of jobs and of rows in the store, that have the same stage 1."""
    runs = [(job.latents_hash, job.folder) for job in jobs]
    for row in store.rows():
        if "latents_hash" in row and re.fullmatch(r"points/[\w-][\w.-]*", str(row.get("folder"))):
            runs.append((row["latents_hash"], row["folder"]))
    folders: dict[str, dict[str, None]] = {}
    for latents_hash, folder in runs:
        folders.setdefault(latents_hash, {})[folder] = None
    return [replace(job, siblings=tuple(f for f in folders[job.latents_hash] if f != job.folder)) for job in jobs]


def _line_key(points: list[Point]) -> str | None:
    """The key that varies along a line of a plot: the loss factor, else the key that most points set."""
    counts = Counter(key for point in points for key in point.set)
    return LOSS_FACTOR if LOSS_FACTOR in counts else next(iter(key for key, _ in counts.most_common(1)), None)


def _loss_factors(sweep: Sweep, specs: list[Spec]) -> list[tuple[float, ...]]:
    """Where the model of each spec is measured as a curve; () for models of one loss factor. Raises SpecError."""
    ranges = [rate_range(spec, "loss_factor") for spec in specs]
    given = sweep.loss_factors
    if given and not any(ranges):
        raise SpecError(f"{sweep.name}: loss_factors: no point has a range of {LOSS_FACTOR}")
    for spec, ends in zip(specs, ranges, strict=True):
        if given and ends and not ends[0] <= given[0] < given[-1] <= ends[1]:
            listed = ", ".join(f"{factor:g}" for factor in given)
            raise spec.error(LOSS_FACTOR, f"does not contain all of the sweep's loss_factors, {listed}")
    return [() if ends is None else given or spread_loss_factors(ends) for ends in ranges]


def _series(point: Point, spec: Spec, line: str | None) -> str:
    """The names of the spec and of the point's settings except `line`; the point's name if a setting is a mapping.

    A variable-rate model is a series of its own, with its range of loss factors.
    """
    others = {key: value for key, value in point.set.items() if key != line}
    if any(isinstance(value, Mapping) for value in others.values()):
        return f"{spec.name} {point.name}"
    words = [f"{key.rpartition('.')[2]}={point_word(value, key)}" for key, value in others.items()]
    if ends := rate_range(spec, "loss_factor"):
        words.insert(0, "loss_factor={:g}-{:g}".format(*ends))
    return " ".join([spec.name, *words])


def _reseeded(spec: Spec, number: int) -> Spec:
    """The spec with `number` added to the seed of every stage."""
    if number == 0:
        return spec
    content = copy.deepcopy(spec.to_dict())
    for stage in spec.stages:
        content["train"][stage]["seed"] += number
    return spec_from_dict(content)


def _cost(spec: Spec, summary: ModelSummary, stages: Iterable[Any]) -> Cost:
    configs = {stage: getattr(spec.train, stage) for stage in stages}
    images = {stage: config.steps * config.batch_size for stage, config in configs.items()}
    return Cost(
        training_images=images,
        training_flops={stage: count * summary.training_flops(stage) for stage, count in images.items()},
        gflops={name: flops / 1e9 for name, flops in summary.flops.items()},
        parameters=dict(summary.parameters),
    )
