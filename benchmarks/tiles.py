"""Seams between tiles of images larger than a model was trained on, by the overlap of the tiles.

    python -m benchmarks tiles [--device cpu] [--threads 1] [--out FOLDER]

Reconstructs three photographs of scikit-image, at 512×768, by `emoji32_tiny`, whose tiles have 32² pixels. Reports the
mean absolute difference of neighbouring pixels across borders of tiles and, since its decoder has patches of 4 pixels
whose borders are visible too, across the other borders of patches, in units of 1/255. The bar is a ratio of at most
1.05 at the default overlap.
"""

import time

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor

import ulzoo
from benchmarks.measuring import parser, prepare, publish
from ulzoo.media.pixels import from_uint8
from ulzoo.model.tiling import TileGrid, decode_tiled, encode_tiled
from ulzoo.model.unified_latents import UnifiedLatents

PHOTOGRAPHS = ("immunohistochemistry", "astronaut", "coffee")
HEIGHT, WIDTH, PATCH = 512, 768, 4
OVERLAPS, DEFAULT, BAR = (0.0, 0.25, 0.5), 0.5, 1.05


def photograph(name: str, device: torch.device) -> Tensor:
    """(1, 3, 512, 768) in [-1, 1]."""
    picture = Image.fromarray(getattr(skimage.data, name)()).convert("RGB").resize((WIDTH, HEIGHT))
    return from_uint8(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]).to(device)


def reconstruct(model: UnifiedLatents, x: Tensor, overlap: float) -> Tensor:
    """x̂ from tiles that are encoded, and sampled together, with this overlap."""
    generator = torch.Generator(x.device).manual_seed(0)
    with torch.no_grad():
        z_0 = model.noise_latents(encode_tiled(model, x, overlap=overlap).mean, generator=generator)
        return decode_tiled(model, z_0, overlap=overlap, generator=generator)


def differences_at_borders(x: Tensor, grid: TileGrid) -> tuple[float, float]:
    """Mean |difference| of neighbouring pixels across borders of tiles, and across the other borders of patches."""
    tiles, patches = [], []
    for axis, starts in enumerate(zip(*grid.positions, strict=True)):
        differences = x.diff(dim=2 + axis).abs().movedim(2 + axis, 0).flatten(1).mean(1) * 127.5
        borders = {PATCH * edge for start in starts for edge in (start, start + grid.tile[axis])}
        for position in range(PATCH, len(differences) + 1, PATCH):
            (tiles if position in borders else patches).append(differences[position - 1].item())
    return float(np.mean(tiles)), float(np.mean(patches))


def main() -> int:
    options = parser(__doc__).parse_args()
    device = prepare(options)
    model = ulzoo.load("emoji32_tiny", device)
    size = (HEIGHT // PATCH, WIDTH // PATCH)
    rows = []
    for name in PHOTOGRAPHS:
        x = photograph(name, device)
        for overlap in OVERLAPS:
            started = time.perf_counter()
            reconstruction = reconstruct(model, x, overlap)
            seconds = time.perf_counter() - started
            tiles, patches = differences_at_borders(reconstruction, TileGrid.of(size, model.contract, overlap))
            rows.append({"photograph": name, "overlap": overlap, "across_tiles": tiles, "across_patches": patches})
            rows[-1] |= {"ratio": tiles / patches, "seconds": seconds}
            print(f"{name}, overlap {overlap:g}: {tiles:.1f} / {patches:.1f} = {tiles / patches:.2f}, {seconds:.0f} s")
    publish("tiles", {"rows": rows}, device, options.out)
    return int(any(row["ratio"] > BAR for row in rows if row["overlap"] == DEFAULT))


if __name__ == "__main__":
    raise SystemExit(main())
