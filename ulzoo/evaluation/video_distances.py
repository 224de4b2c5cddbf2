"""The Fréchet distance between a model's clips and a data set's: of one clip per video, or by a known protocol.

Clips are passed from the model to the network in memory, rounded to uint8. All processes share them: the noise of a
sample depends only on the seed and its number, and the statistics of its features are merged at the end.
"""

from itertools import chain, count, cycle, islice
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from ulzoo.data import Source
from ulzoo.data.fingerprint import fingerprint
from ulzoo.data.source import MIDDLE
from ulzoo.evaluation.clip_protocols import ClipProtocol, RealClips
from ulzoo.evaluation.config import NOISE, EvaluationConfig, FrechetConfig
from ulzoo.evaluation.execution import (
    DEFAULT_EXECUTION,
    Execution,
    ProgressCallback,
    ProgressCounter,
    SharedPass,
    shared_examples,
)
from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.features.videos import VideoFeatures
from ulzoo.evaluation.frechet import DISTANCE, FeatureStatistics, bias_caution, frechet_distance
from ulzoo.evaluation.protocol import Protocol, clip_fields, count_skipped
from ulzoo.evaluation.sampling_bias import expected_bias, find_bias_cautions
from ulzoo.media.pixels import to_uint8
from ulzoo.model.conditioning import SampleOptions, repeat_last_frame
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.runtime.seeds import derive_seed

MAX_CLIPS = 2048  # the usual number in the literature


@torch.no_grad()
def generation_distance(
    model: UnifiedLatents,
    config: EvaluationConfig,
    frechet: FrechetConfig,
    *,
    execution: Execution = DEFAULT_EXECUTION,
    on_progress: ProgressCallback = lambda done, total: None,
) -> dict[str, Any]:
    """Sample clips and measure their distance from the reference: its middle clips, or as `frechet.clip_protocol` says.

    A model that continues context frames gets those of the reference's clips in order, repeatedly if there are fewer
    clips than samples. Its clips are compared as a whole, context frames included, as is customary; each real clip is
    read once for both. Samples have no class. The distance from one clip per video is not that of Kinetics-600 in the
    literature: see `protocol_distance`.

    Args:
        model: in eval mode, with a base.
        config: the settings that all metrics share.
        frechet: the network, the number of clips, and the reference, of which at most as many clips are compared.
        execution: processes and resumption; its own progress callback is not called. The caller removes the partial
            results (`Execution.finish`).
        on_progress: called with the number of clips processed so far and their total: real and generated ones, or only
            generated ones if each continues a real one.

    Returns:
        {"figures": {features.name}, "protocol", "cautions"}, ready for JSON, or the result of `protocol_distance`; {}
        in all processes but the main one. If clips are continued, also `NAME_copy_last`, the distance of clips that
        repeat the last context frame. "cautions" says if a good part of the distance is the bias of so few clips.
        If there are no more clips than dimensions, which leaves a covariance singular and the distance far too large,
        it warns, and the protocol contains a caution.

    Raises:
        ValueError: the model generates images or has no base, or there are fewer than two clips, or they are too short
            for the network.
    """
    if frechet.clip_protocol is not None:
        return protocol_distance(
            model, config, frechet, frechet.clip_protocol, execution=execution, on_progress=on_progress
        )
    features, source = _checked(model, frechet)
    contract = model.contract
    clips = frechet.samples or min(MAX_CLIPS, len(source))
    batch_size = config.examples_per_batch(video=True)
    compared, context = min(clips, len(source)), contract.context_frames
    if compared < 2:
        raise ValueError(f"a Fréchet distance needs at least 2 clips, not {compared}")
    protocol = _protocol(model, config, frechet, fingerprint(source, compared).identity) | {
        "clips": clips,
        **clip_fields(contract),
        "given_frames_of": frechet.reference_split if context else None,
        "given_frames_compared": context > 0,
    }
    identity = {"batch_size": batch_size, **protocol, **config.shared_fields(model)}
    counter = ProgressCounter(clips if context else compared + clips, on_progress)

    real, generated, copied = (FeatureStatistics(features.dimension) for _ in range(3))
    partial = execution.partial_results({"real": real, "generated": generated, "copied": copied}, model, identity)
    shared = SharedPass(source, batch_size, compared, partial, counter.execution(execution, compared))
    for batch, numbers in shared.batches():
        real.add(features(to_uint8(batch["x"])))
        if context:
            frames = batch["x"][:, :, :context]
            generated.add(features(_sampled(model, config, numbers, frames)))
            copied.add(features(to_uint8(repeat_last_frame(frames, contract.size[0]))))

    if (missing := clips - generated.count) > 0:
        start, more = generated.count, FeatureStatistics(features.dimension)
        partial = execution.partial_results({"generated": more}, model, {**identity, "start": start})
        rest = counter.execution(execution, missing)
        if context:
            readable = islice((index for index in range(len(source)) if index not in shared.skipped), real.count)
            again = RealClips(source, (MIDDLE,), list(islice(cycle(readable), missing)))
            for batch, numbers in SharedPass(again, batch_size, None, partial, rest).batches():
                numbers = range(start + numbers.start, start + numbers.stop)
                more.add(features(_sampled(model, config, numbers, batch["x"][:, :, :context])))
        else:
            for numbers in shared_examples(missing, batch_size, partial, rest):
                more.add(features(_sampled(model, config, numbers)))
        generated.restore([generated.state(), more.state()])
    if not execution.processes.is_main:
        return {}
    distance = frechet_distance(real, generated)
    figures = {features.name: distance}
    if context:
        figures[f"{features.name}_copy_last"] = frechet_distance(real, copied)
    counts = {"samples": generated.count, "references": real.count}
    protocol |= {
        "figures": list(figures),
        "reference_clips": real.count,
        **count_skipped(shared.skipped),
        **bias_caution(features.name, min(counts.values()), features.dimension, kind="clips"),
    }
    return {
        "figures": figures,
        "protocol": Protocol(**protocol),
        "cautions": find_bias_cautions(features.name, distance, real, **counts, kind="clips"),
    }


