"""`ulzoo sample` and `ulzoo reconstruct`: pictures by one model, or by several side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ulzoo.cli import options
from ulzoo.cli.terminal import say

if TYPE_CHECKING:
    from ulzoo.registry.export import Export

SAMPLE_EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo sample emoji32_tiny[/]
  [cyan]ulzoo sample runs/a emoji32_tiny --labels Flags,Food --guidance 2[/]
"""
RECONSTRUCT_EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo reconstruct emoji32_tiny[/]
  [cyan]ulzoo reconstruct runs/a runs/b --n 24 --out side_by_side.png[/]
"""

Picture = Annotated[Path, typer.Option(metavar="FILE.png", dir_okay=False, help="The picture to write.")]
Number = Annotated[int, typer.Option(metavar="N", min=1, max=4096, help="How many images of each model.")]


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
        Literal["base", "prior"], typer.Option(help="What samples the latent: the base, or stage 1's prior.")
    ] = "base",
    out: Picture = Path("samples.png"),
    device: options.Device = None,
) -> None:
    """Draw new images into a PNG."""
    _check_png(out)
    from ulzoo.evaluation import save_grid
    from ulzoo.registry.gallery import sample_rows

    loaded = {name: export.model for name, export in _open(models, device).items()}
    rows = sample_rows(loaded, n, labels=labels, guidance=guidance, steps=steps, seed=seed, network=network)
    save_grid(out, rows)
    typer.echo(out)


def reconstruct(
    models: options.Models,
    n: Number = 12,
    split: options.Split = "val",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the decoder; else the spec's.")] = None,
    seed: options.Seed = 0,
    out: Picture = Path("reconstructions.png"),
    device: options.Device = None,
) -> None:
    """Draw images and what each model makes of them into a PNG, with PSNR and rate.

    The images are the first of the first model's data.
    """
    _check_png(out)
    from ulzoo.evaluation import save_grid
    from ulzoo.registry.gallery import reconstruction_rows
    from ulzoo.registry.run import open_source

    exports = _open(models, device)
    source = open_source(next(iter(exports.values())).spec, split)
    if len(source) < n:
        say(f"warning: there are {len(source)} images in {split}, not {n}")
    rows = reconstruction_rows({name: e.model for name, e in exports.items()}, source, n, steps=steps, seed=seed)
    save_grid(out, rows)
    typer.echo(out)


def _check_png(out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise ValueError(f"{out}: pictures are written as PNG; let the name end in .png")


def _open(models: list[str], device: str | None) -> "dict[str, Export]":
    """The models by their names as typed."""
    from ulzoo.registry.catalogue import open_model
    from ulzoo.registry.device import pick_device

    chosen = pick_device(device)
    return {name: open_model(name, chosen) for name in models}
