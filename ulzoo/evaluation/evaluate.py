"""All metrics of a model, with their protocol and hashes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ulzoo.data import Source
from ulzoo.evaluation.cautions import find_cautions
from ulzoo.evaluation.config import EvaluationConfig, FrechetConfig
from ulzoo.evaluation.execution import (
    DEFAULT_EXECUTION,
    Execution,
    ProgressCallback,
    ProgressCounter,
    unfinished_folder,
)
from ulzoo.evaluation.feature_metrics import FeatureCollector
from ulzoo.evaluation.frame_prediction import frame_prediction
from ulzoo.evaluation.image_distances import feature_collector, image_distances
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
        processes: processes that share all of it. Rate, distortion and distances are those of one reconstruction of
            each image. An interrupted evaluation resumes from the partial results that it saved in torch's cache
            (TORCH_HOME).
        on_progress: called with the phase ("evaluating", "comparing" or "generating"), the number of examples that it
            has processed so far, and their total.

    Returns:
        The result of `measure`, with the additional metrics and cautions and, as parts of the protocol,
        "reconstructions" and "generated" for images or "frechet" for clips; "not_written", if files could not be
        written, as in `image_distances`; {} in all processes but the main one.

    Raises:
        ValueError: the sets cannot be compared, or there can be no file at a path that is to be written.
    """

    def phase(name: str) -> ProgressCallback:
        return lambda done, total: on_progress(name, done, total)

    collector, execution = None, Execution(processes, unfinished_folder())
    if frechet is not None:
        check_destinations((frechet.save_samples, frechet.save_statistics))
        collector = None if model.contract.video else feature_collector(frechet, processes)
    results = measure(model, source, config, collector=collector, execution=execution, on_progress=phase("evaluating"))
    distances: dict[str, Any] = {"figures": {}, "protocol": {}}
    if frechet is not None and collector is not None:
        distances = image_distances(
            model,
            source,
            config,
            frechet,
            reconstructions=collector,
            processes=processes,
            on_progress=phase("comparing"),
        )
    elif frechet is not None:
        on_clips = phase("generating")
        distances = generation_distance(model, config, frechet, execution=execution, on_progress=on_clips)
        distances["protocol"] = {"frechet": distances.get("protocol")}
    execution.finish()
    if not processes.is_main:
        return {}
    results["figures"] |= distances["figures"]
    protocol = results["protocol"]
    protocol |= distances["protocol"]
    if cautions := [*results.get("cautions", []), *distances.get("cautions", [])]:
        results["cautions"] = cautions
    if unwritten := distances.get("not_written"):
        results["not_written"] = unwritten
    _record_shared_fields(results, config, model)
    return results


def measure(
    model: UnifiedLatents,
    source: Source,
    config: EvaluationConfig,
    *,
    collector: FeatureCollector | None = None,
    execution: Execution = DEFAULT_EXECUTION,
    on_progress: ProgressCallback = lambda done, total: None,
) -> dict[str, Any]:
    """Rate and distortion and, for a model that continues context frames, frame prediction.

    Args:
        model: in eval mode.
        source: the images or clips.
        config: the settings that all metrics share.
        collector: collects the features of the reconstructions, for `image_distances`; None for no features.
        execution: processes and resumption; its own progress callback is not called. The caller removes the partial
            results (`Execution.finish`).
        on_progress: called with the number of images or clips processed so far and their total; with frame prediction,
            each clip counts twice.

    Returns:
        The result of `rate_distortion`, with the metrics of `frame_prediction`, its protocol as part
        "frame_prediction", and "hashes": for each metric the hash of its protocol. Metrics with equal hashes are
        comparable. "cautions", if there are any, are those of `find_cautions`. {} in all processes but the main one.
    """
    predicts = model.contract.context_frames > 0 and model.base is not None and model.trained_at_default("base")
    count = config.count(source)
    counter = ProgressCounter(2 * count if predicts else count, on_progress)
    shared = replace(execution, on_progress=counter.phase(count))
    results = rate_distortion(model, source, config, collector=collector, execution=shared)
    prediction: dict[str, Any] = {}
    if predicts:
        shared = replace(execution, on_progress=counter.phase(count))
        prediction = frame_prediction(model, source, config, execution=shared)
    if not execution.processes.is_main:
        return {}
    if prediction:
        results["figures"] |= prediction["figures"]
        results["protocol"]["frame_prediction"] = prediction["protocol"]
    _record_shared_fields(results, config, model)
    if cautions := find_cautions(results["figures"]):
        results["cautions"] = cautions
    return results


def _record_shared_fields(results: dict[str, Any], config: EvaluationConfig, model: UnifiedLatents) -> None:
    """Add the fields that all metrics share to all parts of the protocol, and the hashes of the metrics' protocols."""
    protocol = results["protocol"]
    for part in (protocol, *(protocol[name] for name in PARTS if name in protocol)):
        part |= config.shared_fields(model)
    results["hashes"] = figure_hashes(results)
