"""Rate and distortion of a model on a split: bits/pixel, bits/dimension, PSNR, each under a stated protocol."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ulzoo.data import Source, in_order
from ulzoo.model import UnifiedLatents
from ulzoo.pixels import psnr


@dataclass(frozen=True)
class Protocol:
    """Everything that the figures depend on besides the weights.

    Attributes:
        data: the spec's data section.
        split: "train" or "val".
        images: how many, from the split's start.
        batch_size: images that shared a batch, and with it the noise generator and the strata of t.
        rate_samples: draws of (t, ε) per image for the rate.
        decoder_sampler, decoder_steps: how reconstructions were decoded.
        seed: of all noise.
        dtype: of the computation.
        psnr: how PSNR is averaged.
        rate: what the rate is.
    """

    data: dict[str, Any]
    split: str
    images: int
    batch_size: int
    rate_samples: int
    decoder_sampler: str
    decoder_steps: int
    seed: int
    dtype: str = "float32"
    psnr: str = "mean over images of the PSNR of uint8-rounded images in [0, 255]"
    rate: str = "ELBO upper bound on the bits in the latent, not a file size"


@torch.no_grad()
def rate_distortion(
    model: UnifiedLatents,
    source: Source,
    *,
    data: dict[str, Any],
    split: str = "val",
    limit: int | None = None,
    batch_size: int = 64,
    rate_samples: int = 8,
    decoder_steps: int | None = None,
    seed: int = 0,
    on_image: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Figures and their protocol.

    Args:
        model: in eval mode.
        source: the split's images.
        data: the spec's data section, for the protocol.
        limit: how many images; all if None.
        decoder_steps: the spec's if None.
        on_image: told how many images are done, for a display.

    Returns:
        {"figures": {"bits_per_pixel", "bits_per_dimension" (by the prior), "psnr_db" and, with a base,
        "base_bits_per_pixel", "base_bits_per_dimension"}, "protocol": Protocol as a dict}, ready for JSON.
    """
    contract, device = model.contract, model.device
    generator = torch.Generator(device).manual_seed(seed)
    networks = ["prior"] if model.base is None else ["prior", "base"]
    bits: dict[str, list[Tensor]] = {name: [] for name in networks}
    quality: list[Tensor] = []
    for batch in in_order(source, batch_size, limit):
        x = batch["x"].to(device)
        labels = batch["label"].to(device)
        for name in networks:
            network = cast(Literal["prior", "base"], name)
            bits[name].append(model.rate(x, rate_samples, generator, network, labels))
        quality.append(psnr(model.reconstruct(x, decoder_steps, generator, labels), x))
        on_image(batch["images"])
    images = sum(map(len, quality))
    figures = {"psnr_db": _mean(quality)}
    for name in networks:
        prefix = "" if name == "prior" else "base_"
        figures[f"{prefix}bits_per_pixel"] = _mean(bits[name]) / contract.pixels
        figures[f"{prefix}bits_per_dimension"] = _mean(bits[name]) / contract.latent_dimensions
    sampling = contract.sampling["decoder"]
    steps = sampling.steps if decoder_steps is None else decoder_steps
    protocol = Protocol(data, split, images, batch_size, rate_samples, sampling.sampler, steps, seed)
    return {"figures": figures, "protocol": asdict(protocol)}


def _mean(parts: list[Tensor]) -> float:
    return torch.cat(parts).cpu().double().mean().item()
