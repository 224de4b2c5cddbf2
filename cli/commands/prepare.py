"""`ulzoo prepare`: pack downloaded data sets into the shards that training reads."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ulzoo.cli.display.progress import pack_progress
from ulzoo.cli.display.terminal import console, say, scaled

if TYPE_CHECKING:
    from ulzoo.data.prepare.pack import PackConfig
    from ulzoo.data.storage.manifest import SplitSummary

LISTED_FAILURES = 3
EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo prepare kinetics600 --videos /data/k600 --annotations train.csv --out data/kinetics600[/]
  [cyan]ulzoo prepare kinetics600 --videos /data/k600 --annotations val.csv --out data/kinetics600 --split val[/]
  [cyan]ulzoo prepare kinetics600 --out data/kinetics600 --verify[/]
"""
IMAGE_EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo prepare image_folder pictures data/pictures --resolution 256 --classes[/]
  [cyan]ulzoo prepare imagenet ILSVRC/Data/CLS-LOC data/imagenet --resolution 512 --val-labels LOC_val_solution.csv[/]
  [cyan]ulzoo prepare verify data/imagenet[/]
"""
ATARI_EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo prepare atari data/atari64 --resolution 64 --count 24000[/]
  [cyan]ulzoo prepare atari data/atari64 --resolution 64 --count 1000 --split val[/]
  [cyan]ulzoo prepare atari data/atari_clips --resolution 64 --count 6000 --frames 16 --games pong,breakout[/]
"""

Verify = Annotated[
    bool, typer.Option("--verify", help="Only verify existing shards against their manifest, by SHA-256.")
]
Root = Annotated[Path, typer.Argument(metavar="ROOT", help="The folder of images.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", file_okay=False, help="Folder for the shards.")]
Side = Annotated[
    int,
    typer.Option(
        "--resolution", metavar="N", help="Side of the square images, resized as by ADM: box, bicubic, centre crop."
    ),
]
Splits = Annotated[Literal["train", "val", "all"], typer.Option(help="Split to pack.")]
Format = Annotated[
    Literal["png", "webp", "jpeg"], typer.Option("--format", help="png and webp are lossless, jpeg has quality 95.")
]
PerShard = Annotated[int, typer.Option(min=1, metavar="N", help="Images per tar file.")]
Workers = Annotated[int | None, typer.Option(min=1, metavar="N", help="Number of processes; default: one per core.")]

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def prepare() -> None:
    """Pack a downloaded data set into shards."""


@app.command(epilog=EXAMPLES)
def kinetics600(
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Folder for the shards.")],
    videos: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The videos, at any depth: ID_START_END.mp4 with six digits each (trimmed), or ID.mp4 (whole).",
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            dir_okay=False,
            help="Columns label,youtube_id,time_start,time_end and optionally split.",
        ),
    ] = None,
    split: Annotated[Literal["train", "val"], typer.Option(help="Split of the annotations.")] = "train",
    resolution: Annotated[int, typer.Option(metavar="N", help="Shortest side in pixels, even.")] = 128,
    frame_rate: Annotated[
        float | None, typer.Option(metavar="F", help="Frames per second; default: each video's own.")
    ] = None,
    pictures: Annotated[
        Literal["yuv444", "lossless", "yuv420", "source"],
        typer.Option(
            help="How pictures are stored: H.264 4:4:4, lossless, 4:2:0 as in earlier versions, or the files of "
            "trimmed videos as they are."
        ),
    ] = "yuv444",
    clips_per_shard: Annotated[int, typer.Option(min=1, metavar="N", help="Clips per tar file.")] = 256,
    workers: Workers = None,
    verify: Verify = False,
) -> None:
    """Pack the videos of Kinetics-600 into shards for `kind: kinetics600`.

    An interrupted command continues when it is run again, and adds videos that were missing before.
    """
    if verify:
        if videos or annotations:
            raise ValueError("--verify reads --out alone: leave out --videos and --annotations")
        _verify(out)
        return
    if videos is None or annotations is None:
        missing = " and ".join(
            name for name, path in (("--videos", videos), ("--annotations", annotations)) if path is None
        )
        raise ValueError(f"{missing} missing: `ulzoo prepare kinetics600 --help` shows an example")

    from ulzoo.data.prepare.kinetics600 import prepare_kinetics600
    from ulzoo.data.prepare.pack import PackConfig
    from ulzoo.data.prepare.transcode import VideoEncoding

    encoding = VideoEncoding(resolution, frame_rate, pictures)
    config = PackConfig(out, split, encoding, clips_per_shard, workers or _cores())
    _pack(partial(prepare_kinetics600, videos, annotations), config, "clips")


