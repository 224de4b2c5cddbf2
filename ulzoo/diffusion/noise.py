"""Sources of times t and noise ε: one generator for a whole batch, or one per example."""

from collections.abc import Sequence

import torch
from torch import Tensor


class ExampleNoise:
    """One random stream per example, so that its t and ε do not depend on how a batch is split over parts and ranks.

    Args:
        seeds: one per example of this part of the batch.
        shared: seed of the numbers that the whole batch has in common.
        position: index of the part's first example in the whole batch.
        total: number of examples in the whole batch.
        device: device of the random numbers.
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
        return torch.rand((), generator=self.shared, device=self.shared.device, dtype=torch.float32)


Noise = torch.Generator | ExampleNoise
"""What a loss draws its times and noise from."""


def rand(n: int, generator: Noise | None = None, device: torch.device | None = None) -> Tensor:
    """One uniform number in [0, 1) per example, (n,)."""
    if not isinstance(generator, ExampleNoise):
        return torch.rand(n, generator=generator, device=device, dtype=torch.float32)
    assert n == len(generator.examples)
    numbers = torch.empty(n, device=device, dtype=torch.float32)  # (n,)
    for number, stream in zip(numbers, generator.examples, strict=True):
        number.uniform_(generator=stream)
    return numbers


def randn_like(x: Tensor, generator: Noise | None = None) -> Tensor:
    """Standard normal noise of the shape, dtype and device of `x`, (B, ...), drawn in float32 whatever the dtype."""
    if not isinstance(generator, ExampleNoise):
        return torch.randn(x.shape, dtype=torch.float32, device=x.device, generator=generator).to(x.dtype)
    noise = torch.empty(x.shape, dtype=torch.float32, device=x.device)  # (B, ...)
    for example, stream in zip(noise, generator.examples, strict=True):
        example.normal_(generator=stream)
    return noise.to(x.dtype)


def low_discrepancy_times(n: int, generator: Noise | None = None, device: torch.device | None = None) -> Tensor:
    """n times, (n,), each uniform on [0, 1) and one per stratum of width 1/n (VDM, arXiv 2107.00630, App. I.1).

    For one part of a batch (`ExampleNoise`), the strata are those of its examples in the whole batch.
    """
    if isinstance(generator, ExampleNoise):
        assert n == len(generator.examples)
        offset, first, total = generator.shared_rand(), generator.position, generator.total
    else:
        offset, first, total = torch.rand((), generator=generator, device=device, dtype=torch.float32), 0, n
    strata = torch.arange(first, first + n, device=device, dtype=torch.float32) / total
    return (offset + strata) % 1  # (n,)
