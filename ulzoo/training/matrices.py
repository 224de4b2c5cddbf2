"""Weights as matrices: which decay, and which Muon orthogonalises."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

KERNELS = (nn.Linear, nn.Conv2d, nn.Conv3d)
"""Modules whose weight, a matrix (out, in, …), decays."""

MAX_STACKED_VALUES = 1 << 24
"""Matrices are orthogonalised in stacks of at most this many values: larger ones take memory and are no faster."""


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon updates a parameter: timm's rule, which excludes positions (1, n, d) and depthwise kernels."""
    if parameter.ndim < 2 or 1 in parameter.shape[:2]:
        return False
    small, large = sorted(rows_and_columns(parameter.shape))
    return small >= 4 and large <= 128 * small


def rows_and_columns(shape: torch.Size) -> tuple[int, int]:
    return shape[0], shape[1:].numel()


def stack_matrices(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The matrices among the parameters, in stacks of one shape that Muon orthogonalises at once."""
    by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for parameter in filter(is_matrix, parameters):
        by_shape[parameter.shape].append(parameter)
    for shape, matrices in by_shape.items():
        size = max(MAX_STACKED_VALUES // shape.numel(), 1)
        yield from (matrices[start : start + size] for start in range(0, len(matrices), size))
