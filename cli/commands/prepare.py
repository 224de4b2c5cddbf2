"""`ulzoo prepare`: data sets from the form in which they are published to the one that training reads."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ulzoo.cli.display.terminal import console, duration, say, scaled

if TYPE_CHECKING:
    from rich.console import Console

    from ulzoo.data.prepare.pack import Progress
    from ulzoo.data.storage.manifest import SplitSummary

LINES = 20
NAMED_FAILURES = 3
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

Verify = Annotated[
    bool, typer.Option("--verify", help="Only compare the shards there with their manifest, by SHA-256.")
]
Root = Annotated[Path, typer.Argument(metavar="ROOT", help="The folder of images.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", file_okay=False, help="Where the shards go.")]
Side = Annotated[
    int, typer.Option("--resolution", metavar="N", help="Side of the square, by ADM's rule: box, bicubic, centre crop.")
]
Splits = Annotated[Literal["train", "val", "all"], typer.Option(help="Which images.")]
Written = Annotated[
    Literal["png", "webp", "jpeg"], typer.Option("--format", help="png and webp without loss, jpeg at quality 95.")
]
PerShard = Annotated[int, typer.Option(min=1, metavar="N", help="Images in a tar file.")]
Workers = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="ProcessGroup; one a processor core if left out.")
]

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def prepare() -> None:
    """Make shards of a data set that you have downloaded."""


@app.command(epilog=EXAMPLES)
def kinetics600(
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Where the shards go.")],
    videos: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The videos, at any depth: ID_START_END.mp4 with six digits each (trimmed), or ID.mp4 (whole).",
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", dir_okay=False, help="label,youtube_id,time_start,time_end and maybe split."),
    ] = None,
    split: Annotated[Literal["train", "val"], typer.Option(help="Which rows of the annotations.")] = "train",
    resolution: Annotated[int, typer.Option(metavar="N", help="Shortest side in pixels, even.")] = 128,
    frame_rate: Annotated[
        float | None, typer.Option(metavar="F", help="Frames per second; each video's own if left out.")
    ] = None,
    clips_per_shard: Annotated[int, typer.Option(min=1, metavar="N", help="Clips in a tar file.")] = 256,
    workers: Workers = None,
    verify: Verify = False,
) -> None:
    """Pack Kinetics-600's videos into shards for `kind: kinetics600`.

    The same command again goes on where it was interrupted, and takes in videos that were missing before.
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

    from ulzoo.data.prepare.transcode import VideoEncoding
    from ulzoo.data.videos.kinetics600 import prepare_kinetics600

    work = partial(
        prepare_kinetics600,
        videos,
        annotations,
        out,
        split,
        VideoEncoding(resolution, frame_rate),
        clips_per_shard=clips_per_shard,
        workers=workers or _cores(),
    )
    _pack(work, out, split, "clips")


@app.command("image_folder", epilog=IMAGE_EXAMPLES)
def image_folder(
    root: Root,
    out: Out,
    resolution: Side,
    classes: Annotated[bool, typer.Option("--classes", help="The folders are classes.")] = False,
    split: Splits = "all",
    val_fraction: Annotated[
        float, typer.Option(metavar="F", help="Share held out where there are no folders train and val.")
    ] = 0.1,
    written: Written = "png",
    text_width: Annotated[
        int | None, typer.Option(metavar="D", help="Pack NAME.npy too, captions of embeddings of D values.")
    ] = None,
    images_per_shard: PerShard = 1000,
    workers: Workers = None,
    verify: Verify = False,
) -> None:
    """Pack a folder of images, decoded and resized once, into shards for `kind: webdataset`.

    The same command again goes on where it was interrupted.
    """
    if verify:
        _verify(out)
        return
    from ulzoo.data.prepare.images import ImageEncoding, prepare_image_folder

    encoding = ImageEncoding(resolution, written, text_width)
    prepare = partial(prepare_image_folder, classes=classes, val_fraction=val_fraction)
    _pack_splits(prepare, root, out, split, encoding, images_per_shard, workers)


