"""How long the points of a sweep will take: from rows that are there, else from a few real steps on noise."""

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ulzoo.media.captions import Text
from ulzoo.model.contract import STAGES, Stage
from ulzoo.model.losses import stage_loss
from ulzoo.registry.compile import compile_model
from ulzoo.registry.cost.memory import step_memory
from ulzoo.registry.cost.summary import ModelSummary, summarize
from ulzoo.registry.spec.loading import spec_from_dict
from ulzoo.registry.spec.schema import Spec
from ulzoo.registry.sweeps.jobs import Job, flops_to_train
from ulzoo.registry.sweeps.store import ResultRow
from ulzoo.runtime.devices import autocast
from ulzoo.training import config as configs
from ulzoo.training.optimizers import build_ema, build_optimizer

STEPS = 3
LARGEST_STEP = {"cpu": 5e11, "cuda": 1e14}
"""FLOPs of a step that is worth a trial; of a larger batch some examples are tried, of a larger example none."""
LARGEST_BYTES = {"cpu": 4 << 30, "cuda": 16 << 30}


@dataclass(frozen=True)
class Estimate:
    """Seconds of all jobs one after another, shared out over `workers`, and what that was reckoned from."""

    seconds: float
    source: str


def estimate(jobs: Sequence[Job], rows: Iterable[ResultRow], workers: int, device: str) -> Estimate | None:
    """What is left will take about this long; None if nothing can be said.

    Args:
        jobs: those that will run.
        rows: of the store; the seconds that its finished points took for their FLOPs count most.
    """
    per_flop = [row["seconds"] / sum(row["training_flops"].values()) for row in rows if row["status"] == "done"]
    share = min(workers, len(jobs))
    if per_flop and share:
        seconds = statistics.median(per_flop) * flops_to_train(jobs).total() / share
        return Estimate(seconds, f"from {len(per_flop)} finished points in the store")
    measured = _seconds_per_flop(jobs[0], device) if jobs else None
    if measured is None:
        return None
    seconds = sum(measured[stage] * flops for stage, flops in flops_to_train(jobs).items()) / share
    return Estimate(seconds, f"from {STEPS} steps on noise of {jobs[0].point}'s networks; training only")


def _seconds_per_flop(job: Job, device: str) -> dict[str, float] | None:
    """Of each stage, measured; None if one is too large for this device."""
    spec = spec_from_dict(job.spec)
    summary, chosen = summarize(spec), torch.device(device)
    sizes = {}
    for stage in spec.select_stages("all"):
        if stage not in job.stages:
            continue
        config: configs.StageConfig = getattr(spec.train, stage)
        flops = summary.training_flops(stage)
        size = min(config.batch_size // config.accumulate, int(LARGEST_STEP.get(chosen.type, 5e11) // flops))
        if size == 0:
            return None
        if step_memory(spec, stage, chosen, bf16=False).peak(size) > LARGEST_BYTES.get(chosen.type, 4 << 30):
            return None
        sizes[stage] = size
    return {stage: _time(spec, summary, stage, size, chosen) for stage, size in sizes.items()}


def _time(spec: Spec, summary: ModelSummary, stage: Stage, size: int, device: torch.device) -> float:
    """Seconds for each FLOP of a stage's training steps on `size` examples of noise; the first step is not counted."""
    model, config = compile_model(spec, device, pretrained=False), getattr(spec.train, stage)
    parameters = model.prepare(stage)
    networks = nn.ModuleDict({name: getattr(model, name) for name in STAGES[stage]})
    optimizer, average = build_optimizer(networks, config), build_ema(networks, config)
    contract = model.contract
    x = torch.rand(size, *contract.shape, device=device) * 2 - 1
    text = None
    if contract.text_width:
        tokens = torch.zeros(size, contract.text_tokens, contract.text_width, device=device)
        text = Text(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=device))
    started = 0.0
    for step in range(STEPS + 1):
        if step == 1:
            started = time.perf_counter()
        with autocast(config.precision, device):
            loss = stage_loss(model, stage, x, text=text)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(networks, step)
        norm.item()
    return (time.perf_counter() - started) / (STEPS * size * summary.training_flops(stage))
