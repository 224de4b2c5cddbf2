"""What a loss draws from its noise, listed once, so that the numbers of later calls can be drawn before it.

A compiled graph has no `torch.Generator`; its random numbers are inputs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor

from ulzoo.diffusion.noise import ExampleNoise, Streams, rand, randn

Draw = Callable[[ExampleNoise], Tensor]
"""One request for random numbers."""


class NoiseRecorder(ExampleNoise):
    """Noise of n examples that lists what is drawn from it.

    Attributes:
        requests: those so far; called with other noise, each returns the numbers that it gives.
    """

    def __init__(self, n: int, device: torch.device) -> None:
        super().__init__([0] * n, 0, 0, n, device)
        self.requests: list[Draw] = []
        self.streams = cast(Streams, _RecordedStreams(self.streams, self.requests))  # a loss does not split its noise

    def times(self) -> Tensor:
        self.requests.append(ExampleNoise.times)
        return super().times()

    def spread(self, step: float) -> Tensor:
        self.requests.append(partial(ExampleNoise.spread, step=step))
        return super().spread(step)


class DrawnNoise(ExampleNoise):
    """Noise of n examples that returns given numbers, in their order.

    Args:
        n: number of examples.
        numbers: a result of each recorded request.
    """

    def __init__(self, n: int, numbers: Sequence[Tensor]) -> None:
        self.numbers = list(numbers)
        self.streams = cast(Streams, _DrawnStreams(n, self.numbers))

    def times(self) -> Tensor:
        return self.numbers.pop(0)

    def spread(self, step: float) -> Tensor:
        return self.numbers.pop(0)


class _RecordedStreams:
    def __init__(self, streams: Streams, requests: list[Draw]) -> None:
        self.streams, self.requests = streams, requests

    def __len__(self) -> int:
        return len(self.streams)

    def fill_normal(self, out: Tensor) -> None:
        self.streams.fill_normal(out)
        self.requests.append(partial(_normal, shape=tuple(out.shape), device=out.device))

    def fill_uniform(self, out: Tensor) -> None:
        self.streams.fill_uniform(out)
        self.requests.append(partial(_uniform, device=out.device))


class _DrawnStreams:
    def __init__(self, n: int, numbers: list[Tensor]) -> None:
        self.n, self.numbers = n, numbers

    def __len__(self) -> int:
        return self.n

    def fill_normal(self, out: Tensor) -> None:
        out.copy_(self.numbers.pop(0))

    fill_uniform = fill_normal


def _normal(noise: ExampleNoise, *, shape: tuple[int, ...], device: torch.device) -> Tensor:
    return randn(shape, noise, device)


def _uniform(noise: ExampleNoise, *, device: torch.device) -> Tensor:
    return rand(len(noise.streams), noise, device)
