"""What `ulzoo evaluate --loss-factor V1,V2,...` does: the curve of a variable-rate model as a table, JSON or a plot."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ulzoo.cli.display.progress import phase_progress
from ulzoo.cli.display.tables import plain_table, print_cautions
from ulzoo.cli.display.terminal import console, examples, to_json
from ulzoo.registry.spec.sweep import METRICS

if TYPE_CHECKING:
    from rich.table import Table

    from ulzoo.registry.runs.evaluate import Evaluation
    from ulzoo.registry.runs.export import Export

DETAIL = re.compile(r"(_se|_std|_bias|_first_2|_copy_last)$|bits_per_dimension$|^(mean_image|copy_last)_")
"""Metrics of a single evaluation that a table of several leaves out."""
NOT_PLOTTED = re.compile(r"(.*_)?bits_per_pixel")


def measure_curve(
    name: str,
    export: "Export",
    evaluation: "Evaluation",
    loss_factors: Sequence[float],
    *,
    json: bool,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Evaluate a model at several loss factors; print and write the results.

    Args:
        name: of the model, as typed.
        export: the model, which was trained at these loss factors.
        evaluation: what is measured at each of them.
        loss_factors: in the order of the results.
        json: print JSON instead of a table.
        out: a file for the JSON.
        plot: a file for a plot of the metrics against the rate.

    Raises:
        typer.Exit: with status 1 if a file could not be written.
    """
    from ulzoo.evaluation.sample_file import UnwrittenFiles
    from ulzoo.files.atomic import write_text
    from ulzoo.registry.runs.evaluate import PROCESS_TIMEOUT
    from ulzoo.registry.runs.rate_curve import evaluate_curve
    from ulzoo.runtime.processes import launched_rank, process_group
    from ulzoo.visualization import save_rate_distortion_plot

    model, unit = export.model, examples(export.model.contract.size)
    with (
        process_group(model.device, PROCESS_TIMEOUT) as processes,
        phase_progress(unit, quiet=launched_rank() > 0) as on_progress,
    ):
        curve = evaluate_curve(evaluation, model, loss_factors, processes=processes, on_progress=on_progress)
    if not processes.is_main:
        return
    results = {"model": name, "spec_hash": export.spec.hash, "curve": curve}
    if json:  # before any file is written, which may fail
        print(to_json(results))
    else:
        terminal = console()
        count, split = curve[0]["protocol"]["images"], evaluation.config.split
        terminal.print(f"{name} on {count} {unit} of {split}, at each loss factor", style="bold", soft_wrap=True)
        terminal.print(curve_table(curve))
        for row in curve:
            cautions = [f"loss factor {row['loss_factor']:g}: {line}" for line in row.get("cautions", [])]
            print_cautions(terminal, {"cautions": cautions})
    unwritten = UnwrittenFiles()
    if out:
        with unwritten.catching(out):
            write_text(out, to_json(results) + "\n")
    if plot:
        titles = curve_titles(curve)
        shown = {metric: title for metric, title in titles.items() if not NOT_PLOTTED.fullmatch(metric)}
        with unwritten.catching(plot):
            save_rate_distortion_plot(plot, curve, shown, name)
    if not json:
        for path in filter(None, (plot, out)):
            if str(path) not in unwritten:
                print(path)
    if unwritten:
        raise typer.Exit(1)


def curve_titles(curve: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The metrics that are numbers at all loss factors, rates first -> their titles."""
    from ulzoo.registry.report.curves import is_number
    from ulzoo.registry.report.plots import metric_title

    figures = [row["figures"] for row in curve]
    names = [name for name in figures[0] if all(is_number(each.get(name)) for each in figures)]
    names = [name for name in names if not DETAIL.search(name)]
    names.sort(key=lambda name: not NOT_PLOTTED.fullmatch(name))
    return {name: metric_title(name) for name in names}


def curve_table(curve: Sequence[dict[str, Any]]) -> "Table":
    """A row for each loss factor, a column for each metric."""
    titles = curve_titles(curve)
    table = plain_table("loss\nfactor", *(title.replace(", ", "\n", 1) for title in titles.values()))
    for row in curve:
        values = [(row["figures"][name], METRICS[name].digits + 1 if name in METRICS else 4) for name in titles]
        table.add_row(f"{row['loss_factor']:g}", *(f"{value:.{digits}f}" for value, digits in values))
    return table
