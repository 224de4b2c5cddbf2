"""Weights as matrices: which decay, and which Muon orthogonalises."""

import torch
from torch import Tensor, nn

KERNELS = (nn.Linear, nn.Conv2d, nn.Conv3d)
"""Modules whose weight, a matrix (out, in, …), decays."""


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon updates a parameter: timm's rule, which excludes positions (1, n, d) and depthwise kernels."""
    if parameter.ndim < 2 or 1 in parameter.shape[:2]:
        return False
    small, large = sorted(rows_and_columns(parameter.shape))
    return small >= 4 and large <= 128 * small


def rows_and_columns(shape: torch.Size) -> tuple[int, int]:
    return shape[0], shape[1:].numel()
