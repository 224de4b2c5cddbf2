"""A pilot: short trainings of stage 1 that find the loss factor, and the bias, of a rate, by successive halving.

The first rung trains every bias at a loss factor below and one above the spec's, the second every bias at the loss
factor that the first one proposes, and each further rung the better half of the biases, down to one. Better is a higher
PSNR at the target rate. A rung's runs have twice the images of those before; together they cost a share of a sweep over
`SWEEP_POINTS` loss factors.

A run has a share of the steps; warm-ups and averages are shortened alike. If that leaves fewer than `ENOUGH_STEPS`, its
batches are smaller instead, and the learning rate falls with the square root of their size.

The runs are points of an ordinary store: what to train next is a function of its rows, so that a pilot that was killed
continues. Not in the paper.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from ulzoo.files.atomic import write_text
from ulzoo.registry.cost.summary import summarize
from ulzoo.registry.spec.loading import SPECS, find_specs, spec_from_source
from ulzoo.registry.spec.sweep import Sweep
from ulzoo.registry.spec.yaml_source import dump_yaml, list_overrides, merge, parse_overrides, parse_yaml
from ulzoo.registry.sweeps.extrapolation import Proposal, ShortRun, propose
from ulzoo.registry.sweeps.jobs import LOSS_FACTOR, Job, JobOptions, plan_jobs, settings_of
from ulzoo.registry.sweeps.store import ResultRow, Store

SWEEP_POINTS = 5
"""Points of a full sweep, as many as Table 2 has loss factors."""
ENOUGH_STEPS = 1000
"""Steps of a run, if the full training has as many and batches can be smaller: with fewer, chance decides the rate."""
BRACKET = math.sqrt(2)  # the first loss factors are the spec's divided and multiplied by it
BIAS = "decoder.weighting.bias"


@dataclass(frozen=True)
class PilotOptions:
    """What a pilot looks for, and what it may cost.

    Attributes:
        bits: the rate to reach, in bits/pixel.
        biases: of the decoder's weighting; none: the spec's own.
        share: training FLOPs of stage 1, relative to those of `SWEEP_POINTS` full trainings.
        settings: changes of the spec, as `a.b=value`.
    """

    bits: float
    biases: tuple[float, ...] = ()
    share: float = 1 / SWEEP_POINTS
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rung:
    """Runs of one length: how many, and optimizer steps, batch size and training FLOPs of each."""

    runs: int
    steps: int
    batch_size: int
    flops: int

    @property
    def images(self) -> int:
        """Training images of each run."""
        return self.steps * self.batch_size


class Pilot:
    """The plan of a pilot.

    Args:
        spec_name: name or path of a spec.
        options: see `PilotOptions`.

    Raises:
        ValueError: the spec is invalid or has no stage 1 with a loss factor, or an option is out of range.
    """

    def __init__(self, spec_name: str, options: PilotOptions) -> None:
        overrides = parse_overrides(list_overrides(options.settings))
        self.spec_name, self.options = spec_name, options
        self.spec = spec = spec_from_source(SPECS.read(spec_name), overrides)
        self.settings = settings_of(list_overrides(options.settings))
        if not (math.isfinite(options.bits) and options.bits > 0):
            raise ValueError(f"--bits {options.bits:g}: a rate is a positive number of bits/pixel")
        if not 0 < options.share <= 1:
            raise ValueError(f"--share {options.share:g}: a share of a full sweep is above 0 and at most 1")
        weighting = (spec.to_dict()["decoder"] or {}).get("weighting") or {}
        if "latents" not in spec.stages or not {"loss_factor", "bias"} <= weighting.keys():
            raise spec.error("decoder.weighting", "a pilot varies loss_factor and bias, which this spec does not train")
        if ranges := [name for name in ("loss_factor", "bias") if isinstance(weighting[name], list | tuple)]:
            why = "a pilot finds one number, and a variable-rate model has a range"
            raise spec.error(f"decoder.weighting.{ranges[0]}", f"{why}: `ulzoo find --model` finds its loss factor")
        self.biases = tuple(dict.fromkeys(map(float, options.biases or (weighting["bias"],))))
        self.loss_factor = float(weighting["loss_factor"])
        assert spec.train.latents
        self.full = spec.train.latents
        self.summary = summarize(spec)
        self.rungs = self._rungs()
        self._planned: dict[tuple[Any, ...], list[Job]] = {}

    @property
    def flops(self) -> int:
        """Training FLOPs of the whole pilot."""
        return sum(rung.runs * rung.flops for rung in self.rungs)

    @property
    def images(self) -> int:
        """Training images of the whole pilot."""
        return sum(rung.runs * rung.images for rung in self.rungs)

    @property
    def share(self) -> float:
        """Training FLOPs relative to those of a full sweep."""
        return self.images / (SWEEP_POINTS * self.full_images)

    @property
    def full_images(self) -> int:
        """Training images of the full stage 1."""
        return self.full.steps * self.full.batch_size

    def plan(self, store: Store) -> tuple[Sweep, list[Job]]:
        """The points up to the first rung that is not finished, as a sweep and as jobs."""
        runs: list[ShortRun] = []
        points: dict[str, Any] = {}
        jobs: list[Job] = []
        for number, rung in enumerate(self.rungs):
            rung_points = {
                f"images{rung.images}_bias{bias:g}_loss_factor{factor:g}": {"set": self._settings(rung, bias, factor)}
                for bias, factor in self._candidates(number, runs)
            }
            if (key := (store.folder, *rung_points)) not in self._planned:
                self._planned[key] = plan_jobs(self._sweep(rung_points), store, JobOptions(stage="latents"))
            rung_jobs = self._planned[key]
            points, jobs = points | rung_points, [*jobs, *rung_jobs]
            rung_runs = self.finished_runs(rung_jobs, store.rows())
            if len(rung_runs) < len(rung_jobs):
                break
            runs += rung_runs
        return self._sweep(points), jobs

    def finished_runs(self, jobs: Iterable[Job], rows: Iterable[ResultRow]) -> list[ShortRun]:
        """The runs of jobs that are finished according to the rows of the store."""
        row_of = {row["spec_hash"]: row for row in rows}
        finished = [(job, row) for job in jobs if (row := row_of.get(job.spec_hash)) and job.is_trained(row)]
        return [
            ShortRun(
                bias=job.set[BIAS],
                loss_factor=job.set[LOSS_FACTOR],
                images=job.cost.training_images["latents"],
                bits=row["figures"]["bits_per_pixel"],
                bits_se=row["figures"].get("bits_per_pixel_se", 0.0),
                psnr_db=row["figures"]["psnr_db"],
            )
            for job, row in finished
        ]

    def conclude(self, runs: Sequence[ShortRun]) -> Proposal:
        """The proposal for the bias of the longest run. Raises ValueError, see `propose`."""
        longest = max(runs, key=lambda run: run.images)
        return self._propose([run for run in runs if run.bias == longest.bias])

    def write_spec(self, path: Path, proposal: Proposal) -> None:
        """Write the spec of a proposal, which extends the given one."""
        target = self.spec_name
        if target not in find_specs():
            target = os.path.join(".", os.path.relpath(target, path.parent))
        weighting = [f"{BIAS}={proposal.bias!r}", f"{LOSS_FACTOR}={proposal.loss_factor!r}"]
        changes = reduce(merge, parse_overrides([*self.options.settings, *weighting])).plain()
        content = {"extends": target, "name": f"{self.spec.name}_{self.options.bits:g}bits", **changes}
        expected = f"{proposal.bits:.4g} bits/pixel, {proposal.low:.4g} to {proposal.high:.4g}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(
            path, f"# found by a pilot of {self.share:.0%} of a sweep; expected: {expected}\n{dump_yaml(content)}"
        )

    def _rungs(self) -> list[Rung]:
        counts = [2 * len(self.biases)]
        while counts[-1] > 1:
            counts.append(counts[-1] // 2)
        parts = sum(count << number for number, count in enumerate(counts))
        shortest = self.options.share * SWEEP_POINTS / parts  # of the full training
        return [self._rung(count, min(shortest * 2**number, 1.0)) for number, count in enumerate(counts)]

    def _rung(self, runs: int, share: float) -> Rung:
        """Runs with at most a share of the full training's images."""
        full, part = self.full, self.full.accumulate
        steps = min(max(math.floor(share * full.steps + 1e-9), ENOUGH_STEPS), full.steps)
        batch_size = math.floor(share * self.full_images / steps / part + 1e-9) * part
        batch_size = min(max(batch_size, part), full.batch_size)
        steps = min(steps, max(math.floor(share * self.full_images / batch_size + 1e-9), 1))
        return Rung(runs, steps, batch_size, steps * batch_size * self.summary.training_flops("latents"))

    def _candidates(self, number: int, runs: Sequence[ShortRun]) -> list[tuple[float, float]]:
        """Bias and loss factor of the runs of a rung, given those of the rungs before."""
        if number == 0:
            ends = (self.loss_factor / BRACKET, self.loss_factor * BRACKET)
            return [(bias, float(f"{factor:.3g}")) for bias in self.biases for factor in ends]
        last = {run.bias for run in runs if run.images == self.rungs[number - 1].images}
        proposals = [self._propose([run for run in runs if run.bias == bias]) for bias in self.biases if bias in last]
        best = sorted(proposals, key=lambda proposal: -proposal.psnr_db)[: self.rungs[number].runs]
        return [(proposal.bias, proposal.loss_factor) for proposal in best]

    def _propose(self, runs: Sequence[ShortRun]) -> Proposal:
        return propose(runs, images=self.full_images, bits=self.options.bits)

    def _settings(self, rung: Rung, bias: float, factor: float) -> dict[str, Any]:
        """What a run changes in the spec: its weighting, and its length with everything that is relative to it."""
        full, share = self.full, rung.steps / self.full.steps
        changes: dict[str, Any] = {
            "steps": rung.steps,
            "batch_size": rung.batch_size,
            "lr": float(f"{full.lr * math.sqrt(rung.batch_size / full.batch_size):.4g}"),
            "warmup_steps": round(full.warmup_steps * share),
            "prior_warmup_steps": round(full.prior_warmup_steps * share),
            "ema": float(f"{full.ema ** (1 / share):.6g}"),
            "posthoc_ema": None,
            "milestone_every": None,
        }
        given = full.model_dump(mode="json")
        changed = {f"train.latents.{key}": value for key, value in changes.items() if value != given[key]}
        return {**changed, BIAS: bias, LOSS_FACTOR: factor}

    def _sweep(self, points: Mapping[str, Any]) -> Sweep:
        content = {
            "name": f"pilot_{self.spec.name}",
            "spec": self.spec_name,
            "set": self.settings,
            "columns": ["bits_per_pixel", "psnr_db"],
            "points": dict(points),
        }
        return Sweep.from_source(parse_yaml(dump_yaml(content), "pilot", lines=False))
