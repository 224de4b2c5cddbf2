"""Random numbers that belong to examples: their times and noise do not depend on how a batch is split.

On the CPU every example has a `torch.Generator`. On a GPU that is a kernel for every example and draw; there, every
example has a key of the counter-based Philox generator (Salmon et al. 2011) where PyTorch has them, from 2.14 on, and
one kernel draws for all. Numbers of a seed differ between devices, as those of PyTorch's generators do.
"""

import math
from collections.abc import Sequence
from copy import copy
from typing import Protocol, Self

import torch
from torch import Tensor

GOLDEN_RATIO = (1 + math.sqrt(5)) / 2

try:
    from torch.func import _random
except ImportError:  # before PyTorch 2.14
    _random = None  # type: ignore[assignment]
KEYS = _random is not None


class Streams(Protocol):
    """The random streams of n examples."""

    def __len__(self) -> int: ...

    def rows(self, rows: slice) -> "Streams":
        """The streams of these examples alone."""
        ...

    def repeat(self, draws: int) -> "Streams":
        """The streams of `draws` copies of the examples, one after the other."""
        ...

    def fill_normal(self, out: Tensor) -> None:
        """Fill (n, ...) with standard normal numbers."""
        ...

    def fill_uniform(self, out: Tensor) -> None:
        """Fill (n, ...) with numbers in [0, 1)."""
        ...


class GeneratorStreams:
    """One generator per example."""

    def __init__(self, generators: list[torch.Generator]) -> None:
        self.generators = generators

    @classmethod
    def of(cls, seeds: Sequence[int], device: torch.device | str) -> Self:
        return cls([torch.Generator(device).manual_seed(seed) for seed in seeds])

    def __len__(self) -> int:
        return len(self.generators)

    def rows(self, rows: slice) -> Self:
        return type(self)(self.generators[rows])

    def repeat(self, draws: int) -> Self:
        return type(self)(self.generators * draws)

    def fill_normal(self, out: Tensor) -> None:
        for example, generator in zip(out, self.generators, strict=True):
            example.normal_(generator=generator)

    def fill_uniform(self, out: Tensor) -> None:
        for example, generator in zip(out, self.generators, strict=True):
            example.uniform_(generator=generator)


class KeyStreams:
    """One Philox key per example, and how many draws have been made: the number of a draw is folded into the keys.

    Args:
        keys: uint64 (n, 2), seed and offset, as `torch.func._random.key` makes them.
        drawn: number of draws.
    """

    def __init__(self, keys: Tensor, drawn: int = 0) -> None:
        self.keys, self.drawn = keys, drawn

    @classmethod
    def of(cls, seeds: Sequence[int], device: torch.device | str) -> Self:
        keys = torch.tensor([[seed, 0] for seed in seeds], dtype=torch.uint64)  # (n, 2)
        if torch.device(device).type == "cuda":
            keys = keys.pin_memory()  # the copy does not wait
        return cls(keys.to(device, non_blocking=True))

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self, rows: slice) -> Self:
        return type(self)(self.keys[rows], self.drawn)

    def repeat(self, draws: int) -> Self:
        return type(self)(_random.split(self._next(), draws).flatten(0, 1))  # (draws · n, 2)

    def fill_normal(self, out: Tensor) -> None:
        _random.normal_(self._next_like(out), out)

    def fill_uniform(self, out: Tensor) -> None:
        _random.uniform_(self._next_like(out), out)

    def _next(self) -> Tensor:
        self.drawn += 1
        return _random.fold_in(self.keys, self.drawn)

    def _next_like(self, out: Tensor) -> Tensor:
        """The keys of the next draw, (n, 1, ..., 2)."""
        return self._next().reshape(len(self), *[1] * (out.ndim - 1), 2)


def example_streams(seeds: Sequence[int], device: torch.device | str) -> Streams:
    """Independent streams of examples on a device, each a function of its seed."""
    kind = KeyStreams if KEYS and torch.device(device).type == "cuda" else GeneratorStreams
    return kind.of(seeds, device)


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
        self.streams = example_streams(seeds, device)
        self.shared = torch.Generator(device).manual_seed(shared)
        self.positions = range(position, position + len(seeds))
        self.strata = torch.arange(position, position + len(seeds), device=device, dtype=torch.float32) / total
        self.draws = 1

    def repeat(self, draws: int) -> Self:
        """The noise of `draws` copies of these examples, one after the other, from the same streams."""
        noise = copy(self)
        noise.streams, noise.draws = self.streams.repeat(draws), self.draws * draws
        return noise

    def part(self, rows: slice) -> Self:
        """The noise of these examples alone, from the same streams."""
        noise = copy(self)
        noise.streams, noise.strata = self.streams.rows(rows), self.strata[rows]
        noise.shared = self.shared.clone_state()
        noise.positions = self.positions[rows]
        return noise

    def times(self) -> Tensor:
        """A time per example and draw, (draws · n,); those of one example are one per stratum of width 1/draws."""
        offset = torch.rand((), generator=self.shared, device=self.shared.device, dtype=torch.float32)
        offsets = (offset + self.strata) % 1  # (n,)
        draws = torch.arange(self.draws, device=offsets.device, dtype=torch.float32)
        return ((draws[:, None] + offsets) / self.draws % 1).flatten()

    def spread(self, step: float) -> Tensor:
        """A number in [0, 1) per example, (n,): a random one plus the multiples of an irrational `step`, modulo 1."""
        assert self.draws == 1
        offset = torch.rand((), generator=self.shared, device=self.shared.device, dtype=torch.float32)
        return (offset + _multiples(self.positions, step, self.strata.device)) % 1