@torch.no_grad()
def protocol_distance(
    model: UnifiedLatents,
    config: EvaluationConfig,
    frechet: FrechetConfig,
    clip_protocol: ClipProtocol,
    *,
    execution: Execution = DEFAULT_EXECUTION,
    on_progress: ProgressCallback = lambda done, total: None,
) -> dict[str, Any]:
    """The distance between continuations and real clips by a protocol of the literature, as the mean over folds.

    All videos of the reference are used, with several clips of each. A fold continues real clips that are drawn at
    random without replacement; if there are fewer clips than samples, all of them again. Its samples have noise of
    their own.

    Args:
        model: in eval mode, with a base; it continues the protocol's number of context frames.
        config: the settings that all metrics share.
        frechet: the network, and the reference.
        clip_protocol: the numbers of folds, samples and clips per video, and the side at which clips are compared.
        execution: processes and resumption; its own progress callback is not called. The caller removes the partial
            results (`Execution.finish`).
        on_progress: called with the number of clips processed so far and their total, real and generated together.

    Returns:
        {"figures", "protocol", "cautions"}, ready for JSON; {} in all processes but the main one. The metrics are the
        mean NAME of `clip_protocol.metric`, `NAME_std`, the standard deviation over folds (absent with one fold),
        `NAME_by_fold` and, if there are more clips than dimensions, `NAME_bias`, the distance expected between two such
        samples of one distribution.

    Raises:
        ValueError: the model generates other clips or has no base, or there are fewer than two real clips.
    """
    features, source = _checked(model, frechet)
    clip_protocol.check(model.contract)
    clips = RealClips(source, clip_protocol.placements)
    if len(clips) < 2:
        raise ValueError(f"a Fréchet distance needs at least 2 clips, not {len(clips)}")
    batch_size, samples = config.examples_per_batch(video=True), clip_protocol.samples
    total, fields = clip_protocol.folds * samples, clip_fields(model.contract)
    protocol = _protocol(model, config, frechet, fingerprint(source, len(source)).identity) | {
        "clips": total,
        **fields | clip_protocol.describe(fields["resize"]),
        "given_frames_of": frechet.reference_split,
        "given_frames_compared": True,
    }
    identity = {"batch_size": batch_size, **protocol, **config.shared_fields(model)}
    counter = ProgressCounter(len(clips) + total, on_progress)

    real = FeatureStatistics(features.dimension)
    partial = execution.partial_results({"real": real}, model, {**identity, "measured": "real"})
    shared = SharedPass(clips, batch_size, None, partial, counter.execution(execution, len(clips)))
    for batch, _ in shared.batches():
        real.add(features(clip_protocol.resized(to_uint8(batch["x"]))))

    folds = [FeatureStatistics(features.dimension) for _ in range(clip_protocol.folds)]
    readable = [index for index in range(len(clips)) if index not in shared.skipped]
    orders = (_random_order(readable, samples, (config.seed, fold)) for fold in range(clip_protocol.folds))
    contexts = RealClips(source, clip_protocol.placements, list(chain.from_iterable(orders)))
    collected = {str(fold): statistics for fold, statistics in enumerate(folds)}
    partial = execution.partial_results(collected, model, {**identity, "measured": "generated"})
    sampling = counter.execution(execution, total)
    for batch, numbers in SharedPass(contexts, batch_size, None, partial, sampling).batches():
        x = _sampled(model, config, numbers, batch["x"][:, :, : model.contract.context_frames])
        vectors, fold_of = features(clip_protocol.resized(x)), torch.tensor(numbers) // samples
        for fold in fold_of.unique().tolist():
            folds[fold].add(vectors[fold_of == fold])
    if not execution.processes.is_main:
        return {}

    distances = [frechet_distance(real, generated) for generated in folds]
    metric = clip_protocol.metric(features.name)
    figures: dict[str, Any] = {metric: mean(distances)}
    if len(distances) > 1:
        figures[f"{metric}_std"] = stdev(distances)
    figures[f"{metric}_by_fold"] = distances
    counts = {"samples": samples, "references": real.count}
    if (bias := expected_bias(real, **counts)) is not None:
        figures[f"{metric}_bias"] = bias
    protocol |= {
        "figures": list(figures),
        "reference_clips": real.count,
        **count_skipped(shared.skipped),
        **bias_caution(metric, min(counts.values()), features.dimension, kind="clips"),
    }
    cautions = find_bias_cautions(metric, mean(distances), real, **counts, kind="clips")
    return {"figures": figures, "protocol": Protocol(**protocol), "cautions": cautions}


