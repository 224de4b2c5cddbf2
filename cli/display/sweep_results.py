"""How `ulzoo sweep` ends: the table beside the paper's, the Pareto front, what failed, the page to look at."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ulzoo.cli.display.terminal import plain_table, say
from ulzoo.registry.report.plots import distances, figure_title
from ulzoo.registry.spec.sweep import METRICS, MetricSpec, Sweep, result_table
from ulzoo.registry.sweeps.jobs import Job
from ulzoo.registry.sweeps.store import ResultRow, Store


def print_results(console: Console, sweep: Sweep, jobs: Sequence[Job], store: Store) -> int:
    """Print what the store has of `jobs`, write the report; how many points failed."""
    from ulzoo.registry.report.curves import pareto
    from ulzoo.registry.report.html_report import write_report

    found = {row["spec_hash"]: row for row in store.rows()}
    rows = [{**found[job.spec_hash], "point": job.point} for job in jobs if job.spec_hash in found]
    done = [row for row in rows if row["status"] == "done"]
    failed = {row["spec_hash"]: row for row in rows if row["status"] == "failed"}
    console.print()
    if done:
        console.print(_table(sweep, done))
        console.print()
    if front := pareto(done):
        console.print("Pareto front, fewest bits first", style="bold")
        console.print(_front(front))
        console.print()
    for row in rows:
        if row["status"] == "stopped":
            say(f"stopped early: {_label(row)}: {row['error']}; without --prune it goes on")
    for row in failed.values():
        say(f"failed: {_label(row)}: {row['error']} ({store.folder / row['folder']})")
    if failed:
        say(f"{len(failed)} of {len(rows)} points failed; --retry-failed runs them again")
    console.print(f"report  {write_report(store)}", soft_wrap=True)
    return len(failed)


def _table(sweep: Sweep, rows: Sequence[ResultRow]) -> Table:
    """A line a point: measured figures, and the paper's where it has some."""
    asked = distances(dict.fromkeys(name for row in rows for name in row["figures"]))
    sweep = sweep.model_copy(update={"columns": tuple(dict.fromkeys([*sweep.columns, *asked]))})
    entries = result_table(sweep, rows)
    with_paper = [name for name in sweep.columns if any(entry["paper"][name] is not None for entry in entries)]
    measured = [name for name in sweep.columns if any(entry["measured"][name] is not None for entry in entries)]
    several = any(entry["runs"] > 1 for entry in entries)
    table = plain_table(
        "point",
        *(["runs"] if several else []),
        *(_head(name) for name in measured),
        *(f"paper's\n{_head(name)}" for name in with_paper),
    )
    for entry in entries:
        runs = [str(entry["runs"])] if several else []
        ours = [_measured(name, entry) for name in measured]
        theirs = [_number(entry["paper"][name], _column(name).digits) for name in with_paper]
        table.add_row(entry["point"], *runs, *ours, *theirs)
    return table


def _front(rows: Sequence[ResultRow]) -> Table:
    table = plain_table("point", "bits/pixel", "PSNR dB")
    for row in rows:
        figures = row["figures"]
        table.add_row(_label(row), f"{figures['bits_per_pixel']:.4f}", f"{figures['psnr_db']:.2f}")
    return table


def _label(row: ResultRow) -> str:
    return f"{row['point']} seed {row['seed']}" if row["seed"] else row["point"]


def _head(name: str) -> str:
    return f"{_column(name).title}\n{_column(name).unit}".strip()


def _column(name: str) -> MetricSpec:
    return METRICS.get(name) or MetricSpec(figure_title(name), "", "lower", 1)


def _measured(name: str, entry: Mapping[str, Any]) -> str:
    digits, spread = _column(name).digits + 1, entry["spread"][name]
    return _number(entry["measured"][name], digits) + (f" ± {spread:.{digits}f}" if spread is not None else "")


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
