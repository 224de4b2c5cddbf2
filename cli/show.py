"""`ulzoo show`: a spec, resolved and in numbers."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from ulzoo.cli import options
from ulzoo.cli.terminal import console, examples, gflops, pairs, plain_table, scaled, shape, to_json

if TYPE_CHECKING:
    from rich.table import Table

    from ulzoo.registry.summary import Summary

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo show emoji32_tiny[/]
  [cyan]ulzoo show my.yaml --set latent.channels=16[/]
  [cyan]ulzoo show imagenet512_medium --json[/]
"""


def show(
    spec: options.Spec,
    overrides: options.Set = None,
    json: Annotated[bool, typer.Option("--json", help="Print spec, hash and summary as JSON.")] = False,
) -> None:
    """Show a spec: every key with its value, every block with its output, parameters and GFLOPs."""
    from rich.syntax import Syntax

    from ulzoo.registry.spec import load_spec
    from ulzoo.registry.summary import summarize

    loaded = load_spec(spec, overrides or ())
    summary = summarize(loaded, memory=False)
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


def _blocks(summary: "Summary") -> "Table":
    """Every block, equal ones folded into one line, after its network's line; the blocks add up to the network."""
    from ulzoo.registry.summary import NETWORKS, fold

    table = plain_table("block", "class", "output", "parameters", "GFLOPs", left=("class",))
    for network in NETWORKS:
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


def _totals(summary: "Summary") -> "Table":
    dimensions, pixels = math.prod(summary.latent), math.prod(summary.resolution)
    table = pairs()
    training = f"{gflops(summary.training_flops('latents'))} (latents), {gflops(summary.training_flops('base'))} (base)"
    kind = examples(summary.resolution, plural=False)
    table.add_row(kind, f"{shape(summary.resolution)} pixels")
    table.add_row("latent", f"{shape(summary.latent)}: {dimensions:,} dimensions")
    table.add_row("rate", f"bits/pixel = {dimensions / pixels:g} × bits/dimension (dimensions over pixels)")
    table.add_row("parameters", f"{sum(summary.parameters.values()):,} ({scaled(sum(summary.parameters.values()))})")
    table.add_row(f"forward GFLOPs/{kind}", f"{gflops(sum(summary.flops.values()))}, each network once")
    table.add_row(f"training GFLOPs/{kind}", training)
    return table
