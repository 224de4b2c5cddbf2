"""`python -m benchmarks blockiness`: what it counts as the border of a patch."""

import pytest
import torch

from benchmarks.blockiness import blockiness


def test_squares_of_one_value_are_blocks_and_the_originals_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(64, 3, 16, 16, generator=generator)
    squares = x[..., ::4, ::4].repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert blockiness(x, x, 4) == 1
    assert blockiness(0.9 * x + 0.1 * squares, x, 4) == pytest.approx(1.06, abs=0.05)
    assert blockiness(0.5 * x + 0.5 * squares, x, 4) == pytest.approx(1.5, abs=0.1)
    assert blockiness((x + x.roll(1, dims=3)) / 2, x, 4) == pytest.approx(1, abs=0.05)
