"""The distance between a model's samples and a reference set of images, with its protocol."""

from typing import Any

import torch
from torch import Tensor

from ulzoo.data import Source
from ulzoo.data.fingerprint import fingerprint
from ulzoo.data.source import Sample, Unreadable
from ulzoo.evaluation.clip_score import CaptionScores
from ulzoo.evaluation.config import NOISE, EvaluationConfig, FrechetConfig
from ulzoo.evaluation.execution import DEFAULT_EXECUTION, Execution, shared_examples
from ulzoo.evaluation.feature_metrics import FeatureCollector, partial_features
from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.protocol import Protocol
from ulzoo.evaluation.reference import Reference
from ulzoo.evaluation.sample_file import SampleFile, UnwrittenFiles
from ulzoo.evaluation.sampling_bias import find_bias_cautions
from ulzoo.media.captions import Text, pad
from ulzoo.media.pixels import to_uint8
from ulzoo.model.denoisers import DiffusionModel
from ulzoo.model.rate import Prior
from ulzoo.model.unified_latents import UnifiedLatents


@torch.no_grad()
def sample_distance(
    model: UnifiedLatents,
    reference: Reference,
    config: EvaluationConfig,
    frechet: FrechetConfig,
    *,
    execution: Execution = DEFAULT_EXECUTION,
) -> dict[str, Any]:
    """Distances between samples and a reference, {"figures", "protocol", "cautions", "not_written"}, ready for JSON.

    With `frechet.clip` also the CLIP score of the samples; its protocol is "captioned".

    A model with class or caption conditioning gets the classes and captions of the reference's examples, taken at even
    intervals, so that classes have the same frequencies.

    Args:
        model: in eval mode, of images, with a base.
        reference: statistics of the reference's images; if they contain features, all distances are measured.
        config: the settings that all metrics share; without classes and captions there is no guidance.
        frechet: the network, the number of samples, and the reference's examples.
        execution: processes, resumption and progress; the metrics are empty in all processes but the main one. Samples
            that are saved to a file are drawn by a single process, without resumption. The caller removes the partial
            results (`Execution.finish`).

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
    if frechet.clip and not network.takes_text:
        raise ValueError("a CLIP score needs a model of captions: this one's base takes none")
    if config.guidance not in (None, 1) and not conditional:
        raise ValueError("guidance needs classes or captions: this model's base takes neither")
    collector = FeatureCollector(features, reference.features is not None)
    base = contract.sampling_with("base", config.base_steps, config.guidance)
    protocol = Protocol(
        compared="samples",
        **features.protocol,
        data=config.data,
        reference=frechet.reference_name,
        fingerprint=reference.fingerprint or (fingerprint(source).identity if conditional else None),
        reference_images=reference.images,
        reference_sha256=reference.sha256,
        samples=samples,
        labels="of the reference's examples, at even distances" if conditional else "none",
        base_sampler=base.sampler,
        base_steps=base.steps,
        guidance=base.guidance if conditional else 1.0,
        guidance_interval=list(base.guidance_interval) if conditional and base.guidance_interval else None,
        **config.decoder_protocol(model),
        seed=config.seed,
        noise=NOISE,
        dtype="float32",
    )
    scores = CaptionScores(frechet.clip, source) if frechet.clip else None
    identity = {**protocol, "clip": frechet.clip.protocol} if frechet.clip else protocol
    others = {"captions": scores} if scores else None
    partial = partial_features(collector, model, identity, config, execution, others)

    def draw(file: SampleFile | None = None) -> None:
        for numbers in shared_examples(samples, batch_size, partial, execution):
            examples = [_example(source, number, samples) for number in numbers] if conditional else []
            labels, text = _conditions([example for _, example in examples], source, network)
            x = model.sample(
                len(numbers),
                labels=labels,
                text=text,
                guidance=config.guidance if conditional else None,
                steps=config.base_steps,
                network=config.decoder,
                generator=config.noise("samples", numbers, model.device),
            )
            collector.add(x)
            if scores:
                scores.add(x, [index for index, _ in examples])
            if file:
                file.add(to_uint8(x))

    unwritten = UnwrittenFiles()
    if frechet.save_samples:
        height, width = contract.size
        with SampleFile(frechet.save_samples, samples, (height, width)) as file:
            draw(file)
        if file.error:
            unwritten.add(frechet.save_samples, file.error)
    else:
        draw()
    if not processes.is_main:
        return {"figures": {}, "protocol": {}}
    figures, fields = collector.metrics("g", reference, config.seed)
    metric, distance = next(iter(figures.items()))
    counts: Any = {"samples": samples, "references": reference.images}
    captioned: dict[str, Any] = {}
    if scores:
        captioned["figures"], captioned["protocol"] = scores.metrics(protocol)
    return {
        "figures": figures | captioned.get("figures", {}),
        "protocol": Protocol(figures=list(figures), **protocol, **fields),
        "captioned": captioned.get("protocol"),
        "cautions": find_bias_cautions(metric, distance, reference.gaussian, **counts, kind="images"),
        "not_written": unwritten,
    }


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


def _example(source: Source, number: int, samples: int) -> tuple[int, Sample]:
    """Example `number` of `samples` that are spread evenly over the source, or the next one that can be read.

    Returns:
        its index in the source, and itself.
    """
    size = len(source)
    index = number * size // samples if samples <= size else number % size
    for step in range(size):
        try:
            return (index + step) % size, source[(index + step) % size]
        except Unreadable:
            if not source.skips_unreadable:
                raise
    raise ValueError(f"none of the {size} examples can be read")
