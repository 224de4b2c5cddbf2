"""The coded process of Gaussian data, whose optimal denoiser and mutual information are known."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from ulzoo.coding.codec import Codec, index_bits
from ulzoo.coding.grid import InformationGrid
from ulzoo.coding.process import CodedProcess, CodingPlan, Step
from ulzoo.coding.randomness import SharedRandomness
from ulzoo.coding.simulation import Rule

DIMENSIONS, LOGSNR_MIN, LOGSNR = 64, -10.0, 2.0


def optimal_denoiser(z_t: Tensor, logsnr: Tensor, rows: Sequence[int] | None = None) -> Tensor:
    """E[x | z_t] for x ~ N(0, I), α z_t."""
    return torch.sigmoid(logsnr).sqrt()[:, None] * z_t


def mutual_information(logsnr: float) -> float:
    """½ log2(1 + e^λ) bits per dimension, paper.md §7."""
    return DIMENSIONS / 2 * math.log2(1 + math.exp(logsnr))


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(256, DIMENSIONS, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def grid(latents: Tensor) -> InformationGrid:
    generator = torch.Generator().manual_seed(1)
    return InformationGrid.measure(optimal_denoiser, [latents], (LOGSNR_MIN, LOGSNR), generator=generator)


def process(grid: InformationGrid, seed: int = 0) -> CodedProcess:
    return CodedProcess(optimal_denoiser, grid, SharedRandomness("gaussian", seed))


def test_the_grid_divides_the_information(grid: InformationGrid) -> None:
    total = mutual_information(LOGSNR)
    shares = [mutual_information(level) / total for level in grid.logsnrs]
    assert np.allclose(shares, np.linspace(0, 1, len(shares)), atol=0.01)
    ends = grid.steps(7)
    assert (ends[0], ends[-1]) == (LOGSNR_MIN, LOGSNR) and ends == sorted(ends) and len(ends) == 8


def test_the_information_of_a_latent(grid: InformationGrid, latents: Tensor) -> None:
    bits = grid.information(optimal_denoiser, latents, generator=torch.Generator().manual_seed(2))
    assert abs(bits.mean().item() / mutual_information(LOGSNR) - 1) < 0.03


def test_the_bits_of_ideal_steps_tend_to_the_mutual_information(grid: InformationGrid, latents: Tensor) -> None:
    """With exact samples instead of codebooks: the sum of the steps' KL falls to the mutual information."""
    ratios = []
    for steps in (8, 32, 128):
        generator, nats = torch.Generator().manual_seed(3), 0.0

        def exact(step: Step, generator: torch.Generator = generator) -> Tensor:
            nonlocal nats
            assert step.m is not None
            nats += step.m.square().sum(1).mean().item() / 2
            return step.m + torch.randn(step.m.shape, generator=generator)

        plans = [CodingPlan(steps)] * len(latents)
        z_0, _ = process(grid)._run(tuple(latents.shape), plans, [steps] * len(latents), exact, latents)
        assert abs(z_0.var().item() - 1) < 0.03  # α² + σ²
        ratios.append(nats / math.log(2) / mutual_information(LOGSNR))
    assert ratios == sorted(ratios, reverse=True) and ratios[0] > 1.05 and abs(ratios[-1] - 1) < 0.02


@pytest.mark.parametrize("rule", Rule)
def test_more_bits_come_closer_to_the_latent(rule: Rule, grid: InformationGrid, latents: Tensor) -> None:
    """At equal bits a larger codebook is better, and with enough bits z_0 is distributed as it should be."""
    errors = []
    for bits, steps in ((2, 48), (6, 16), (8, 36)):
        plans = [CodingPlan(steps)] * 64
        _, z_0 = process(grid).encode(latents[:64], plans, index_bits=bits, rule=rule)
        errors.append((z_0 - torch.sigmoid(torch.tensor(LOGSNR)).sqrt() * latents[:64]).var().item())
    assert errors[0] > errors[1] > errors[2]
    assert abs(errors[2] / torch.sigmoid(torch.tensor(-LOGSNR)).item() - 1) < 0.2
    assert abs(z_0.var().item() - 1) < 0.06


@pytest.mark.parametrize("rule", Rule)
def test_replay_is_exact_and_may_stop_anywhere(rule: Rule, grid: InformationGrid, latents: Tensor) -> None:
    plans = [CodingPlan(6), CodingPlan(9), CodingPlan(4, blocks=3)]
    coded = process(grid, 5)
    indices, z_0 = coded.encode(latents[:3], plans, index_bits=5, rule=rule)
    assert [len(steps) for steps in indices] == [6, 9, 4] and len(indices[2][0]) == 3
    replayed, levels = process(grid, 5).replay(indices, plans, (DIMENSIONS,), latents.device)
    assert torch.equal(replayed, z_0) and levels == [LOGSNR] * 3
    part, levels = process(grid, 5).replay([steps[:2] for steps in indices], plans, (DIMENSIONS,), latents.device)
    assert levels == [grid.steps(plan.steps)[2] for plan in plans] and not torch.equal(part, z_0)
    start, levels = process(grid, 5).replay([[], [], []], plans, (DIMENSIONS,), latents.device)
    assert levels == [LOGSNR_MIN] * 3 and torch.equal(start[0], start[1])
    other, _ = process(grid, 6).replay(indices, plans, (DIMENSIONS,), latents.device)
    assert not torch.allclose(other, z_0, atol=0.5)


def test_a_codec_as_a_file(grid: InformationGrid) -> None:
    codec = Codec(grid, 3, (1, 2, 3, 3))
    assert Codec.from_dict(codec.to_dict()) == codec and len(codec.hash("weights")) == 8
    assert codec.hash("weights") != codec.hash("others") != Codec(grid, 3, (3, 3, 2, 1)).hash("others")
    assert codec.plan(0.0, Rule.POISSON) == CodingPlan(1) == codec.plan(math.nan, Rule.POISSON)
    large = codec.plan(10_000, Rule.PROJECTION)
    assert large.steps <= 128 and abs(large.steps * large.blocks * 3 / 10_800 - 1) < 0.01
    assert [index_bits(d) for d in (512, 2**15, 2**30)] == [12, 9, 4]
    changes = ({"logsnrs": [0]}, {"logsnrs": [1, 0]}, {"index_bits": 13}, {"index_bits": 2.5}, {"code_lengths": [1]})
    for change in (*changes, {"logsnrs": "x"}, {"logsnrs": [0, math.nan]}, {"code_lengths": [2, 2, 2, 3]}):
        with pytest.raises(ValueError, match="codec"):
            Codec.from_dict(codec.to_dict() | change)
