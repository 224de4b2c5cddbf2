"""`ulzoo report`: the results of a sweep as a web page."""

from pathlib import Path
from typing import Annotated

import typer

from ulzoo.cli import options

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo report runs/sweeps/table2_loss_factor[/]
  [cyan]ulzoo report runs/sweeps/table2_loss_factor --out page.html[/]
"""


def report(
    store: options.Store,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page to write; default: STORE/report.html.")
    ] = None,
) -> None:
    """Write one HTML page of a sweep; it needs no network."""
    from ulzoo.files.atomic import check_destination
    from ulzoo.registry.report.html_report import write_report
    from ulzoo.registry.sweeps.store import Store

    results = Store(store, must_exist=True)
    check_destination(out or results.folder / "report.html")
    print(write_report(results, out))
