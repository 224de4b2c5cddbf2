"""The variance-preserving noise of one level: α, σ from a log-SNR, and ε; and where random numbers come from."""

from collections.abc import Sequence

import torch
from torch import Tensor


class ExampleNoise:
    """Random numbers that belong to examples: the same in whatever part of a batch, and on whatever process, they are.

    Args:
        seeds: of each example of this part.
        shared: seed of what the whole batch has in common.
        position: of the part's first example in the whole batch.
        total: examples of the whole batch.
        device: of what is drawn.
    """

    def __init__(
        self, seeds: Sequence[int], shared: int, position: int, total: int, device: torch.device | str = "cpu"
    ) -> None:
        assert 0 <= position <= position + len(seeds) <= total
        self.examples = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.shared = torch.Generator(device).manual_seed(shared)
        self.position, self.total = position, total

    def shared_rand(self) -> Tensor:
        """A number in [0, 1) that is the same for all parts of the batch, ()."""
        return torch.rand((), generator=self.shared, device=self.shared.device)


Noise = torch.Generator | ExampleNoise
"""Where a loss draws its times and noise from."""


def rand(n: int, generator: Noise | None = None, device: torch.device | None = None) -> Tensor:
    """A number in [0, 1) for each of n examples, (n,)."""
    if not isinstance(generator, ExampleNoise):
        return torch.rand(n, generator=generator, device=device)
    assert n == len(generator.examples)
    found = torch.empty(n, device=device)
    for value, stream in zip(found, generator.examples, strict=True):
        value.uniform_(generator=stream)
    return found


def randn_like(x: Tensor, generator: Noise | None = None) -> Tensor:
    """Standard normal noise of the shape, dtype and device of `x`, (B, ...)."""
    if isinstance(generator, ExampleNoise):
        found = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for example, stream in zip(found, generator.examples, strict=True):
            example.normal_(generator=stream)
        return found
    return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)


def low_discrepancy_times(n: int, generator: Noise | None = None, device: torch.device | None = None) -> Tensor:
    """n times in [0, 1), each uniform, together one per stratum of width 1/n (VDM, arXiv 2107.00630, App. I.1).

    Of a part of a batch (`ExampleNoise`) they are those of its examples in the whole batch.
    """
    if isinstance(generator, ExampleNoise):
        assert n == len(generator.examples)
        offset, first, total = generator.shared_rand(), generator.position, generator.total
    else:
        offset, first, total = torch.rand((), generator=generator, device=device), 0, n
    return (offset + torch.arange(first, first + n, device=device) / total) % 1  # (n,)
