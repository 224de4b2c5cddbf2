"""Rate and distortion of a model on a split: bits/pixel, bits/dimension, PSNR, SSIM, under a stated protocol."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ulzoo.contract import Contract
from ulzoo.data import Source, in_order
from ulzoo.evaluation.protocol import Protocol, clip_conditions
from ulzoo.evaluation.rate_decomposition import RateMeasurement
from ulzoo.evaluation.ssim import WINDOW, frame_ssim, ssim
from ulzoo.model import LatentNetwork, UnifiedLatents
from ulzoo.pixels import frame_psnr, psnr

RATE = "ELBO upper bound on the bits in the latent, not a file size"
PSNR = "mean over images of the PSNR of uint8-rounded images in [0, 255]"
CLIP_PSNR = "mean over clips and frames of the PSNR of each uint8-rounded frame in [0, 255]"
SSIM = "mean over images of the SSIM of uint8-rounded images, Gaussian window of σ 1.5 inside the image"
CLIP_SSIM = "mean over clips and frames of the SSIM of each uint8-rounded frame, Gaussian window of σ 1.5 inside it"


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
        on_image: told how many images or clips are done, for a display.

    Returns:
        {"figures": {"psnr_db", "ssim" of sides of at least 11 pixels, with a prior "bits_per_pixel",
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
    quality: list[Tensor] = []
    similarity: list[Tensor] = []
    left_out: dict[int, str] = {}
    similar = min(contract.size[-2:]) >= WINDOW
    for batch in in_order(source, batch_size, limit):
        x = batch["x"].to(device)
        labels = batch["label"].to(device)
        text = batch["text"] and batch["text"].to(device)
        for name in networks:
            with rates[name].recording() as bits:
                bits.append(model.rate(x, rate_samples, generator, name, labels, text))
        given = model.frames_needed
        frames = x[:, :, :given] if given else None
        made = model.reconstruct(x, decoder_steps, generator, labels, frames, text)
        if contract.video:
            made, x = made[:, :, given:], x[:, :, given:]
        quality.append((frame_psnr if contract.video else psnr)(made, x))
        if similar:
            similarity.append((frame_ssim if contract.video else ssim)(made, x))
        left_out |= batch["left_out"]
        on_image(batch["images"])
    figures: dict[str, Any] = {"psnr_db": _mean(quality)}
    if similar:
        figures["ssim"] = _mean(similarity)
    if contract.video:
        figures["psnr_db_by_frame"] = torch.cat(quality).cpu().double().mean(0).tolist()
    for name in networks:
        prefix = "" if name == "prior" else "base_"
        figures |= rates[name].figures(prefix, contract.pixels, contract.latent_dimensions)
    sampling = contract.sampling["decoder"]
    protocol = Protocol(
        data=data,
        split=split,
        images=sum(map(len, quality)),
        batch_size=batch_size,
        rate_samples=rate_samples,
        decoder_sampler=sampling.sampler,
        decoder_steps=sampling.steps if decoder_steps is None else decoder_steps,
        seed=seed,
        dtype="float32",
        psnr=CLIP_PSNR if contract.video else PSNR,
        rate=RATE,
        **({"ssim": CLIP_SSIM if contract.video else SSIM} if similar else {}),
        **(clip_conditions(contract) if contract.video else {}),
        **count_left_out(left_out),
    )
    if contract.given_frames and model.base is not None:
        protocol["rate"] += f"; the base's, of the latent given the first {contract.given_frames} frames"
    if given := model.frames_needed:
        for name in ("psnr", "ssim") if similar else ("psnr",):
            protocol[name] += f"; the decoder is given the first {given}, which are not counted"
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


def _mean(parts: list[Tensor]) -> float:
    return torch.cat(parts).cpu().double().mean().item()
