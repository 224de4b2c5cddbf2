"""The progress of `ulzoo sweep`: a bar for all points and one for each running point, or plain lines."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ulzoo.cli.display.terminal import duration, say
from ulzoo.registry.sweeps.jobs import Job, SweepCallback
from ulzoo.registry.sweeps.store import ResultRow, Store

SECONDS_PER_LINE = 60


@contextmanager
def show_progress(
    console: Console, jobs: Sequence[Job], missing: Sequence[Job], store: Store, devices: Sequence[str]
) -> Iterator["SweepLines"]:
    """Print a line about the jobs, and yield the callback for the engine that trains those that are `missing`."""
    settled = len({job.spec_hash for job in jobs}) - len(missing)
    where = f", {len(devices)} at a time on {', '.join(dict.fromkeys(devices))}" if devices and missing else ""
    done = f", {settled} there already" if settled else ""
    console.print(f"{len(missing)} points to train{where}{done}; results in {store.folder}", soft_wrap=True)
    if not missing or not console.is_terminal:
        yield SweepLines(console, missing)
    else:
        live = _SweepBars(console, missing)
        try:
            yield live
        finally:
            live.bars.stop()


class WorkEstimate:
    """The share of all jobs that is done, in FLOPs, and the time that the rest takes at the rate so far."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.total = sum(job.cost.flops for job in jobs)
        self.costs = {job.spec_hash: job.cost for job in jobs}
        self.done: dict[str, float] = {}
        self.resumed: dict[str, float] = {}  # FLOPs that were done before this command
        self.started = time.monotonic()

    def reach(self, job: Job, stage: str, step: int, steps: int) -> None:
        """Record the current step of a job."""
        flops = job.cost.training_flops
        before = job.stages[: job.stages.index(stage)]
        self.done[job.spec_hash] = sum(flops[name] for name in before) + flops[stage] * step / steps
        self.resumed.setdefault(job.spec_hash, self.done[job.spec_hash])

    def finish(self, spec_hash: str) -> None:
        """Record that a job has ended."""
        if spec_hash in self.costs:
            self.done[spec_hash] = self.costs[spec_hash].flops
            self.resumed.setdefault(spec_hash, 0.0)

    @property
    def seconds_left(self) -> float | None:
        """None before the first step."""
        trained = sum(self.done.values()) - sum(self.resumed.values())
        if trained <= 0:
            return None
        return (time.monotonic() - self.started) * (self.total - sum(self.done.values())) / trained


class SweepLines(SweepCallback):
    """Prints plain lines: one when a point ends, and one per minute in between."""

    def __init__(self, console: Console, jobs: Sequence[Job]) -> None:
        self.console, self.jobs = console, jobs
        self.work, self.ended, self.last_line = WorkEstimate(jobs), 0, time.monotonic()
        self.labels = {job.spec_hash: job.label for job in jobs}

    def step(self, job: Job, stage: str, step: int, steps: int, images_per_second: float | None) -> None:
        self.work.reach(job, stage, step, steps)
        if time.monotonic() - self.last_line > SECONDS_PER_LINE:
            self.last_line = time.monotonic()
            self.write(f"{job.label}: {describe_step(stage, step, steps, images_per_second)}{self.time_left()}")

    def note(self, job: Job, message: str) -> None:
        say(f"{job.label}: {message}")

    def finished(self, row: ResultRow) -> None:
        """Called with the row of every point that has ended."""
        self.work.finish(row["spec_hash"])
        self.ended += 1
        self.last_line = time.monotonic()
        label = self.labels.get(row["spec_hash"], row["point"])
        self.write(f"{self.ended}/{len(self.jobs)}  {label}  {summarize_row(row)}{self.time_left()}")

    def time_left(self) -> str:
        seconds = self.work.seconds_left
        return "" if seconds is None or self.ended == len(self.jobs) else f"  about {duration(seconds)} left"

    def write(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)
        self.console.file.flush()


class _SweepBars(SweepLines):
    """Shows progress bars, with the lines of finished points above them."""

    def __init__(self, console: Console, jobs: Sequence[Job]) -> None:
        super().__init__(console, jobs)
        columns = TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.fields[text]}")
        self.bars = Progress(*columns, console=console, refresh_per_second=4)
        self.total_bar = self.bars.add_task("points", total=max(self.work.total, 1), text=f"0/{len(jobs)}")
        self.tasks: dict[str, TaskID] = {}
        self.bars.start()

    def started(self, job: Job) -> None:
        if job.spec_hash not in self.tasks:
            self.tasks[job.spec_hash] = self.bars.add_task(f"  {job.label}", total=job.cost.flops, text="starting")

    def step(self, job: Job, stage: str, step: int, steps: int, images_per_second: float | None) -> None:
        self.work.reach(job, stage, step, steps)
        text = describe_step(stage, step, steps, images_per_second)
        self.bars.update(self.tasks[job.spec_hash], completed=self.work.done[job.spec_hash], text=text)
        self._update_total()

    def finished(self, row: ResultRow) -> None:
        if (task := self.tasks.pop(row["spec_hash"], None)) is not None:
            self.bars.remove_task(task)
        super().finished(row)
        self._update_total()

    def _update_total(self) -> None:
        text = f"{self.ended}/{len(self.jobs)}{self.time_left()}"
        self.bars.update(self.total_bar, completed=sum(self.work.done.values()), text=text)


def describe_step(stage: str, step: int, steps: int, images_per_second: float | None) -> str:
    """ "latents 1,200/4,000  310.5/s"; after the last step, what follows it."""
    speed = f"  {images_per_second:.1f}/s" if images_per_second else ""
    return f"{stage} {step:,}/{steps:,}{speed}" if step < steps else f"{stage} {step:,}, measuring or drawing"


def summarize_row(row: ResultRow) -> str:
    """Rate, PSNR and time of a finished point, or its status and error."""
    if row["status"] != "done":
        return f"{row['status']}: {row['error']}"
    metrics = row["figures"]
    rate = f"{metrics['bits_per_pixel']:.4f} bits/pixel, " if "bits_per_pixel" in metrics else ""
    mean = f" (mean image {metrics['mean_image_psnr_db']:.2f})" if "mean_image_psnr_db" in metrics else ""
    return f"{rate}{metrics['psnr_db']:.2f} dB{mean}  {duration(row['seconds'])}"
