"""`ulzoo find`: the settings that reach a PSNR or a rate, of a sweep, by a pilot, or of a variable-rate model."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ulzoo.cli import evaluation_options, options
from ulzoo.cli.completion import complete_models
from ulzoo.cli.display.tables import plain_table
from ulzoo.cli.display.terminal import console, say, to_json

if TYPE_CHECKING:
    from rich.table import Table

    from ulzoo.registry.report.target_search import SearchResult, Setting
    from ulzoo.registry.sweeps.pilot import Pilot
    from ulzoo.registry.sweeps.store import Store

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo find runs/sweeps/table2_loss_factor --psnr 27[/]    settings of 27 dB, the fewest bits first
  [cyan]ulzoo find runs/sweeps/table2_loss_factor --bits 0.06[/]  settings of 0.06 bits/pixel, the highest PSNR first
  [cyan]ulzoo find --model runs/a --bits 0.5[/]                   the loss factor of a variable-rate model
  [cyan]ulzoo find --model emoji32_curve --psnr 27 --images photographs[/]
  [cyan]ulzoo find emoji32_tiny --bits 0.5 --pilot[/]             short trainings instead of a sweep; writes a spec
  [cyan]ulzoo find my.yaml --bits 0.5 --pilot --bias 4,5,6 --dry-run[/]
"""
MAX_SETTINGS = 10  # on a terminal; --json prints all


def find(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[STORE|SPEC]",
            help="The folder of a sweep, such as runs/sweeps/NAME; with --pilot a packaged spec or a YAML file.",
            show_default=False,
        ),
    ] = None,
    psnr: Annotated[float | None, typer.Option(metavar="DB", help="The PSNR to reach.")] = None,
    bits: Annotated[float | None, typer.Option(metavar="BITS", help="The bits/pixel to spend.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Instead of a sweep, a trained variable-rate model: its loss factor is searched, on validation data "
            "or your own.",
            autocompletion=complete_models,
        ),
    ] = None,
    images: options.Images = None,
    data: options.Data = None,
    limit: evaluation_options.Limit = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    pilot: Annotated[
        bool, typer.Option("--pilot", help="Run short trainings of stage 1 to find the loss factor of a rate.")
    ] = False,
    bias: Annotated[
        str | None,
        typer.Option(
            metavar="V1,V2,...",
            help="Pilot: biases of the decoder's weighting to compare; default: the spec's. With --model: one bias.",
        ),
    ] = None,
    settings: options.Set = None,
    share: Annotated[
        float | None,
        typer.Option(metavar="X", help="Pilot: its cost relative to five full trainings of stage 1; default: 0.2."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", dir_okay=False, help="Pilot: the spec to write; default: in its folder."),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Pilot: folder of its runs; default: runs/pilots/NAME.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Pilot: runs at a time; default: one per GPU, or one.")
    ] = None,
    device: options.Device = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Pilot: print runs and cost; write nothing.")] = False,
) -> None:
    """Find settings that reach a PSNR or a rate, between the points of a sweep, and the point to run next.

    With --model it is the loss factor of a variable-rate model, by bisection.

    With --pilot there need be no sweep: short trainings of stage 1 find the loss factor at which the full one is
    expected to reach a rate. It ends with a spec and an interval. Repeat the command to resume an interrupted pilot.
    """
    _check_source(target, model, pilot=pilot)
    if model is None:
        for option, value in {"--limit": limit, "--images": images, "--data": data}.items():
            if value is not None:
                raise ValueError(f"{option} goes with --model")
    of_pilots = {
        "--set": settings,
        "--share": share,
        "--out": out,
        "--store": store,
        "--workers": workers,
        "--dry-run": dry_run or None,
        **({} if model else {"--bias": bias, "--device": device}),
    }
    if not pilot and (given := [option for option, value in of_pilots.items() if value is not None]):
        raise ValueError(f"{given[0]} goes with --pilot")
    if model is not None:
        from ulzoo.cli.rate_search import find_rate
        from ulzoo.registry.runs.evaluate import DataOptions

        biases = _parse_biases(bias)
        if len(biases) > 1:
            raise ValueError(f"--bias {bias}: one number with --model")
        the_bias = biases[0] if biases else None
        measured = DataOptions(tuple(images or ()), tuple(data or ()), limit=limit)
        find_rate(model, bits=bits, psnr=psnr, bias=the_bias, data=measured, device=device, json=json)
        return
    assert target is not None
    if not pilot:
        _search(Path(target), psnr, bits, json)
        return
    from ulzoo.registry.sweeps.pilot import SWEEP_POINTS, Pilot, PilotOptions

    if bits is None or psnr is not None:
        raise ValueError("--pilot finds a rate: give --bits and no --psnr")
    share = 1 / SWEEP_POINTS if share is None else share
    _run_pilot(
        Pilot(target, PilotOptions(bits, _parse_biases(bias), share, tuple(settings or ()))),
        store,
        out,
        (device, workers),
        dry_run=dry_run,
        json=json,
    )


