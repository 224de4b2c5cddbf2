"""Distances between sets of images: reconstructions and their originals (r…), samples and a split or file (g…).

Images are passed from the model to the network in memory, rounded to uint8, batch by batch. The noise of an image
depends only on the seed and its number.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ulzoo.data import Source, in_order
from ulzoo.data.fingerprint import fingerprint
from ulzoo.data.source import Sample, Unreadable
from ulzoo.evaluation.config import NOISE, EvaluationConfig, FrechetConfig
from ulzoo.evaluation.execution import (
    DEFAULT_EXECUTION,
    Execution,
    PartialStatistics,
    ProgressCallback,
    ProgressCounter,
)
from ulzoo.evaluation.feature_metrics import FeatureCollector
from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.protocol import Protocol, count_skipped
from ulzoo.evaluation.reference import Reference, read_statistics, reference_statistics, write_statistics
from ulzoo.evaluation.sample_file import SampleFile, UnwrittenFiles, check_destinations
from ulzoo.media.captions import Text, pad
from ulzoo.media.pixels import to_uint8
from ulzoo.model.denoisers import DiffusionModel
from ulzoo.model.rate import Prior
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.runtime.processes import SINGLE_PROCESS, ProcessGroup


def image_distances(
    model: UnifiedLatents,
    source: Source,
    config: EvaluationConfig,
    frechet: FrechetConfig,
    *,
    processes: ProcessGroup = SINGLE_PROCESS,
    on_progress: ProgressCallback = lambda done, total: None,
) -> dict[str, Any]:
    """Distances between reconstructions and their images and, if asked for, between samples and a reference.

    An interrupted evaluation resumes from the partial statistics that it saved in torch's cache (TORCH_HOME).

    Args:
        model: in eval mode, of images.
        source: the images to reconstruct.
        config: the settings that all metrics share.
        frechet: the network, the number of samples, and what they are compared with.
        processes: processes that share reconstruction and sampling; only the main one returns metrics.
        on_progress: called with the number of images that the network has processed so far, and their total.

    Returns:
        {"figures", "protocol": {"reconstructions", "generated"}}, ready for JSON; "not_written" maps the paths of files
        that could not be written to the reasons, which have no effect on the metrics.

    Raises:
        ValueError: the sets cannot be compared, or there can be no file at a path that is to be written.
    """
    check_destinations((frechet.save_samples, frechet.save_statistics))
    features = frechet.features
    assert isinstance(features, ImageFeatures)
    if processes.world_size > 1 and (frechet.all_distances or frechet.save_samples):
        raise ValueError("--all-distances and --save-samples work in a single process: start it without torchrun")
    assert frechet.samples is None or frechet.reference is not None
    imported = read_statistics(frechet.statistics, features.dimension) if frechet.statistics else None
    count, samples = config.count(source), frechet.samples or 0
    reference_count = 0 if not samples or imported or frechet.reference is None else len(frechet.reference)
    counter = ProgressCounter(2 * count + reference_count + samples, on_progress)
    cached = replace(config, batch_size=None)  # cached statistics must not depend on the batch size
    execution = Execution(processes, Path(torch.hub.get_dir()) / "ulzoo" / "unfinished")

    statistics: Reference | None = None
    if processes.is_main:
        statistics = reference_statistics(
            source, features, cached, keep_features=frechet.all_distances, on_progress=counter.phase(count)
        )
    results = reconstruction_distance(
        model, source, features, statistics, config, execution=replace(execution, on_progress=counter.phase(count))
    )
    figures, protocol = results["figures"], {"reconstructions": results["protocol"]}
    if frechet.reference is not None and samples:
        if processes.is_main:
            statistics = imported or reference_statistics(
                frechet.reference,
                features,
                replace(cached, split=frechet.reference_split, limit=None),
                keep_features=frechet.all_distances,
                on_progress=counter.phase(reference_count),
            )
        execution = replace(execution, on_progress=counter.phase(samples))
        if frechet.save_samples:
            execution = replace(execution, folder=None)
        results = sample_distance(model, statistics, config, frechet, execution=execution)
        figures, protocol = figures | results["figures"], protocol | {"generated": results["protocol"]}
    unwritten = results.get("not_written", UnwrittenFiles())
    if frechet.save_statistics and statistics:
        with unwritten.catching(frechet.save_statistics):
            write_statistics(frechet.save_statistics, statistics, features.protocol)
    return {"figures": figures, "protocol": protocol, **({"not_written": unwritten} if unwritten else {})}


@torch.no_grad()
def reconstruction_distance(
    model: UnifiedLatents,
    source: Source,
    features: ImageFeatures,
    reference: Reference | None,
    config: EvaluationConfig,
    *,
    execution: Execution = DEFAULT_EXECUTION,
) -> dict[str, Any]:
    """Distances between reconstructions and the same images, {"figures", "protocol"}, ready for JSON.

    Args:
        model: in eval mode, of images.
        source: the images to reconstruct.
        features: the network.
        reference: statistics of the same images; if they contain features, all distances are measured. None in all
            processes but the main one.
        config: the settings that all metrics share.
        execution: processes, resumption and progress; the metrics are empty in all processes but the main one. With
            the reference's features, the evaluation cannot be resumed.
    """
    contract, processes = model.contract, execution.processes
    assert not contract.video
    collector = FeatureCollector(features, reference is not None and reference.features is not None)
    skipped: dict[int, str] = {}
    batch_size = config.examples_per_batch()
    sampling = contract.sampling_with("decoder", config.decoder_steps, None)
    protocol = Protocol(
        compared="reconstructions, with the same images",
        **features.protocol,
        data=config.data,
        split=config.split,
        fingerprint=fingerprint(source, config.count(source)).identity,
        reference_sha256=reference and reference.sha256,
        decoder_sampler=sampling.sampler,
        decoder_steps=sampling.steps,
        seed=config.seed,
        noise=NOISE,
        dtype="float32",
    )
    partial = _partial_statistics(collector, model, protocol, execution)
    start = 0
    for number, batch in enumerate(in_order(source, batch_size, config.limit)):
        skipped |= batch["skipped"]
        if batch["images"] > partial.done and number % processes.world_size == processes.rank:
            examples = range(start, start + len(batch["x"]))
            collector.add(
                model.reconstruct(
                    batch["x"].to(model.device),
                    labels=batch["label"].to(model.device),
                    text=batch["text"] and batch["text"].to(model.device),
                    steps=config.decoder_steps,
                    generator=config.noise("reconstructions", examples, model.device),
                )
            )
            partial.update(batch["images"])
        start = batch["images"]
        execution.on_progress(start)
    collector.gather(processes)
    if reference is None:
        partial.finish()
        return {"figures": {}, "protocol": {}}
    figures, fields = collector.metrics("r", reference, config.seed)
    partial.finish()
    protocol = Protocol(
        figures=list(figures), **protocol, **fields, samples=collector.statistics.count, **count_skipped(skipped)
    )
    return {"figures": figures, "protocol": protocol}


@torch.no_grad()
def sample_distance(
    model: UnifiedLatents,
    reference: Reference | None,
    config: EvaluationConfig,
    frechet: FrechetConfig,
    *,
    execution: Execution = DEFAULT_EXECUTION,
) -> dict[str, Any]:
    """Distances between samples and a reference, {"figures", "protocol", "not_written"}, ready for JSON.

    A model with class or caption conditioning gets the classes and captions of the reference's examples, taken at even
    intervals, so that classes have the same frequencies.

    Args:
        model: in eval mode, of images, with a base.
        reference: statistics of the reference's images; if they contain features, all distances are measured. None in
            all processes but the main one.
        config: the settings that all metrics share; without classes and captions there is no guidance.
        frechet: the network, the number of samples, and the reference's examples.
        execution: as for `reconstruction_distance`; samples that are saved to a file are drawn by a single process,
            without resumption.

    Raises:
        ValueError: the model cannot generate samples, or there are fewer than two samples.
    """
    contract, features, source = model.contract, frechet.features, frechet.reference
    assert not contract.video and isinstance(features, ImageFeatures)
    assert source is not None and frechet.samples is not None
    samples, processes = frechet.samples, execution.processes
    assert not (frechet.save_samples and (execution.folder or processes.world_size > 1))
    network = model.prior if contract.single_stage else model.base
    if network is None:
        raise ValueError("this model has no base: its second stage was not trained")
    if samples < 2:
        raise ValueError(f"a Fréchet distance needs at least 2 samples, not {samples}")
    batch_size = config.examples_per_batch()
    conditional = bool(network.num_classes) or network.takes_text
    if config.guidance not in (None, 1) and not conditional:
        raise ValueError("guidance needs classes or captions: this model's base takes neither")
    collector = FeatureCollector(features, reference is not None and reference.features is not None)
    base = contract.sampling_with("base", config.base_steps, config.guidance)
    decoder = contract.sampling["decoder"]
    protocol = Protocol(
        compared="samples",
        **features.protocol,
        data=config.data,
        reference=frechet.reference_name,
        fingerprint=fingerprint(source).identity if conditional or not frechet.statistics else None,
        reference_images=reference and reference.images,
        reference_sha256=reference and reference.sha256,
        samples=samples,
        labels="of the reference's examples, at even distances" if conditional else "none",
        base_sampler=base.sampler,
        base_steps=base.steps,
        guidance=base.guidance if conditional else 1.0,
        guidance_interval=list(base.guidance_interval) if conditional and base.guidance_interval else None,
        decoder_sampler=decoder.sampler,
        decoder_steps=decoder.steps,
        seed=config.seed,
        noise=NOISE,
        dtype="float32",
    )
    partial = _partial_statistics(collector, model, protocol, execution)

    def draw(file: SampleFile | None = None) -> None:
        for start in range(processes.rank * batch_size, samples, batch_size * processes.world_size):
            if start < partial.done:
                continue
            count = min(batch_size, samples - start)
            examples = [_example(source, i, samples) for i in range(start, start + count)] if conditional else []
            labels, text = _conditions(examples, source, network)
            x = model.sample(
                count,
                labels=labels,
                text=text,
                guidance=config.guidance if conditional else None,
                steps=config.base_steps,
                generator=config.noise("samples", range(start, start + count), model.device),
            )
            collector.add(x)
            if file:
                file.add(to_uint8(x))
            partial.update(start + count)
            execution.on_progress(start + count)

    unwritten = UnwrittenFiles()
    if frechet.save_samples:
        height, width = contract.size
        with SampleFile(frechet.save_samples, samples, (height, width)) as file:
            draw(file)
        if file.error:
            unwritten.add(frechet.save_samples, file.error)
    else:
        draw()
    collector.gather(processes)
    if reference is None:
        partial.finish()
        return {"figures": {}, "protocol": {}}
    figures, fields = collector.metrics("g", reference, config.seed)
    partial.finish()
    protocol = Protocol(figures=list(figures), **protocol, **fields)
    return {"figures": figures, "protocol": protocol, "not_written": unwritten}


def _partial_statistics(
    collector: FeatureCollector, model: UnifiedLatents, protocol: Protocol, execution: Execution
) -> PartialStatistics:
    """The collector's statistics, restored after an interruption; features that are kept cannot be restored."""
    if collector.keep:
        execution = replace(execution, folder=None)
    return execution.partial_statistics(collector.statistics, model, protocol)


def _conditions(
    examples: list[Sample], source: Source, network: DiffusionModel | Prior
) -> tuple[Tensor | None, Text | None]:
    """The classes and captions of the examples, as far as the network takes them."""
    labels, text = None, None
    if examples and network.num_classes:
        labels = torch.tensor([example.label for example in examples])
    if examples and network.takes_text:
        captions = [example.text for example in examples if example.text is not None]
        assert len(captions) == len(examples)
        text = pad(captions, source.contract.text_tokens)
    return labels, text


def _example(source: Source, number: int, samples: int) -> Sample:
    """Example `number` of `samples` that are spread evenly over the source, or the next one that can be read."""
    size = len(source)
    index = number * size // samples if samples <= size else number % size
    for step in range(size):
        try:
            return source[(index + step) % size]
        except Unreadable:
            if not source.skips_unreadable:
                raise
    raise ValueError(f"none of the {size} examples can be read")
