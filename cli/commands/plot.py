"""`ulzoo plot`: the results of a sweep as plots."""

from pathlib import Path
from typing import Annotated

import typer

from ulzoo.cli import options

EXAMPLES = """
[bold]Examples[/]
  [cyan]ulzoo plot runs/sweeps/table2_loss_factor[/]
  [cyan]ulzoo plot runs/sweeps/table2_loss_factor --out pictures[/]
"""


def plot(
    store: options.Store,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the plots; default: STORE/plots.")] = None,
) -> None:
    """Draw rate against PSNR, rate against Fréchet distances, and these against GFLOPs, as PNG and SVG.

    Where `ulzoo evaluate STORE/points/* --milestones` has measured the milestones of points, also metrics against the
    FLOPs of their training.
    """
    from ulzoo.files.atomic import check_destination
    from ulzoo.registry.report.milestone_plots import draw_curves, store_curves
    from ulzoo.registry.report.plots import draw
    from ulzoo.registry.sweeps.rate_curves import expand_curves
    from ulzoo.registry.sweeps.store import Store
    from ulzoo.registry.sweeps.variants import separate_variants

    results = Store(store, must_exist=True)
    folder, sweep = out or results.folder / "plots", results.sweep
    check_destination(folder / "plot.png")
    title = sweep.name if sweep else store.name
    rows = separate_variants(results.rows(), results.folder)
    paths = draw(expand_curves(rows), folder, title)
    if curves := store_curves(results.folder, rows):
        paths += draw_curves(curves, folder, title)
    for path in paths:
        print(path)
