"""`ulzoo sweep`: many points of one spec, the results side by side."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from ulzoo.cli import options
from ulzoo.cli.display.terminal import console

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo sweep --loss-factor[/]                              the demo at the paper's five loss factors
  [cyan]ulzoo sweep my.yaml --latent-channels 4,8,16 --seeds 3[/]
  [cyan]ulzoo sweep my.yaml --set latent.downsample=[4,4],[8,8] --dry-run[/]
  [cyan]ulzoo sweep paper/small/table2_loss_factor --workers 2[/]
  [cyan]ulzoo sweep my.yaml --loss-factor 1.3,1.5 --engine ray --address auto --gpus-per-point 1[/]
"""
LISTS = ("--latent-channels", "--loss-factor", "--bias")


class SweepCommand(TyperCommand):
    """Options of `LISTS` may stand without a value: what follows is theirs only if it looks like values."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_values(args))


def with_values(args: "Sequence[str]") -> list[str]:
    """The arguments with every option of `LISTS` bound to its values, "paper" where it has none."""
    from ulzoo.registry.sweeps.options import PAPER, looks_like_values

    bound: list[str] = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if arg == "--":
            return [*bound, arg, *rest]
        if arg in LISTS:
            arg = f"{arg}={rest.pop(0) if rest and looks_like_values(rest[0]) else PAPER}"
        bound.append(arg)
    return bound


def _list_option(what: str, grid: str) -> Any:
    help = f"{what}, with commas between; the paper's {grid} if none are given."
    return typer.Option(metavar="[V1,V2,...]", help=help, show_default=False)


def sweep(
    spec: Annotated[
        str | None,
        typer.Argument(
            metavar="[SPEC]",
            help="A spec, or a sweep such as paper/small/table2_loss_factor: a packaged name or a YAML file; "
            "the demo, emoji32_tiny, if left out.",
            show_default=False,
        ),
    ] = None,
    latent_channels: Annotated[str | None, _list_option("Channels of the latent", "4,8,16,32,64 (Table 3)")] = None,
    loss_factor: Annotated[str | None, _list_option("Loss factors of the decoder", "1.3,1.5,1.7,1.9,2.1 (Table 2)")] = (
        None
    ),
    bias: Annotated[str | None, _list_option("Biases of the decoder's weighting", "Figure 8")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=V1,V2",
            help="Values of any key, or with one value a setting of all points; repeatable.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Train every point with N seeds.")] = 1,
    stage: Annotated[Literal["latents", "all"], typer.Option(help="Only stage 1, or all stages.")] = "all",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The sweep's folder; runs/sweeps/NAME if left out.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="ProcessGroup on this machine, or a Ray cluster (ulzoo\\[ray]).")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Points at a time, of the local engine; one a GPU, or one.", show_default=False
        ),
    ] = None,
    device: options.Device = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="A", help="Of the Ray cluster, HOST:PORT or auto; one on this machine if left out."),
    ] = None,
    gpus_per_point: Annotated[
        float | None, typer.Option(metavar="N", min=0, help="GPUs that Ray gives a point.", show_default=False)
    ] = None,
    cpus_per_point: Annotated[
        int, typer.Option(metavar="N", min=1, help="CPU cores that Ray gives a point, and its threads.")
    ] = 1,
    reuse_latents: Annotated[
        bool, typer.Option("--reuse-latents", help="Train a stage 1 that several points share only once.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed points again too.")] = False,
    frechet: Annotated[
        Literal["fid", "fd_efficientnet_lite0"] | None,
        typer.Option(help="Also measure each point's Fréchet distance of reconstructions; fd_… without a network."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="And of N samples from the training images.")
    ] = None,
    detector: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Inception's weights, if not in torch's cache.")
    ] = None,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Stop points early that collapse or fall behind others of the same loss (ASHA)."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print points, cost and time; write nothing.")] = False,
) -> None:
    """Train a grid of points or a table of the paper; put rate, PSNR and cost side by side.

    A sweep that was stopped goes on when it is asked for again, and points that are new are added to what is there.
    """
    from ulzoo.registry.sweeps.distances import ask
    from ulzoo.registry.sweeps.jobs import check_data, plan_jobs, to_run
    from ulzoo.registry.sweeps.options import default_folder, sweep_from_options
    from ulzoo.registry.sweeps.store import Store

    axes = {"--latent-channels": latent_channels, "--loss-factor": loss_factor, "--bias": bias}
    asked, overrides = sweep_from_options(spec, axes, settings or (), seeds)
    if engine != "ray" and (address or gpus_per_point is not None):
        raise ValueError("--address and --gpus-per-point go with --engine ray")
    if engine == "ray" and workers:
        raise ValueError(
            "--workers is for the local engine; Ray places points by --gpus-per-point and --cpus-per-point"
        )
    store = Store(out or default_folder(asked))
    if prune:
        from ulzoo.registry.sweeps.pruning import check_pruning

        check_pruning()
    jobs = plan_jobs(
        asked,
        store,
        overrides=overrides,
        seeds=seeds,
        stage=stage,
        reuse_latents=reuse_latents,
        distances=ask(frechet, samples, detector),
        prune=prune,
    )
    rows = store.rows()
    missing = to_run(jobs, rows, retry_failed)
    shown = console()
    devices, threads = ([], cpus_per_point) if engine == "ray" else _devices(device, workers, len(missing))
    if dry_run:
        from ulzoo.cli.display.sweep_plan import print_plan

        print_plan(shown, asked, jobs, missing, store, devices or ["cpu"])
        return

    from ulzoo.cli.display.sweep_progress import display
    from ulzoo.cli.display.sweep_results import print_results

    check_data(missing)
    runner: Any
    with display(shown, jobs, missing, store, devices) as watch:
        if engine == "ray":
            from ulzoo.registry.sweeps.engine_ray import RayEngine

            runner = RayEngine(address, gpus=gpus_per_point, cpus=cpus_per_point, watch=watch)
        else:
            from ulzoo.registry.sweeps.engine_local import LocalEngine

            runner = LocalEngine(devices, threads, watch)
        store.write_sweep(asked)
        try:
            for row in runner.run(missing):
                watch.finished(row)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the same command goes on with what is in {store.folder}") from None
    failed = print_results(shown, asked, jobs, store)
    if failed:
        raise typer.Exit(1)


def _devices(name: str | None, workers: int | None, points: int) -> tuple[list[str], int]:
    """The device of each worker, and the threads of each on the CPU."""
    import torch

    from ulzoo.runtime.devices import pick_device

    chosen = pick_device(name)
    if chosen.type == "cuda" and name in (None, "cuda"):
        there = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    else:
        there = [str(chosen)]
    count = max(min(workers or len(there), points), 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [there[i % len(there)] for i in range(count)], max(cores // (workers or len(there)), 1)
