"""What the codec computes with a model's networks, for images of any size: latents, predictions and samples."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ulzoo.coding.grid import Denoise
from ulzoo.diffusion import IndependentNoise, Noise, expand_like
from ulzoo.diffusion.samplers import GRIDS, SAMPLERS
from ulzoo.diffusion.schedules import alpha_sigma
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import Contract
from ulzoo.model.denoisers import DiffusionModel, residual_mean
from ulzoo.model.networks import NOTHING
from ulzoo.model.tiling import PIXELS_PER_PASS, Position, TileGrid, encode_tiled, latent_factors

if TYPE_CHECKING:
    from ulzoo.model.unified_latents import UnifiedLatents

OVERLAP = 0.25  # of the tiles of larger images


def codec_network(model: "UnifiedLatents") -> DiffusionModel:
    """The network whose reverse process is coded: the prior, or the base of a model whose prior is no network.

    Raises:
        ValueError: there is no such network, or the decoder takes clean latents.
    """
    if model.contract.decodes_clean:
        raise ValueError("this model's decoder takes clean latents, which no finite number of bits determines")
    for network in (model.prior, model.base):
        if isinstance(network, DiffusionModel):
            return network
    raise ValueError("this model has neither a prior nor a base that is a diffusion model")


def latent_size(size: tuple[int, int] | None, contract: Contract) -> tuple[int, ...]:
    """The grid of the latent of an image, None for one of the model's size; sides are padded to whole cells."""
    if size is None:
        return contract.latent_size
    return tuple(
        max(-(-side // factor), least)
        for side, factor, least in zip(size, latent_factors(contract), contract.latent_size, strict=True)
    )


def encode_clean(model: "UnifiedLatents", x: Tensor, rate: Conditions) -> Tensor:
    """z_clean, (B, c, ...), of images of any size, whose last rows and columns are repeated up to whole cells."""
    contract, noise = model.contract, same_noise(len(x), model.device)
    if tuple(x.shape[2:]) == contract.size:
        return model.encode(x, generator=noise, loss_factor=rate.loss_factor, bias=rate.bias)
    size = latent_size((x.shape[2], x.shape[3]), contract)
    height, width = (cells * factor for cells, factor in zip(size, latent_factors(contract), strict=True))
    x = pad(x.float(), (0, width - x.shape[3], 0, height - x.shape[2]), mode="replicate")
    return encode_tiled(model, x, overlap=OVERLAP, conditions=rate).sample(noise)


def denoiser(
    model: "UnifiedLatents", network: DiffusionModel, size: Sequence[int], rate: Conditions = NOTHING
) -> Denoise:
    """x̂ of the network without labels and captions, for latents of a size and rate, in float32."""
    contract, diffusion = model.contract, network.diffusion
    grid = None if tuple(size) == contract.latent_size else TileGrid.of(size, contract, OVERLAP)

    def estimate(z_t: Tensor, logsnr: Tensor, rows: Sequence[int] | None = None, tiles: int = 1) -> Tensor:
        given = rate if rows is None else rate.rate_of(list(rows))
        conditions = model.latent_conditions(network, len(z_t), given.repeat_rate(tiles))
        mean = residual_mean(conditions, z_t.shape[1])
        alpha, _ = alpha_sigma(expand_like(logsnr, z_t))
        residual = z_t - alpha * mean
        prediction = network.predict(residual, logsnr, conditions).float()
        return diffusion.to_x(prediction, x_t=residual, logsnr=expand_like(logsnr, z_t)) + mean

    def blended(z_t: Tensor, logsnr: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        assert grid is not None

        def process(positions: Sequence[Position]) -> Tensor:
            tiles = len(positions)
            return estimate(grid.crop(z_t, positions), logsnr.repeat(tiles), rows, tiles)

        return grid.blend(process, len(z_t), max(1, PIXELS_PER_PASS // (len(z_t) * contract.pixels)))

    return estimate if grid is None else blended


def sample_rest(
    model: "UnifiedLatents", z_t: Tensor, levels: Sequence[float], noise: Noise, rate: Conditions
) -> Tensor:
    """z_0, (B, c, ...), from z_t at a log-SNR each, by the base's sampler; by the prior in a model without a base."""
    network = model.base or codec_network(model)
    schedule, sampling = network.diffusion.schedule, model.contract.sampling["base"]
    if min(levels) >= schedule.logsnr_max:
        return z_t
    model.contract.check_base_rate(rate, "prior" if model.base is None else "base")
    grid = GRIDS[sampling.sampler](schedule, sampling.steps).numpy()
    times = np.arange(len(grid))
    starts = np.interp(levels, grid, times)
    # as many steps for each example, of equal length in its sampler's time: (steps + 1, B)
    logsnrs = np.interp(np.linspace(starts, times[-1], len(grid)), times, grid)
    logsnrs[0] = levels
    estimate = denoiser(model, network, z_t.shape[2:], rate)
    grids = torch.from_numpy(logsnrs).float().to(z_t.device)

    def denoise(x: Tensor, logsnr: Tensor) -> Tensor:
        return estimate(x, logsnr.flatten())

    z_0 = SAMPLERS[sampling.sampler](denoise, z_t, grids.reshape(*grids.shape, *[1] * (z_t.ndim - 1)), noise)
    complete = expand_like(torch.tensor(levels, device=z_t.device) >= schedule.logsnr_max, z_t)
    return torch.where(complete, z_t, z_0)


def same_noise(n: int, device: torch.device) -> IndependentNoise:
    """Noise for n examples that is the same for each, so that a stream depends on its image alone."""
    return IndependentNoise([0] * n, 0, device=device)
