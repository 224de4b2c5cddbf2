"""How far reconstructions are from their images: PSNR, SSIM, MS-SSIM, LPIPS, each with what it is measured by."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ulzoo.evaluation.features.lpips import Lpips
from ulzoo.evaluation.ssim import MULTISCALE_SIDE, WINDOW, ms_ssim, ssim
from ulzoo.media.pixels import psnr
from ulzoo.model.contract import Contract

PSNR = "mean over images of the PSNR of uint8-rounded images in [0, 255]"
CLIP_PSNR = "mean over clips and frames of the PSNR of each uint8-rounded frame in [0, 255]"
SSIM = "mean over images of the SSIM of uint8-rounded images, Gaussian window of σ 1.5 inside the image"
CLIP_SSIM = "mean over clips and frames of the SSIM of each uint8-rounded frame, Gaussian window of σ 1.5 inside it"
MS_SSIM = "mean over images and channels of the MS-SSIM of uint8-rounded images, 5 scales, windows inside the image"
CLIP_MS_SSIM = "mean over clips, frames and channels of the MS-SSIM of uint8-rounded frames, 5 scales, windows inside"
LPIPS = "mean over images of the LPIPS of uint8-rounded images"
CLIP_LPIPS = "mean over clips and frames of the LPIPS of each uint8-rounded frame"


class Distortion:
    """What is gathered of a model's reconstructions, batch by batch. Of clips, every frame is an image.

    Args:
        contract: the model's; SSIM needs sides of at least 11 pixels, MS-SSIM of 176.
        given: frames at a clip's start that the decoder is given, which are not compared.
        lpips: a network for LPIPS; none if None.

    Attributes:
        protocol: says of each how it is averaged.

    Raises:
        ValueError: images that are too small for that network.
    """

    def __init__(self, contract: Contract, given: int = 0, lpips: Lpips | None = None) -> None:
        side, clips = min(contract.size[-2:]), contract.video
        self.frames = contract.size[0] - given if clips else 0
        self.measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr_db": psnr}
        texts = {"psnr": CLIP_PSNR if clips else PSNR}
        if side >= WINDOW:
            self.measures["ssim"] = ssim
            texts["ssim"] = CLIP_SSIM if clips else SSIM
        if side >= MULTISCALE_SIDE:
            self.measures["ms_ssim"] = ms_ssim
            texts["ms_ssim"] = CLIP_MS_SSIM if clips else MS_SSIM
        if lpips:
            if side < lpips.least_side:
                raise ValueError(f"{lpips.name} needs sides of at least {lpips.least_side} pixels, not {side}")
            self.measures[lpips.name] = lpips
            texts["lpips"] = CLIP_LPIPS if clips else LPIPS
        if given:
            texts = {
                name: f"{text}; the decoder is given the first {given}, which are not counted"
                for name, text in texts.items()
            }
        self.protocol: dict[str, Any] = dict(texts)
        if lpips:
            self.protocol["lpips"] = {"averaged": texts["lpips"], **lpips.protocol}
        self.found: dict[str, list[Tensor]] = {name: [] for name in self.measures}

    def add(self, made: Tensor, x: Tensor) -> None:
        """Take in reconstructions and their originals, both (B, C, H, W) or (B, C, T, H, W) in [-1, 1]."""
        if self.frames:
            made, x = (clips.transpose(1, 2).flatten(0, 1) for clips in (made, x))  # (B · T, C, H, W)
        for name, measure in self.measures.items():
            self.found[name].append(measure(made, x).cpu().double())

    def figures(self) -> dict[str, Any]:
        """The mean of each; of clips also PSNR by frame."""
        found = {name: torch.cat(parts) for name, parts in self.found.items()}
        figures: dict[str, Any] = {name: values.mean().item() for name, values in found.items()}
        if self.frames:
            figures["psnr_db_by_frame"] = found["psnr_db"].reshape(-1, self.frames).mean(0).tolist()
        return figures
