"""`ulzoo train`: from a spec to a run directory."""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ulzoo.cli import options
from ulzoo.cli.display.terminal import console, examples, say, scaled

if TYPE_CHECKING:
    import torch

    from ulzoo.registry.cost.plan import Plan

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo train emoji32_tiny[/]
  [cyan]ulzoo train my.yaml --set train.latents.steps=500 --out runs/b[/]
  [cyan]ulzoo train emoji32_tiny --stage base --resume[/]
  [cyan]ulzoo train my.yaml --init emoji32_tiny[/]       from the weights of another model, as far as they fit
  [cyan]ulzoo train imagenet512_medium --dry-run --on 64xh100[/]       days, kWh and memory
  [cyan]ulzoo train emoji32_tiny --stage distill --init runs/a[/]       a decoder of few steps for a trained model
"""


def train(
    spec: options.Spec,
    stage: Annotated[
        Literal["latents", "decoder", "distill", "base", "all"],
        typer.Option(
            help="Stage 1 (encoder, prior, decoder), final decoder, distilled decoder, stage 2 (base), or all of them."
        ),
    ] = "all",
    overrides: options.Set = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Start from the weights of a released model, run directory, exported file or hf://org/repo, as far as "
            "they fit; the keys of [bold]init[/] in a spec choose and freeze parts.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run directory; default: runs/NAME.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest intact checkpoint.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an existing run, then start.")] = False,
    remote_checkpoints: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Also copy every checkpoint to an object store, such as s3://bucket/run; with --resume, continue from "
            "a copy that is newer than DIR's.",
            show_default=False,
        ),
    ] = None,
    device: options.Device = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what training would cost; write nothing.")] = False,
    processes: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="With --dry-run: the number of processes.", show_default=False),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="MACHINES",
            help="With --dry-run: time, energy and memory on these accelerators, such as 8xh100.",
            show_default=False,
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Profile a few steps; the traces are written to DIR/profile/.")
    ] = False,
) -> None:
    """Train the stages of a spec, evaluate the model on validation data, draw samples, export."""
    if resume and fresh:
        raise typer.BadParameter("--resume and --fresh exclude each other")
    from ulzoo.cli.display.train_tables import print_distillation, print_plan, print_result, stage_line
    from ulzoo.registry import Spec, load_spec, open_model
    from ulzoo.registry.cost.accelerators import parse_machines
    from ulzoo.registry.cost.plan import plan_training
    from ulzoo.registry.runs import train as run
    from ulzoo.registry.runs.restore import open_store
    from ulzoo.registry.zoo.distill import distillation_spec
    from ulzoo.runtime.devices import pick_device
    from ulzoo.runtime.processes import launched_world_size, local_device, process_group, was_restarted
    from ulzoo.training.config import ParallelConfig
    from ulzoo.training.interruption import RunStopped

    source = [f"init.model={json.dumps(init)}", "init.sha256=null"] if init else []
    teaching: Spec | None = None
    if init and stage == "distill":
        teacher = open_model(init)
        loaded, teaching = distillation_spec(spec, teacher, init, overrides or ()), teacher.spec
    else:
        loaded = load_spec(spec, [*(overrides or ()), *source])
    torch_device = local_device(pick_device(device))
    if processes and not dry_run:
        raise ValueError("--processes goes with --dry-run; torchrun starts processes: see docs/cluster.md")
    if on and (processes or not dry_run):
        raise ValueError("--on goes with --dry-run, and sets the number of processes: leave out --processes")
    machines = parse_machines(on) if on else None
    world_size = machines.count if machines else processes or launched_world_size()
    plan = plan_training(loaded, stage, torch_device, world_size, machines)
    folder = out or Path("runs") / loaded.name
    terminal = console()
    if dry_run:
        print_plan(terminal, loaded, plan, machines.name if machines else torch_device.type, world_size)
        print_distillation(terminal, plan, teaching or loaded)
        return

    from ulzoo.cli.display.init_table import init_line
    from ulzoo.cli.display.train_progress import display

    kind = examples(plan.summary.resolution)
    size = f"{scaled(sum(plan.summary.parameters.values()))} parameters"
    heading = [f"{loaded.name} in {folder}, on {torch_device.type}: {size}"]
    heading += [stage_line(planned, kind) for planned in plan.stages]
    heading += [f"default {path}: {reason}" for path, reason in loaded.decided.items()]
    heading += [init_line(loaded.init)] if loaded.init else []
    if was_restarted():  # by torchrun, with the same command
        resume, fresh = True, False
    remote = open_store(remote_checkpoints) if remote_checkpoints else None
    run_options = run.RunOptions(stage, resume, fresh, torch_device, profile, remote, open_model)
    with process_group(torch_device, (loaded.train.parallel or ParallelConfig()).timeout_minutes) as group:
        if not group.is_main:
            warnings.simplefilter("ignore")
            run.train(loaded, folder, run_options, processes=group)
            return
        if group.world_size > 1:
            heading.insert(1, f"{group.world_size} processes, each with a share of every batch")
        try:
            with display(terminal, heading, kind, _utilisations(plan, torch_device, group.world_size)) as callback:
                result = run.train(loaded, folder, run_options, callback=callback, processes=group)
        except RunStopped as stopped:
            say(f"stopped by {stopped}; use --resume to continue in {folder}")
            raise typer.Exit(stopped.status) from None
        except KeyboardInterrupt:
            message = f"use --resume to continue from the last checkpoint in {folder}"
            raise KeyboardInterrupt(message) from None
    assert result is not None
    if profile and (folder / "profile").is_dir():
        terminal.print(f"\nprofile of a few steps: {folder / 'profile'} (traces open in https://ui.perfetto.dev)")
    print_result(terminal, result, kind)


def _utilisations(plan: "Plan", device: "torch.device", processes: int) -> dict[str, float]:
    """By stage, the model FLOPs utilisation of one image per second."""
    import torch

    from ulzoo.training.profiling import matmul_peak

    dtypes = {"bf16": torch.bfloat16, "fp32": torch.float32}
    peaks = {name: matmul_peak(device, dtypes[name]) for name in {stage.precision for stage in plan.stages}}
    return {stage.stage: stage.flops_per_image / (peaks[stage.precision] * processes) for stage in plan.stages}
