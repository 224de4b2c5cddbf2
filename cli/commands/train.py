"""`ulzoo train`: from a spec to a run directory."""

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ulzoo.cli import options
from ulzoo.cli.display.terminal import (
    console,
    duration,
    examples,
    figures_table,
    gflops,
    pairs,
    plain_table,
    say,
    scaled,
    shape,
    three,
)

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from ulzoo.registry import Spec
    from ulzoo.registry.cost.plan import Plan, StagePlan
    from ulzoo.registry.runs.train import RunResult

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo train emoji32_tiny[/]
  [cyan]ulzoo train my.yaml --set train.latents.steps=500 --out runs/b[/]
  [cyan]ulzoo train emoji32_tiny --stage base --resume[/]
"""


def train(
    spec: options.Spec,
    stage: Annotated[
        Literal["latents", "decoder", "base", "all"],
        typer.Option(help="Stage 1 (encoder, prior, decoder), a final decoder, stage 2 (base), or all that there are."),
    ] = "all",
    overrides: options.Set = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run directory; runs/NAME if left out.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove the run that is there, then start.")] = False,
    device: options.Device = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would cost; write nothing.")] = False,
    processes: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="With --dry-run: on so many processes.", show_default=False),
    ] = None,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Write where the time of a few steps goes: DIR/profile/."),
    ] = False,
) -> None:
    """Train a spec's stages, measure the result on validation data, draw pictures, export."""
    if resume and fresh:
        raise typer.BadParameter("--resume and --fresh exclude each other")
    from ulzoo.registry import load_spec
    from ulzoo.registry.cost.plan import plan_training
    from ulzoo.registry.runs import train as run
    from ulzoo.runtime.devices import pick_device
    from ulzoo.runtime.processes import launched_world_size, local_device, process_group, was_restarted
    from ulzoo.training.config import ParallelConfig
    from ulzoo.training.interruption import RunStopped

    started = time.monotonic()
    loaded = load_spec(spec, overrides or ())
    chosen = local_device(pick_device(device))
    if processes and not dry_run:
        raise ValueError("--processes goes with --dry-run; torchrun starts processes: see docs/cluster.md")
    count = processes or launched_world_size()
    plan = plan_training(loaded, stage, chosen, count)
    folder = out or Path("runs") / loaded.name
    shown = console()
    if dry_run:
        _print_plan(shown, loaded, plan, chosen, count)
        return

    from ulzoo.cli.display.train_progress import display

    heading = [
        f"{loaded.name} in {folder}, on {chosen.type}: {scaled(sum(plan.summary.parameters.values()))} parameters"
    ]
    kind = examples(plan.summary.resolution)
    heading += [_line(planned, kind) for planned in plan.stages]
    if was_restarted():  # by torchrun, with the same command
        resume, fresh = True, False
    run_options = run.RunOptions(stage, resume, fresh, chosen, profile)
    with process_group(chosen, (loaded.train.parallel or ParallelConfig()).timeout_minutes) as group:
        if not group.is_main:
            warnings.simplefilter("ignore")
            run.train(loaded, folder, run_options, processes=group)
            return
        if group.world_size > 1:
            heading.insert(1, f"{group.world_size} processes, each with a share of every batch")
        try:
            with display(shown, heading, kind, _utilisations(plan, chosen, group.world_size)) as watch:
                result = run.train(loaded, folder, run_options, callback=watch, processes=group)
        except RunStopped as stopped:
            say(f"stopped by {stopped}; with --resume it goes on in {folder}")
            raise typer.Exit(stopped.status) from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"with --resume it goes on from the last checkpoint in {folder}") from None
    assert result is not None
    if profile and (folder / "profile").is_dir():
        shown.print(f"\nwhere the time goes: {folder / 'profile'} (traces open in https://ui.perfetto.dev)")
    _print_result(shown, result, kind, time.monotonic() - started)


