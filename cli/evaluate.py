"""`ulzoo evaluate`: rate and distortion, with their protocol."""

from pathlib import Path
from typing import Annotated

import typer

from ulzoo.cli import options
from ulzoo.cli.terminal import console, figures_table, to_json

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo evaluate emoji32_tiny[/]
  [cyan]ulzoo evaluate runs/a --limit 64 --rate-samples 32 --out figures.json[/]
  [cyan]ulzoo evaluate runs/a --json | jq .figures[/]
"""


def evaluate(
    model: options.Model,
    split: options.Split = "val",
    limit: Annotated[int | None, typer.Option(min=1, help="How many images; all if left out.")] = None,
    rate_samples: Annotated[int, typer.Option(min=1, help="Draws of time and noise per image for the rate.")] = 8,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the decoder; else the spec's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once; noise is drawn batch by batch.")] = 64,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", dir_okay=False, help="Write figures and protocol here.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print figures and protocol as JSON instead of a table.")
    ] = False,
    device: options.Device = None,
) -> None:
    """Measure the rate in bits/pixel and bits/dimension, by prior and by base, and PSNR."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ulzoo.evaluation import rate_distortion
    from ulzoo.files import write_text
    from ulzoo.registry.catalogue import open_model
    from ulzoo.registry.device import pick_device
    from ulzoo.registry.run import described_data, open_source

    loaded = open_model(model, pick_device(device))
    source = open_source(loaded.spec, split)
    total = min(limit or len(source), len(source))
    progress = Progress(
        TextColumn("evaluating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images  {task.fields[speed]}"),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
        disable=not console(stderr=True).is_terminal,
    )
    with progress:
        task = progress.add_task("", total=total, speed="")

        def on_image(done: int) -> None:
            elapsed = progress.tasks[0].elapsed or 0
            progress.update(task, completed=done, speed=f"{done / elapsed:.1f} images/s" if elapsed else "")

        results = rate_distortion(
            loaded.model,
            source,
            data=described_data(loaded.spec),
            split=split,
            limit=limit,
            batch_size=batch_size,
            rate_samples=rate_samples,
            decoder_steps=steps,
            seed=seed,
            on_image=on_image,
        )
    results = {"model": model, "spec_hash": loaded.spec.hash, **results}
    if out:
        write_text(out, to_json(results) + "\n")
    if json:
        typer.echo(to_json(results))
        return
    shown = console()
    shown.print(f"{model} on {results['protocol']['images']} images of {split}", style="bold")
    shown.print(figures_table(results["figures"]))
    if out:
        typer.echo(out)
    else:
        typer.echo(to_json({"protocol": results["protocol"]}))
