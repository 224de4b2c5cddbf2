"""Distortion of reconstructions: PSNR, SSIM, MS-SSIM, LPIPS, each with the protocol field that describes it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ulzoo.evaluation.collected import ExampleValues
from ulzoo.evaluation.features.lpips import Lpips
from ulzoo.evaluation.mean_image import MeanImage
from ulzoo.media.pixels import psnr, to_uint8
from ulzoo.model.contract import Contract

PSNR = "mean over images of the PSNR of uint8-rounded images in [0, 255]"
CLIP_PSNR = "mean over clips and frames of the PSNR of each uint8-rounded frame in [0, 255]"
SSIM = "mean over images of the SSIM of uint8-rounded images, Gaussian window of σ 1.5 inside the image"
CLIP_SSIM = "mean over clips and frames of the SSIM of each uint8-rounded frame, Gaussian window of σ 1.5 inside it"
MS_SSIM = "mean over images and channels of the MS-SSIM of uint8-rounded images, 5 scales, windows inside the image"
CLIP_MS_SSIM = "mean over clips, frames and channels of the MS-SSIM of uint8-rounded frames, 5 scales, windows inside"
LPIPS = "mean over images of the LPIPS of uint8-rounded images"
CLIP_LPIPS = "mean over clips and frames of the LPIPS of each uint8-rounded frame"

SIGMA, RADIUS = 1.5, 5  # of SSIM's Gaussian window, which is 11 pixels wide
WINDOW = 2 * RADIUS + 1
EXPONENTS = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333  # of MS-SSIM's five scales, the finest first
MULTISCALE_SIDE = WINDOW * 2 ** (len(EXPONENTS) - 1)
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


class Distortion:
    """Collects the distortion of a model's reconstructions, batch by batch. Each frame of a clip counts as an image.

    Args:
        contract: the model's contract; SSIM needs sides of at least 11 pixels, MS-SSIM of at least 176.
        context_frames: number of first frames of a clip that the decoder is given, which are not compared.
        lpips: a network for LPIPS; None for no LPIPS.
        mean_image: an image whose PSNR is measured too, as if it were every reconstruction; None for none.

    Attributes:
        protocol: for each metric, how it is averaged.

    Raises:
        ValueError: the images are too small for the network.
    """

    def __init__(
        self,
        contract: Contract,
        context_frames: int = 0,
        lpips: Lpips | None = None,
        mean_image: MeanImage | None = None,
    ) -> None:
        side, clips = min(contract.size[-2:]), contract.video
        self.frames = contract.size[0] - context_frames if clips else 0
        self.measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr_db": psnr}
        texts = {"psnr": CLIP_PSNR if clips else PSNR}
        if side >= WINDOW:
            self.measures["ssim"] = ssim
            texts["ssim"] = CLIP_SSIM if clips else SSIM
        if side >= MULTISCALE_SIDE:
            self.measures["ms_ssim"] = ms_ssim
            texts["ms_ssim"] = CLIP_MS_SSIM if clips else MS_SSIM
        if lpips:
            if side < lpips.min_side:
                raise ValueError(f"{lpips.name} needs sides of at least {lpips.min_side} pixels, not {side}")
            self.measures[lpips.name] = lpips
            texts["lpips"] = CLIP_LPIPS if clips else LPIPS
        if context_frames:
            texts = {
                name: f"{text}; the decoder is given the first {context_frames}, which are not counted"
                for name, text in texts.items()
            }
        self.protocol: dict[str, Any] = dict(texts)
        if lpips:
            self.protocol["lpips"] = {"averaged": texts["lpips"], **lpips.protocol}
        if mean_image:
            self.measures["mean_image_psnr_db"] = lambda _, x: mean_image.psnr(x)
            self.protocol["mean_image"] = mean_image.protocol
        self.values = ExampleValues()

    def add(self, reconstruction: Tensor, x: Tensor) -> None:
        """Add reconstructions and their originals, both (B, C, H, W) or (B, C, T, H, W) in [-1, 1]."""
        batch = len(x)
        if self.frames:
            reconstruction, x = (clips.transpose(1, 2).flatten(0, 1) for clips in (reconstruction, x))  # (B·T, C, H, W)
        for name, measure in self.measures.items():
            self.values.add(name, measure(reconstruction, x).reshape(batch, -1))

    def metrics(self) -> dict[str, Any]:
        """The mean of each metric; for clips also PSNR by frame, "psnr_db_by_frame"."""
        values = {name: self.values.rows(name).flatten() for name in self.measures}
        metrics: dict[str, Any] = {name: value.mean().item() for name, value in values.items()}
        if self.frames:
            metrics["psnr_db_by_frame"] = values["psnr_db"].reshape(-1, self.frames).mean(0).tolist()
        return metrics


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """The mean structural similarity of each image (Wang et al. 2004), on uint8-rounded pixels in [0, 255].

    Local means and variances are weighted by a Gaussian window of mass 1, and averaged over channels and over positions
    where the window lies inside the image. This is scikit-image's SSIM with `gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False`; torchmetrics also averages over a border of 5 pixels, where it reflects the image.

    Args:
        x, y: float in [-1, 1], both (B, C, H, W) with sides of at least 11 pixels.

    Returns:
        (B,) float32.
    """
    assert x.shape == y.shape and x.ndim == 4 and min(x.shape[-2:]) >= WINDOW, (x.shape, y.shape)
    luminance, contrast = _similarities(*_levels(x, y))
    return (luminance * contrast).flatten(1).mean(1).float()


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """The multi-scale structural similarity of each image (Wang, Simoncelli & Bovik 2003), on uint8-rounded pixels.

    The product, over five scales, of the mean contrast and structure terms to the paper's exponents; the coarsest scale
    contributes its mean SSIM instead. Each scale has half the resolution of the one before, by averaging 2×2 pixels. A
    negative mean counts as 0. Means are over positions where the window lies inside the image; the product is computed
    per channel and then averaged, as in TensorFlow.

    Args:
        x, y: float in [-1, 1], both (B, C, H, W) with sides of at least 176 pixels.

    Returns:
        (B,) float32.
    """
    assert x.shape == y.shape and x.ndim == 4 and min(x.shape[-2:]) >= MULTISCALE_SIDE, (x.shape, y.shape)
    a, b = _levels(x, y)
    product: Tensor | float = 1.0
    for scale, exponent in enumerate(EXPONENTS, start=1):
        luminance, contrast = _similarities(a, b)
        similarity = contrast if scale < len(EXPONENTS) else luminance * contrast
        product = product * similarity.mean((2, 3)).clamp(min=0) ** exponent  # (B, C)
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    assert isinstance(product, Tensor)
    return product.mean(1).float()


def _levels(x: Tensor, y: Tensor) -> list[Tensor]:
    """Images rounded to integers in [0, 255], in the device's most precise dtype."""
    return [to_uint8(image).to(torch.float64 if x.device.type != "mps" else torch.float32) for image in (x, y)]


def _similarities(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The luminance term, and the contrast and structure term, at each position: (B, C, H - 10, W - 10) each."""
    moments = _blur(torch.cat([a, b, a * a, b * b, a * b], dim=1))
    mean_a, mean_b, aa, bb, ab = moments.chunk(5, dim=1)
    covariance, variances = ab - mean_a * mean_b, aa - mean_a**2 + bb - mean_b**2
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return luminance, (2 * covariance + C2) / (variances + C2)


def _blur(images: Tensor) -> Tensor:
    """Weighted means under the window, (B, C, H - 10, W - 10)."""
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=images.dtype, device=images.device)
    weights = (-(offsets**2) / (2 * SIGMA**2)).exp()
    weights = (weights / weights.sum()).expand(images.shape[1], 1, WINDOW)
    rows = F.conv2d(images, weights.unsqueeze(2), groups=images.shape[1])
    return F.conv2d(rows, weights.unsqueeze(3), groups=images.shape[1])
