"""`ulzoo encode`: the latents of a data set, once, for training bases on them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ulzoo.cli import options
from ulzoo.cli.display.terminal import say, scaled

LINES = 20
EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo train imagenet512_small --stage latents --out runs/a[/]
  [cyan]ulzoo encode runs/a --out latents/a[/]
  [cyan]ulzoo train imagenet512_small --stage base --out runs/a \\
      --set train.base.data.kind=latents --set train.base.data.path=latents/a[/]
"""


def encode(
    model: options.Model,
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Where the latents go.")],
    split: Annotated[Literal["train", "val"], typer.Option(help="Which images; training needs train.")] = "train",
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"], typer.Option(help="Of the latents; float16 is finer, up to 65,504.")
    ] = "bfloat16",
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Images at once.")] = 64,
    images_per_shard: Annotated[int, typer.Option(min=1, metavar="N", help="Images in a file.")] = 4096,
    device: options.Device = None,
) -> None:
    """Encode a model's training images into z_clean, for `ulzoo train --stage base` without the encoder.

    Mirrored images are encoded too where the data is mirrored in training. The same command again goes on where it was
    interrupted. Training refuses latents of another encoder or other data.
    """
    from ulzoo.registry.runs.encode import EncodeOptions
    from ulzoo.registry.runs.encode import encode as write
    from ulzoo.registry.runs.train import open_source
    from ulzoo.registry.zoo.catalogue import open_model
    from ulzoo.runtime.devices import pick_device

    chosen = pick_device(device)
    loaded = open_model(model, chosen)
    source = open_source(loaded.spec, split)
    printed = -1

    def on_progress(done: int, total: int) -> None:
        nonlocal printed
        if (step := LINES * done // total) > printed:
            printed = step
            say(f"{done:,}/{total:,} images")

    try:
        summary = write(
            loaded.model,
            loaded.spec,
            source,
            out,
            split,
            options=EncodeOptions(dtype, batch_size, images_per_shard),
            on_progress=on_progress,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from the last finished file") from None
    typer.echo(f"{out}: {summary.count:,} images of {split} in {summary.shards:,} files, {scaled(summary.bytes, 'B')}")
    if summary.failures:
        say(f"warning: {len(summary.failures):,} images left out, all named in {out / 'manifest.json'}")
