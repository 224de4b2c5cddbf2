"""The Fréchet distance between a model's clips and a data set's: of one clip per video, or by a known protocol."""

from collections.abc import Iterator
from itertools import count
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from ulzoo.data import Source, in_order
from ulzoo.data.fingerprint import fingerprint
from ulzoo.evaluation.clip_protocols import ClipProtocol, RealClips
from ulzoo.evaluation.config import NOISE, EvaluationConfig, FrechetConfig
from ulzoo.evaluation.execution import ProgressCallback
from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.features.videos import VideoFeatures
from ulzoo.evaluation.frechet import DISTANCE, FeatureStatistics, bias_caution, frechet_distance
from ulzoo.evaluation.protocol import Protocol, clip_fields, count_skipped
from ulzoo.evaluation.sampling_bias import warn_of_bias
from ulzoo.media.pixels import to_uint8
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.runtime.seeds import derive_seed

MAX_CLIPS = 2048  # the usual number in the literature


@torch.no_grad()
def generation_distance(
    model: UnifiedLatents,
    config: EvaluationConfig,
    frechet: FrechetConfig,
    *,
    on_progress: ProgressCallback = lambda done, total: None,
) -> dict[str, Any]:
    """Sample clips and measure their distance from the reference: its middle clips, or as `frechet.clip_protocol` says.

    Clips are passed from the model to the network in memory, rounded to uint8. A model that continues context frames
    gets those of the reference's clips in order, repeatedly if there are fewer clips than samples. Its clips are
    compared as a whole, context frames included, as is customary. Samples have no class. The distance from one clip
    per video is not that of Kinetics-600 in the literature: see `protocol_distance`.

    Args:
        model: in eval mode, with a base.
        config: the settings that all metrics share.
        frechet: the network, the number of clips, and the reference, of which at most as many clips are compared.
        on_progress: called with the number of clips processed so far and their total, real and generated together.

    Returns:
        {"figures": {features.name}, "protocol"}, ready for JSON, or the result of `protocol_distance`. If there are no
        more clips than dimensions, which leaves a covariance singular and the distance far too large, it warns, and the
        protocol contains a caution. It also warns if a good part of the distance is the bias of so few clips.

    Raises:
        ValueError: the model generates images or has no base, or there are fewer than two clips, or they are too short
            for the network.
    """
    if frechet.clip_protocol is not None:
        return protocol_distance(model, config, frechet, frechet.clip_protocol, on_progress=on_progress)
    features, source = _checked(model, frechet)
    contract = model.contract
    clips = frechet.samples or min(MAX_CLIPS, len(source))
    batch_size = config.examples_per_batch(video=True)
    compared = min(clips, len(source))
    if compared < 2:
        raise ValueError(f"a Fréchet distance needs at least 2 clips, not {compared}")
    skipped: dict[int, str] = {}
    real, generated = FeatureStatistics(features.dimension), FeatureStatistics(features.dimension)
    for batch in in_order(source, batch_size, compared):
        real.add(features(to_uint8(batch["x"])))
        skipped |= batch["skipped"]
        on_progress(batch["images"], compared + clips)

    def generate(n: int, frames: Tensor | None = None) -> None:
        noise = config.noise("samples", range(generated.count, generated.count + n), model.device)
        x = model.sample(n, frames=frames, steps=config.base_steps, generator=noise)
        generated.add(features(to_uint8(x)))
        on_progress(compared + generated.count, compared + clips)

    while generated.count < clips:
        missing = clips - generated.count
        if contract.context_frames:
            for batch in in_order(source, batch_size, min(compared, missing)):
                generate(len(batch["x"]), batch["x"][:, :, : contract.context_frames].to(model.device))
        else:
            generate(min(batch_size, missing))
    protocol = Protocol(
        figures=[features.name],
        **features.protocol,
        data=config.data,
        reference=frechet.reference_split,
        fingerprint=fingerprint(source, compared).identity,
        reference_clips=real.count,
        clips=generated.count,
        **clip_fields(contract),
        given_frames_of=frechet.reference_split if contract.context_frames else None,
        given_frames_compared=contract.context_frames > 0,
        **_sampling_fields(model, config),
        **count_skipped(skipped),
        **bias_caution(features.name, min(real.count, generated.count), features.dimension, kind="clips"),
    )
    distance = frechet_distance(real, generated)
    warn_of_bias(features.name, distance, real, samples=generated.count, references=real.count)
    return {"figures": {features.name: distance}, "protocol": protocol}


