"""Progress of commands that write data sets or evaluate: a bar on a terminal, about twenty lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ulzoo.cli.display import terminal
from ulzoo.cli.display.terminal import duration, say

if TYPE_CHECKING:
    from rich.console import Console

    from ulzoo.data.prepare.pack import Progress

LINES = 20


def print_progress(unit: str) -> Callable[[int, int], None]:
    """A progress callback that prints how many of all "images" or "clips" have been processed so far."""
    printed = -1

    def on_progress(done: int, total: int) -> None:
        nonlocal printed
        if (line := LINES * done // total) > printed:
            printed = line
            say(f"{done:,}/{total:,} {unit}")

    return on_progress


@contextmanager
def pack_progress(console: "Console", split: str, unit: str) -> "Iterator[Callable[[Progress], None]]":
    """A progress callback for packing a split into shards, with the speed and the number of skipped examples."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    start: tuple[float, int] | None = None  # when the first examples were done: workers take seconds to start
    previous, printed = -1, 0
    bar: Any = Bar(
        TextColumn(f"packing {split}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}  {{task.fields[speed]}}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=None, speed="")

    def on_progress(progress: "Progress") -> None:
        nonlocal start, previous, printed
        if start is None and 0 <= previous < progress.done:
            start = time.monotonic(), progress.done
        previous = progress.done
        elapsed = time.monotonic() - start[0] if start else 0
        rate = (progress.done - start[1]) / elapsed if start and elapsed else 0
        speed = f"{rate:.1f} {unit}/s" + (f"  {progress.failed:,} skipped" if progress.failed else "")
        bar.update(task, total=progress.total, completed=progress.done, speed=speed)
        line = LINES * progress.done // progress.total
        if bar.disable and line > printed and rate:
            printed = line
            remaining = (progress.total - progress.done) / rate
            say(f"{progress.done:,}/{progress.total:,} {unit}  {speed}  {duration(remaining)} left")

    with bar:
        yield on_progress


@contextmanager
def phase_progress(unit: str, *, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for each phase, on a terminal only, and the progress callback that moves it."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    stderr = terminal.console(stderr=True)
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}  {{task.fields[speed]}}"),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
        disable=quiet or not stderr.is_terminal,
    )
    tasks: dict[str, Any] = {}

    def on_progress(phase: str, done: int, total: int) -> None:
        if phase not in tasks:
            for task in tasks.values():
                bar.remove_task(task)
            tasks.clear()
            tasks[phase] = bar.add_task(phase, total=total, speed="")
        elapsed = bar.tasks[0].elapsed or 0
        bar.update(tasks[phase], completed=done, total=total, speed=f"{done / elapsed:.1f} {unit}/s" if elapsed else "")

    with bar:
        yield on_progress
