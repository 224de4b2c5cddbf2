"""`ulzoo list`: the zoo."""

from typing import TYPE_CHECKING, Annotated

import typer

from ulzoo.cli.display.terminal import console, gflops, plain_table, scaled, shape, square, to_json

if TYPE_CHECKING:
    from rich.table import Table

    from ulzoo.registry.zoo.overview import Entry

NARROW = 100
EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo list[/]
  [cyan]ulzoo list 'imagenet*'[/]
  [cyan]ulzoo list --pretrained --json[/]
"""


def list_specs(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Names to list; *, ? and \\[abc] match.")] = "*",
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with FLOPs of every network.")] = False,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only models whose weights are released.")] = False,
) -> None:
    """List the packaged specs: sizes, cost, and rate and PSNR where weights are released."""
    from ulzoo.registry.zoo.catalogue import list_models
    from ulzoo.registry.zoo.overview import overview
    from ulzoo.runtime.messages import suggest

    with console(stderr=True).status("measuring"):
        entries = overview(pattern, pretrained or None)
    if json:
        typer.echo(to_json([entry.to_dict() for entry in entries]))
        return
    if not entries:
        with_weights = " with released weights" if pretrained else ""
        raise ValueError(f"no spec{with_weights} matches {pattern!r}{suggest(pattern, list_models())}")
    out = console()
    out.print(_table(entries, narrow=out.width < NARROW))
    out.print(
        "\nGFLOPs per image or clip: stage 1 is training encoder, prior and decoder, forward and backward; base is one "
        "forward step. Figures are of the released weights on validation data.",
        style="dim",
    )


def _table(entries: "list[Entry]", narrow: bool) -> "Table":
    headers = [
        "name",
        "data",
        "size",
        "latent",
        "params",
        "GFLOPs\nstage1",
        "GFLOPs\nbase",
        "bits/\npixel",
        "PSNR\ndB",
    ]
    table = plain_table(*headers, "weights", left=("data",))
    table.columns[0].no_wrap = True
    if narrow:
        del table.columns[6]
        table.padding = (0, 0, 0, 0)
    for entry in entries:
        figures = entry.figures
        cells = [
            entry.name,
            entry.data,
            square(entry.resolution),
            shape(entry.latent),
            scaled(entry.parameters).replace(" ", ""),
            *(gflops(1e9 * cost) if cost else "–" for cost in (entry.stage1, entry.base)),
            f"{figures['bits_per_pixel']:.2f}" if "bits_per_pixel" in figures else "–",
            f"{figures['psnr_db']:.1f}" if "psnr_db" in figures else "–",
            "here" if entry.pretrained else "–",
        ]
        if narrow:
            del cells[6]
        table.add_row(*cells)
    return table
