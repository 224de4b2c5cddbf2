"""What a sweep has to train: every point and seed as a job, plain data that goes to another process or machine."""

import copy
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ulzoo.registry.compile import compile_model
from ulzoo.registry.cost.plan import count_images
from ulzoo.registry.cost.summary import ModelSummary, summarize
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.schema import Spec, without_nulls
from ulzoo.registry.spec.sweep import Point, Sweep, point_word
from ulzoo.registry.sweeps.distances import DistanceConfig, check_distances
from ulzoo.registry.sweeps.store import ResultRow, Store

LOSS_FACTOR = "decoder.weighting.loss_factor"


@dataclass(frozen=True)
class Cost:
    """What a point costs, by stage of training or by network; FLOPs as `ModelSummary` counts them."""

    training_images: dict[str, int]
    training_flops: dict[str, int]
    gflops: dict[str, float]
    parameters: dict[str, int]

    @property
    def flops(self) -> int:
        return sum(self.training_flops.values())


@dataclass(frozen=True)
class Job:
    """A point of a sweep with its seed, ready to be trained anywhere that sees the sweep's folder.

    Attributes:
        store: the sweep's folder.
        folder: the run directory, relative to it.
        stages: the stages to train; the spec may have more.
        siblings: run directories, relative to `store`, that may hold the same stage 1; None: do not look.
        distances: what is measured besides rate and PSNR.
        prune: stop it early where others are ahead of it, see registry/sweeps/pruning.py.
        planned: when; what is older may be done again.
        device, threads: where, and with how many threads on the CPU; an engine fills them in.
    """

    store: str
    folder: str
    point: str
    series: str
    seed: int
    set: dict[str, Any]
    paper: dict[str, float]
    spec_name: str
    spec: dict[str, Any]
    spec_hash: str
    latents_hash: str
    stages: tuple[str, ...]
    cost: Cost
    siblings: tuple[str, ...] | None = None
    distances: DistanceConfig | None = None
    prune: bool = False
    planned: str = ""
    device: str = "cpu"
    threads: int = 1

    @property
    def label(self) -> str:
        """What a person calls it: the point, and the seed if that is not 0."""
        return f"{self.point} seed {self.seed}" if self.seed else self.point

    def settled(self, row: ResultRow | None, retry_failed: bool = False) -> bool:
        """Whether a row makes it unnecessary to train."""
        if row is None:
            return False
        if row["status"] == "stopped":
            return self.prune and not retry_failed
        if row["status"] == "failed":
            return not retry_failed
        measured = self.distances is None or row.get("distances") == self.distances.identity()
        return measured and self.trained(row)

    def trained(self, row: ResultRow) -> bool:
        """Whether a row says that all the stages are trained."""
        return row["status"] == "done" and set(self.stages) <= set(row.get("stages", ()))


def plan_jobs(
    sweep: Sweep,
    store: Store,
    *,
    overrides: Iterable[str] = (),
    seeds: int = 1,
    stage: str = "all",
    reuse_latents: bool = False,
    distances: DistanceConfig | None = None,
    prune: bool = False,
) -> list[Job]:
    """A job of every point and seed, the seeds of a point together; nothing is written.

    Args:
        seeds: how many; the spec's own is the first and every stage counts up from its own.
        stage: "latents" leaves out what comes after stage 1.
        reuse_latents: points may begin with a stage 1 that another one trained.
        distances: what to measure of every point besides rate and PSNR.
        prune: stop points early where others are ahead of them.

    Raises:
        SpecError: a point's spec is wrong, or its parts do not fit.
    """
    resolved = sweep.resolve(overrides)
    line = _line_key([point for point, _ in resolved])
    known = {path.name[-8:]: f"points/{path.name}" for path in store.points.glob("*-????????")}
    now, summaries, jobs = timestamp(), dict[str, ModelSummary](), []
    for point, first in resolved:
        stages = first.select_stages(stage)
        compile_model(first, "meta", pretrained=False)
        if distances:
            check_distances(distances, first, stages)
        if (shape := _shape_key(first)) not in summaries:
            summaries[shape] = summarize(first)
        cost = _cost(first, summaries[shape], stages)
        for number in range(seeds):
            spec = _reseeded(first, number)
            safe = re.sub(r"[^A-Za-z0-9._-]+", "-", point.name).strip("-.")[:80]
            jobs.append(
                Job(
                    store=os.path.abspath(store.folder),
                    folder=known.get(spec.hash[:8], f"points/{safe}-{spec.hash[:8]}"),
                    point=point.name,
                    series=_series(point, spec.name, line),
                    seed=getattr(spec.train, spec.stages[0]).seed,
                    set=json.loads(json.dumps(point.set)),
                    paper=point.paper,
                    spec_name=spec.name,
                    spec=spec.to_dict(),
                    spec_hash=spec.hash,
                    latents_hash=stage1_hash(spec),
                    stages=stages,
                    cost=cost,
                    distances=distances,
                    prune=prune and "latents" in stages,
                    planned=now,
                )
            )
    return _with_siblings(jobs, store) if reuse_latents else jobs