@torch.no_grad()
def protocol_distance(
    model: UnifiedLatents,
    config: EvaluationConfig,
    frechet: FrechetConfig,
    clip_protocol: ClipProtocol,
    *,
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
        on_progress: called with the number of clips processed so far and their total, real and generated together.

    Returns:
        {"figures", "protocol"}, ready for JSON. The metrics are the mean NAME of `clip_protocol.metric`, `NAME_std`,
        the standard deviation over folds (absent with one fold), `NAME_by_fold` and, if there are more clips than
        dimensions, `NAME_bias`, the distance expected between two such samples of one distribution.

    Raises:
        ValueError: the model generates other clips or has no base, or there are fewer than two real clips.
    """
    features, source = _checked(model, frechet)
    clip_protocol.check(model.contract)
    clips = RealClips(source, clip_protocol.placements)
    if len(clips) < 2:
        raise ValueError(f"a Fréchet distance needs at least 2 clips, not {len(clips)}")
    batch_size = config.examples_per_batch(video=True)
    total = len(clips) + clip_protocol.folds * clip_protocol.samples
    real = FeatureStatistics(features.dimension)
    skipped: dict[int, str] = {}
    for batch in in_order(clips, batch_size):
        real.add(features(clip_protocol.resized(to_uint8(batch["x"]))))
        skipped |= batch["skipped"]
        on_progress(real.count, total)
    distances = []
    for fold in range(clip_protocol.folds):
        generated = FeatureStatistics(features.dimension)
        for given in _contexts(clips, model.contract.context_frames, batch_size, (config.seed, fold)):
            frames = given[: clip_protocol.samples - generated.count].to(model.device)
            start = fold * clip_protocol.samples + generated.count
            noise = config.noise("samples", range(start, start + len(frames)), model.device)
            x = model.sample(len(frames), frames=frames, steps=config.base_steps, generator=noise)
            generated.add(features(clip_protocol.resized(to_uint8(x))))
            on_progress(len(clips) + fold * clip_protocol.samples + generated.count, total)
            if generated.count == clip_protocol.samples:
                break
        distances.append(frechet_distance(real, generated))
    metric = clip_protocol.metric(features.name)
    figures: dict[str, Any] = {metric: mean(distances)}
    if len(distances) > 1:
        figures[f"{metric}_std"] = stdev(distances)
    figures[f"{metric}_by_fold"] = distances
    counts = {"samples": clip_protocol.samples, "references": real.count}
    if (bias := warn_of_bias(metric, mean(distances), real, **counts)) is not None:
        figures[f"{metric}_bias"] = bias
    fields = clip_fields(model.contract)
    protocol = Protocol(
        figures=list(figures),
        **features.protocol,
        data=config.data,
        reference=frechet.reference_split,
        fingerprint=fingerprint(source, len(source)).identity,
        reference_clips=real.count,
        clips=clip_protocol.folds * clip_protocol.samples,
        **fields | clip_protocol.describe(fields["resize"]),
        given_frames_of=frechet.reference_split,
        given_frames_compared=True,
        **_sampling_fields(model, config),
        **count_skipped(skipped),
        **bias_caution(metric, min(counts.values()), features.dimension, kind="clips"),
    )
    return {"figures": figures, "protocol": protocol}


def _checked(model: UnifiedLatents, frechet: FrechetConfig) -> tuple[VideoFeatures, Source]:
    """The network and the reference. Raises ValueError if the model does not generate clips."""
    features, source = frechet.features, frechet.reference
    assert source is not None and not isinstance(features, ImageFeatures)
    if not model.contract.video:
        raise ValueError(f"{features.name} compares clips: this is a model of images")
    if model.base is None:
        raise ValueError("this model has no base: its second stage was not trained")
    return features, source


def _sampling_fields(model: UnifiedLatents, config: EvaluationConfig) -> dict[str, Any]:
    """The protocol fields of how clips are sampled and compared."""
    sampling = model.contract.sampling
    return {
        "labels": "none",
        "base_sampler": sampling["base"].sampler,
        "base_steps": config.base_steps or sampling["base"].steps,
        "guidance": 1.0,
        "decoder_sampler": sampling["decoder"].sampler,
        "decoder_steps": sampling["decoder"].steps,
        "seed": config.seed,
        "noise": NOISE,
        "distance": DISTANCE,
    }


def _contexts(clips: RealClips, frames: int, batch_size: int, seed: tuple[int, int]) -> Iterator[Tensor]:
    """Batches of the first frames of real clips in a random order, then in another one, without end."""
    for repetition in count():
        generator = torch.Generator().manual_seed(derive_seed(*seed, "context frames", repetition))
        order = torch.randperm(len(clips), generator=generator).tolist()
        for batch in in_order(RealClips(clips.source, clips.placements, order), batch_size):
            yield batch["x"][:, :, :frames]
