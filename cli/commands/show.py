"""`ulzoo show`: a spec, resolved and in numbers; what two specs differ in; a sweep's points."""

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ulzoo.cli import options
from ulzoo.cli.display.terminal import console, examples, gflops, pairs, plain_table, scaled, shape, to_json

if TYPE_CHECKING:
    from rich.table import Table

    from ulzoo.registry.cost.summary import ModelSummary
    from ulzoo.registry.spec.sweep import Point, Sweep

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo show emoji32_tiny[/]
  [cyan]ulzoo show my.yaml --set latent.channels=16[/]
  [cyan]ulzoo show imagenet512_medium --json[/]
  [cyan]ulzoo show --diff imagenet512_small imagenet512_medium[/]
  [cyan]ulzoo show paper/table2_loss_factor[/]           a sweep: its points, with the paper's numbers
  [cyan]ulzoo show paper/table2_loss_factor:1.9[/]       one of them
"""

Specs = Annotated[
    list[str],
    typer.Argument(
        metavar="SPEC",
        help="A packaged spec's name (see [bold]ulzoo list[/]), a sweep's, SWEEP:POINT or a YAML file; "
        "with --diff two specs.",
    ),
]


def show(
    specs: Specs,
    overrides: options.Set = None,
    diff: Annotated[bool, typer.Option("--diff", help="Show what two specs differ in, every default written out.")] = (
        False
    ),
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show a spec: every key with its value, every block with its output, parameters and GFLOPs."""
    from ulzoo.registry.spec.sweep import is_sweep

    if diff and len(specs) != 2:
        raise typer.BadParameter("takes two specs", param_hint="--diff")
    if not diff and len(specs) != 1:
        raise typer.BadParameter("one spec, or two with --diff", param_hint="SPEC")
    if diff:
        _show_difference(specs[0], specs[1], overrides or [], json)
    elif is_sweep(specs[0]):
        _show_sweep(specs[0], overrides or [], json)
    else:
        _show_spec(specs[0], overrides or [], json)


def _show_spec(name: str, overrides: list[str], json: bool) -> None:
    from rich.syntax import Syntax

    from ulzoo.registry.cost.summary import summarize
    from ulzoo.registry.zoo.catalogue import load_spec

    loaded = load_spec(name, overrides)
    summary = summarize(loaded)
    if json:
        typer.echo(to_json({"spec": loaded.to_dict(), "hash": loaded.hash, "summary": summary.to_dict()}))
        return
    out = console()
    if out.is_terminal:
        out.print(Syntax(loaded.to_yaml(), "yaml", background_color="default", word_wrap=True))
    else:
        typer.echo(loaded.to_yaml())
    out.print(_blocks(summary))
    out.print()
    out.print(_totals(summary))
    out.print(f"spec hash  {loaded.hash}", soft_wrap=True)


def _show_difference(first: str, second: str, overrides: list[str], json: bool) -> None:
    """Keys on which two resolved specs disagree; one that has no such key has null in JSON, a dash here."""
    from ulzoo.registry.spec.schema import diff
    from ulzoo.registry.zoo.catalogue import load_spec

    a, b = load_spec(first, overrides), load_spec(second, overrides)
    differences = diff(a, b)
    if json:
        heads = {side: {"spec": name, "hash": spec.hash} for side, name, spec in (("a", first, a), ("b", second, b))}
        typer.echo(to_json({**heads, "diff": differences}))
        return
    out = console()
    if not differences:
        out.print(f"no difference: both have the hash {a.hash}", soft_wrap=True)
        return
    table = plain_table("key", first, second, left=(first, second))
    for key, (before, after) in differences.items():
        table.add_row(key, _value(before), _value(after))
    out.print(table)


def _show_sweep(name: str, overrides: list[str], json: bool) -> None:
    from dataclasses import asdict

    from ulzoo.registry.spec.sweep import METRICS, load_sweep

    sweep = load_sweep(name)
    resolved = sweep.resolve(overrides)
    if json:
        head = sweep.model_dump(mode="json", include={"name", "description", "source", "expect", "spec", "set"})
        points = [
            {"name": point.name, "spec": point.spec, "set": point.set, "hash": spec.hash, "paper": point.paper}
            for point, spec in resolved
        ]
        columns = {column: asdict(METRICS[column]) for column in sweep.columns}
        typer.echo(to_json({**head, "columns": columns, "points": points}))
        return
    out = console()
    out.print(_heading(sweep))
    out.print()
    out.print(_points(sweep, [point for point, _ in resolved]))


