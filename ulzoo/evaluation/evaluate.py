"""All metrics of a model, with their protocol and hashes."""

from collections.abc import Callable
from typing import Any

from ulzoo.data import Source
from ulzoo.evaluation.cautions import find_cautions
from ulzoo.evaluation.config import EvaluationConfig, FrechetConfig
from ulzoo.evaluation.execution import ProgressCallback, ProgressCounter
from ulzoo.evaluation.frame_prediction import frame_prediction
from ulzoo.evaluation.image_distances import image_distances
from ulzoo.evaluation.protocol import PARTS, figure_hashes
from ulzoo.evaluation.rate_distortion import rate_distortion
from ulzoo.evaluation.sample_file import check_destinations
from ulzoo.evaluation.video_distances import generation_distance
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.runtime.processes import SINGLE_PROCESS, ProcessGroup


def evaluate(
    model: UnifiedLatents,
    source: Source,
    config: EvaluationConfig,
    frechet: FrechetConfig | None = None,
    *,
    processes: ProcessGroup = SINGLE_PROCESS,
    on_progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> dict[str, Any]:
    """Everything that `measure` measures and, if asked for, distances between sets of images or clips.

    Args:
        model: in eval mode.
        source: the images or clips.
        config: the settings that all metrics share.
        frechet: which sets are compared; None for no distance.
        processes: processes that share the distances of images; the main one measures everything else.
        on_progress: called with the phase ("evaluating", "comparing" or "generating"), the number of examples that it
            has processed so far, and their total.

    Returns:
        The result of `measure`, with the additional metrics and, as parts of the protocol, "reconstructions" and
        "generated" for images or "frechet" for clips; "not_written", if files could not be written, as in
        `image_distances`; {} in all processes but the main one.

    Raises:
        ValueError: the sets cannot be compared, or there can be no file at a path that is to be written.
    """

    def phase(name: str) -> ProgressCallback:
        return lambda done, total: on_progress(name, done, total)

    if frechet is not None:
        check_destinations((frechet.save_samples, frechet.save_statistics))
    results = measure(model, source, config, on_progress=phase("evaluating")) if processes.is_main else {}
    distances: dict[str, Any] = {"figures": {}, "protocol": {}}
    if frechet is not None and model.contract.video:
        distance = generation_distance(model, config, frechet, on_progress=phase("generating"))
        distances = {"figures": distance["figures"], "protocol": {"frechet": distance["protocol"]}}
    elif frechet is not None:
        distances = image_distances(model, source, config, frechet, processes=processes, on_progress=phase("comparing"))
    if not processes.is_main:
        return {}
    results["figures"] |= distances["figures"]
    protocol = results["protocol"]
    protocol |= distances["protocol"]
    if unwritten := distances.get("not_written"):
        results["not_written"] = unwritten
    if config.precision != "fp32":
        for part in (protocol, *(protocol[name] for name in PARTS if name in protocol)):
            part["precision"] = config.precision
    results["hashes"] = figure_hashes(results)
    return results


def measure(
    model: UnifiedLatents,
    source: Source,
    config: EvaluationConfig,
    *,
    on_progress: ProgressCallback = lambda done, total: None,
) -> dict[str, Any]:
    """Rate and distortion and, for a model that continues context frames, frame prediction.

    Args:
        model: in eval mode.
        source: the images or clips.
        config: the settings that all metrics share.
        on_progress: called with the number of images or clips processed so far and their total; with frame prediction,
            each clip counts twice.

    Returns:
        The result of `rate_distortion`, with the metrics of `frame_prediction`, its protocol as part
        "frame_prediction", and "hashes": for each metric the hash of its protocol. Metrics with equal hashes are
        comparable. "cautions", if there are any, are those of `find_cautions`.
    """
    predicts = model.contract.context_frames > 0 and model.base is not None
    count = config.count(source)
    counter = ProgressCounter(2 * count if predicts else count, on_progress)
    results = rate_distortion(model, source, config, on_progress=counter.phase(count))
    if predicts:
        prediction = frame_prediction(model, source, config, on_progress=counter.phase(count))
        results["figures"] |= prediction["figures"]
        results["protocol"]["frame_prediction"] = prediction["protocol"]
    results["hashes"] = figure_hashes(results)
    if cautions := find_cautions(results["figures"]):
        results["cautions"] = cautions
    return results
