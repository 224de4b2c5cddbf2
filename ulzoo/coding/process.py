"""The coded process: from shared noise to z_0 in steps of the ancestral sampler, whose noise the encoder chooses.

Encoder and decoder run the same steps with the same network: z_s is the model's mean + σ C with a vector C of a shared
codebook. The encoder chooses the C that simulates q(z_s | z_t, z_clean), the decoder reads its index. An error of a
step is part of what the next ones code, because their targets start from the z_t that both have.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ulzoo.coding.grid import Denoise, InformationGrid
from ulzoo.coding.randomness import SharedRandomness
from ulzoo.coding.simulation import Rule, choose
from ulzoo.diffusion import expand_like
from ulzoo.diffusion.schedules import alpha_sigma

StepIndices = list[int]
"""The index of each block of a step."""


@dataclass(frozen=True)
class CodingPlan:
    """How one latent is coded.

    Attributes:
        steps: steps of the process.
        blocks: indices of each step; its dimensions are split among them by a shared permutation.
    """

    steps: int
    blocks: int = 1


@dataclass(frozen=True)
class Step:
    """One step of some latents that have equally many blocks.

    Attributes:
        number: of the step.
        blocks: the dimensions of each block.
        rows: the latents.
        m: the targets' means less the model's in units of σ, (len(rows), d); None where indices are replayed.
    """

    number: int
    blocks: list[np.ndarray]
    rows: list[int]
    m: Tensor | None


@dataclass(frozen=True)
class CodedProcess:
    """The process of one model and one stream seed.

    Attributes:
        denoise: the network.
        grid: the model's grid.
        randomness: the shared random numbers.
    """

    denoise: Denoise
    grid: InformationGrid
    randomness: SharedRandomness

    def encode(
        self, z_clean: Tensor, plans: Sequence[CodingPlan], *, index_bits: int, rule: Rule
    ) -> tuple[list[list[StepIndices]], Tensor]:
        """Choose the indices of each latent.

        Args:
            z_clean: (B, ...).
            plans: one for each latent.
            index_bits: logarithm of the size of codebooks.
            rule: how indices are chosen.

        Returns:
            the indices of all steps of each latent, and z_0, (B, ...).
        """
        indices: list[list[StepIndices]] = [[] for _ in plans]
        vectors = 2**index_bits

        def choose_noise(step: Step) -> Tensor:
            assert step.m is not None
            noise = torch.empty_like(step.m)
            for row in step.rows:
                indices[row].append([])
            for block, dimensions in enumerate(step.blocks):
                codebook = self.randomness.codebook(step.number, block, len(dimensions), vectors)
                codebook = torch.from_numpy(codebook).to(noise.device)
                arrivals = None
                if rule is Rule.POISSON:
                    arrivals = torch.from_numpy(self.randomness.arrivals(step.number, block, vectors)).to(noise)
                chosen = choose(step.m[:, dimensions], codebook, arrivals)
                noise[:, dimensions] = codebook[chosen]
                for row, index in zip(step.rows, chosen, strict=True):
                    indices[row][-1].append(index)
            return noise

        z_0, _ = self._run(tuple(z_clean.shape), plans, [plan.steps for plan in plans], choose_noise, z_clean)
        return indices, z_0

    def replay(
        self,
        indices: Sequence[Sequence[StepIndices]],
        plans: Sequence[CodingPlan],
        shape: tuple[int, ...],
        device: torch.device,
    ) -> tuple[Tensor, list[float]]:
        """Repeat the steps whose indices are given, which may be fewer than those of the plans.

        Args:
            indices: of the first steps of each latent.
            plans: one for each latent.
            shape: of a latent.
            device: of the result.

        Returns:
            z_t, (B, *shape), and its log-SNR for each latent.
        """

        def read_noise(step: Step) -> Tensor:
            noise = np.empty((len(step.rows), sum(map(len, step.blocks))), dtype=np.float32)
            for block, dimensions in enumerate(step.blocks):
                for i, row in enumerate(step.rows):
                    index = indices[row][step.number][block]
                    noise[i, dimensions] = self.randomness.vector(step.number, block, len(dimensions), index)
            return torch.from_numpy(noise).to(device)

        z_clean = torch.empty(0, device=device)
        return self._run((len(plans), *shape), plans, [len(steps) for steps in indices], read_noise, z_clean)

    def _run(
        self,
        shape: tuple[int, ...],
        plans: Sequence[CodingPlan],
        counts: Sequence[int],
        noise_of: Callable[[Step], Tensor],
        z_clean: Tensor,
    ) -> tuple[Tensor, list[float]]:
        """The first `counts` steps of each latent; z_clean is empty where indices are replayed."""
        size = int(np.prod(shape[1:]))
        z = torch.from_numpy(self.randomness.start(size)).to(z_clean.device).repeat(len(plans), 1).reshape(shape)
        grids = [self.grid.steps(plan.steps) for plan in plans]
        groups = [[n for n, plan in enumerate(plans) if plan.blocks == blocks] for blocks in {p.blocks for p in plans}]
        for number in range(max(counts, default=0)):
            for group in groups:
                rows = [n for n in group if number < counts[n]]
                if not rows:
                    continue
                z_t = z[rows]
                t, s = (torch.tensor([grids[n][number + i] for n in rows], device=z.device) for i in range(2))
                x_hat = self.denoise(z_t, t, rows)
                level_t, level_s = expand_like(t, z_t), expand_like(s, z_t)
                (alpha_t, _), (alpha_s, sigma_s) = alpha_sigma(level_t), alpha_sigma(level_s)
                c = -torch.expm1(level_t - level_s)  # 1 - e^{λ_t - λ_s}
                mean = alpha_s * (z_t * (1 - c) / alpha_t + c * x_hat)
                m = None
                if len(z_clean):
                    m = ((level_s.exp() - level_t.exp()).sqrt() * (z_clean[rows] - x_hat)).flatten(1)
                noise = noise_of(Step(number, self._split(number, plans[rows[0]].blocks, size), rows, m))
                z[rows] = mean + c.sqrt() * sigma_s * noise.reshape(z_t.shape)
        return z, [grid[count] for grid, count in zip(grids, counts, strict=True)]

    def _split(self, step: int, blocks: int, size: int) -> list[np.ndarray]:
        """The dimensions of each block."""
        return [np.arange(size)] if blocks == 1 else np.array_split(self.randomness.permutation(step, size), blocks)
