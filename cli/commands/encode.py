"""`ulzoo encode`: precompute the latents of a data set, for training base models on them."""

from typing import Annotated, Literal

import typer

from ulzoo.cli import options, rate_options
from ulzoo.cli.display.progress import print_progress
from ulzoo.cli.display.terminal import say, scaled

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo train imagenet512_small --stage latents --out runs/a[/]
  [cyan]ulzoo encode runs/a --out latents/a[/]
  [cyan]ulzoo train imagenet512_small --stage base --out runs/a \\
      --set train.base.data.kind=latents --set train.base.data.path=latents/a[/]
  [cyan]ulzoo encode runs/b --loss-factor 2 --out latents/b[/]      of a variable-rate model, for base.loss_factor 2
  [cyan]ulzoo encode emoji32_tiny --images photographs --out latents/b[/]      a folder of your own
  [cyan]ulzoo encode runs/a --out s3://bucket/latents/a[/]      to an object store
"""


def encode(
    model: options.Model,
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the latents, or its URL, such as s3://bucket/a.")],
    images: options.Images = None,
    data: options.Data = None,
    split: Annotated[Literal["train", "val"], typer.Option(help="Split to encode; training needs train.")] = "train",
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"],
        typer.Option(help="Type of the latents; float16 is more precise but limited to 65,504."),
    ] = "bfloat16",
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Images per batch.")] = 64,
    images_per_shard: Annotated[int, typer.Option(min=1, metavar="N", help="Images per file.")] = 4096,
    loss_factor: rate_options.LossFactor = None,
    bias: rate_options.Bias = None,
    device: options.Device = None,
) -> None:
    """Encode a model's training images into z_clean, for `ulzoo train --stage base` without the encoder.

    If the data is mirrored in training, the mirrored images are encoded too. An interrupted command continues when it
    is run again. Training refuses latents of another encoder, of other images or of another loss factor than
    base.loss_factor. Of a folder given by --images, the split is that of data kind image_folder: without folders train
    and val, one image in ten is held out for val.
    """
    from ulzoo.data.storage.output import check_writable
    from ulzoo.data.storage.remote import storage_path
    from ulzoo.registry.runs.encode import EncodeOptions
    from ulzoo.registry.runs.encode import encode as encode_images
    from ulzoo.registry.runs.own_data import open_data, replace_data
    from ulzoo.registry.zoo.catalogue import open_model
    from ulzoo.runtime.devices import pick_device

    folder = storage_path(out)
    check_writable(folder)
    loaded = open_model(model, pick_device(device))
    rate_options.set_rate(model, loaded.model, loss_factor, bias)
    spec = replace_data(loaded, images or (), data or ())
    source = open_data(loaded, spec, split)
    try:
        summary = encode_images(
            loaded.model,
            spec,
            source,
            folder,
            split,
            options=EncodeOptions(dtype, batch_size, images_per_shard),
            on_progress=print_progress("images"),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("run the same command again to continue after the last finished file") from None
    print(f"{folder}: {summary.count:,} images of {split} in {summary.shards:,} files, {scaled(summary.bytes, 'B')}")
    if summary.failures:
        say(f"warning: {len(summary.failures):,} images skipped, all listed in {folder / 'manifest.json'}")
