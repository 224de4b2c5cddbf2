"""`ulzoo reconstruct`: images or clips of the data, and their reconstructions by one model or several side by side."""

from pathlib import Path
from typing import Annotated

import typer

from ulzoo.cli import options, rate_options
from ulzoo.cli.pictures import check_picture, check_video, open_data, open_models

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo reconstruct emoji32_tiny[/]
  [cyan]ulzoo reconstruct runs/a runs/b --n 24 --out side_by_side.png[/]
  [cyan]ulzoo reconstruct runs/a --loss-factor 1.5[/]               of a variable-rate model: fewer bits
  [cyan]ulzoo reconstruct emoji32_tiny --images photographs[/]      a folder of your own, or files: *.jpg
"""

SHOWN = 12


def reconstruct(
    models: options.Models,
    images: options.Images = None,
    data: options.Data = None,
    n: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=4096, help="Number of images or clips; default: 12, of files all."),
    ] = None,
    split: options.Split = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the decoder; default: its own.")] = None,
    decoder: options.Decoder = None,
    loss_factor: rate_options.LossFactor = None,
    bias: rate_options.Bias = None,
    seed: options.Seed = 0,
    out: options.Picture = Path("reconstructions.png"),
    device: options.Device = None,
    precision: options.Precision = "fp32",
    compile: options.Compile = False,
) -> None:
    """Draw images or clips and their reconstructions, with PSNR and rate.

    They are the first of the first model's data, or your own. Clips are written as a PNG, an MP4 and an animated WebP
    or GIF.
    """
    check_picture(out)
    from ulzoo.visualization import reconstructed_clips, reconstruction_rows, save_clips, save_grid

    exports = open_models(models, device, precision, compile)
    loaded = {name: export.model for name, export in exports.items()}
    for name, model in loaded.items():
        rate_options.set_rate(name, model, loss_factor, bias)
    video = check_video(loaded, out)
    source = open_data(exports, split, n or (None if images else SHOWN), images, data)
    n = n or (len(source) if images and len(images) > 1 else SHOWN)
    if not video:
        save_grid(out, reconstruction_rows(loaded, source, n, steps=steps, network=decoder, seed=seed))
        print(out)
        return
    bands = reconstructed_clips(loaded, source, n, steps=steps, network=decoder, seed=seed)
    for path in save_clips(out, bands, next(iter(loaded.values())).contract):
        print(path)
