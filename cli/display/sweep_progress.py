"""What `ulzoo sweep` shows while it runs: a bar for all points and one for each that is trained, or plain lines."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ulzoo.cli.display.terminal import duration, say
from ulzoo.registry.sweeps.engine import SweepCallback
from ulzoo.registry.sweeps.jobs import Job
from ulzoo.registry.sweeps.store import ResultRow, Store

SECONDS_PER_LINE = 60


@contextmanager
def display(
    console: Console, jobs: Sequence[Job], missing: Sequence[Job], store: Store, devices: Sequence[str]
) -> Iterator["Lines"]:
    """A watch for an engine that trains `missing`, after a line on what will be done."""
    there = len({job.spec_hash for job in jobs}) - len(missing)
    where = f", {len(devices)} at a time on {', '.join(dict.fromkeys(devices))}" if devices and missing else ""
    done = f", {there} there already" if there else ""
    console.print(f"{len(missing)} points to train{where}{done}; results in {store.folder}", soft_wrap=True)
    if not missing or not console.is_terminal:
        yield Lines(console, missing)
    else:
        live = _LiveSweep(console, missing)
        try:
            yield live
        finally:
            live.bars.stop()


class Work:
    """How much of all jobs is done, in FLOPs, and how long the rest will take at the rate so far."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.total = sum(job.cost.flops for job in jobs)
        self.costs = {job.spec_hash: job.cost for job in jobs}
        self.done: dict[str, float] = {}
        self.found: dict[str, float] = {}
        self.started = time.monotonic()

    def reach(self, job: Job, stage: str, step: int, steps: int) -> None:
        flops = job.cost.training_flops
        before = job.stages[: job.stages.index(stage)]
        self.done[job.spec_hash] = sum(flops[name] for name in before) + flops[stage] * step / steps
        self.found.setdefault(job.spec_hash, self.done[job.spec_hash])

    def finish(self, spec_hash: str) -> None:
        if spec_hash in self.costs:
            self.done[spec_hash] = self.costs[spec_hash].flops
            self.found.setdefault(spec_hash, 0.0)

    @property
    def seconds_left(self) -> float | None:
        """None while nothing was trained yet."""
        here = sum(self.done.values()) - sum(self.found.values())
        if here <= 0:
            return None
        return (time.monotonic() - self.started) * (self.total - sum(self.done.values())) / here


class Lines(SweepCallback):
    """Plain lines: one when a point ends, one a minute meanwhile."""

    def __init__(self, console: Console, jobs: Sequence[Job]) -> None:
        self.console, self.jobs = console, jobs
        self.work, self.ended, self.last = Work(jobs), 0, time.monotonic()
        self.labels = {job.spec_hash: job.label for job in jobs}

    def step(self, job: Job, stage: str, step: int, steps: int, images_per_second: float | None) -> None:
        self.work.reach(job, stage, step, steps)
        if time.monotonic() - self.last > SECONDS_PER_LINE:
            self.last = time.monotonic()
            self.write(f"{job.label}: {at(stage, step, steps, images_per_second)}{self.left()}")

    def note(self, job: Job, message: str) -> None:
        say(f"{job.label}: {message}")

    def finished(self, row: ResultRow) -> None:
        """A point's row came in."""
        self.work.finish(row["spec_hash"])
        self.ended += 1
        self.last = time.monotonic()
        label = self.labels.get(row["spec_hash"], row["point"])
        self.write(f"{self.ended}/{len(self.jobs)}  {label}  {in_short(row)}{self.left()}")

    def left(self) -> str:
        seconds = self.work.seconds_left
        return "" if seconds is None or self.ended == len(self.jobs) else f"  about {duration(seconds)} left"

    def write(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)
        self.console.file.flush()


class _LiveSweep(Lines):
    """Bars, with the lines of points that ended above them."""

    def __init__(self, console: Console, jobs: Sequence[Job]) -> None:
        super().__init__(console, jobs)
        columns = TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.fields[words]}")
        self.bars = Progress(*columns, console=console, refresh_per_second=4)
        self.all = self.bars.add_task("points", total=max(self.work.total, 1), words=f"0/{len(jobs)}")
        self.tasks: dict[str, TaskID] = {}
        self.bars.start()

    def started(self, job: Job) -> None:
        if job.spec_hash not in self.tasks:
            self.tasks[job.spec_hash] = self.bars.add_task(f"  {job.label}", total=job.cost.flops, words="starting")

    def step(self, job: Job, stage: str, step: int, steps: int, images_per_second: float | None) -> None:
        self.work.reach(job, stage, step, steps)
        words = at(stage, step, steps, images_per_second)
        self.bars.update(self.tasks[job.spec_hash], completed=self.work.done[job.spec_hash], words=words)
        self._all()

    def finished(self, row: ResultRow) -> None:
        if (task := self.tasks.pop(row["spec_hash"], None)) is not None:
            self.bars.remove_task(task)
        super().finished(row)
        self._all()

    def _all(self) -> None:
        words = f"{self.ended}/{len(self.jobs)}{self.left()}"
        self.bars.update(self.all, completed=sum(self.work.done.values()), words=words)


def at(stage: str, step: int, steps: int, images_per_second: float | None) -> str:
    """Where a point stands."""
    speed = f"  {images_per_second:.1f}/s" if images_per_second else ""
    return f"{stage} {step:,}/{steps:,}{speed}" if step < steps else f"{stage} {step:,}, measuring or drawing"


def in_short(row: ResultRow) -> str:
    """A row in a few words."""
    if row["status"] != "done":
        return f"{row['status']}: {row['error']}"
    figures = row["figures"]
    rate = f"{figures['bits_per_pixel']:.4f} bits/pixel, " if "bits_per_pixel" in figures else ""
    return f"{rate}{figures['psnr_db']:.2f} dB  {duration(row['seconds'])}"
