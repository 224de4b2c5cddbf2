"""The rate-distortion curve of a variable-rate model: what is measured of it, at several loss factors."""

from collections.abc import Callable, Iterable
from typing import Any

from ulzoo.evaluation import evaluate
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.runs.evaluate import Evaluation
from ulzoo.registry.runs.inference import optimize_for_inference
from ulzoo.runtime.processes import SINGLE_PROCESS, ProcessGroup

CURVE_POINTS = 5


def measure_curve(
    model: UnifiedLatents, loss_factors: Iterable[float], measure: Callable[[float], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Measure a model at each loss factor, which is the default of all its methods meanwhile.

    Args:
        model: a variable-rate model.
        loss_factors: within `model.rate_range`.
        measure: called with each loss factor.

    Returns:
        {"loss_factor", **what `measure` returned} for each loss factor.

    Raises:
        ValueError: a loss factor is outside the range, or the model has none.
    """
    curve, before = [], model.default_rate
    try:
        for factor in loss_factors:
            model.set_rate(loss_factor=factor)
            curve.append({"loss_factor": factor, **measure(factor)})
    finally:
        model.set_rate(**before)
    return curve


def evaluate_curve(
    evaluation: Evaluation,
    model: UnifiedLatents,
    loss_factors: Iterable[float],
    *,
    processes: ProcessGroup = SINGLE_PROCESS,
    on_progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> list[dict[str, Any]]:
    """`measure_curve` of what `Evaluation.run` returns. The model is prepared for inference in place."""
    optimize_for_inference(model, precision=evaluation.config.precision, compile=evaluation.compile)

    def measure(factor: float) -> dict[str, Any]:
        def report(phase: str, done: int, total: int) -> None:
            on_progress(f"loss factor {factor:g}, {phase}", done, total)

        data = evaluation.source, evaluation.config, evaluation.frechet
        return evaluate(model, *data, processes=processes, on_progress=report)

    return measure_curve(model, loss_factors, measure)


def spread_loss_factors(ends: tuple[float, float]) -> tuple[float, ...]:
    """The default loss factors of a curve: both ends of a range, and three between in equal ratios, of four digits."""
    low, high = ends
    between = (low * (high / low) ** (i / (CURVE_POINTS - 1)) for i in range(1, CURVE_POINTS - 1))
    return (low, *(float(f"{factor:.4g}") for factor in between), high)
