"""`ulzoo sweep`: trains many points of one spec and compares the results."""

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
  [cyan]ulzoo sweep my.yaml --loss-factor 1.3,1.5 --devices-per-point 4[/]
  [cyan]ulzoo sweep my.yaml --loss-factor 1.3,1.5 --engine ray --address auto --gpus-per-point 1[/]
"""
LIST_OPTIONS = ("--latent-channels", "--loss-factor", "--bias")


class SweepCommand(TyperCommand):
    """A command whose `LIST_OPTIONS` need no value: the next word is their value only if it looks like one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, bind_list_options(args))


def bind_list_options(args: "Sequence[str]") -> list[str]:
    """The arguments with each of `LIST_OPTIONS` bound to its values as "--option=values", or to "paper" without any."""
    from ulzoo.registry.sweeps.options import PAPER, looks_like_values

    bound: list[str] = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if arg == "--":
            return [*bound, arg, *rest]
        if arg in LIST_OPTIONS:
            arg = f"{arg}={rest.pop(0) if rest and looks_like_values(rest[0]) else PAPER}"
        bound.append(arg)
    return bound


def _list_option(quantity: str, grid: str) -> Any:
    help = f"{quantity}, comma-separated; default: the paper's {grid}."
    return typer.Option(metavar="[V1,V2,...]", help=help, show_default=False)


def sweep(
    spec: Annotated[
        str | None,
        typer.Argument(
            metavar="[SPEC]",
            help="A spec, or a sweep such as paper/small/table2_loss_factor: a packaged name or a YAML file; "
            "default: the demo, emoji32_tiny.",
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
            help="Values of any key; a single value is a setting for all points; repeatable.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Train every point with N seeds.")] = 1,
    stage: Annotated[Literal["latents", "all"], typer.Option(help="Only stage 1, or all stages.")] = "all",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The sweep's folder; default: runs/sweeps/NAME.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Worker processes on this machine, or a Ray cluster (ulzoo\\[ray]).")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Points at a time, local engine; default: one per GPU, or one.", show_default=False
        ),
    ] = None,
    device: options.Device = None,
    devices_per_point: Annotated[
        int, typer.Option(metavar="N", min=1, help="Devices that train each point together, one process each.")
    ] = 1,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="A",
            help="Of the Ray cluster, HOST:PORT or auto; default: RAY_ADDRESS, or start one here.",
        ),
    ] = None,
    gpus_per_point: Annotated[
        float | None, typer.Option(metavar="N", min=0, help="GPUs that Ray gives to each point.", show_default=False)
    ] = None,
    cpus_per_point: Annotated[
        int, typer.Option(metavar="N", min=1, help="CPU cores, and threads, that Ray gives to each process of a point.")
    ] = 1,
    reuse_latents: Annotated[
        bool, typer.Option("--reuse-latents", help="Train a stage 1 that several points share only once.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed points again too.")] = False,
    frechet: Annotated[
        Literal["fid", "fd_efficientnet_lite0", "fvd", "fd_transnetv2"] | None,
        typer.Option(
            help="Also measure a Fréchet distance: of reconstructions of images, or of generated clips (fvd, "
            "fd_transnetv2); fd_… needs no download."
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="With --frechet of images: also that of N samples.")
    ] = None,
    clips: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="Clips to generate for fvd or fd_transnetv2; default: as many as are compared with, at most 2048.",
            show_default=False,
        ),
    ] = None,
    detector: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Weights of fid or fvd; default: torch's cache."),
    ] = None,
    clip_score: Annotated[
        Literal["vit_b32", "vit_l14"] | None,
        typer.Option(help="With --samples of a model of captions: also the CLIP score, with weights in torch's cache."),
    ] = None,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Stop points early whose latent collapses or that fall behind comparable ones."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print points, cost and time; write nothing.")] = False,
) -> None:
    """Train a grid of points or a table of the paper; compare rate, PSNR and cost.

    Repeat the command to resume an interrupted sweep. New points are added to the existing ones.
    """
    from ulzoo.registry.sweeps.distances import DistanceConfig
    from ulzoo.registry.sweeps.engine_local import LocalEngine, worker_devices
    from ulzoo.registry.sweeps.jobs import JobOptions, check_data, plan_jobs, unsettled_jobs
    from ulzoo.registry.sweeps.options import default_folder, sweep_from_options
    from ulzoo.registry.sweeps.pruning import import_optuna
    from ulzoo.registry.sweeps.store import Store

    axes = {"--latent-channels": latent_channels, "--loss-factor": loss_factor, "--bias": bias}
    config, overrides = sweep_from_options(spec, axes, settings or (), seeds)
    use_ray = engine == "ray"
    if not use_ray and (address or gpus_per_point is not None):
        raise ValueError("--address and --gpus-per-point go with --engine ray")
    if gpus_per_point is not None and devices_per_point > 1:
        raise ValueError("--gpus-per-point and --devices-per-point exclude each other: each process has one GPU")
    if use_ray and workers:
        raise ValueError("--workers is for the local engine; with Ray give --gpus-per-point and --cpus-per-point")
    store = Store(out or default_folder(config))
    if prune:
        import_optuna()
    distances = DistanceConfig.from_options(frechet, samples, detector, clip_score, clips)
    job_options = JobOptions(
        seeds=seeds,
        stage=stage,
        reuse_latents=reuse_latents,
        distances=distances,
        prune=prune,
        processes=devices_per_point,
    )
    jobs = plan_jobs(config, store, job_options, overrides=overrides)
    missing = unsettled_jobs(jobs, store.rows(), retry_failed)
    terminal = console()
    devices: list[str] = []
    threads = cpus_per_point
    if not use_ray:
        devices, threads = worker_devices(device, workers, len(missing), devices_per_point)
    first_devices = devices[::devices_per_point]
    if dry_run:
        from ulzoo.cli.display.sweep_plan import print_plan

        print_plan(terminal, config, jobs, missing, store, first_devices or ["cpu"])
        return

    from ulzoo.cli.display.sweep_progress import show_progress
    from ulzoo.cli.display.sweep_results import print_results

    check_data(missing)
    with show_progress(terminal, jobs, missing, store, first_devices) as progress:
        runner: Any
        if use_ray:
            from ulzoo.registry.sweeps.engine_ray import RayEngine

            runner = RayEngine(address, gpus_per_point, cpus_per_point, progress, processes=devices_per_point)
        else:
            runner = LocalEngine(devices, threads, progress, per_point=devices_per_point)
        store.write_sweep(config)
        try:
            for row in runner.run(missing):
                progress.finished(row)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"repeat the command to resume the sweep in {store.folder}") from None
    if print_results(terminal, config, jobs, store):
        raise typer.Exit(1)
