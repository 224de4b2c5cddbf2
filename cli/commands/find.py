"""`ulzoo find`: the settings of a sweep that reach a PSNR or a rate, and the next point to run."""

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ulzoo.cli import options
from ulzoo.cli.display.tables import plain_table
from ulzoo.cli.display.terminal import console, say, to_json

if TYPE_CHECKING:
    from rich.table import Table

    from ulzoo.registry.report.target_search import SearchResult, Setting
    from ulzoo.registry.sweeps.store import Store

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo find runs/sweeps/table2_loss_factor --psnr 27[/]    settings of 27 dB, the fewest bits first
  [cyan]ulzoo find runs/sweeps/table2_loss_factor --bits 0.06[/]  settings of 0.06 bits/pixel, the highest PSNR first
"""
MAX_SETTINGS = 10  # on a terminal; --json prints all


def find(
    store: options.Store,
    psnr: Annotated[float | None, typer.Option(metavar="DB", help="The PSNR to reach.")] = None,
    bits: Annotated[float | None, typer.Option(metavar="BITS", help="The bits/pixel to spend.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find settings that reach a PSNR or a rate, between the points of a sweep, and the point to run next."""
    from ulzoo.registry.report.target_search import find_settings
    from ulzoo.registry.sweeps.store import Store
    from ulzoo.registry.sweeps.variants import separate_variants

    results = Store(store, must_exist=True)
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
