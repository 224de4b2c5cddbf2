"""The Fréchet distance between the clips that a model makes and those of a data set, with all that it depends on."""

import warnings
from collections.abc import Callable
from typing import Any

import torch

from ulzoo.data import Source, in_order
from ulzoo.evaluation.features.videos import VideoFeatures
from ulzoo.evaluation.frechet import FeatureStatistics, frechet_distance
from ulzoo.evaluation.protocol import Protocol, clip_conditions
from ulzoo.evaluation.rate_distortion import count_left_out, default_batch
from ulzoo.media.pixels import to_uint8
from ulzoo.model.unified_latents import UnifiedLatents

CLIPS = 2048  # what the field compares


@torch.no_grad()
def generation_distance(
    model: UnifiedLatents,
    source: Source,
    features: VideoFeatures,
    *,
    data: dict[str, Any],
    reference: str = "val",
    clips: int | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Sample, compare with the reference, and say how. Clips go from model to network in memory, rounded to uint8.

    A model that continues given frames is given those of the reference's clips, one after the other and from the start
    again if there are fewer; its clips are compared whole, given frames included, as on Kinetics-600. Nothing is said
    of classes.

    Args:
        model: in eval mode, with a base.
        source: the reference's clips, of which the first `clips` are compared with.
        features: the network whose features are Gaussians here.
        data: the spec's data section, for the protocol.
        reference: the split that `source` is.
        clips: how many to generate; as many as the reference has, at most 2048, if None.
        batch_size: 8 if None.
        steps: of the base; the spec's if None.
        on_image: told how many clips are done, and of how many, real and generated together.

    Returns:
        {"figures": {features.name}, "protocol"}, ready for JSON. Where there are no more clips than dimensions, which
        leaves a covariance singular and the distance far too large, it warns, and the protocol says so.

    Raises:
        ValueError: images, no base, fewer than two clips, or clips that are too short for the network.
    """
    contract = model.contract
    if not contract.video:
        raise ValueError(f"{features.name} compares clips: this is a model of images")
    if model.base is None:
        raise ValueError("this model has no base: its second stage was not trained")
    clips = clips or min(CLIPS, len(source))
    batch_size = batch_size or default_batch(contract)
    compared = min(clips, len(source))
    if compared < 2:
        raise ValueError(f"a Fréchet distance needs at least 2 clips, not {compared}")
    left_out: dict[int, str] = {}
    generator = torch.Generator(model.device).manual_seed(seed)
    real, made = FeatureStatistics(features.dimension), FeatureStatistics(features.dimension)
    for batch in in_order(source, batch_size, compared):
        real.add(features(to_uint8(batch["x"])))
        left_out |= batch["left_out"]
        on_image(batch["images"], compared + clips)
    if contract.given_frames:
        while made.count < clips:
            for batch in in_order(source, batch_size, min(compared, clips - made.count)):
                frames = batch["x"][:, :, : contract.given_frames].to(model.device)
                x = model.sample(len(frames), frames=frames, steps=steps, generator=generator)
                made.add(features(to_uint8(x)))
                on_image(compared + made.count, compared + clips)
    else:
        while made.count < clips:
            x = model.sample(min(batch_size, clips - made.count), steps=steps, generator=generator)
            made.add(features(to_uint8(x)))
            on_image(compared + made.count, compared + clips)
    sampling = contract.sampling
    protocol = Protocol(
        figures=[features.name],
        **features.protocol,
        data=data,
        reference=reference,
        reference_clips=real.count,
        clips=made.count,
        **clip_conditions(contract),
        given_frames_of=reference if contract.given_frames else None,
        given_frames_compared=contract.given_frames > 0,
        labels="none",
        base_sampler=sampling["base"].sampler,
        base_steps=steps or sampling["base"].steps,
        guidance=1.0,
        decoder_sampler=sampling["decoder"].sampler,
        decoder_steps=sampling["decoder"].steps,
        seed=seed,
        batch_size=batch_size,
        distance="Fréchet distance of Gaussians, covariances divided by N - 1",
        **count_left_out(left_out),
    )
    if (fewest := min(real.count, made.count)) <= features.dimension:
        protocol["caution"] = f"{fewest} clips for {features.dimension} dimensions: singular, biased upwards"
        warnings.warn(
            f"{features.name} of {fewest} clips: with no more clips than its {features.dimension} dimensions it is far "
            "too large, and comparable only with figures of as many",
            stacklevel=1,
        )
    return {"figures": {features.name: frechet_distance(real, made)}, "protocol": protocol}