@app.command(epilog=IMAGE_EXAMPLES)
def imagenet(
    root: Root,
    out: Out,
    resolution: Side,
    val_labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", dir_okay=False, help="Kaggle's LOC_val_solution.csv, for a flat folder val."),
    ] = None,
    split: Splits = "all",
    written: Written = "png",
    images_per_shard: PerShard = 1000,
    workers: Workers = None,
    verify: Verify = False,
) -> None:
    """Pack ImageNet's train/ and val/, decoded and resized once, into shards for `kind: webdataset`.

    The same command again goes on where it was interrupted.
    """
    if verify:
        _verify(out)
        return
    from ulzoo.data.prepare.images import ImageEncoding, prepare_imagenet

    encoding = ImageEncoding(resolution, written)
    prepare = partial(prepare_imagenet, val_labels=val_labels)
    _pack_splits(prepare, root, out, split, encoding, images_per_shard, workers)


@app.command("verify")
def verify_folder(
    folder: Annotated[Path, typer.Argument(metavar="DIR", file_okay=False, help="What was prepared or encoded.")],
) -> None:
    """Compare shards of any kind, those of `ulzoo encode` too, with their manifest, by SHA-256."""
    _verify(folder)


def _pack_splits(
    prepare: Any, root: Path, out: Path, split: str, encoding: Any, images_per_shard: int, workers: int | None
) -> None:
    for name in ("train", "val") if split == "all" else (split,):
        keys = {"images_per_shard": images_per_shard, "workers": workers or _cores()}
        _pack(partial(prepare, root, out, name, encoding, **keys), out, name, "images")


def _pack(work: "Callable[..., SplitSummary]", out: Path, split: str, unit: str) -> None:
    """Do the work under a display, and say what came of it."""
    try:
        with _display(console(stderr=True), split, unit) as on_progress:
            summary = work(on_progress=on_progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from the last finished shard") from None
    typer.echo(f"{out}: {summary.count:,} {unit} of {split} in {summary.shards:,} shards, {scaled(summary.bytes, 'B')}")
    if summary.failures:
        some = "; ".join(f"{key}: {why}" for key, why in list(summary.failures.items())[:NAMED_FAILURES])
        more = "; ..." if len(summary.failures) > NAMED_FAILURES else ""
        say(f"warning: {len(summary.failures):,} {unit} left out, all named in {out / 'manifest.json'}: {some}{more}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _verify(out: Path) -> None:
    from ulzoo.data.storage.manifest import verify

    with console(stderr=True).status("verifying") as status:
        counts = verify(out, lambda done, total: status.update(f"verifying  {done:,}/{total:,} shards"))
    typer.echo(f"{out}: as its manifest says, {', '.join(f'{count} of {split}' for split, count in counts.items())}")


@contextmanager
def _display(shown: "Console", split: str, unit: str) -> "Iterator[Callable[[Progress], None]]":
    """A bar on a terminal, about twenty lines elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    began: tuple[float, int] | None = None  # when the first clip was seen done: workers take seconds to start
    seen, printed = -1, 0
    bar: Any = Bar(
        TextColumn(f"packing {split}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}  {{task.fields[figures]}}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=shown,
        transient=True,
        disable=not shown.is_terminal,
    )
    task = bar.add_task("", total=None, figures="")

    def on_progress(progress: "Progress") -> None:
        nonlocal began, seen, printed
        if began is None and 0 <= seen < progress.done:
            began = time.monotonic(), progress.done
        seen = progress.done
        elapsed = time.monotonic() - began[0] if began else 0
        rate = (progress.done - began[1]) / elapsed if began and elapsed else 0
        figures = f"{rate:.1f} {unit}/s" + (f"  {progress.failed:,} left out" if progress.failed else "")
        bar.update(task, total=progress.total, completed=progress.done, figures=figures)
        step = LINES * progress.done // progress.total
        if bar.disable and step > printed and rate:
            left = (progress.total - progress.done) / rate
            printed = step
            say(f"{progress.done:,}/{progress.total:,} {unit}  {figures}  {duration(left)} left")

    with bar:
        yield on_progress
