"""Engines train the jobs of a sweep somewhere and give back their rows as they come in.

An engine has `run(jobs) -> Iterator[ResultRow]`: a row of every job, in any order, each in the store by then. A job whose
process dies is tried again, from its last checkpoint, `RETRIES` times before it fails.
"""

from ulzoo.registry.sweeps.jobs import Job

RETRIES = 2


class SweepCallback:
    """What a display may want to hear; this one hears nothing."""

    def started(self, job: Job) -> None: ...

    def step(self, job: Job, stage: str, step: int, steps: int, images_per_second: float | None) -> None: ...

    def note(self, job: Job, message: str) -> None: ...
