"""What `ulzoo evaluate --milestones` does: curves of runs over their training, as tables, plots or JSON."""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ulzoo.cli.display.progress import phase_progress
from ulzoo.cli.display.tables import plain_table, print_cautions
from ulzoo.cli.display.terminal import console, examples, say, to_json
from ulzoo.registry.spec.sweep import METRICS

if TYPE_CHECKING:
    import torch

    from ulzoo.registry.runs.evaluate import EvaluationOptions


def measure_milestones(
    paths: Sequence[Path], options: "EvaluationOptions", device: "torch.device", *, json: bool
) -> None:
    """Measure the milestones of runs, one run after the other, and print and draw their curves.

    Args:
        paths: run directories.
        options: what is measured of each milestone.
        device: the device of this process.
        json: print the curves as JSON instead of tables, and draw nothing.

    Raises:
        ValueError: a run has no milestones or cannot be measured; all runs are checked first.
    """
    from ulzoo.files.atomic import check_destination
    from ulzoo.registry.cost.summary import summarize
    from ulzoo.registry.report.milestone_plots import draw_curves
    from ulzoo.registry.runs.evaluate import PROCESS_TIMEOUT
    from ulzoo.registry.runs.milestone_file import MILESTONES
    from ulzoo.registry.runs.milestones import RunMilestones
    from ulzoo.runtime.processes import launched_rank, process_group

    runs = [RunMilestones(path) for path in paths]
    for run in runs:
        check_destination(run.run / MILESTONES)
    curves: dict[str, Any] = {}
    with process_group(device, PROCESS_TIMEOUT) as processes:
        for run in runs:
            summary = summarize(run.spec)
            with phase_progress(examples(summary.resolution), quiet=launched_rank() > 0) as on_progress:
                curve = run.measure(options, device, flops=summary.flops, processes=processes, on_progress=on_progress)
            if not processes.is_main:
                continue
            curves[str(run.run)] = curve
            if not json:
                _print_curve(f"{run.run}, {run.stage}", curve)
    if not processes.is_main:
        return
    if json:
        print(to_json(curves))
        return
    for run in runs:
        print(run.run / MILESTONES)
        if find_spec("matplotlib"):
            for path in draw_curves({run.spec.name: curves[str(run.run)]}, run.run / "milestones", str(run.run)):
                print(path)
    if not find_spec("matplotlib"):
        say("plots need the package matplotlib: pip install 'ulzoo[plots]'")


def _print_curve(title: str, curve: Iterable[dict[str, Any]]) -> None:
    """A table of a curve: a row per milestone, a column per metric."""
    from ulzoo.registry.report.milestone_plots import curve_metrics
    from ulzoo.registry.report.plots import metric_title

    rows = list(curve)
    names = curve_metrics([rows])
    table = plain_table("step", "training, PFLOPs", *map(metric_title, names))
    for row in rows:
        digits = {name: METRICS[name].digits + 1 if name in METRICS else 3 for name in names}
        values = [f"{row['figures'][name]:.{digits[name]}f}" if name in row["figures"] else "" for name in names]
        table.add_row(f"{row['step']:,}", f"{row['training_flops'] / 1e15:.4g}", *values)
    terminal = console()
    terminal.print(title, style="bold")
    terminal.print(table)
    print_cautions(terminal, rows[-1])
