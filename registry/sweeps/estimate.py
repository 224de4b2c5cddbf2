"""Estimated training time of a sweep, from existing rows or else from a few real training steps on noise."""

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ulzoo.media.captions import Text
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import Stage
from ulzoo.model.losses import StageLoss
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
from ulzoo.training.parametrisation import trained_networks

STEPS = 3
MAX_STEP_FLOPS = {"cpu": 5e11, "cuda": 1e14}
"""FLOPs of a trial step. The batch is reduced to fit; if a single example exceeds them, there is no trial."""
MAX_STEP_BYTES = {"cpu": 4 << 30, "cuda": 16 << 30}


@dataclass(frozen=True)
class Estimate:
    """Seconds until all jobs are trained, and what the estimate is based on."""

    seconds: float
    source: str


def estimate(jobs: Sequence[Job], rows: Iterable[ResultRow], workers: int, device: str) -> Estimate | None:
    """Estimate the time to train jobs; None if the networks are too large for trial steps on the device.

    Args:
        jobs: the jobs that will run.
        rows: of the store. If there are finished points, their median time per FLOP is used.
        workers: number of jobs that run at the same time.
        device: where the jobs run.
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
    """Measured seconds per FLOP of each stage; None if one is too large for the device."""
    spec = spec_from_dict(job.spec)
    summary, torch_device = summarize(spec), torch.device(device)
    sizes = {}
    for stage in spec.select_stages("all"):
        if stage not in job.stages:
            continue
        config: configs.StageConfig = getattr(spec.train, stage)
        flops = summary.training_flops(stage)
        size = min(config.batch_size // config.accumulate, int(MAX_STEP_FLOPS.get(torch_device.type, 5e11) // flops))
        if size == 0:
            return None
        memory = step_memory(spec, stage, torch_device, bf16=False)
        if memory.peak(size) > MAX_STEP_BYTES.get(torch_device.type, 4 << 30):
            return None
        sizes[stage] = size
    return {stage: _time_steps(spec, summary, stage, size, torch_device) for stage, size in sizes.items()}


def _time_steps(spec: Spec, summary: ModelSummary, stage: Stage, size: int, device: torch.device) -> float:
    """Seconds per FLOP of a stage's training steps on `size` examples of noise, without the first step."""
    model, config = compile_model(spec, device, pretrained=False), getattr(spec.train, stage)
    parameters = model.prepare(stage)
    networks = trained_networks(model, stage)
    optimizer, average = build_optimizer(networks, config), build_ema(networks, config)
    contract = model.contract
    x = torch.rand(size, *contract.shape, device=device) * 2 - 1
    text = None
    if contract.text_width:
        tokens = torch.zeros(size, contract.text_tokens, contract.text_width, device=device)
        text = Text(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=device))
    stage_loss, started = StageLoss(model, stage), 0.0
    for step in range(STEPS + 1):
        if step == 1:
            started = time.perf_counter()
        with autocast(config.precision, device):
            loss = stage_loss(x, Conditions(text=text))["loss"]
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(networks, step)
        norm.item()
    return (time.perf_counter() - started) / (STEPS * size * summary.training_flops(stage))