@app.command("image_folder", epilog=IMAGE_EXAMPLES)
def image_folder(
    root: Root,
    out: Out,
    resolution: Side,
    classes: Annotated[bool, typer.Option("--classes", help="Subfolders are classes.")] = False,
    split: Splits = "all",
    val_fraction: Annotated[
        float, typer.Option(metavar="F", help="Fraction held out if there are no folders train and val.")
    ] = 0.1,
    image_format: Format = "png",
    text_width: Annotated[
        int | None, typer.Option(metavar="D", help="Also pack NAME.npy: captions as token embeddings of D values.")
    ] = None,
    images_per_shard: PerShard = 1000,
    workers: Workers = None,
    verify: Verify = False,
) -> None:
    """Decode and resize a folder of images once, and pack it into shards for `kind: webdataset`.

    An interrupted command continues when it is run again.
    """
    if verify:
        _verify(out)
        return
    from ulzoo.data.prepare.images import ImageEncoding, prepare_image_folder
    from ulzoo.data.prepare.pack import PackConfig

    encoding = ImageEncoding(resolution, image_format, text_width)
    config = PackConfig(out, split, encoding, images_per_shard, workers or _cores())
    _pack_splits(partial(prepare_image_folder, root, classes=classes, val_fraction=val_fraction), config)


@app.command(epilog=IMAGE_EXAMPLES)
def imagenet(
    root: Root,
    out: Out,
    resolution: Side,
    val_labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            dir_okay=False,
            help="Kaggle's LOC_val_solution.csv, for a val folder without class folders.",
        ),
    ] = None,
    split: Splits = "all",
    image_format: Format = "png",
    images_per_shard: PerShard = 1000,
    workers: Workers = None,
    verify: Verify = False,
) -> None:
    """Decode and resize ImageNet's train/ and val/ once, and pack them into shards for `kind: webdataset`.

    An interrupted command continues when it is run again.
    """
    if verify:
        _verify(out)
        return
    from ulzoo.data.prepare.images import ImageEncoding, prepare_imagenet
    from ulzoo.data.prepare.pack import PackConfig

    encoding = ImageEncoding(resolution, image_format)
    config = PackConfig(out, split, encoding, images_per_shard, workers or _cores())
    _pack_splits(partial(prepare_imagenet, root, val_labels=val_labels), config)


@app.command(epilog=ATARI_EXAMPLES)
def atari(
    out: Out,
    resolution: Annotated[int, typer.Option("--resolution", metavar="N", help="Side of the square pictures.")],
    frames: Annotated[
        int | None, typer.Option(metavar="T", help="Frames per clip, 15 per second; default: single images.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Number of images or clips.")] = 10_000,
    games: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Games of ale-py, such as ms_pacman,pong; default: eight.")
    ] = None,
    split: Annotated[Literal["train", "val"], typer.Option(help="Split to render, from different rollouts.")] = "train",
    per_shard: Annotated[
        int, typer.Option("--examples-per-shard", min=1, metavar="N", help="Images or clips per tar file.")
    ] = 1000,
    workers: Workers = None,
    verify: Verify = False,
) -> None:
    """Render Atari games under random actions into shards for `kind: webdataset`, or clips for `kind: video_shards`.

    Needs ale-py: pip install 'ulzoo\\[atari]'. An interrupted command continues when it is run again.
    """
    if verify:
        _verify(out)
        return
    from ulzoo.data.prepare.atari import RolloutEncoding, prepare_atari
    from ulzoo.data.prepare.pack import PackConfig
    from ulzoo.data.videos.atari import GAMES

    encoding = RolloutEncoding(resolution, frames, GAMES if games is None else tuple(games.split(",")))
    config = PackConfig(out, split, encoding, per_shard, workers or _cores())
    _pack(partial(prepare_atari, count=count), config, encoding.unit)


@app.command("verify")
def verify_folder(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", file_okay=False, help="A folder of prepared or encoded data.")
    ],
) -> None:
    """Verify shards, also those of `ulzoo encode`, against their manifest, by SHA-256."""
    _verify(folder)


def _pack_splits(prepare: "Callable[..., SplitSummary]", config: "PackConfig") -> None:
    """Pack the split of the config, or both splits for "all"."""
    for split in ("train", "val") if config.split == "all" else (config.split,):
        _pack(prepare, replace(config, split=split), "images")


def _pack(prepare: "Callable[..., SplitSummary]", config: "PackConfig", unit: str) -> None:
    """Pack a split while displaying its progress, and print a summary."""
    out, split = config.out, config.split
    try:
        with pack_progress(console(stderr=True), split, unit) as on_progress:
            summary = prepare(config, on_progress=on_progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("run the same command again to continue after the last finished shard") from None
    print(f"{out}: {summary.count:,} {unit} of {split} in {summary.shards:,} shards, {scaled(summary.bytes, 'B')}")
    if summary.failures:
        failures = "; ".join(f"{key}: {why}" for key, why in list(summary.failures.items())[:LISTED_FAILURES])
        failures += "; ..." if len(summary.failures) > LISTED_FAILURES else ""
        say(f"warning: {len(summary.failures):,} {unit} skipped, all listed in {out / 'manifest.json'}: {failures}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _verify(out: Path) -> None:
    from ulzoo.data.storage.manifest import verify

    with console(stderr=True).status("verifying") as status:
        counts = verify(out, lambda done, total: status.update(f"verifying  {done:,}/{total:,} shards"))
    print(f"{out}: matches its manifest, {', '.join(f'{count} of {split}' for split, count in counts.items())}")
