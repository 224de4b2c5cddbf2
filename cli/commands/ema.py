"""`ulzoo ema`: averages of the weights of any length, synthesised after training."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ulzoo.cli import options
from ulzoo.cli.display.progress import phase_progress
from ulzoo.cli.display.tables import plain_table
from ulzoo.cli.display.terminal import console, examples

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo train emoji32_tiny --set train.base.posthoc_ema.snapshot_every=500 --out runs/a[/]
  [cyan]ulzoo ema runs/a --lengths 0.05,0.1,0.15 --evaluate[/]
  [cyan]ulzoo ema runs/a --lengths 0.12 --stage latents --out averages[/]
  [cyan]ulzoo evaluate runs/a/ema/base-0.1.safetensors --frechet fid --samples 50000 --download[/]
"""

METRICS = {
    "psnr_db": ("PSNR", ".2f"),
    "mean_image_psnr_db": ("PSNR of the\ntraining mean", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "bits_per_pixel": ("prior, bits/pixel", ".4f"),
    "base_bits_per_pixel": ("base, bits/pixel", ".4f"),
    "prediction_psnr_db": ("PSNR of generated frames", ".2f"),
}


def ema(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory with snapshots.", file_okay=False)],
    lengths: Annotated[
        str,
        typer.Option(
            metavar="X,Y,…",
            help="Standard deviations of the averages as fractions of the training (σ_rel), from 0.01 to 0.25.",
        ),
    ],
    stage: Annotated[
        Literal["latents", "decoder", "distill", "base"] | None,
        typer.Option(help="The stage whose networks are averaged; default: the last one with snapshots."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", file_okay=False, help="Folder of the exports; default: RUN/ema.")
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Measure each model on validation data; the exports have the metrics.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Number of images or clips that --evaluate measures.")] = 512,
    device: options.Device = None,
) -> None:
    """Export models with averages of the weights of any length, synthesised after training (post-hoc EMA of EDM2).

    Needs train.STAGE.posthoc_ema in the spec of the run, which saves snapshots of two averages during training.
    """
    from ulzoo.files.atomic import check_destination
    from ulzoo.registry.runs.ema import RunAverages
    from ulzoo.registry.runs.export import save_export, set_latent_statistics
    from ulzoo.runtime.devices import pick_device

    numbers, picked = _parse_lengths(lengths), pick_device(device)
    averages = RunAverages(run, stage)
    for length in numbers:
        check_destination(averages.path(length, out))
    validation = averages.validation() if evaluate else None
    all_results: list[dict[str, Any]] = []
    for length in numbers:
        model, results = averages.model(length, picked), {}
        if validation:
            with phase_progress(examples(model.contract.size), quiet=False) as on_progress:
                results = averages.measure(model, validation, limit, partial(on_progress, f"{length:g}"))
        set_latent_statistics(model, results)
        save_export(averages.path(length, out), model, averages.spec, results)
        all_results.append(results)
    if out is None:
        averages.spec.record_data_paths(averages.path(numbers[0]).parent)
    print(f"{run}: {averages.stage}, step {averages.step:,}, {len(averages.snapshots)} snapshots")
    metrics = [name for name in METRICS if evaluate and name in all_results[0]["figures"]]
    table = plain_table("length", "file", *(METRICS[name][0] for name in metrics), left=("file",))
    for length, results in zip(numbers, all_results, strict=True):
        values = [format(results["figures"][name], METRICS[name][1]) for name in metrics]
        table.add_row(f"{length:g}", str(averages.path(length, out)), *values)
    console().print(table)


def _parse_lengths(text: str) -> list[float]:
    """The lengths in a comma-separated list, without repetitions. Raises ValueError."""
    try:
        lengths = [float(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"--lengths {text}: takes numbers with commas between them, such as 0.05,0.1,0.15") from None
    for length in lengths:
        if not 0.01 <= length <= 0.25:
            raise ValueError(f"--lengths {length:g}: a length is a fraction of the training from 0.01 to 0.25")
    return list(dict.fromkeys(lengths))