def _check_source(target: str | None, model: str | None, *, pilot: bool) -> None:
    """Raise ValueError unless there is one place to search in."""
    if target is not None and model is not None:
        raise ValueError(f"{target} and --model {model}: give the folder of a sweep or a model, not both")
    if pilot and model is not None:
        raise ValueError("--pilot trains a spec, --model is trained already: give one of them")
    if target is None and model is None:
        raise ValueError("give a spec" if pilot else "give the folder of a sweep, or a variable-rate model as --model")


def _run_pilot(
    pilot: "Pilot",
    folder: Path | None,
    out: Path | None,
    device_and_workers: tuple[str | None, int | None],
    *,
    dry_run: bool,
    json: bool,
) -> None:
    """Train the runs of a pilot rung by rung, write the spec that it ends with, and print it."""
    from ulzoo.cli.display.pilot import describe_cost, print_plan, print_proposal, proposal_to_dict
    from ulzoo.cli.display.sweep_progress import show_progress
    from ulzoo.files.atomic import check_destination
    from ulzoo.registry.sweeps.engine_local import LocalEngine, worker_devices
    from ulzoo.registry.sweeps.jobs import check_data, unsettled_jobs
    from ulzoo.registry.sweeps.store import Store

    results = Store(folder or os.path.join("runs", "pilots", pilot.spec.name))
    out = out or results.folder / f"{pilot.options.bits:g}bits.yaml"
    terminal = console(stderr=json)
    sweep, jobs = pilot.plan(results)
    missing = unsettled_jobs(jobs, results.rows(), retry_failed=True)
    devices, threads = worker_devices(*device_and_workers, len(missing))
    if dry_run:
        print_plan(terminal, pilot, jobs, missing, results, devices)
        return
    check_destination(out)
    check_data(missing)
    terminal.print(describe_cost(pilot), soft_wrap=True)
    while missing:
        with show_progress(terminal, jobs, missing, results, devices) as progress:
            results.write_sweep(sweep)
            try:
                for row in LocalEngine(devices, threads, progress).run(missing):
                    progress.finished(row)
                    if row["status"] != "done":
                        raise ValueError(f"{results.folder / row['folder']}: {row['error']}; repeating tries it again")
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"repeat the command to resume the pilot in {results.folder}") from None
        sweep, jobs = pilot.plan(results)
        missing = unsettled_jobs(jobs, results.rows(), retry_failed=True)
    runs = pilot.finished_runs(jobs, results.rows())
    proposal = pilot.conclude(runs)
    pilot.write_spec(out, proposal)
    if json:
        print(to_json(proposal_to_dict(pilot, runs, proposal, out)))
    else:
        print_proposal(terminal, pilot, runs, proposal, out)


def _parse_biases(text: str | None) -> tuple[float, ...]:
    """The numbers of a comma-separated list. Raises ValueError."""
    try:
        return tuple(map(float, text.split(","))) if text else ()
    except ValueError:
        raise ValueError(f"--bias {text}: takes numbers with commas between them, such as 4,5,6") from None


