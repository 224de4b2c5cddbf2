"""Whether the patches of a decoder are visible: differences across their borders, of reconstructions over originals.

    python -m benchmarks blockiness [MODEL]... [--patch 4] [--steps 1,2,4] [--images 327] [--out FOLDER]

Blockiness is the mean absolute difference of neighbouring pixels across the borders of patches over that inside them,
of the reconstructions of validation images, divided by the same of the originals: 1 if no border shows. With
`--frechet` also the Fréchet distance of the reconstructions from the originals by EfficientNet-Lite0, which is NOT FID.
"""

from typing import Any

import torch
from torch import Tensor

from benchmarks.distill import BATCH, statistics
from benchmarks.measuring import parser, prepare, publish
from ulzoo.data import in_order
from ulzoo.evaluation.features.images import efficientnet_lite0
from ulzoo.evaluation.frechet import frechet_distance
from ulzoo.media.pixels import psnr
from ulzoo.registry import open_model
from ulzoo.registry.compile import open_source


def border_contrast(x: Tensor, patch: int) -> float:
    """Mean absolute difference of neighbours across the borders of patches over that inside them, of (B, C, H, W)."""
    across, inside = [], []
    for axis in (2, 3):
        steps = x.diff(dim=axis).abs().mean(dim=[other for other in range(4) if other != axis])
        is_border = torch.arange(1, len(steps) + 1) % patch == 0
        across.append(steps[is_border].mean())
        inside.append(steps[~is_border].mean())
    return (sum(across) / sum(inside)).item()


def blockiness(reconstructions: Tensor, x: Tensor, patch: int) -> float:
    """The border contrast of the reconstructions over that of the originals."""
    return border_contrast(reconstructions, patch) / border_contrast(x, patch)


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("models", nargs="*", default=["emoji32_tiny"], metavar="MODEL")
    arguments.add_argument("--patch", type=int, default=4, help="side of the decoder's patches in pixels")
    arguments.add_argument("--steps", default="1,2,4", help="steps of the decoder")
    arguments.add_argument("--images", type=int, default=327)
    arguments.add_argument("--frechet", action="store_true")
    options = arguments.parse_args()
    device = prepare(options)
    rows: list[dict[str, Any]] = []
    for name in options.models:
        export = open_model(name, device)
        x = next(in_order(open_source(export.spec, "val"), options.images))["x"]
        z_0 = export.model.noise_latents(
            export.model.encode(x.to(device)), generator=torch.Generator(device).manual_seed(0)
        )
        for steps in map(int, options.steps.split(",")):
            generator = torch.Generator(device).manual_seed(0)
            parts = [export.model.decode(part, steps=steps, generator=generator).cpu() for part in z_0.split(BATCH)]
            decoded = torch.cat(parts)
            row = {"model": name, "steps": steps, "psnr_db": psnr(decoded, x).mean().item()}
            row["blockiness"] = blockiness(decoded, x, options.patch)
            if options.frechet:
                features = efficientnet_lite0(device)
                row["frechet"] = frechet_distance(statistics(features, decoded), statistics(features, x))
            rows.append(row)
            print(
                ", ".join(f"{key} {value:.4g}" if key != "model" else value for key, value in row.items()), flush=True
            )
    publish("blockiness", {"patch": options.patch, "images": options.images, "rows": rows}, device, options.out)
    return 0


if __name__ == "__main__":
    main()
