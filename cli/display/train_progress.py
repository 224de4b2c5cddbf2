"""What `ulzoo train` shows while it runs: a live bar on a terminal, about twenty lines a stage elsewhere."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.status import Status
from rich.text import Text

from ulzoo.cli.display.terminal import duration
from ulzoo.model.contract import Stage
from ulzoo.registry.runs.train import TrainingCallback
from ulzoo.training import config as configs
from ulzoo.training.monitoring import LogRow

LINES_PER_STAGE = 20
SECONDS_PER_LINE = 20


@contextmanager
def display(
    console: Console, heading: Sequence[str], kind: str = "images", shares: Mapping[str, float] | None = None
) -> Iterator[TrainingCallback]:
    """A watch for `ulzoo.registry.runs.train.train` that prints `heading` when training begins, of "images" or "clips".

    Args:
        shares: by stage, the share of the devices' FLOPs that one image a second takes.
    """
    if not console.is_terminal:
        yield _Lines(console, heading, kind, shares or {})
        return
    live = _LiveTraining(console, heading, kind, shares or {})
    try:
        yield live
    finally:
        live.stop()


def figures(row: LogRow, kind: str = "images", shares: Mapping[str, float] | None = None) -> str:
    """A row of metrics in words, with the model FLOPs utilisation where the stage's share is known."""
    parts = [f"{row['images_per_second']:.1f} {kind}/s"]
    if "rate_bits_per_pixel" in row:
        parts += [f"rate {row['rate_bits_per_pixel']:.4f} bits/pixel", f"distortion {row['distortion']:.4f}"]
    else:
        parts += [f"loss {row['loss']:.4f}"]
    parts.append(f"data wait {row['data_wait']:.0%}")
    if shares and row["stage"] in shares:
        parts.append(f"MFU {row['images_per_second'] * shares[row['stage']]:.0%}")
    return "  ".join(parts)


def _times(elapsed: float, done: int, total: int) -> str:
    left = elapsed / done * (total - done)
    return f"{duration(elapsed)} gone, {duration(left)} left" if left else duration(elapsed)


class _Lines(TrainingCallback):
    """Plain lines."""

    def __init__(self, console: Console, heading: Iterable[str], kind: str, shares: Mapping[str, float]):
        self.console, self.kind, self.shares = console, kind, shares
        self.heading = list(heading)

    def stage(self, stage: Stage, config: configs.StageConfig, start: int) -> None:
        self._open()
        self.name, self.start, self.steps, self.started = stage, start, config.steps, time.monotonic()
        rows = math.ceil((config.steps - start) / config.log_every)
        self.every = max(1, math.ceil(rows / LINES_PER_STAGE)) * config.log_every

    def step(self, step: int, row: LogRow | None) -> None:
        if row is None or (step % self.every and step != self.steps):
            return
        elapsed = time.monotonic() - self.started
        times = _times(elapsed, step - self.start, self.steps - self.start)
        self._print(f"{self.name} {step:,}/{self.steps:,}  {figures(row, self.kind, self.shares)}  {times}")

    def note(self, message: str) -> None:
        self._open()
        self._print(message)
        self.noted = self.last = time.monotonic()

    def measured(self, done: int, total: int) -> None:
        if time.monotonic() - self.last > SECONDS_PER_LINE and done < total:
            self.last = time.monotonic()
            self._print(f"{done}/{total} {self.kind}  {_times(self.last - self.noted, done, total)}")

    def _open(self) -> None:
        for line in self.heading:
            self._print(line)
        self.heading = []

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)
        self.console.file.flush()


class _Bar(Progress):
    """A stage's bar over a line of its latest figures."""

    latest = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.latest:
            yield Text(f"  {self.latest}", style="dim")


class _LiveTraining(TrainingCallback):
    """A bar for the stage that runs, with what is above it staying, and a spinner for what comes between."""

    def __init__(self, console: Console, heading: Iterable[str], kind: str, shares: Mapping[str, float]):
        self.console, self.kind, self.shares = console, kind, shares
        self.heading = list(heading)
        self.bar: Any = None
        self.status: Status | None = Status("checking the data", console=console)
        self.status.start()

    def stage(self, stage: Stage, config: configs.StageConfig, start: int) -> None:
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

    def step(self, step: int, row: LogRow | None) -> None:
        if row is not None:
            self.bar.latest = figures(row, self.kind, self.shares)
        self.bar.update(self.task, completed=step)
        if step == self.steps:
            self.stop()
            self._spin("drawing pictures")

    def note(self, message: str) -> None:
        self.stop()
        self._open()
        self._spin(message)
        self.message, self.noted = message, time.monotonic()

    def measured(self, done: int, total: int) -> None:
        if self.status is not None:
            times = _times(time.monotonic() - self.noted, done, total)
            self.status.update(f"{self.message}  {done}/{total}  {times}")

    def stop(self) -> None:
        """Leave the terminal as it was found, the last bar standing."""
        for shown in (self.bar, self.status):
            if shown is not None:
                shown.stop()
        self.bar = self.status = None

    def _spin(self, message: str) -> None:
        self.status = Status(message, console=self.console)
        self.status.start()

    def _open(self) -> None:
        for line in self.heading:
            self.console.print(line)
        self.heading = []
