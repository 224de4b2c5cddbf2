"""`ulzoo show`: a spec, or a trained model's, with its blocks and costs; the differences of two; a sweep's points."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ulzoo.cli import options
from ulzoo.cli.completion import complete_specs
from ulzoo.cli.display.terminal import console, to_json

if TYPE_CHECKING:
    from ulzoo.registry.spec.schema import Spec

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo show emoji32_tiny[/]
  [cyan]ulzoo show my.yaml --set latent.channels=16[/]
  [cyan]ulzoo show runs/a[/]                             a run or an exported file, with its metrics
  [cyan]ulzoo show imagenet512_medium --json[/]
  [cyan]ulzoo show --diff imagenet512_small imagenet512_medium[/]
  [cyan]ulzoo show text2image512_100g --base-gflops 200[/]   the size of a base of that cost
  [cyan]ulzoo show paper/table2_loss_factor[/]           a sweep: its points, with the paper's numbers
  [cyan]ulzoo show paper/table2_loss_factor:1.9[/]       one of them
"""

Specs = Annotated[
    list[str],
    typer.Argument(
        metavar="SPEC",
        help="Name of a packaged spec (see [bold]ulzoo list[/]) or sweep, SWEEP:POINT, a YAML file, a run directory, "
        "an exported file, released:NAME or hf://ORG/REPO; with --diff two of them.",
        autocompletion=complete_specs,
    ),
]


def show(
    specs: Specs,
    overrides: options.Set = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show the differences of two specs, all defaults included.")
    ] = False,
    base_gflops: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Instead, print channels, blocks and GFLOPs of a two-level base (hierarchical_vit) of this cost, a "
            "forward pass in GFLOPs, for the spec's latent.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a spec: every key with its value, every block with its output, parameters and GFLOPs.

    Of a trained model also the metrics that its file contains.
    """
    from ulzoo.registry.spec.sweep import is_sweep
    from ulzoo.registry.zoo.catalogue import TENSOR_FILES

    sweep = not specs[0].endswith(TENSOR_FILES) and is_sweep(specs[0])
    if base_gflops is not None and (diff or len(specs) != 1 or sweep):
        raise typer.BadParameter("takes one spec", param_hint="--base-gflops")
    if diff and len(specs) != 2:
        raise typer.BadParameter("takes two specs", param_hint="--diff")
    if not diff and len(specs) != 1:
        raise typer.BadParameter("one spec, or two with --diff", param_hint="SPEC")
    if base_gflops is not None:
        _show_base_size(specs[0], overrides or [], base_gflops, json)
    elif diff:
        _show_difference(specs[0], specs[1], overrides or [], json)
    elif sweep:
        _show_sweep(specs[0], overrides or [], json)
    else:
        _show_spec(specs[0], overrides or [], json)


def _show_spec(name: str, overrides: list[str], json: bool) -> None:
    from rich.syntax import Syntax

    spec, metadata = _read(name, overrides)  # before torch is imported, so that a mistake is reported at once
    from ulzoo.cli.display.init_table import init_line
    from ulzoo.cli.display.spec_tables import block_table, totals_table
    from ulzoo.cli.display.tables import metrics_table
    from ulzoo.registry.cost.summary import summarize
    from ulzoo.registry.spec.conflicts import rate_range

    summary, results = summarize(spec), metadata.get("results")
    figures = results.get("figures") if isinstance(results, dict) else None
    if json:
        trained = {"results": results} if metadata else {}
        print(to_json({"spec": spec.to_dict(), "hash": spec.hash, "summary": summary.to_dict(), **trained}))
        return
    out = console()
    if out.is_terminal:
        out.print(Syntax(spec.to_yaml(), "yaml", background_color="default", word_wrap=True))
    else:
        print(spec.to_yaml())
    out.print(block_table(summary))
    out.print()
    out.print(totals_table(summary))
    if spec.init:
        out.print(init_line(spec.init), soft_wrap=True)
    if ends := rate_range(spec, "loss_factor"):
        out.print("variable rate  loss factors {:g} to {:g}; metrics are those at the middle".format(*ends))
    if isinstance(figures, dict) and "psnr_db" in figures:
        out.print(metrics_table(figures))
    for path, reason in spec.decided.items():
        out.print(f"default  {path}: {reason}", soft_wrap=True)
    out.print(f"spec hash  {spec.hash}", soft_wrap=True)


def _read(name: str, overrides: list[str]) -> "tuple[Spec, dict[str, Any]]":
    """A spec, or that of a trained model with what its file says of it, {} for a spec."""
    from ulzoo.registry.zoo.catalogue import load_spec, read_trained_spec

    return read_trained_spec(name, overrides) or (load_spec(name, overrides), {})


def _show_base_size(name: str, overrides: list[str], gflops: float, json: bool) -> None:
    """The size of a two-level base of a given cost, also as the overrides that set it."""
    from ulzoo.registry.cost.size_search import base_inputs, search_base_size

    size = search_base_size(base_inputs(_read(name, overrides)[0]), gflops)
    channels, blocks = list(size.channels), list(size.blocks)
    if json:
        print(to_json({"channels": channels, "blocks": blocks, "gflops": size.gflops}))
        return
    print(f"channels {channels}, blocks {blocks}: {size.gflops:.1f} GFLOPs")
    keys = {"kind": "hierarchical_vit", "channels": channels, "blocks": blocks}
    print(" ".join(f"--set 'base.backbone.{key}={value}'" for key, value in keys.items()))


def _show_difference(first: str, second: str, overrides: list[str], json: bool) -> None:
    """Keys on which two resolved specs differ; a missing key is null in JSON and a dash in the table."""
    from ulzoo.cli.display.spec_tables import difference_table
    from ulzoo.registry.spec.schema import diff

    a, b = _read(first, overrides)[0], _read(second, overrides)[0]
    differences = diff(a, b)
    out = console()
    if json:
        heads = {side: {"spec": name, "hash": spec.hash} for side, name, spec in (("a", first, a), ("b", second, b))}
        print(to_json({**heads, "diff": differences}))
    elif differences:
        out.print(difference_table(first, second, differences))
    else:
        out.print(f"no difference: both have the hash {a.hash}", soft_wrap=True)


def _show_sweep(name: str, overrides: list[str], json: bool) -> None:
    from dataclasses import asdict

    from ulzoo.cli.display.spec_tables import point_table, sweep_heading
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
        print(to_json({**head, "columns": columns, "points": points}))
        return
    out = console()
    out.print(sweep_heading(sweep))
    out.print()
    out.print(point_table(sweep, [point for point, _ in resolved]))
