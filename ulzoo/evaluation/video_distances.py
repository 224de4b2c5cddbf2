"""The Fréchet distance between a model's clips and a data set's, with its protocol."""

from typing import Any

import torch
from torch import Tensor

from ulzoo.data import in_order
from ulzoo.data.fingerprint import fingerprint
from ulzoo.evaluation.config import NOISE, EvaluationConfig, FrechetConfig
from ulzoo.evaluation.execution import ProgressCallback
from ulzoo.evaluation.features.images import ImageFeatures
from ulzoo.evaluation.frechet import DISTANCE, FeatureStatistics, bias_caution, frechet_distance
from ulzoo.evaluation.protocol import Protocol, clip_fields, count_skipped
from ulzoo.media.pixels import to_uint8
from ulzoo.model.unified_latents import UnifiedLatents

MAX_CLIPS = 2048  # the usual number in the literature


@torch.no_grad()
def generation_distance(
    model: UnifiedLatents,
    config: EvaluationConfig,
    frechet: FrechetConfig,
    *,
    on_progress: ProgressCallback = lambda done, total: None,
) -> dict[str, Any]:
    """Sample clips and measure their distance from the reference.

    Clips are passed from the model to the network in memory, rounded to uint8. A model that continues context frames
    gets those of the reference's clips in order, repeatedly if there are fewer clips than samples. Its clips are
    compared as a whole, context frames included, as is customary on Kinetics-600. Samples have no class.

    Args:
        model: in eval mode, with a base.
        config: the settings that all metrics share.
        frechet: the network, the number of clips, and the reference, of which at most as many clips are compared.
        on_progress: called with the number of clips processed so far and their total, real and generated together.

    Returns:
        {"figures": {features.name}, "protocol"}, ready for JSON. If there are no more clips than dimensions, which
        leaves a covariance singular and the distance far too large, it warns, and the protocol contains a caution.

    Raises:
        ValueError: the model generates images or has no base, or there are fewer than two clips, or they are too short
            for the network.
    """
    contract, features, source = model.contract, frechet.features, frechet.reference
    assert source is not None and not isinstance(features, ImageFeatures)
    if not contract.video:
        raise ValueError(f"{features.name} compares clips: this is a model of images")
    if model.base is None:
        raise ValueError("this model has no base: its second stage was not trained")
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
    sampling = contract.sampling
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
        labels="none",
        base_sampler=sampling["base"].sampler,
        base_steps=config.base_steps or sampling["base"].steps,
        guidance=1.0,
        decoder_sampler=sampling["decoder"].sampler,
        decoder_steps=sampling["decoder"].steps,
        seed=config.seed,
        noise=NOISE,
        distance=DISTANCE,
        **count_skipped(skipped),
        **bias_caution(features.name, min(real.count, generated.count), features.dimension, kind="clips"),
    )
    return {"figures": {features.name: frechet_distance(real, generated)}, "protocol": protocol}