def _heading(sweep: "Sweep") -> "Table":
    table = pairs()
    rows = {"sweep": sweep.name, "compares": sweep.description, "paper": sweep.source, "finding": sweep.expect}
    for word, text in (rows | {"spec": sweep.spec, "set for all": _settings(sweep.set)}).items():
        if text:
            table.add_row(word, text)
    return table


def _points(sweep: "Sweep", points: "list[Point]") -> "Table":
    """A line a point: its spec if it is another than the sweep's, what it sets, the paper's figures."""
    from ulzoo.registry.spec.sweep import METRICS

    titles = [f"{METRICS[name].title}\n{METRICS[name].unit}".strip() for name in sweep.columns]
    table = plain_table("point", "set", *titles, left=("set",))
    for point in points:
        spec = [f"spec={point.spec}"] if point.spec != sweep.spec else []
        settings = [text for text in (*spec, _settings(point.set)) if text]
        figures = [f"{point.paper[name]:g}" if name in point.paper else "–" for name in sweep.columns]
        table.add_row(point.name, "\n".join(settings), *figures)
    return table


def _settings(settings: dict[str, Any]) -> str:
    """key.path=value, a line each."""
    return "\n".join(f"{key}={_value(value, absent='null')}" for key, value in settings.items())


def _value(value: Any, absent: str = "–") -> str:
    """A value as YAML writes it on one line; of a large mapping the beginning."""
    if value is None or isinstance(value, str):
        return value or absent
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item, 'null') for item in value)}]"
    if isinstance(value, dict):
        items = [f"{key}: {_value(item, 'null')}" for key, item in value.items()]
        return f"{{{', '.join([*items[:2], '…'] if len(items) > 4 or len(str(items)) > 80 else items)}}}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _blocks(summary: "ModelSummary") -> "Table":
    """Every block, equal ones folded into one line, after its network's line; the blocks add up to the network."""
    from ulzoo.registry.cost.summary import NETWORKS, fold

    table = plain_table("block", "class", "output", "parameters", "GFLOPs", left=("class",))
    for network in (name for name in NETWORKS if name in summary.parameters):
        rows = [row for row in summary.blocks if row.path.startswith(f"{network}.")]
        parameters, flops = summary.parameters[network], summary.flops[network]
        table.add_row(network, "", "", f"{parameters:,}", gflops(flops), style="bold")
        for count, row in fold(rows):
            kind = f"{count} × {row.kind}" if count > 1 else row.kind
            path = "  " + row.path.removeprefix(f"{network}.")
            table.add_row(path, kind, shape(row.output), f"{row.parameters:,}", gflops(row.flops))
        own = parameters - sum(row.parameters for row in rows)
        rest = flops - sum(row.flops for row in rows)
        if own or rest:
            table.add_row("  its own", "", "", f"{own:,}", gflops(rest))
        table.add_section()
    return table


def _totals(summary: "ModelSummary") -> "Table":
    dimensions, pixels = math.prod(summary.latent), math.prod(summary.resolution)
    table = pairs()
    training = ", ".join(f"{gflops(summary.training_flops(stage))} ({stage})" for stage in summary.stages)
    kind = examples(summary.resolution, plural=False)
    table.add_row(kind, f"{shape(summary.resolution)} pixels")
    table.add_row("latent", f"{shape(summary.latent)}: {dimensions:,} dimensions")
    table.add_row("rate", f"bits/pixel = {dimensions / pixels:g} × bits/dimension (dimensions over pixels)")
    table.add_row("parameters", f"{sum(summary.parameters.values()):,} ({scaled(sum(summary.parameters.values()))})")
    table.add_row(f"forward GFLOPs/{kind}", f"{gflops(sum(summary.flops.values()))}, each network once")
    table.add_row(f"training GFLOPs/{kind}", training)
    return table
