"""`ulzoo list`: the packaged specs."""

from typing import Annotated

import typer

from ulzoo.cli.display.terminal import console, to_json

COSTS = (
    "GFLOPs per image or clip: of stage 1 for training encoder, prior and decoder, forward and backward; of the base "
    "for one forward pass."
)
CUT = "Data and GFLOPs are shown in a wider terminal, or with --json."
EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo list[/]
  [cyan]ulzoo list 'imagenet*'[/]
  [cyan]ulzoo list --pretrained --json[/]
"""


def list_specs(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Names to list; *, ? and \\[abc] match.")] = "*",
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with the FLOPs of every network.")] = False,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only models with released weights.")] = False,
) -> None:
    """List the packaged specs: sizes, cost, and rate and PSNR of released weights."""
    from ulzoo.cli.display.spec_tables import zoo_table
    from ulzoo.registry.spec.component_table import suggest
    from ulzoo.registry.zoo.catalogue import list_models
    from ulzoo.registry.zoo.overview import overview

    with console(stderr=True).status("measuring"):
        entries = overview(pattern, pretrained or None)
    if json:
        print(to_json([entry.to_dict() for entry in entries]))
        return
    if not entries:
        with_weights = " with released weights" if pretrained else ""
        raise ValueError(f"no spec{with_weights} matches {pattern!r}{suggest(pattern, list_models())}")
    out = console()
    table = zoo_table(entries)
    if narrow := out.measure(table, options=out.options.update(max_width=1000)).maximum > out.width:
        table = zoo_table(entries, narrow=True)
    out.print(table)
    for entry in entries:
        if entry.loss_factors:
            low, high = entry.loss_factors
            out.print(f"{entry.name}: variable rate, loss factors {low:g} to {high:g}; measured at the middle")
    out.print(f"\nRate and PSNR of released weights, on validation data. {CUT if narrow else COSTS}", style="dim")
