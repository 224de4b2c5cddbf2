"""Rate and distortion of a model on a split: bits/pixel, bits/dimension, PSNR, SSIM, with their protocol."""

from collections.abc import Callable
from typing import Any

import torch

from ulzoo.data import Source, in_order
from ulzoo.data.fingerprint import fingerprint
from ulzoo.evaluation.config import NOISE, EvaluationConfig
from ulzoo.evaluation.distortion import Distortion
from ulzoo.evaluation.protocol import Protocol, clip_fields, count_skipped
from ulzoo.evaluation.rate_decomposition import RateMeasurement
from ulzoo.model.pretrained import LatentMoments
from ulzoo.model.unified_latents import LatentNetwork, UnifiedLatents

RATE = "ELBO upper bound on the bits in the latent, not a file size"


@torch.no_grad()
def rate_distortion(
    model: UnifiedLatents,
    source: Source,
    config: EvaluationConfig,
    *,
    on_progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Measure the rate of the latents and the distortion of the reconstructions.

    Args:
        model: in eval mode.
        source: the images or clips.
        config: the settings that all metrics share.
        on_progress: called with the number of images or clips processed so far.

    Returns:
        {"figures", "protocol", "latent_statistics"}, ready for JSON. The metrics are those of `Distortion`; with a
        prior "bits_per_pixel", "bits_per_dimension", "bits_per_pixel_se" and "bits_per_pixel_mc_se" (see
        `RateMeasurement.metrics`), and with a base the same as "base_…". "latent_statistics" are the mean and std of
        the encoder's latents by channel, None if a channel is constant. With `decompose_rate`, "rate" maps each network
        to its `RateMeasurement.decomposition`. If examples could not be read, it warns, and the protocol contains their
        number as "left_out".
    """
    contract, device = model.contract, model.device
    batch_size = config.examples_per_batch(video=contract.video)
    networks: list[LatentNetwork] = [name for name in ("prior", "base") if getattr(model, name) is not None]
    rates = {name: RateMeasurement(getattr(model, name), config.rate_samples) for name in networks}
    latents, required = LatentMoments(), model.required_context_frames
    distortion = Distortion(contract, required, config.lpips, config.mean_image)
    skipped: dict[int, str] = {}
    done = 0
    for batch in in_order(source, batch_size, config.limit):
        x, labels = batch["x"].to(device), batch["label"].to(device)
        text = batch["text"] and batch["text"].to(device)
        examples = range(done, done + len(x))
        for name in networks:
            with rates[name].recording() as bits:
                noise = config.noise(f"rate by the {name}", examples, device)
                bits.append(
                    model.rate(x, samples=config.rate_samples, generator=noise, network=name, labels=labels, text=text)
                )
        reconstruction = model.reconstruct(
            x,
            labels=labels,
            frames=x[:, :, :required] if required else None,
            text=text,
            steps=config.decoder_steps,
            generator=config.noise("reconstructions", examples, device),
        )
        if contract.video:
            reconstruction, x = reconstruction[:, :, required:], x[:, :, required:]
        distortion.add(reconstruction, x)
        latents.add(model.encode(batch["x"].to(device), generator=config.noise("latents", examples, device)))
        skipped |= batch["skipped"]
        done = batch["images"]
        on_progress(done)
    figures = distortion.metrics()
    for name in networks:
        prefix = "" if name == "prior" else "base_"
        figures |= rates[name].metrics(prefix, contract.pixels, contract.latent_dimensions)
    sampling = contract.sampling["decoder"]
    protocol = Protocol(
        data=config.data,
        split=config.split,
        fingerprint=fingerprint(source, config.count(source)).identity,
        images=done,
        rate_samples=config.rate_samples,
        decoder_sampler=sampling.sampler,
        decoder_steps=sampling.steps if config.decoder_steps is None else config.decoder_steps,
        seed=config.seed,
        noise=NOISE,
        dtype="float32",
        rate=RATE,
        **distortion.protocol,
        **(clip_fields(contract) if contract.video else {}),
        **count_skipped(skipped),
    )
    if contract.context_frames and model.base is not None:
        protocol["rate"] += f"; the base's, of the latent given the first {contract.context_frames} frames"
    statistics = latents.statistics()
    results: dict[str, Any] = {
        "figures": figures,
        "protocol": protocol,
        "latent_statistics": statistics and statistics.to_dict(),
    }
    if config.decompose_rate:
        results["rate"] = {name: rate.decomposition(contract.pixels) for name, rate in rates.items()}
    return results
