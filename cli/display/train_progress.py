"""Progress of `ulzoo train`: a live bar on a terminal, elsewhere about twenty lines per stage or one in 20 seconds."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Timer
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.status import Status
from rich.text import Text

from ulzoo.cli.display.init_table import print_init
from ulzoo.cli.display.terminal import duration
from ulzoo.model.contract import Stage
from ulzoo.registry.runs.callbacks import TrainingCallback, format_row
from ulzoo.registry.runs.initialize import InitReport
from ulzoo.training import config as configs
from ulzoo.training.monitoring import LogRow

LINES_PER_STAGE = 20
SECONDS_OF_SILENCE = 4  # before the first line, if data and model take longer to check
SECONDS_PER_LINE = 20  # at most; a line is due after the step or batch at which they have passed


@contextmanager
def display(
    console: Console, heading: Sequence[str], kind: str = "images", utilisations: Mapping[str, float] | None = None
) -> Iterator[TrainingCallback]:
    """A callback for `ulzoo.registry.runs.train.train` that displays its progress.

    Args:
        heading: lines to print when training begins.
        kind: "images" or "clips".
        utilisations: by stage, the model FLOPs utilisation of one image per second.
    """
    if not console.is_terminal:
        progress: _TrainingLines | _LiveTraining = _TrainingLines(console, heading, kind, utilisations or {})
    else:
        progress = _LiveTraining(console, heading, kind, utilisations or {})
    try:
        yield progress
    finally:
        progress.stop()


def _times(elapsed: float, done: int, total: int) -> str:
    remaining = elapsed / done * (total - done)
    return f"{duration(elapsed)} elapsed, {duration(remaining)} left" if remaining else duration(elapsed)


class _TrainingLines(TrainingCallback):
    """Plain lines."""

    def __init__(self, console: Console, heading: Iterable[str], kind: str, utilisations: Mapping[str, float]):
        self.console, self.kind, self.utilisations = console, kind, utilisations
        self.heading, self.last = list(heading), time.monotonic()
        self.waiting = Timer(SECONDS_OF_SILENCE, self._print, ["checking the data"])
        self.waiting.daemon = True
        self.waiting.start()

    def on_init(self, report: InitReport) -> None:
        self._open()
        print_init(self.console, report)

    def on_stage(self, stage: Stage, config: configs.StageConfig, start: int) -> None:
        self._open()
        self.name, self.start, self.steps, self.started = stage, start, config.steps, time.monotonic()
        rows = math.ceil((config.steps - start) / config.log_every)
        self.every = max(1, math.ceil(rows / LINES_PER_STAGE)) * config.log_every

    def on_step(self, step: int, row: LogRow | None) -> None:
        due = time.monotonic() - self.last > SECONDS_PER_LINE
        if not due and (row is None or (step % self.every and step != self.steps)):
            return
        elapsed = time.monotonic() - self.started
        times = _times(elapsed, step - self.start, self.steps - self.start)
        times += f", since step {self.start:,}" if self.start else ""
        metrics = f"  {format_row(row, self.kind, self.utilisations)}" if row else ""
        self._print(f"{self.name} {step:,}/{self.steps:,}{metrics}  {times}")

    def on_note(self, message: str) -> None:
        self._open()
        self._print(message)
        self.noted = self.last

    def on_evaluation(self, done: int, total: int) -> None:
        if time.monotonic() - self.last > SECONDS_PER_LINE and done < total:
            self._print(f"{done}/{total} {self.kind}  {_times(time.monotonic() - self.noted, done, total)}")

    def stop(self) -> None:
        """Print nothing more of its own accord."""
        self.waiting.cancel()

    def _open(self) -> None:
        self.stop()
        for line in self.heading:
            self._print(line)
        self.heading = []

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)
        self.console.file.flush()
        self.last = time.monotonic()


class _Bar(Progress):
    """The bar of a stage, with its latest metrics on the line below."""

    latest = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.latest:
            yield Text(f"  {self.latest}", style="dim")


class _LiveTraining(TrainingCallback):
    """A bar for the current stage, below those of finished ones, and a spinner between stages."""

    def __init__(self, console: Console, heading: Iterable[str], kind: str, utilisations: Mapping[str, float]):
        self.console, self.kind, self.utilisations = console, kind, utilisations
        self.heading = list(heading)
        self.bar: Any = None
        self.status: Status | None = Status("checking the data", console=console)
        self.status.start()

    def on_init(self, report: InitReport) -> None:
        self.stop()
        self._open()
        print_init(self.console, report)

    def on_stage(self, stage: Stage, config: configs.StageConfig, start: int) -> None:
        self.stop()
        self._open()
        self.bar = _Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            refresh_per_second=4,
            expand=True,
        )
        self.task = self.bar.add_task(stage, total=config.steps, completed=start)
        self.steps = config.steps
        self.bar.start()

    def on_step(self, step: int, row: LogRow | None) -> None:
        if row is not None:
            self.bar.latest = format_row(row, self.kind, self.utilisations)
        self.bar.update(self.task, completed=step)
        if step == self.steps:
            self.stop()
            self._spin("drawing samples")

    def on_note(self, message: str) -> None:
        self.stop()
        self._open()
        self._spin(message)
        self.message, self.noted = message, time.monotonic()

    def on_evaluation(self, done: int, total: int) -> None:
        if self.status is not None:
            times = _times(time.monotonic() - self.noted, done, total)
            self.status.update(f"{self.message}  {done}/{total}  {times}")

    def stop(self) -> None:
        """Stop the live display; the last bar stays on the terminal."""
        for display in (self.bar, self.status):
            if display is not None:
                display.stop()
        self.bar = self.status = None

    def _spin(self, message: str) -> None:
        self.status = Status(message, console=self.console)
        self.status.start()

    def _open(self) -> None:
        for line in self.heading:
            self.console.print(line)
        self.heading = []