def to_run(jobs: Iterable[Job], rows: Iterable[ResultRow], retry_failed: bool = False) -> list[Job]:
    """Those that no row makes unnecessary, every spec once."""
    settled = {row["spec_hash"]: row for row in rows}
    once: dict[str, Job] = {}
    for job in jobs:
        once.setdefault(job.spec_hash, job)
    return [job for job in once.values() if not job.settled(settled.get(job.spec_hash), retry_failed)]


def flops_to_train(jobs: Iterable[Job]) -> Counter[str]:
    """Training FLOPs of all jobs by stage; of a stage 1 that they share once."""
    total, trained = Counter[str](), set[str]()
    for job in jobs:
        for stage, flops in job.cost.training_flops.items():
            if stage == "latents" and job.siblings is not None and job.latents_hash in trained:
                continue
            total[stage] += flops
        trained.add(job.latents_hash)
    return total


def check_data(jobs: Iterable[Job]) -> None:
    """Look for the data of every job, without reading it. SpecError if it is not at hand."""
    seen = set()
    for job in jobs:
        if (data := json.dumps(job.spec["data"], sort_keys=True)) not in seen and not job.spec["data"].get("download"):
            seen.add(data)
            spec = spec_from_dict(job.spec)
            try:
                count_images(spec)
            except ValueError as error:
                raise spec.error("data", str(error)) from None


def stage1_hash(spec: Spec) -> str:
    """SHA-256 in hex of all that stage 1 depends on: specs that agree in it train the same autoencoder."""
    content = spec.to_dict()
    for key in ("name", "description", "base", "final_decoder", "sample"):
        del content[key]
    content["train"] = {key: value for key, value in content["train"].items() if key not in ("base", "decoder")}
    canonical = json.dumps(without_nulls(content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def timestamp() -> str:
    """Now, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _with_siblings(jobs: list[Job], store: Store) -> list[Job]:
    folders: dict[str, dict[str, None]] = {}
    for hash, folder in [(job.latents_hash, job.folder) for job in jobs] + [
        (row["latents_hash"], row["folder"])
        for row in store.rows()
        if "latents_hash" in row and re.fullmatch(r"points/[\w-][\w.-]*", str(row.get("folder")))
    ]:
        folders.setdefault(hash, {})[folder] = None
    return [replace(job, siblings=tuple(f for f in folders[job.latents_hash] if f != job.folder)) for job in jobs]


def _line_key(points: list[Point]) -> str | None:
    """The key along which a line of a plot runs: the loss factor, else the one that most points set."""
    counts = Counter(key for point in points for key in point.set)
    return LOSS_FACTOR if LOSS_FACTOR in counts else next(iter(key for key, _ in counts.most_common(1)), None)


def _series(point: Point, name: str, line: str | None) -> str:
    """The name of the spec and what the point sets but for the key along the line; its own name if that is much."""
    others = {key: value for key, value in point.set.items() if key != line}
    if any(isinstance(value, Mapping) for value in others.values()):
        return f"{name} {point.name}"
    return " ".join([name, *(f"{key.rpartition('.')[2]}={point_word(value)}" for key, value in others.items())])


def _reseeded(spec: Spec, number: int) -> Spec:
    """The spec with `number` added to the seed of every stage."""
    if number == 0:
        return spec
    content = copy.deepcopy(spec.to_dict())
    for stage in spec.stages:
        content["train"][stage]["seed"] += number
    return spec_from_dict(content)


def _shape_key(spec: Spec) -> str:
    """Specs that agree in it have networks of the same parameters and FLOPs."""

    def pruned(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: pruned(item) for key, item in value.items() if key not in ("weighting", "schedule")}

    content = pruned(spec.to_dict())
    for key in ("name", "description", "sample", "train"):
        del content[key]
    return json.dumps([content, spec.stages], sort_keys=True)


def _cost(spec: Spec, summary: ModelSummary, stages: Iterable[Any]) -> Cost:
    configs = {stage: getattr(spec.train, stage) for stage in stages}
    images = {stage: config.steps * config.batch_size for stage, config in configs.items()}
    return Cost(
        training_images=images,
        training_flops={stage: count * summary.training_flops(stage) for stage, count in images.items()},
        gflops={name: flops / 1e9 for name, flops in summary.flops.items()},
        parameters=dict(summary.parameters),
    )