class IndependentNoise(ExampleNoise):
    """One random stream per example, so that its t and ε do not depend on the other examples at all.

    Times are spread by the golden ratio over consecutive examples, almost as evenly as by strata, however many follow.

    Args:
        seeds: one per example.
        shared: seed of the number that all examples have in common.
        first: index of the first example.
        device: device of the random numbers.
    """

    def __init__(self, seeds: Sequence[int], shared: int, first: int = 0, device: torch.device | str = "cpu") -> None:
        super().__init__(seeds, shared, 0, len(seeds), device)
        strata = [n * GOLDEN_RATIO % 1 for n in range(first, first + len(seeds))]
        self.strata = torch.tensor(strata, dtype=torch.float32, device=device)

    @classmethod
    def from_generator(cls, generator: torch.Generator | None, n: int, device: torch.device) -> Self:
        """Streams of n examples, derived from one number of a generator: the first streams are the same for every n."""
        shared, *seeds = derive_seeds(generator, 1 + n)
        return cls(seeds, shared, device=device)


Noise = torch.Generator | ExampleNoise
"""What a loss or a sampler draws its times and noise from."""


def derive_seeds(generator: torch.Generator | None, n: int) -> list[int]:
    """n seeds, derived from one number of a generator: the first ones are the same for every n."""
    source = "cpu" if generator is None else generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=source, dtype=torch.int64))
    return torch.randint(2**62, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def independent_noise(generator: Noise | None, n: int, device: torch.device) -> ExampleNoise:
    """The streams of n examples: those of `generator`, or derived from one number of it."""
    if not isinstance(generator, ExampleNoise):
        return IndependentNoise.from_generator(generator, n, device)
    if len(generator.streams) != n:
        raise ValueError(f"the noise has streams for {len(generator.streams)} examples, not {n}")
    return generator


def rand(n: int, generator: Noise | None = None, device: torch.device | None = None) -> Tensor:
    """One uniform number in [0, 1) per example, (n,)."""
    if not isinstance(generator, ExampleNoise):
        return torch.rand(n, generator=generator, device=device, dtype=torch.float32)
    assert n == len(generator.streams)
    numbers = torch.empty(n, device=device, dtype=torch.float32)  # (n,)
    generator.streams.fill_uniform(numbers)
    return numbers


def randn(shape: tuple[int, ...], generator: Noise | None = None, device: torch.device | str | None = None) -> Tensor:
    """Standard normal noise, (B, ...), in float32."""
    if not isinstance(generator, ExampleNoise):
        return torch.randn(shape, dtype=torch.float32, device=device, generator=generator)
    noise = torch.empty(shape, dtype=torch.float32, device=device)
    generator.streams.fill_normal(noise)
    return noise


def randn_like(x: Tensor, generator: Noise | None = None) -> Tensor:
    """Standard normal noise of the shape, dtype and device of `x`, (B, ...), drawn in float32 whatever the dtype."""
    return randn(tuple(x.shape), generator, x.device).to(x.dtype)


def independent_randn_like(x: Tensor, generator: Noise | None = None) -> Tensor:
    """`randn_like` with a stream per example, derived from one number of a `torch.Generator`."""
    return randn_like(x, None if generator is None else independent_noise(generator, len(x), x.device))


def low_discrepancy_times(n: int, generator: Noise | None = None, device: torch.device | None = None) -> Tensor:
    """n times, (n,), each uniform on [0, 1) and one per stratum of width 1/n (VDM, arXiv 2107.00630, App. I.1).

    For one part of a batch (`ExampleNoise`), the strata are those of its examples in the whole batch; for examples that
    do not depend on each other (`IndependentNoise`), each example's draws have strata of their own.
    """
    if isinstance(generator, ExampleNoise):
        assert n == len(generator.streams)
        return generator.times()
    offset = torch.rand((), generator=generator, device=device, dtype=torch.float32)
    return (offset + torch.arange(n, device=device, dtype=torch.float32) / n) % 1


def spread_evenly(n: int, step: float, generator: Noise | None = None, device: torch.device | None = None) -> Tensor:
    """n numbers, (n,), each uniform on [0, 1), almost as even as `low_discrepancy_times` and independent of them.

    They are the multiples of an irrational `step` modulo 1 (Kronecker's sequence), shifted by a random number. Numbers
    of another step, or times, fill the unit square evenly with them.
    """
    if isinstance(generator, ExampleNoise):
        assert n == len(generator.streams)
        return generator.spread(step)
    offset = torch.rand((), generator=generator, device=device, dtype=torch.float32)
    return (offset + _multiples(range(n), step, offset.device)) % 1


def _multiples(numbers: range, step: float, device: torch.device) -> Tensor:
    """The multiples of `step` modulo 1, (n,), exact also for large numbers."""
    multiples = torch.arange(numbers.start, numbers.stop, device=device, dtype=torch.float64) * step
    return (multiples % 1).float()
