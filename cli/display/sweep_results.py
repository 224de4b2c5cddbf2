"""The end of `ulzoo sweep`: results beside the paper's, the Pareto front, failed points, the path of the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ulzoo.cli.display.tables import plain_table
from ulzoo.cli.display.terminal import say
from ulzoo.registry.report.curves import QUALITY, average, pareto
from ulzoo.registry.report.html_report import compare_series, write_report
from ulzoo.registry.report.plots import frechet_metrics, metric_title
from ulzoo.registry.spec.sweep import METRICS, MetricSpec, Sweep, result_table
from ulzoo.registry.sweeps.jobs import Job
from ulzoo.registry.sweeps.rate_curves import expand_curves
from ulzoo.registry.sweeps.store import ResultRow, Store
from ulzoo.registry.sweeps.variants import separate_variants

MEAN_IMAGE = "mean_image_psnr_db"


def print_results(console: Console, sweep: Sweep, jobs: Sequence[Job], store: Store) -> int:
    """Print the rows of `jobs` that the store has, write the report, and return the number of failed points."""
    by_hash = {row["spec_hash"]: row for row in store.rows()}
    rows = [{**by_hash[job.spec_hash], "point": job.point} for job in jobs if job.spec_hash in by_hash]
    done = [row for row in rows if row["status"] == "done"]
    failed = {row["spec_hash"]: row for row in rows if row["status"] == "failed"}
    console.print()
    if done:
        console.print(_result_table(sweep, done))
        console.print()
    for row in done:
        mean = row["figures"].get(MEAN_IMAGE)
        if mean is not None and row["figures"][QUALITY] < mean:
            say(f"caution: {_label(row)}: its PSNR is below that of the mean training image, {mean:.2f} dB")
    if front := pareto(expand_curves(done)):
        console.print("Pareto front, fewest bits first", style="bold")
        console.print(_front_table(front))
        console.print()
    for entry in compare_series(average(expand_curves(separate_variants(done, store.folder)))):
        if not entry["why"]:
            deltas = f"BD-rate {entry['rate']:+.2f} %, BD-PSNR {entry['psnr']:+.2f} dB"
            console.print(f"{entry['series']} against {entry['anchor']}: {deltas}", soft_wrap=True)
    for row in rows:
        if row["status"] == "stopped":
            say(f"stopped early: {_label(row)}: {row['error']}; without --prune its training continues")
    for row in failed.values():
        say(f"failed: {_label(row)}: {row['error']} ({store.folder / row['folder']})")
    if failed:
        say(f"{len(failed)} of {len(rows)} points failed; --retry-failed runs them again")
    console.print(f"report  {write_report(store)}", soft_wrap=True)
    return len(failed)


def _result_table(sweep: Sweep, rows: Sequence[ResultRow]) -> Table:
    """A line for each point: measured metrics, and the paper's where the sweep has them."""
    extra = frechet_metrics(dict.fromkeys(name for row in rows for name in row["figures"]))
    columns = dict.fromkeys([*sweep.columns, *extra])
    if QUALITY in columns:  # followed by that of the mean image, if it was measured
        columns = dict.fromkeys(column for name in columns for column in (name, *[MEAN_IMAGE] * (name == QUALITY)))
    sweep = sweep.model_copy(update={"columns": tuple(columns)})
    entries = result_table(sweep, rows)
    with_paper = [name for name in sweep.columns if any(entry["paper"][name] is not None for entry in entries)]
    measured = [name for name in sweep.columns if any(entry["measured"][name] is not None for entry in entries)]
    several_seeds = any(entry["runs"] > 1 for entry in entries)
    table = plain_table(
        "point",
        *(["runs"] if several_seeds else []),
        *(_heading(name) for name in measured),
        *(f"paper's\n{_heading(name)}" for name in with_paper),
    )
    for entry in entries:
        runs = [str(entry["runs"])] if several_seeds else []
        measured_cells = [_mean_and_spread(name, entry) for name in measured]
        paper_cells = [_number(entry["paper"][name], _column(name).digits) for name in with_paper]
        table.add_row(entry["point"], *runs, *measured_cells, *paper_cells)
    return table


def _front_table(rows: Sequence[ResultRow]) -> Table:
    table = plain_table("point", "bits/pixel", "PSNR dB")
    for row in rows:
        metrics = row["figures"]
        table.add_row(_label(row), f"{metrics['bits_per_pixel']:.4f}", f"{metrics['psnr_db']:.2f}")
    return table


def _label(row: ResultRow) -> str:
    return f"{row['point']} seed {row['seed']}" if row["seed"] else row["point"]


def _heading(name: str) -> str:
    return f"{_column(name).title}\n{_column(name).unit}".strip()


def _column(name: str) -> MetricSpec:
    return METRICS.get(name) or MetricSpec(metric_title(name), "", "lower", 1)


def _mean_and_spread(name: str, entry: Mapping[str, Any]) -> str:
    digits, spread = _column(name).digits + 1, entry["spread"][name]
    return _number(entry["measured"][name], digits) + (f" ± {spread:.{digits}f}" if spread is not None else "")


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
