"""The loss factor at which a variable-rate model has a rate or a PSNR on validation data."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from scipy.optimize import brentq

from ulzoo.data import in_order
from ulzoo.evaluation import measure
from ulzoo.evaluation.rate_distortion import rate
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.runs.evaluate import Evaluation
from ulzoo.registry.runs.rate_curve import measure_curve

UNITS = {"bits_per_pixel": "bits/pixel", "psnr_db": "dB PSNR"}
TOLERANCE = 1e-3  # of the logarithm of the loss factor
ProgressCallback = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RateSearch:
    """A loss factor, and what was measured.

    Attributes:
        metric, target: which metric should have which value.
        low, high: its values at the ends of the range of loss factors.
        loss_factor: where it is reached.
        results: what `ulzoo.evaluation.measure` returns there.
    """

    metric: str
    target: float
    low: float
    high: float
    loss_factor: float
    results: dict[str, Any]


def find_loss_factor(
    model: UnifiedLatents,
    evaluation: Evaluation,
    *,
    bits: float | None = None,
    psnr: float | None = None,
    on_progress: ProgressCallback = lambda phase, done, total: None,
) -> RateSearch:
    """Bisect the range of loss factors, with interpolation (Brent's method), for a mean rate or PSNR.

    The noise of an example is the same at all loss factors, and that of `ulzoo evaluate` on the same examples.

    Args:
        model: a variable-rate model.
        evaluation: the examples, and how they are measured.
        bits, psnr: the target, one of the two: bits/pixel, or dB.
        on_progress: called with the loss factor, the number of examples processed so far, and their total.

    Raises:
        ValueError: the model has one loss factor; not exactly one finite target; or it is outside of what the range of
            loss factors reaches.
    """
    if "loss_factor" not in model.rate_range:
        raise ValueError("this model was trained at one loss factor, so it has one rate")
    if (bits is None) == (psnr is None):
        raise ValueError("give one target: a PSNR (--psnr) or a rate (--bits)")
    metric, target = ("bits_per_pixel", bits) if bits is not None else ("psnr_db", psnr)
    if target is None or not math.isfinite(target):
        raise ValueError(f"the target is not a finite number: {target}")
    source, config = evaluation.source, evaluation.config

    def complete(factor: float) -> dict[str, Any]:
        return measure(model, source, config, on_progress=_phase(on_progress, factor))

    def only_rate(factor: float) -> dict[str, Any]:
        return {"figures": {metric: mean_rate(model, evaluation, _phase(on_progress, factor))}}

    @cache
    def value(log_factor: float) -> float:
        factors = (min(max(math.exp(log_factor), low_factor), high_factor),)
        return measure_curve(model, factors, only_rate if bits is not None else complete)[0]["figures"][metric]

    low_factor, high_factor = model.rate_range["loss_factor"]
    ends = math.log(low_factor), math.log(high_factor)
    low, high = map(value, ends)
    reached = min(low, high), max(low, high)
    if not reached[0] <= target <= reached[1]:
        raise ValueError(
            f"{target:g} {UNITS[metric]} is outside of what the loss factors {low_factor:g} to {high_factor:g} reach, "
            f"{reached[0]:.4g} to {reached[1]:.4g}"
        )
    root = math.exp(brentq(lambda log_factor: value(log_factor) - target, *ends, xtol=TOLERANCE))
    factor = min(max(float(f"{root:.4g}"), low_factor), high_factor)
    results = measure_curve(model, (factor,), complete)[0]
    return RateSearch(metric, target, low, high, factor, results)


@torch.no_grad()
def mean_rate(
    model: UnifiedLatents, evaluation: Evaluation, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> float:
    """The mean rate by the prior in bits/pixel at the model's default loss factor, as an evaluation measures it."""
    source, config = evaluation.source, evaluation.config
    total, done, bits = config.count(source), 0, 0.0
    for batch in in_order(source, config.examples_per_batch(video=model.contract.video)):
        examples = range(batch["images"] - len(batch["x"]), batch["images"])
        bits += rate(model, batch, examples, config, network="prior").double().sum().item()
        done = batch["images"]
        on_progress(done, total)
    return bits / done / model.contract.pixels


def _phase(on_progress: ProgressCallback, factor: float) -> Callable[[int, int], None]:
    return lambda done, total: on_progress(f"loss factor {factor:.4g}", done, total)
