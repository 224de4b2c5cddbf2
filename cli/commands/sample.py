"""`ulzoo sample` and `ulzoo reconstruct`: pictures or films by one model, or by several side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ulzoo.cli import options
from ulzoo.cli.display.terminal import examples, say

if TYPE_CHECKING:
    from ulzoo.data import Source
    from ulzoo.model.unified_latents import UnifiedLatents
    from ulzoo.registry.runs.export import Export

SAMPLE_EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo sample emoji32_tiny[/]
  [cyan]ulzoo sample runs/a emoji32_tiny --labels Flags,Food --guidance 2[/]
  [cyan]ulzoo sample runs/video --n 8 --out clips.gif[/]      clips.png, clips.mp4 and clips.gif
"""
RECONSTRUCT_EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo reconstruct emoji32_tiny[/]
  [cyan]ulzoo reconstruct runs/a runs/b --n 24 --out side_by_side.png[/]
"""

Picture = Annotated[
    Path,
    typer.Option(
        metavar="FILE.png",
        dir_okay=False,
        help="The picture to write; of clips a contact sheet, with FILE.mp4 and FILE.webp (or .gif) beside it.",
    ),
]
Number = Annotated[int, typer.Option(metavar="N", min=1, max=4096, help="How many images or clips of each model.")]


def sample(
    models: options.Models,
    n: Number = 16,
    labels: Annotated[
        str | None, typer.Option(metavar="0,NAME", help="Classes to sample, by number or name; all mixed if left out.")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(metavar="G", min=0, help="Scale of classifier-free guidance, with --labels; else the spec's."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps that sample the latent; else the spec's.")] = None,
    seed: options.Seed = 0,
    network: Annotated[
        Literal["base", "prior"] | None,
        typer.Option(help="What samples the latent: the base, or stage 1's prior; the base if there is one."),
    ] = None,
    split: Annotated[
        str,
        typer.Option(metavar="SPLIT", help="Where first frames or captions come from: val or train."),
    ] = "val",
    whole: Annotated[
        bool, typer.Option("--whole", help="Make whole clips with a model that also continues given frames.")
    ] = False,
    out: Picture = Path("samples.png"),
    device: options.Device = None,
    precision: options.Precision = "fp32",
    compile: options.Compile = False,
) -> None:
    """Draw new images into a PNG, new clips into a PNG, an MP4 and an animated WebP or GIF.

    A model that continues given frames gets those of the data's clips, and the truth is drawn above what it makes.
    """
    _check_suffix(out)
    from ulzoo.evaluation import save_grid
    from ulzoo.visualization.image_samples import sample_rows
    from ulzoo.visualization.video_samples import sampled_clips, save_clips

    exports = _open(models, device, precision, compile)
    loaded = {name: export.model for name, export in exports.items()}
    if not _video(loaded, out):
        captioned = any(model.contract.text_width for model in loaded.values())
        source = _source(exports, split, n) if captioned else None
        rows = sample_rows(
            loaded, n, labels=labels, guidance=guidance, steps=steps, seed=seed, network=network, source=source
        )
        save_grid(out, rows)
        typer.echo(out)
        return
    continued = not whole and network != "prior" and any(model.contract.given_frames for model in loaded.values())
    source = _source(exports, split, n) if continued else None
    bands = sampled_clips(
        loaded,
        source,
        n,
        labels=labels,
        guidance=guidance,
        steps=steps,
        seed=seed,
        network=network,
        whole=whole,
    )
    _say_files(save_clips(out, bands, next(iter(loaded.values())).contract))


def reconstruct(
    models: options.Models,
    n: Number = 12,
    split: options.Split = "val",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the decoder; else the spec's.")] = None,
    seed: options.Seed = 0,
    out: Picture = Path("reconstructions.png"),
    device: options.Device = None,
    precision: options.Precision = "fp32",
    compile: options.Compile = False,
) -> None:
    """Draw images or clips, and what each model makes of them, with PSNR and rate.

    They are the first of the first model's data. Clips are drawn into a PNG, an MP4 and an animated WebP or GIF.
    """
    _check_suffix(out)
    from ulzoo.evaluation import save_grid
    from ulzoo.visualization.image_samples import reconstruction_rows
    from ulzoo.visualization.video_samples import reconstructed_clips, save_clips

    exports = _open(models, device, precision, compile)
    loaded = {name: export.model for name, export in exports.items()}
    video = _video(loaded, out)
    source = _source(exports, split, n)
    if not video:
        save_grid(out, reconstruction_rows(loaded, source, n, steps=steps, seed=seed))
        typer.echo(out)
        return
    bands = reconstructed_clips(loaded, source, n, steps=steps, seed=seed)
    _say_files(save_clips(out, bands, next(iter(loaded.values())).contract))


def _check_suffix(out: Path) -> None:
    if out.suffix.lower() not in (".png", ".mp4", ".webp", ".gif"):
        raise ValueError(f"{out}: pictures are written as PNG; let the name end in .png")


def _video(models: "dict[str, UnifiedLatents]", out: Path) -> bool:
    """Whether the models make clips: all of them, or none."""
    kinds = {name: model.contract.video for name, model in models.items()}
    if len(set(kinds.values())) > 1:
        clips, images = (next(name for name, video in kinds.items() if video is wanted) for wanted in (True, False))
        raise ValueError(f"{clips} makes clips and {images} images: draw them one after the other")
    if (video := True in kinds.values()) or out.suffix.lower() == ".png":
        return video
    raise ValueError(f"{out}: images are written as PNG; let the name end in .png")


def _source(exports: "dict[str, Export]", split: str, n: int) -> "Source":
    from ulzoo.registry.runs.train import open_source

    first = next(iter(exports.values()))
    source = open_source(first.spec, split)
    if len(source) < n:
        say(f"warning: there are {len(source)} {examples(first.model.contract.size)} in {split}, not {n}")
    return source


def _say_files(paths: "list[Path]") -> None:
    for path in paths:
        typer.echo(path)


def _open(
    models: list[str], device: str | None, precision: Literal["fp32", "bf16"], compile: bool
) -> "dict[str, Export]":
    """The models by their names as typed."""
    from ulzoo.registry.runs.inference import optimize_for_inference
    from ulzoo.registry.zoo.catalogue import open_model
    from ulzoo.runtime.devices import pick_device

    chosen = pick_device(device)
    exports = {name: open_model(name, chosen) for name in models}
    for export in exports.values():
        optimize_for_inference(export.model, precision=precision, compile=compile)
    return exports
