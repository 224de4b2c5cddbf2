"""Distances between sets of images: reconstructions and their originals (r…), samples and a split or file (g…).

Images are passed from the model to the network in memory, rounded to uint8, batch by batch. The noise of an image
depends only on the seed and its number.
"""

from dataclasses import replace
from typing import Any

import torch

from ulzoo.data import Source
from ulzoo.data.fingerprint import fingerprint
from ulzoo.evaluation.config import NOISE, EvaluationConfig, FrechetConfig
from ulzoo.evaluation.execution import (
    DEFAULT_EXECUTION,
    Execution,
    ProgressCallback,
    ProgressCounter,
    SharedPass,
    unfinished_folder,
)
from ulzoo.evaluation.feature_metrics import FeatureCollector, partial_features
from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.protocol import Protocol, count_skipped
from ulzoo.evaluation.rate_distortion import reconstruct
from ulzoo.evaluation.reference import Reference, read_statistics, reference_statistics, write_statistics
from ulzoo.evaluation.sample_distance import sample_distance
from ulzoo.evaluation.sample_file import UnwrittenFiles, check_destinations
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.runtime.processes import SINGLE_PROCESS, ProcessGroup


def feature_collector(frechet: FrechetConfig, processes: ProcessGroup = SINGLE_PROCESS) -> FeatureCollector:
    """The collector of the features of reconstructions or samples of images.

    Raises:
        ValueError: several processes cannot write the samples.
    """
    assert isinstance(frechet.features, ImageFeatures)
    if processes.world_size > 1 and frechet.save_samples:
        raise ValueError("--save-samples works in a single process: start it without torchrun")
    return FeatureCollector(frechet.features, frechet.all_distances)


def image_distances(
    model: UnifiedLatents,
    source: Source,
    config: EvaluationConfig,
    frechet: FrechetConfig,
    *,
    reconstructions: FeatureCollector | None = None,
    processes: ProcessGroup = SINGLE_PROCESS,
    on_progress: ProgressCallback = lambda done, total: None,
) -> dict[str, Any]:
    """Distances between reconstructions and their images and, if asked for, between samples and a reference.

    An interrupted evaluation resumes from the partial results that it saved in torch's cache (TORCH_HOME).

    Args:
        model: in eval mode, of images.
        source: the images to reconstruct.
        config: the settings that all metrics share.
        frechet: the network, the number of samples, and what they are compared with.
        reconstructions: a `feature_collector` with the features of all reconstructions, which are then not made again.
        processes: processes that share reconstruction and sampling; only the main one returns metrics.
        on_progress: called with the number of images that the network has processed so far, and their total.

    Returns:
        {"figures", "protocol": {"reconstructions", "generated", "captioned"}}, ready for JSON; "cautions", if there
        are any, say which distances are mostly the bias of few samples; "not_written" maps the paths of files that
        could not be written to the reasons, which have no effect on the metrics.

    Raises:
        ValueError: the sets cannot be compared, or there can be no file at a path that is to be written.
    """
    check_destinations((frechet.save_samples, frechet.save_statistics))
    features = frechet.features
    assert isinstance(features, ImageFeatures)
    collector = reconstructions or feature_collector(frechet, processes)
    assert frechet.samples is None or frechet.reference is not None
    imported = read_statistics(frechet.statistics, features.dimension) if frechet.statistics else None
    count, samples = config.count(source), frechet.samples or 0
    reference_count = 0 if not samples or imported or frechet.reference is None else len(frechet.reference)
    images = count if reconstructions else 2 * count
    counter = ProgressCounter(images + reference_count + samples, on_progress)
    cached = replace(config, batch_size=None)  # cached statistics must not depend on the batch size
    execution = Execution(processes, unfinished_folder())

    def phase(count: int) -> Execution:
        return replace(execution, on_progress=counter.phase(count))

    statistics = reference_statistics(
        source, features, cached, keep_features=frechet.all_distances, execution=phase(count)
    )
    if not reconstructions:
        collect_reconstructions(model, source, collector, config, execution=phase(count))
    results = reconstruction_distance(model, source, collector, statistics, config, processes=processes)
    figures, protocol = results["figures"], {"reconstructions": results["protocol"]}
    if frechet.reference is not None and samples:
        statistics = imported or reference_statistics(
            frechet.reference,
            features,
            replace(cached, split=frechet.reference_split, limit=None),
            keep_features=frechet.all_distances,
            execution=phase(reference_count),
        )
        sampling = phase(samples)
        if frechet.save_samples:
            sampling = replace(sampling, folder=None)
        results = sample_distance(model, statistics, config, frechet, execution=sampling)
        figures, protocol = figures | results["figures"], protocol | {"generated": results["protocol"]}
        if captioned := results.get("captioned"):
            protocol["captioned"] = captioned
    execution.finish()
    if processes.is_main:
        for part in protocol.values():
            part |= config.shared_fields(model)
    cautions, unwritten = results.get("cautions"), results.get("not_written", UnwrittenFiles())
    if frechet.save_statistics and processes.is_main:
        with unwritten.catching(frechet.save_statistics):
            write_statistics(frechet.save_statistics, statistics, features.protocol)
    remarks = {"cautions": cautions, "not_written": unwritten}
    return {"figures": figures, "protocol": protocol, **{name: remark for name, remark in remarks.items() if remark}}


