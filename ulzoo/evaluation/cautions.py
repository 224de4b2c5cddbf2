"""What the metrics of a model say against it, in words."""

from collections.abc import Mapping
from typing import Any

from ulzoo.model.rate import COLLAPSED_BITS_PER_DIMENSION


def find_cautions(metrics: Mapping[str, Any]) -> list[str]:
    """Lines about a rate near zero, and about reconstructions that are worse than one and the same image."""
    lines = []
    rate = metrics.get("bits_per_dimension")
    if rate is not None and rate < COLLAPSED_BITS_PER_DIMENSION:
        lines.append(
            f"the measured rate is {metrics['bits_per_pixel']:.4f} bits/pixel: the latent has collapsed, the decoder "
            "generates without it"
        )
    mean = metrics.get("mean_image_psnr_db")
    if mean is not None and metrics["psnr_db"] < mean:
        lines.append(
            f"the PSNR of reconstructions, {metrics['psnr_db']:.2f} dB, is below {mean:.2f} dB, that of the mean "
            "training image: the model has not learned to reconstruct; train longer, or see docs/evaluation.md"
        )
    return lines
