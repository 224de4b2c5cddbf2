"""Tiles: that they cover an image, that blending is a mean, and that a decoded image has no seams."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import ulzoo
from ulzoo.media.pixels import psnr
from ulzoo.model.tiling import TileGrid, decode_tiled, encode_tiled
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry.compile import compile_model

VIT = "{kind: vit, patch: 4, width: 32, depth: 1, heads: 2}"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_image(height: int, width: int) -> Tensor:
    """Coloured waves on white, (1, 3, height, width) in [-1, 1]."""
    rows, columns = torch.meshgrid(torch.arange(height) / 40, torch.arange(width) / 50, indexing="ij")
    waves = [rows.sin() * columns.cos(), (rows + columns).sin(), (rows - columns).cos()]
    return torch.stack(waves)[None] * 0.4 + 0.5


def perturb(model: UnifiedLatents) -> UnifiedLatents:
    """Random values in place of the zeros that networks start with, so that the latent and x_t count."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("image", [(8, 8), (8, 9), (23, 40), (128, 192)])
def test_tiles_cover_the_image_and_overlap_by_the_share(image: tuple[int, int], overlap: float) -> None:
    grid = TileGrid(image, (8, 8), overlap)
    for axis, side in enumerate(image):
        starts = sorted({position[axis] for position in grid.positions})
        assert starts[0] == 0 and starts[-1] == side - 8
        strides = [b - a for a, b in pairwise(starts)]
        assert all(1 <= stride <= max(1, 8 * (1 - overlap)) for stride in strides)


@pytest.mark.parametrize("per_pass", [1, 3, 100])
def test_blending_unchanged_tiles_returns_the_image(per_pass: int) -> None:
    grid, x = TileGrid((10, 13), (4, 4), 0.5), torch.randn(2, 3, 20, 26)
    blended = grid.blend(lambda positions: grid.crop(x, positions), 2, per_pass)
    torch.testing.assert_close(blended, x)


def test_weights_fall_towards_the_edges() -> None:
    """Two tiles with other values: a monotone transition over their overlap, without a jump at its ends."""
    grid = TileGrid((8, 12), (8, 8), 0.5)

    def constant(positions: Sequence[tuple[int, int]]) -> Tensor:
        return torch.cat([torch.full((1, 1, 8, 8), float(column > 0)) for _, column in positions])

    row = grid.blend(constant, 1, 1)[0, 0, 3]
    assert row[:4].eq(0).all() and row[8:].eq(1).all()
    torch.testing.assert_close(row[4:8], torch.tensor([1, 3, 5, 7]) / 8)


KINDS = {
    "diffusion": (),
    "regression": (f"decoder={{kind: mse, backbone: {VIT}, weight: 50}}",),
    "given the log-SNR": ("decoder.latent_logsnr=true",),
    "learned variance": ("latent.variance=learned",),
    "the encoder decodes": (
        "encoder={kind: identity}",
        "latent={channels: 3, downsample: [1, 1], logsnr: 10}",
        "prior=null",
        "decoder=null",
        "train.latents=null",
        f"base={{backbone: {VIT}}}",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_tile_is_the_model_itself(kind: str, tiny) -> None:
    model, x = perturb(compile_model(tiny(*KINDS[kind]))), torch.rand(2, 3, 16, 16, generator=seeded()) * 2 - 1
    posterior, expected = encode_tiled(model, x, overlap=0.5), model.posterior(x)
    torch.testing.assert_close(posterior.mean, expected.mean)
    assert (posterior.log_variance is None) == (expected.log_variance is None)
    if expected.log_variance is not None:
        torch.testing.assert_close(posterior.log_variance, expected.log_variance)
    z_0 = model.noise_latents(expected.mean.detach(), generator=seeded())
    decoded = decode_tiled(model, z_0, overlap=0.5, steps=3, generator=seeded(1))
    torch.testing.assert_close(decoded, model.decode(z_0, steps=3, generator=seeded(1)), rtol=1e-4, atol=1e-4)
    large = decode_tiled(model, z_0.repeat(1, 1, 2, 3)[:, :, :, :-1], overlap=0.25, steps=1)
    assert large.shape == (2, 3, 32, 48 - 16 // z_0.shape[3]) and large.isfinite().all()


def test_sizes_that_cannot_be_tiled_are_refused(tiny) -> None:
    model = compile_model(tiny())
    with pytest.raises(ValueError, match=r"sides of images must be multiples of \(4, 4\), got \(1, 3, 32, 30\)"):
        encode_tiled(model, torch.zeros(1, 3, 32, 30), overlap=0.5)
    with pytest.raises(ValueError, match=r"images must be at least of the model's size, \(16, 16\), got \(12, 32\)"):
        encode_tiled(model, torch.zeros(1, 3, 12, 32), overlap=0.5)
    with pytest.raises(ValueError, match=r"images must be at least of the model's size, \(16, 16\), got \(12, 32\)"):
        decode_tiled(model, torch.zeros(1, 4, 3, 8), overlap=0.5)
    with pytest.raises(ValueError, match=r"latents must have 4 channels, got \(1, 3, 8, 8\)"):
        decode_tiled(model, torch.zeros(1, 3, 8, 8), overlap=0.5)


def test_images_of_a_batch_do_not_affect_each_other(tiny) -> None:
    model, z_0 = perturb(compile_model(tiny())), torch.randn(3, 4, 6, 7, generator=seeded())
    together = decode_tiled(model, z_0, overlap=0.5, generator=seeded(1))
    first = decode_tiled(model, z_0[:1], overlap=0.5, generator=seeded(1))
    torch.testing.assert_close(together[:1], first)


def border_ratio(x: Tensor, starts: Sequence[int], side: int, patch: int) -> float:
    """Mean |difference| of neighbouring columns across tile borders, relative to that across other patch borders.

    The released model's decoder has patches of 4 pixels, whose own borders are visible and no seams of tiles.
    """
    differences = x.diff(dim=3).abs().mean((0, 1, 2))
    columns = torch.arange(1, len(differences) + 1)
    borders = torch.isin(columns, torch.tensor([*starts, *(start + side for start in starts)]))
    return float(differences[borders].mean() / differences[~borders & (columns % patch == 0)].mean())


def test_an_image_decoded_by_the_released_model_has_no_seams() -> None:
    """Tiles that are decoded one by one have them; at equal noise, tiles that are sampled together do not."""
    model, x = ulzoo.load("emoji32_tiny"), smooth_image(96, 224)
    ratios, quality = {}, {}
    with torch.no_grad():
        for overlap in (0.0, 0.5):
            z_0 = model.noise_latents(encode_tiled(model, x, overlap=overlap).mean, generator=seeded())
            decoded = decode_tiled(model, z_0, overlap=overlap, generator=seeded(1))
            starts = {4 * column for _, column in TileGrid((24, 56), (8, 8), overlap).positions}
            ratios[overlap], quality[overlap] = border_ratio(decoded, sorted(starts), 32, 4), psnr(decoded, x).item()
    print(ratios, quality)
    assert ratios[0.0] > 1.5
    assert ratios[0.5] < 1.1
    assert quality[0.5] > quality[0.0]
