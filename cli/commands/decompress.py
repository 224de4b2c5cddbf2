"""`ulzoo decompress`: images or clips from the files of `ulzoo compress`, or from their first bytes."""

from pathlib import Path
from typing import Annotated

import typer

from ulzoo.cli import options

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo decompress emoji32_tiny streams/cat.ulz --out images[/]
  [cyan]ulzoo decompress emoji32_tiny streams/cat.ulz --prefix 40 --out images[/]      from the first 40 bytes
  [cyan]ulzoo decompress emoji32_tiny streams/*.ulz --out images --progressive images/all.gif[/]
"""


def decompress(
    model: options.Model,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files that `ulzoo compress` wrote.")],
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Folder for NAME.png, of clips NAME.webp.")],
    prefix: Annotated[
        int | None,
        typer.Option(
            metavar="BYTES", min=1, help="Decode only so many bytes of each file; the base samples what is missing."
        ),
    ] = None,
    progressive: Annotated[
        Path | None,
        typer.Option(metavar="FILE.gif", dir_okay=False, help="Also an animation of the images, from ever more bytes."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the decoder; default: its own.")] = None,
    device: options.Device = None,
) -> None:
    """Decompress files to images, or to clips, with the model that compressed them.

    A file that was cut off is refused unless --prefix says how many of its bytes to decode.
    """
    from ulzoo.files.atomic import check_destination
    from ulzoo.registry.runs.compress import decompress_files, read_streams
    from ulzoo.registry.zoo.catalogue import open_model
    from ulzoo.runtime.devices import pick_device
    from ulzoo.visualization.progressive import check_progressive, save_progressive

    if progressive:
        check_progressive(progressive)
        check_destination(progressive)
    export = open_model(model, pick_device(device))
    for path in decompress_files(export.model, files, out, max_bits=prefix and 8 * prefix, steps=steps):
        print(path)
    if progressive:
        streams = [stream for stream, _ in read_streams(files, export.model)]
        save_progressive(progressive, export.model, streams, steps=steps)
        print(progressive)
