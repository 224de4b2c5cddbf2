"""`ulzoo compress`: images or clips as files of about as many bits as the prior's rate."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ulzoo.cli import options, rate_options

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo compress emoji32_tiny cat.png dog.png --out streams[/]
  [cyan]ulzoo compress emoji32_tiny cat.png --bits 400 --out streams[/]      at most 400 bits
  [cyan]ulzoo compress runs/a cat.png --loss-factor 3 --out streams[/]      by a variable-rate model: more bits
  [cyan]ulzoo decompress emoji32_tiny streams/*.ulz --out images[/]
"""


def compress(
    model: options.Model,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Images, or videos for a model of clips.")],
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Folder for the streams, NAME.ulz.")],
    bits: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Largest size of a stream, which then ends earlier; default: no limit."),
    ] = None,
    rule: Annotated[
        Literal["projection", "poisson"],
        typer.Option(help="How indices are chosen: of fixed length, or by the Poisson functional representation."),
    ] = "projection",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the randomness that a stream shares with its decoder.")] = 0,
    loss_factor: rate_options.LossFactor = None,
    bias: rate_options.Bias = None,
    device: options.Device = None,
) -> None:
    """Compress images or clips with the model's prior; the files that it writes decode from any number of their bytes.

    Images keep their size; larger ones than the model's are coded in blended tiles. Of a video, the middle clip is
    compressed, at the model's size. The model needs a codec, which `ulzoo export --codec` measures once.
    """
    from ulzoo.registry.runs.compress import compress_files
    from ulzoo.registry.zoo.catalogue import open_model
    from ulzoo.runtime.devices import pick_device

    export = open_model(model, pick_device(device))
    rate_options.set_rate(model, export.model, loss_factor, bias)
    for file in compress_files(export.model, files, out, seed=seed, max_bits=bits, rule=rule):
        size = len(file.stream)
        print(f"{file.path}: {size:,} bytes, {8 * size / file.pixels:.3f} bits/pixel")
