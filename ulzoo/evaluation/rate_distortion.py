"""Rate and distortion of a model on a split: bits/pixel, bits/dimension, PSNR, SSIM, under a stated protocol."""

import warnings
from collections.abc import Callable
from typing import Any

import torch

from ulzoo.data import Source, in_order
from ulzoo.evaluation.distortion import Distortion
from ulzoo.evaluation.features.lpips import Lpips
from ulzoo.evaluation.protocol import Protocol, clip_conditions
from ulzoo.evaluation.rate_decomposition import RateMeasurement
from ulzoo.model.contract import Contract
from ulzoo.model.unified_latents import LatentNetwork, UnifiedLatents

RATE = "ELBO upper bound on the bits in the latent, not a file size"


@torch.no_grad()
def rate_distortion(
    model: UnifiedLatents,
    source: Source,
    *,
    data: dict[str, Any],
    split: str = "val",
    limit: int | None = None,
    batch_size: int | None = None,
    rate_samples: int = 8,
    decoder_steps: int | None = None,
    seed: int = 0,
    decompose: bool = False,
    lpips: Lpips | None = None,
    on_image: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Figures and their protocol.

    Args:
        model: in eval mode.
        source: the split's images.
        data: the spec's data section, for the protocol.
        limit: how many images or clips; all if None.
        batch_size: 64 images or 8 clips if None.
        decoder_steps: the spec's if None.
        decompose: also say where the bits sit.
        lpips: also measure this distance.
        on_image: told how many images or clips are done, for a display.

    Returns:
        {"figures": {"psnr_db" and what else `Distortion` measures, with a prior "bits_per_pixel",
        "bits_per_dimension", "bits_per_pixel_se" and "bits_per_pixel_mc_se" (`RateMeasurement.figures`), with a base
        the same as "base_…", for video "psnr_db_by_frame"}, "protocol"} and, if asked, {"rate": network ->
        `RateMeasurement.decomposition`}, ready for JSON. Where files could not be read, it warns, and the protocol has
        their number as "left_out".
    """
    contract, device = model.contract, model.device
    batch_size = batch_size or default_batch(contract)
    generator = torch.Generator(device).manual_seed(seed)
    networks: list[LatentNetwork] = [name for name in ("prior", "base") if getattr(model, name) is not None]
    rates = {name: RateMeasurement(getattr(model, name), rate_samples) for name in networks}
    given = model.frames_needed
    distortion = Distortion(contract, given, lpips)
    left_out: dict[int, str] = {}
    done = 0
    for batch in in_order(source, batch_size, limit):
        x = batch["x"].to(device)
        labels = batch["label"].to(device)
        text = batch["text"] and batch["text"].to(device)
        for name in networks:
            with rates[name].recording() as bits:
                bits.append(model.rate(x, rate_samples, generator, name, labels, text))
        frames = x[:, :, :given] if given else None
        made = model.reconstruct(x, decoder_steps, generator, labels, frames, text)
        if contract.video:
            made, x = made[:, :, given:], x[:, :, given:]
        distortion.add(made, x)
        left_out |= batch["left_out"]
        done = batch["images"]
        on_image(done)
    figures = distortion.figures()
    for name in networks:
        prefix = "" if name == "prior" else "base_"
        figures |= rates[name].figures(prefix, contract.pixels, contract.latent_dimensions)
    sampling = contract.sampling["decoder"]
    protocol = Protocol(
        data=data,
        split=split,
        images=done,
        batch_size=batch_size,
        rate_samples=rate_samples,
        decoder_sampler=sampling.sampler,
        decoder_steps=sampling.steps if decoder_steps is None else decoder_steps,
        seed=seed,
        dtype="float32",
        rate=RATE,
        **distortion.protocol,
        **(clip_conditions(contract) if contract.video else {}),
        **count_left_out(left_out),
    )
    if contract.given_frames and model.base is not None:
        protocol["rate"] += f"; the base's, of the latent given the first {contract.given_frames} frames"
    results = {"figures": figures, "protocol": protocol}
    if decompose:
        results["rate"] = {name: rate.decomposition(contract.pixels) for name, rate in rates.items()}
    return results


def count_left_out(left_out: dict[int, str]) -> dict[str, int]:
    """For a protocol, how many examples could not be read, if any; with a warning that names the first."""
    if not left_out:
        return {}
    more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
    warnings.warn(f"left out: {next(iter(left_out.values()))}{more}", stacklevel=1)
    return {"left_out": len(left_out)}


def default_batch(contract: Contract) -> int:
    """Examples at once where nobody says how many."""
    return 8 if contract.video else 64
