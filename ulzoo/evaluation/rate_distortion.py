"""Rate and distortion of a model on a split: bits/pixel, bits/dimension, PSNR, each under a stated protocol."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ulzoo.contract import Contract
from ulzoo.data import Source, in_order
from ulzoo.model import LatentNetwork, UnifiedLatents
from ulzoo.pixels import frame_psnr, psnr
from ulzoo.text import Text


@dataclass(frozen=True)
class Protocol:
    """Everything that the figures depend on besides the weights.

    Attributes:
        data: the spec's data section.
        split: "train" or "val".
        images: how many images, or clips, from the split's start.
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


@dataclass(frozen=True, kw_only=True)
class ClipProtocol(Protocol):
    """What the figures of a video model depend on besides.

    Attributes:
        frames: of a clip; bits/pixel are bits over frames × height × width.
        frame_rate: in frames per second; None where each video keeps its own.
        clip: which part of a video.
        resize: how it came to its size.
        given_frames: first frames that the model continues; what of them entered a figure is said in its text.
    """

    frames: int
    frame_rate: float | None
    clip: str
    resize: str
    given_frames: int
    psnr: str = "mean over clips and frames of the PSNR of each uint8-rounded frame in [0, 255]"


def clip_conditions(contract: Contract) -> dict[str, Any]:
    """What every protocol says of the clips that a figure was measured on."""
    frames, height, width = contract.size
    return {
        "frames": frames,
        "frame_rate": contract.frame_rate,
        "clip": "the middle of each video",
        "resize": f"shortest side to {min(height, width)} pixels, centre crop, as the data section's kind does it",
        "given_frames": contract.given_frames,
    }


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
        on_image: told how many images or clips are done, for a display.

    Returns:
        {"figures": {"psnr_db", with a prior "bits_per_pixel", "bits_per_dimension", for video "psnr_db_by_frame", and,
        with a base, "base_bits_per_pixel", "base_bits_per_dimension"}, "protocol": Protocol as a dict}, ready for
        JSON. Where files could not be read, it warns, and the protocol has their number as "left_out".
    """
    contract, device = model.contract, model.device
    batch_size = batch_size or default_batch(contract)
    generator = torch.Generator(device).manual_seed(seed)
    networks: list[LatentNetwork] = [name for name in ("prior", "base") if getattr(model, name) is not None]
    bits: dict[str, list[Tensor]] = {name: [] for name in networks}
    quality: list[Tensor] = []
    left_out: dict[int, str] = {}
    for batch in in_order(source, batch_size, limit):
        x = batch["x"].to(device)
        labels = batch["label"].to(device)
        text = batch["text"] and batch["text"].to(device)
        for name in networks:
            bits[name].append(model.rate(x, rate_samples, generator, name, labels, text))
        if contract.video:
            quality.append(_reconstruction(model, x, decoder_steps, generator, labels, text))
        else:
            quality.append(psnr(model.reconstruct(x, decoder_steps, generator, labels, text=text), x))
        left_out |= batch["left_out"]
        on_image(batch["images"])
    images = sum(map(len, quality))
    figures: dict[str, Any] = {"psnr_db": _mean(quality)}
    if contract.video:
        figures["psnr_db_by_frame"] = torch.cat(quality).cpu().double().mean(0).tolist()
    for name in networks:
        prefix = "" if name == "prior" else "base_"
        figures[f"{prefix}bits_per_pixel"] = _mean(bits[name]) / contract.pixels
        figures[f"{prefix}bits_per_dimension"] = _mean(bits[name]) / contract.latent_dimensions
    sampling = contract.sampling["decoder"]
    steps = sampling.steps if decoder_steps is None else decoder_steps
    told = (data, split, images, batch_size, rate_samples, sampling.sampler, steps, seed)
    if not contract.video:
        return {"figures": figures, "protocol": asdict(Protocol(*told)) | count_left_out(left_out)}
    protocol = asdict(ClipProtocol(*told, **clip_conditions(contract))) | count_left_out(left_out)
    if contract.given_frames and model.base is not None:
        protocol["rate"] += f"; the base's, of the latent given the first {contract.given_frames} frames"
    if model.frames_needed:
        protocol["psnr"] += f"; the decoder is given the first {contract.given_frames}, which are not counted"
    return {"figures": figures, "protocol": protocol}


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


def _reconstruction(
    model: UnifiedLatents,
    x: Tensor,
    steps: int | None,
    generator: torch.Generator,
    labels: Tensor,
    text: Text | None,
) -> Tensor:
    """PSNR of each frame that the decoder made, (B, T) or, if it must be given the first k, (B, T - k)."""
    given = model.frames_needed
    made = model.reconstruct(x, steps, generator, labels, x[:, :, :given] if given else None, text)
    return frame_psnr(made[:, :, given:], x[:, :, given:])


def _mean(parts: list[Tensor]) -> float:
    return torch.cat(parts).cpu().double().mean().item()
