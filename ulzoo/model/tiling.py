"""Images larger than a model was trained on: overlapping tiles of its own size, blended wherever they overlap.

The decoder samples all tiles together (MultiDiffusion, arXiv 2302.08113): the noise is drawn for the whole image, and
the tiles' predictions are blended at every step. So overlapping tiles take the same path and have no seam to hide.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ulzoo.diffusion import Noise, independent_noise
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import Contract
from ulzoo.model.denoisers import DiffusionModel, check_finite
from ulzoo.model.networks import NOTHING
from ulzoo.model.rate import Posterior

if TYPE_CHECKING:
    from ulzoo.model.unified_latents import UnifiedLatents

Position = tuple[int, int]
PIXELS_PER_PASS = 512 * 512  # of the tiles that go through a network together


@dataclass(frozen=True)
class TileGrid:
    """Tiles of one size that cover an image, evenly spaced; sizes and positions are in cells of the latent.

    Attributes:
        image: (h, w) of the image.
        tile: (h, w) of a tile, at most that of the image.
        overlap: the least share of a tile's side that neighbours have in common, in [0, 1).
    """

    image: tuple[int, int]
    tile: tuple[int, int]
    overlap: float

    @classmethod
    def of(cls, image: Sequence[int], contract: Contract, overlap: float) -> "TileGrid":
        """The tiles of a model for images of a size, in cells. Raises ValueError for images smaller than a tile."""
        rows, columns = contract.latent_size
        if image[0] < rows or image[1] < columns:
            factors = latent_factors(contract)
            size = tuple(factor * side for factor, side in zip(factors, image, strict=True))
            raise ValueError(f"images must be at least of the model's size, {contract.size}, got {size}")
        return cls((image[0], image[1]), (rows, columns), overlap)

    @cached_property
    def positions(self) -> list[Position]:
        """The first row and column of every tile."""
        rows, columns = (self._starts(*sides) for sides in zip(self.image, self.tile, strict=True))
        return list(product(rows, columns))

    def _starts(self, image: int, tile: int) -> list[int]:
        stride = max(1, int(tile * (1 - self.overlap)))
        steps = -(-(image - tile) // stride)
        return [round(step * (image - tile) / steps) for step in range(steps + 1)] if steps else [0]

    def crop(self, x: Tensor, positions: Sequence[Position]) -> Tensor:
        """The tiles of x at some positions: (B, C, f · image) -> (len(positions) · B, C, f · tile)."""
        return torch.cat([x[(..., *self._cells(position, x.shape[-1] // self.image[1]))] for position in positions])

    def blend(self, process: Callable[[Sequence[Position]], Tensor], batch: int, per_pass: int) -> Tensor:
        """The weighted mean of the tiles' results, whose weights fall towards the tiles' edges.

        Args:
            process: positions -> results of these tiles, (len(positions) · batch, C, f · tile).
            batch: number of images.
            per_pass: number of positions that are processed together.

        Returns:
            (batch, C, f · image).
        """
        total = weights = window = torch.empty(0)
        for first in range(0, len(self.positions), per_pass):
            positions = self.positions[first : first + per_pass]
            results = process(positions)
            factor = results.shape[-1] // self.tile[1]
            if not first:
                size = [factor * side for side in self.image]
                total, weights = results.new_zeros(batch, results.shape[1], *size), results.new_zeros(size)
                rows, columns = (_window(factor * side, results) for side in self.tile)
                window = rows[:, None] * columns
            for position, result in zip(positions, results.split(batch), strict=True):
                cells = self._cells(position, factor)
                total[(..., *cells)] += window * result
                weights[cells] += window
        return total / weights

    def _cells(self, position: Position, factor: int) -> tuple[slice, slice]:
        """The slices of a tile in an image with `factor` pixels per cell."""
        rows, columns = (
            slice(factor * start, factor * (start + side)) for start, side in zip(position, self.tile, strict=True)
        )
        return rows, columns


def latent_factors(contract: Contract) -> tuple[int, ...]:
    """Pixels per cell of the latent, by axis."""
    return tuple(x // z for x, z in zip(contract.size, contract.latent_size, strict=True))


def _window(side: int, like: Tensor) -> Tensor:
    """Weights that fall linearly from the middle of a tile to its edges, (side,)."""
    return side / 2 - (torch.arange(side, device=like.device, dtype=like.dtype) - (side - 1) / 2).abs()


@torch.no_grad()
def decode_tiled(
    model: "UnifiedLatents",
    z_0: Tensor,
    *,
    overlap: float,
    steps: int | None = None,
    generator: Noise | None = None,
    conditions: Conditions = NOTHING,
) -> Tensor:
    """z_0 -> x as `model.decode`, of latents larger than the model's; without labels and captions.

    Args:
        overlap: see `TileGrid`.
        conditions: loss factor and bias of a variable-rate model.
        steps, generator: see `model.decode`.
    """
    contract = model.contract
    if z_0.shape[1] != contract.latent_channels:
        raise ValueError(f"latents must have {contract.latent_channels} channels, got {tuple(z_0.shape)}")
    decoder, sampling = model.select_decoder(steps=steps)
    grid = TileGrid.of(z_0.shape[2:], contract, overlap)
    per_pass = max(1, PIXELS_PER_PASS // (len(z_0) * contract.pixels))
    if not isinstance(decoder, DiffusionModel):  # deterministic
        return grid.blend(lambda positions: model.decode(grid.crop(z_0, positions)), len(z_0), per_pass)

    def predict(x_t: Tensor, logsnr: Tensor) -> Tensor:
        def process(positions: Sequence[Position]) -> Tensor:
            selected = model.decoder_conditions(
                decoder, grid.crop(z_0, positions), conditions.repeat_rate(len(positions)), steps=sampling.steps
            )
            return decoder.predict(grid.crop(x_t, positions), logsnr.repeat(len(positions)), selected).float()

        return grid.blend(process, len(z_0), per_pass)

    shape = (
        len(z_0),
        contract.channels,
        *(f * side for f, side in zip(latent_factors(contract), grid.image, strict=True)),
    )
    noise = independent_noise(generator, len(z_0), z_0.device)
    x = decoder.diffusion.sample(predict, shape, sampling.steps, sampling.sampler, noise, z_0.device)
    return check_finite(x, "decoder").clamp(-1, 1)


def encode_tiled(model: "UnifiedLatents", x: Tensor, *, overlap: float, conditions: Conditions = NOTHING) -> Posterior:
    """The posterior of z_clean as `model.posterior`, of images larger than the model's."""
    contract, factors = model.contract, latent_factors(model.contract)
    if any(side % factor for side, factor in zip(x.shape[2:], factors, strict=True)):
        raise ValueError(f"the sides of images must be multiples of {factors}, got {tuple(x.shape)}")
    grid = TileGrid.of([side // factor for side, factor in zip(x.shape[2:], factors, strict=True)], contract, overlap)

    def process(positions: Sequence[Position]) -> Tensor:
        posterior = model.posterior(grid.crop(x, positions), conditions=conditions.repeat_rate(len(positions)))
        return torch.cat([part for part in (posterior.mean, posterior.log_variance) if part is not None], dim=1)

    features = grid.blend(process, len(x), max(1, PIXELS_PER_PASS // (len(x) * contract.pixels)))
    return Posterior(*features.chunk(2, dim=1)) if contract.learned_variance else Posterior(features)