@torch.no_grad()
def collect_reconstructions(
    model: UnifiedLatents,
    source: Source,
    collector: FeatureCollector,
    config: EvaluationConfig,
    *,
    execution: Execution = DEFAULT_EXECUTION,
) -> None:
    """Collect the features of the reconstructions of all images, in a pass of their own.

    Args:
        model: in eval mode, of images.
        source: the images to reconstruct.
        collector: the features.
        config: the settings that all metrics share.
        execution: processes, resumption and progress. The caller removes the partial results (`Execution.finish`).
    """
    batch_size = config.examples_per_batch()
    identity = _reconstruction_protocol(model, source, collector, config)
    partial = partial_features(collector, model, identity, config, execution)
    shared = SharedPass(source, batch_size, config.limit, partial, execution)
    for batch, examples in shared.batches():
        _, reconstructions = reconstruct(model, batch, examples, config)
        collector.add(reconstructions)
    collector.skipped = shared.skipped


def reconstruction_distance(
    model: UnifiedLatents,
    source: Source,
    collector: FeatureCollector,
    reference: Reference,
    config: EvaluationConfig,
    *,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> dict[str, Any]:
    """Distances between reconstructions and the same images, {"figures", "protocol"}, ready for JSON.

    Args:
        model: of images.
        source: the images.
        collector: the features of all reconstructions, from `collect_reconstructions` or `rate_distortion`.
        reference: statistics of the same images; with their features if the collector keeps those of reconstructions.
        config: the settings that all metrics share.
        processes: the metrics are empty in all processes but the main one.
    """
    if not processes.is_main:
        return {"figures": {}, "protocol": {}}
    figures, fields = collector.metrics("r", reference, config.seed)
    protocol = Protocol(
        figures=list(figures),
        **_reconstruction_protocol(model, source, collector, config, reference),
        **fields,
        samples=collector.statistics.count,
        **count_skipped(collector.skipped),
    )
    return {"figures": figures, "protocol": protocol}


def _reconstruction_protocol(
    model: UnifiedLatents,
    source: Source,
    collector: FeatureCollector,
    config: EvaluationConfig,
    reference: Reference | None = None,
) -> Protocol:
    """What the features of reconstructions depend on and, with a reference, what they are compared with."""
    assert not model.contract.video
    return Protocol(
        compared="reconstructions, with the same images",
        **collector.network.protocol,
        data=config.data,
        split=config.split,
        fingerprint=(reference and reference.fingerprint) or fingerprint(source, config.count(source)).identity,
        reference_sha256=reference and reference.sha256,
        seed=config.seed,
        noise=NOISE,
        dtype="float32",
        **config.decoder_protocol(model, config.decoder_steps),
    )
