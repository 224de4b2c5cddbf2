"""`ulzoo evaluate`: rate, distortion and, of clips, frame prediction and Fréchet distance, with their protocol."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ulzoo.cli import options
from ulzoo.cli.terminal import console, examples, figures_table, to_json

if TYPE_CHECKING:
    from ulzoo.registry.export import Export

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo evaluate emoji32_tiny[/]
  [cyan]ulzoo evaluate runs/a --limit 64 --rate-samples 32 --out figures.json[/]
  [cyan]ulzoo evaluate runs/a --json | jq .figures[/]
  [cyan]ulzoo evaluate runs/video --frechet fvd --clips 2048 --detector i3d_torchscript.pt[/]
"""


def evaluate(
    model: options.Model,
    split: options.Split = "val",
    limit: Annotated[int | None, typer.Option(min=1, help="How many images or clips; all if left out.")] = None,
    rate_samples: Annotated[int, typer.Option(min=1, help="Draws of time and noise per example for the rate.")] = 8,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the decoder; else the spec's.")] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Examples at once, noise is drawn batch by batch; 64 images or 8 clips if left out."),
    ] = None,
    frechet: Annotated[
        Literal["fvd", "fd_transnetv2"] | None,
        typer.Option(help="Also generate clips and measure their distance from the data's: FVD, or one offline."),
    ] = None,
    clips: Annotated[
        int | None,
        typer.Option(metavar="N", min=2, help="How many to generate for it; as many as the reference, at most 2048."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="SPLIT", help="What they are compared with: val or train; else --split.")
    ] = None,
    detector: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="FVD's network, StyleGAN-V's i3d_torchscript.pt."),
    ] = None,
    detector_sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="Its SHA-256, if it is not the published file.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch FVD's network once (51 MB), by its hash.")
    ] = False,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", dir_okay=False, help="Write figures and protocol here.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print figures and protocol as JSON instead of a table.")
    ] = False,
    device: options.Device = None,
) -> None:
    """Measure the rate in bits/pixel and bits/dimension, by prior and by base, and PSNR.

    Of a model of clips also PSNR frame by frame, how well it continues given frames and, if asked, a Fréchet distance.
    """
    from ulzoo.evaluation import measure
    from ulzoo.files import write_text
    from ulzoo.registry.catalogue import open_model
    from ulzoo.registry.device import pick_device
    from ulzoo.registry.run import described_data, open_source

    if frechet != "fvd" and (detector or detector_sha256 or download):
        raise ValueError("--detector, --detector-sha256 and --download go with --frechet fvd")
    if frechet is None and (clips or reference):
        raise ValueError("--clips and --reference go with --frechet")
    chosen = pick_device(device)
    loaded = open_model(model, chosen)
    features = _features(frechet, loaded, detector, detector_sha256, download, chosen) if frechet else None
    source = open_source(loaded.spec, split)
    kind = examples(loaded.model.contract.size)
    told: dict[str, Any] = {"data": described_data(loaded.spec), "batch_size": batch_size, "seed": seed}
    with _progress("evaluating", kind) as shown:
        results = measure(
            loaded.model,
            source,
            **told,
            split=split,
            limit=limit,
            rate_samples=rate_samples,
            decoder_steps=steps,
            on_image=shown,
        )
    if features is not None:
        from ulzoo.evaluation import generation_distance

        compared = open_source(loaded.spec, reference or split)
        with _progress("generating", kind) as shown:
            distance = generation_distance(
                loaded.model, compared, features, **told, reference=reference or split, clips=clips, on_image=shown
            )
        results["figures"] |= distance["figures"]
        results["protocol"]["frechet"] = distance["protocol"]
    results = {"model": model, "spec_hash": loaded.spec.hash, **results}
    if out:
        write_text(out, to_json(results) + "\n")
    if json:
        typer.echo(to_json(results))
        return
    shown_on = console()
    shown_on.print(f"{model} on {results['protocol']['images']} {kind} of {split}", style="bold")
    shown_on.print(figures_table(results["figures"]))
    if out:
        typer.echo(out)
    else:
        typer.echo(to_json({"protocol": results["protocol"]}))


def _features(name: str, loaded: "Export", file: Path | None, sha256: str | None, download: bool, device: Any) -> Any:
    """The network of `--frechet`, after everything was checked that can be before anything is measured."""
    from ulzoo.evaluation.video_features import I3DLogits, TransNetV2Features, find_detector

    contract = loaded.model.contract
    if not contract.video:
        raise ValueError(f"--frechet {name} compares clips: this is a model of images")
    if loaded.model.base is None:
        raise ValueError("--frechet needs a base: this model's second stage was not trained")
    if name == "fd_transnetv2":
        return TransNetV2Features(device)
    if contract.size[0] < I3DLogits.least_frames:
        raise ValueError(f"fvd needs clips of at least {I3DLogits.least_frames} frames, not {contract.size[0]}")
    return I3DLogits(*find_detector(file, sha256, download), device)


@contextmanager
def _progress(name: str, kind: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, on a terminal only, and what tells it (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{kind}  {{task.fields[speed]}}"),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
        disable=not console(stderr=True).is_terminal,
    )
    with progress:
        task = progress.add_task("", total=None, speed="")

        def tell(done: int, total: int) -> None:
            elapsed = progress.tasks[0].elapsed or 0
            speed = f"{done / elapsed:.1f} {kind}/s" if elapsed else ""
            progress.update(task, completed=done, total=total, speed=speed)

        yield tell
