"""Rate and distortion of a model on a split: bits/pixel, bits/dimension, PSNR, SSIM, with their protocol."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ulzoo.data import Batch, Source
from ulzoo.data.fingerprint import fingerprint
from ulzoo.evaluation.collected import Collected
from ulzoo.evaluation.config import NOISE, EvaluationConfig
from ulzoo.evaluation.distortion import Distortion
from ulzoo.evaluation.execution import DEFAULT_EXECUTION, Execution, SharedPass
from ulzoo.evaluation.feature_metrics import FeatureCollector
from ulzoo.evaluation.noise_levels import noise_levels
from ulzoo.evaluation.protocol import Protocol, clip_fields, count_skipped
from ulzoo.evaluation.rate_decomposition import RateMeasurement
from ulzoo.model.networks import LatentNetwork
from ulzoo.model.pretrained import LatentMoments
from ulzoo.model.unified_latents import UnifiedLatents

RATE = "ELBO upper bound on the bits in the latent, not a file size"


@torch.no_grad()
def rate_distortion(
    model: UnifiedLatents,
    source: Source,
    config: EvaluationConfig,
    *,
    collector: FeatureCollector | None = None,
    execution: Execution = DEFAULT_EXECUTION,
) -> dict[str, Any]:
    """Measure the rate of the latents and the distortion of the reconstructions, in one pass over the source.

    Args:
        model: in eval mode.
        source: the images or clips.
        config: the settings that all metrics share.
        collector: collects the features of the same reconstructions, for `image_distances`; None for no features.
        execution: processes, resumption and progress. The caller removes the partial results (`Execution.finish`).

    Returns:
        {"figures", "protocol", "latent_statistics"}, ready for JSON; {} in all processes but the main one. The metrics
        are those of `Distortion`; with a prior "bits_per_pixel", "bits_per_dimension", "bits_per_pixel_se" and
        "bits_per_pixel_mc_se" (see `RateMeasurement.metrics`), and with a base the same as "base_…", but not of
        a variable-rate model at a loss factor that its base was not trained at.
        "latent_statistics" are the mean and std of the encoder's latents by channel, None if a channel is constant.
        With `decompose_rate`, "rate" maps each network to its `RateMeasurement.decomposition`. If examples could not
        be read, it warns, and the protocol contains their number as "left_out".
    """
    contract, device = model.contract, model.device
    networks: list[LatentNetwork] = [
        name for name in ("prior", "base") if getattr(model, name) is not None and model.trained_at_default(name)
    ]
    rates = {name: RateMeasurement(getattr(model, name), config.rate_samples) for name in networks}
    latents, required = LatentMoments(), model.required_context_frames
    distortion = Distortion(contract, required, config.lpips, config.mean_image)
    protocol = Protocol(
        data=config.data,
        split=config.split,
        fingerprint=fingerprint(source, config.count(source)).identity,
        images=config.count(source),
        rate_samples=config.rate_samples,
        **config.decoder_protocol(model, config.decoder_steps),
        seed=config.seed,
        noise=NOISE,
        dtype="float32",
        rate=RATE,
        **distortion.protocol,
        **(clip_fields(contract) if contract.video else {}),
    )
    if contract.context_frames and model.base is not None:
        protocol["rate"] += f"; the base's, of the latent given the first {contract.context_frames} frames"

    collected: dict[str, Collected] = {"distortion": distortion.values, "latents": latents}
    collected |= {name: rate.values for name, rate in rates.items()}
    batch_size = config.examples_per_batch(video=contract.video)
    identity = {"networks": networks, "batch_size": batch_size, **protocol, **config.shared_fields(model)}
    if collector:
        collected["features"] = collector
        identity["features"] = {**collector.network.protocol, "keep": collector.keep}
    partial = execution.partial_results(collected, model, identity)
    shared = SharedPass(source, batch_size, config.limit, partial, execution)
    for batch, examples in shared.batches():
        x = batch["x"].to(device)
        for name in networks:
            with rates[name].recording() as bits:
                bits.append(rate(model, batch, examples, config, network=name))
        z_clean, reconstructions = reconstruct(model, batch, examples, config)
        latents.add(z_clean)
        if collector:
            collector.add(reconstructions)
        if contract.video:
            reconstructions, x = reconstructions[:, :, required:], x[:, :, required:]
        distortion.add(reconstructions, x)
    if collector:
        collector.skipped = shared.skipped
    if not execution.processes.is_main:
        return {}

    figures = distortion.metrics()
    for name in networks:
        prefix = "" if name == "prior" else "base_"
        figures |= rates[name].metrics(prefix, contract.pixels, contract.latent_dimensions)
    protocol |= {"images": shared.images, **count_skipped(shared.skipped)}
    statistics = latents.statistics()
    results: dict[str, Any] = {
        "figures": figures,
        "protocol": protocol,
        "latent_statistics": statistics and statistics.to_dict(),
    }
    if config.decompose_rate:
        results["rate"] = {name: rate.decomposition(contract.pixels) for name, rate in rates.items()}
        if model.base is not None and "base" in networks:
            levels = noise_levels(results["rate"]["base"], model.base.diffusion.schedule, statistics)
            results["noise_levels"] = asdict(levels)
    return results


def rate(
    model: UnifiedLatents, batch: Batch, examples: range, config: EvaluationConfig, *, network: LatentNetwork
) -> Tensor:
    """`model.rate` of a batch in bits, (B,), by the prior or the base, with the noise of its examples."""
    return model.rate(
        batch["x"].to(model.device),
        samples=config.rate_samples,
        generator=config.noise(f"rate by the {network}", examples, model.device),
        network=network,
        labels=batch["label"].to(model.device),
        text=batch["text"] and batch["text"].to(model.device),
    )


def reconstruct(
    model: UnifiedLatents, batch: Batch, examples: range, config: EvaluationConfig
) -> tuple[Tensor, Tensor]:
    """z_clean and `model.reconstruct` of a batch, with the noise of its examples."""
    x, noise = batch["x"].to(model.device), config.noise("reconstructions", examples, model.device)
    required = model.required_context_frames if model.contract.video else 0
    z_clean = model.encode(x, generator=noise)
    reconstructions = model.decode(
        model.noise_latents(z_clean, generator=noise),
        labels=batch["label"].to(model.device),
        frames=x[:, :, :required] if required else None,
        text=batch["text"] and batch["text"].to(model.device),
        steps=config.decoder_steps,
        network=config.decoder,
        generator=noise,
    )
    return z_clean, reconstructions