def _search(folder: Path, psnr: float | None, bits: float | None, json: bool) -> None:
    """Print the settings between the points of a store that reach a target."""
    from ulzoo.registry.report.target_search import find_settings
    from ulzoo.registry.sweeps.store import Store
    from ulzoo.registry.sweeps.variants import separate_variants

    results = Store(folder, must_exist=True)
    sweep, rows = results.sweep, separate_variants(results.rows(), results.folder)
    fractional = _fractional(rows)
    result = find_settings(rows, psnr=psnr, bits=bits, shared=sweep.set if sweep else None, fractional=fractional)
    result = replace(result, settings=[_complete(setting, results) for setting in result.settings])
    if json:
        settings = [_to_dict(setting, results) for setting in result.settings]
        head = {"figure": result.metric, "target": result.target, "measured": [result.low, result.high]}
        print(to_json(head | {"settings": settings}))
        return
    out = console()
    unit = "dB PSNR" if psnr is not None else "bits/pixel"
    if not result.settings or not result.settings[0].inside:
        if result.low <= result.target <= result.high:
            say(f"{result.target:g} {unit} lies between measured points, but not between neighbours along one number")
        else:
            say(f"{result.target:g} {unit} is outside the measured range, {result.low:.4g} to {result.high:.4g}")
        if not result.settings:
            return
        say("the settings below extrapolate the last two points: a guess at where to measure next")
    out.print(_table(result))
    if len(result.settings) > MAX_SETTINGS:
        out.print(f"and {len(result.settings) - MAX_SETTINGS} more (--json)")
    next_setting = next((setting for setting in result.settings if not setting.measured), None)
    if next_setting:
        out.print(f"\nnext  {_command(next_setting, results)}", soft_wrap=True, markup=False)


def _table(result: "SearchResult") -> "Table":
    table = plain_table("set", "PSNR\ndB", "rate\nbits/pixel", "between", left=("between",))
    for setting in result.settings[:MAX_SETTINGS]:
        settings = "\n".join(f"{key}={value}" for key, value in setting.set.items())
        psnr, bits = _digits(setting, "psnr_db", 2), _digits(setting, "bits_per_pixel", 4)
        table.add_row(settings, psnr, bits, _neighbours(setting))
    return table


def _digits(setting: "Setting", name: str, digits: int) -> str:
    return f"{setting.metrics[name]:.{digits}f}" if name in setting.metrics else "–"


def _neighbours(setting: "Setting") -> str:
    if setting.measured:
        return f"measured: {setting.between[0]}"
    return " and ".join(setting.between) if setting.inside else f"beyond {setting.between[0]}"


def _to_dict(setting: "Setting", results: "Store") -> dict[str, Any]:
    """A setting as `--json` prints it."""
    content = {
        ("figures" if key == "metrics" else key): value
        for key, value in vars(setting).items()
        if key not in ("resolved", "training")
    }
    return content | {"command": _command(setting, results)}


def _command(setting: "Setting", results: "Store") -> str:
    """The command that runs a setting."""
    return setting.command(str(results.folder), _base_spec(setting, results))


def _complete(setting: "Setting", results: "Store") -> "Setting":
    """The setting with everything else in which its measured neighbours differ from the base spec as it is now."""
    from ulzoo.registry.sweeps.variants import settings_to_add

    if setting.resolved is None:
        return setting
    missing = settings_to_add(_base_spec(setting, results), setting.set, setting.key, setting.resolved)
    return replace(setting, set={**setting.set, **missing})


def _base_spec(setting: "Setting", results: "Store") -> str:
    """The name of a setting's base spec, or its path if it is a file, which is stored with the sweep."""
    from ulzoo.registry.spec.loading import find_specs

    spec, sweep = setting.spec, results.sweep
    if spec not in find_specs() and sweep:
        points = {point.name: point.spec for point in sweep.list_points()}
        spec = os.path.normpath(results.folder / points.get(setting.between[0], sweep.spec))
    return spec


def _fractional(rows: list[dict[str, Any]]) -> set[str]:
    """Keys whose value is a float in the resolved spec of a run, where 3 is written as 3.0."""
    keys = {key: row for row in rows if row["status"] == "done" for key in row["set"]}
    fractional = set()
    for key, row in keys.items():
        value: Any = row.get("resolved")
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, float):
            fractional.add(key)
    return fractional