def _utilisations(plan: "Plan", device: "torch.device", processes: int) -> dict[str, float]:
    """By stage, the share of what the devices can do at most that one image a second is."""
    import torch

    from ulzoo.training.profiling import matmul_peak

    kinds = {"bf16": torch.bfloat16, "fp32": torch.float32}
    peaks = {name: matmul_peak(device, kinds[name]) for name in {planned.used for planned in plan.stages}}
    return {planned.stage: planned.flops_per_image / (peaks[planned.used] * processes) for planned in plan.stages}


def _line(planned: "StagePlan", kind: str) -> str:
    return (
        f"stage {planned.stage}: {planned.steps:,} steps × {planned.batch_size} = {planned.images:,} {kind}, "
        f"{scaled(planned.flops, 'FLOPs')}, {_precision(planned)}"
    )


def _precision(planned: "StagePlan") -> str:
    if planned.asked != planned.used:
        return f"{planned.used} ({planned.asked} asked for, this processor has none)"
    return planned.used


def _print_plan(shown: "Console", spec: "Spec", plan: "Plan", device: "torch.device", processes: int) -> None:
    from ulzoo.registry.cost.plan import count_images
    from ulzoo.runtime.devices import device_memory

    try:
        images, missing = count_images(spec), ""
    except ValueError as error:
        images, missing = 0, str(error)
    summary = plan.summary
    many = f" by {processes} processes" if processes > 1 else ""
    shown.print(f"{spec.name}, trained on {device.type}{many}", style="bold")
    kind, one = examples(summary.resolution), examples(summary.resolution, plural=False)
    shown.print(f"{kind} {shape(summary.resolution)}, latents {shape(summary.latent)}")
    networks = plain_table("network", "parameters", f"forward GFLOPs/{one}")
    for name, parameters in summary.parameters.items():
        networks.add_row(name, f"{parameters:,}", gflops(summary.flops[name]))
    networks.add_section()
    networks.add_row("all", f"{sum(summary.parameters.values()):,}", gflops(sum(summary.flops.values())), style="bold")
    shown.print(networks)
    shown.print()

    table = plain_table("stage", *(planned.stage for planned in plan.stages))
    table.add_row("steps", *(f"{planned.steps:,}" for planned in plan.stages))
    table.add_row("batch size", *(f"{planned.batch_size:,}" for planned in plan.stages))
    table.add_row(kind, *(f"{planned.images:,}" for planned in plan.stages))
    if images:
        table.add_row("epochs", *(f"{planned.images / images:.1f}" for planned in plan.stages))
    table.add_row(f"training GFLOPs/{one}", *(gflops(planned.flops_per_image) for planned in plan.stages))
    table.add_row("training PFLOPs", *(three(planned.flops / 1e15) for planned in plan.stages))
    table.add_row(
        f"memory of tensors{many and ', each'}, about", *(scaled(planned.memory_bytes, "B") for planned in plan.stages)
    )
    largest = (f"{planned.largest_batch:,}" for planned in plan.stages)
    table.add_row(f"largest batch in {scaled(device_memory(device), 'B')}{many and ' each'}, about", *largest)
    table.add_row("precision", *(_precision(planned) for planned in plan.stages))
    shown.print(table)
    shown.print()
    shown.print(f"{images:,} training {kind} at hand" if images else f"data not at hand: {missing}")
    shown.print(f"{three(plan.flops / 1e15)} PFLOPs in all; nothing was written")


def _print_result(shown: "Console", result: "RunResult", kind: str, seconds: float) -> None:
    protocol = result.results["protocol"]
    shown.print()
    shown.print(f"Trained and measured on {protocol['images']} validation {kind} in {duration(seconds)}", style="bold")
    shown.print(figures_table(result.results["figures"]))
    shown.print()
    files = pairs()
    for picture in sorted(result.samples.glob("*.png")):
        beside = ", ".join(film.suffix for film in sorted(result.samples.glob(f"{picture.stem}.*")) if film != picture)
        files.add_row(picture.stem, f"{picture}{beside and f', also {beside}'}")
    files.add_row("figures and protocol", str(result.folder / "figures.json"))
    files.add_row("the model", str(result.export))
    shown.print(files)