def _checked(model: UnifiedLatents, frechet: FrechetConfig) -> tuple[VideoFeatures, Source]:
    """The network and the reference. Raises ValueError if the model does not generate clips."""
    features, source = frechet.features, frechet.reference
    assert source is not None and not isinstance(features, ImageFeatures)
    if not model.contract.video:
        raise ValueError(f"{features.name} compares clips: this is a model of images")
    if model.base is None:
        raise ValueError("this model has no base: its second stage was not trained")
    return features, source


def _protocol(
    model: UnifiedLatents, config: EvaluationConfig, frechet: FrechetConfig, identity: dict[str, Any]
) -> dict[str, Any]:
    """The protocol fields of the network, of the reference with this fingerprint, and of how clips are sampled."""
    sampling = model.contract.sampling["base"]
    return {
        **frechet.features.protocol,
        "data": config.data,
        "reference": frechet.reference_split,
        "fingerprint": identity,
        "labels": "none",
        "base_sampler": sampling.sampler,
        "base_steps": config.base_steps or sampling.steps,
        "guidance": 1.0,
        **config.decoder_protocol(model),
        "seed": config.seed,
        "noise": NOISE,
        "distance": DISTANCE,
    }


def _sampled(model: UnifiedLatents, config: EvaluationConfig, numbers: range, frames: Tensor | None = None) -> Tensor:
    """The samples of these numbers, uint8 (B, C, T, H, W), which continue context frames if there are any."""
    noise = config.noise("samples", numbers, model.device)
    frames = None if frames is None else frames.to(model.device)
    options: SampleOptions = {"frames": frames, "steps": config.base_steps, "network": config.decoder}
    return to_uint8(model.sample(len(numbers), generator=noise, **options))


def _random_order(numbers: list[int], length: int, seed: tuple[int, int]) -> list[int]:
    """Numbers in a random order, then in another one, up to a length."""
    order: list[int] = []
    for repetition in count():
        if len(order) >= length:
            break
        generator = torch.Generator().manual_seed(derive_seed(*seed, "context frames", repetition))
        order += [numbers[i] for i in torch.randperm(len(numbers), generator=generator).tolist()]
    return order[:length]
