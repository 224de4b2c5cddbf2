"""`ulzoo plot`, `ulzoo report`, `ulzoo find`: the results of a sweep as pictures, as a page, and as the next point."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ulzoo.cli.display.terminal import console, plain_table, say, to_json

if TYPE_CHECKING:
    from rich.table import Table

    from ulzoo.registry.report.target_search import Found, Setting
    from ulzoo.registry.sweeps.store import Store as Results

PLOT_EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo plot runs/sweeps/table2_loss_factor[/]
  [cyan]ulzoo plot runs/sweeps/table2_loss_factor --out pictures[/]
"""
REPORT_EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo report runs/sweeps/table2_loss_factor[/]
  [cyan]ulzoo report runs/sweeps/table2_loss_factor --out page.html[/]
"""
FIND_EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo find runs/sweeps/table2_loss_factor --psnr 27[/]    settings of 27 dB, the fewest bits first
  [cyan]ulzoo find runs/sweeps/table2_loss_factor --bits 0.06[/]  settings of 0.06 bits/pixel, the highest PSNR first
"""
SHOWN = 10  # settings on a terminal; --json has all

Store = Annotated[Path, typer.Argument(metavar="STORE", help="The folder of a sweep, as in runs/sweeps/NAME.")]


def plot(
    store: Store,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the pictures go; STORE/plots if left out.")
    ] = None,
) -> None:
    """Draw rate against PSNR, rate against Fréchet distances, and these against GFLOPs, as PNG and SVG."""
    from ulzoo.registry.report.plots import draw
    from ulzoo.registry.sweeps.store import Store as Results

    results = Results(store, must_exist=True)
    sweep = results.sweep
    for path in draw(results.rows(), out or results.folder / "plots", sweep.name if sweep else store.name):
        typer.echo(path)


def report(
    store: Store,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page to write; STORE/report.html if left out.")
    ] = None,
) -> None:
    """Write one page to look at a sweep in a browser; it needs no network."""
    from ulzoo.registry.report.html_report import write_report
    from ulzoo.registry.sweeps.store import Store as Results

    typer.echo(write_report(Results(store, must_exist=True), out))


def find(
    store: Store,
    psnr: Annotated[float | None, typer.Option(metavar="DB", help="The PSNR to reach.")] = None,
    bits: Annotated[float | None, typer.Option(metavar="BITS", help="The bits/pixel to spend.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Find settings that hit a PSNR or a rate, between the points of a sweep, and the point to run next."""
    from ulzoo.registry.report.target_search import find
    from ulzoo.registry.sweeps.store import Store as Results

    results = Results(store, must_exist=True)
    sweep = results.sweep
    rows = results.rows()
    fractional = _fractional(results.folder, rows)
    found = find(rows, psnr=psnr, bits=bits, shared=sweep.set if sweep else None, fractional=fractional)
    if json:
        settings = [vars(each) | {"command": _command(each, results)} for each in found.settings]
        head = {"figure": found.figure, "target": found.target, "measured": [found.low, found.high]}
        typer.echo(to_json(head | {"settings": settings}))
        return
    out = console()
    unit = "dB PSNR" if psnr is not None else "bits/pixel"
    if not found.settings or not found.settings[0].inside:
        if found.low <= found.target <= found.high:
            say(f"{found.target:g} {unit} lies between measured points, but no two neighbours in one number enclose it")
        else:
            say(f"{found.target:g} {unit} is outside the measured range, {found.low:.4g} to {found.high:.4g}")
        if not found.settings:
            return
        say("the settings below go straight on from the last two points: a guess at where to measure next")
    out.print(_settings(found))
    if len(found.settings) > SHOWN:
        out.print(f"and {len(found.settings) - SHOWN} more (--json)")
    following = next((setting for setting in found.settings if not setting.measured), None)
    if following:
        out.print(f"\nnext  {_command(following, results)}", soft_wrap=True, markup=False)


def _settings(found: "Found") -> "Table":
    table = plain_table("set", "PSNR\ndB", "rate\nbits/pixel", "between", left=("between",))
    for setting in found.settings[:SHOWN]:
        settings = "\n".join(f"{key}={value}" for key, value in setting.set.items())
        table.add_row(settings, _digits(setting, "psnr_db", 2), _digits(setting, "bits_per_pixel", 4), _where(setting))
    return table


def _digits(setting: "Setting", name: str, digits: int) -> str:
    return f"{setting.figures[name]:.{digits}f}" if name in setting.figures else "–"


def _where(setting: "Setting") -> str:
    if setting.measured:
        return f"measured: {setting.between[0]}"
    return " and ".join(setting.between) if setting.inside else f"beyond {setting.between[0]}"


def _command(setting: "Setting", results: "Results") -> str:
    """What runs a setting; a spec that is a file is called by its path, which the sweep knows."""
    import os

    from ulzoo.registry.spec.loading import find_specs

    spec, sweep = setting.spec, results.sweep
    if spec not in find_specs() and sweep:
        points = {point.name: point.spec for point in sweep.list_points()}
        spec = os.path.normpath(results.folder / points.get(setting.between[0], sweep.spec))
    return setting.command(str(results.folder), spec)


def _fractional(folder: Path, rows: list[dict[str, Any]]) -> set[str]:
    """Keys whose value is a fraction in the resolved spec of a run, where 3 is 3.0."""
    import yaml

    keys = {key: row for row in rows if row["status"] == "done" for key in row["set"]}
    found = set()
    for key, row in keys.items():
        path = folder / (row.get("folder") or "") / "spec.yaml"
        value: Any = yaml.safe_load(path.read_text("utf-8")) if path.is_file() else None
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, float):
            found.add(key)
    return found
