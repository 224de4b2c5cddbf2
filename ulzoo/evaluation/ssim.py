"""Structural similarity of images, SSIM."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ulzoo.pixels import to_uint8

SIGMA, RADIUS = 1.5, 5  # of the Gaussian window, 11 pixels wide
WINDOW = 2 * RADIUS + 1
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """The mean structural similarity of each image (Wang et al. 2004), on uint8-rounded pixels in [0, 255].

    Local means and variances under a Gaussian window, divided by its mass alone; means over places where the window
    lies in the image, and over channels. It is scikit-image's with `gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False`; torchmetrics also counts a border of 5 pixels, for which it reflects the image.

    Args:
        x, y: float in [-1, 1], both (B, C, H, W) with sides of at least 11 pixels.

    Returns:
        (B,) float32.
    """
    assert x.shape == y.shape and x.ndim == 4 and min(x.shape[-2:]) >= WINDOW, (x.shape, y.shape)
    a, b = (to_uint8(image).to(torch.float64 if x.device.type != "mps" else torch.float32) for image in (x, y))
    moments = _blur(torch.cat([a, b, a * a, b * b, a * b], dim=1))
    mean_a, mean_b, aa, bb, ab = moments.chunk(5, dim=1)
    covariance, variances = ab - mean_a * mean_b, aa - mean_a**2 + bb - mean_b**2
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return (luminance * (2 * covariance + C2) / (variances + C2)).flatten(1).mean(1).float()


def frame_ssim(x: Tensor, y: Tensor) -> Tensor:
    """`ssim` of every frame of clips: x and y (B, C, T, H, W), the result (B, T)."""
    assert x.shape == y.shape and x.ndim == 5, (x.shape, y.shape)
    frames, others = (clips.transpose(1, 2).flatten(0, 1) for clips in (x, y))  # (B · T, C, H, W)
    return ssim(frames, others).reshape(len(x), -1)


def _blur(images: Tensor) -> Tensor:
    """Weighted means under the window, (B, C, H - 10, W - 10)."""
    places = torch.arange(-RADIUS, RADIUS + 1, dtype=images.dtype, device=images.device)
    weights = (-(places**2) / (2 * SIGMA**2)).exp()
    weights = (weights / weights.sum()).expand(images.shape[1], 1, WINDOW)
    across = F.conv2d(images, weights.unsqueeze(2), groups=images.shape[1])
    return F.conv2d(across, weights.unsqueeze(3), groups=images.shape[1])
