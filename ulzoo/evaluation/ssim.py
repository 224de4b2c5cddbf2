"""Structural similarity of images, SSIM, and at several scales, MS-SSIM."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ulzoo.media.pixels import to_uint8

SIGMA, RADIUS = 1.5, 5  # of the Gaussian window, 11 pixels wide
WINDOW = 2 * RADIUS + 1
EXPONENTS = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333  # of the five scales, the finest first
MULTISCALE_SIDE = WINDOW * 2 ** (len(EXPONENTS) - 1)
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
    luminance, contrast = _similarities(*_levels(x, y))
    return (luminance * contrast).flatten(1).mean(1).float()


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """The multi-scale structural similarity of each image (Wang, Simoncelli & Bovik 2003), on uint8-rounded pixels.

    The mean contrast-and-structure terms at five scales, each half the one before by means of 2×2 pixels, and the mean
    SSIM at the coarsest in the last one's place, to the paper's exponents; a negative mean counts as 0. Means over
    places where the window lies in the image; the product is taken channel by channel, then averaged, as TensorFlow
    does.

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
    """Rounded to [0, 255], in as many digits as there are."""
    return [to_uint8(image).to(torch.float64 if x.device.type != "mps" else torch.float32) for image in (x, y)]


def _similarities(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Of luminance, and of contrast and structure, place by place: (B, C, H - 10, W - 10) each."""
    moments = _blur(torch.cat([a, b, a * a, b * b, a * b], dim=1))
    mean_a, mean_b, aa, bb, ab = moments.chunk(5, dim=1)
    covariance, variances = ab - mean_a * mean_b, aa - mean_a**2 + bb - mean_b**2
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return luminance, (2 * covariance + C2) / (variances + C2)


def _blur(images: Tensor) -> Tensor:
    """Weighted means under the window, (B, C, H - 10, W - 10)."""
    places = torch.arange(-RADIUS, RADIUS + 1, dtype=images.dtype, device=images.device)
    weights = (-(places**2) / (2 * SIGMA**2)).exp()
    weights = (weights / weights.sum()).expand(images.shape[1], 1, WINDOW)
    across = F.conv2d(images, weights.unsqueeze(2), groups=images.shape[1])
    return F.conv2d(across, weights.unsqueeze(3), groups=images.shape[1])
