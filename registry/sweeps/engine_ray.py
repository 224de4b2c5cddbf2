"""The engine of a cluster: every point is a Ray task, placed, retried and moved by Ray's own scheduler.

The sweep's folder must be on a file system that all nodes see, and ulzoo installed on them.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ulzoo.registry.sweeps.engine import RETRIES, SweepCallback
from ulzoo.registry.sweeps.jobs import Job
from ulzoo.registry.sweeps.store import ResultRow, Store

CONNECT_SECONDS = 10
POLL_SECONDS = 1.0


class RayEngine:
    """Trains jobs as tasks of a Ray cluster.

    Args:
        address: of the cluster, "HOST:PORT", "ray://HOST:PORT" or "auto"; None starts one on this machine.
        gpus: of each point, which may be a fraction; None is one where the cluster has GPUs.
        cpus: cores of each point, and its threads.
        watch: told of progress.

    Raises:
        ValueError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(
        self, address: str | None = None, gpus: float | None = None, cpus: int = 1, watch: SweepCallback | None = None
    ) -> None:
        self.ray = _ray()
        self.watch = watch or SweepCallback()
        self.started = not self.ray.is_initialized()
        if self.started:
            _connect(self.ray, address)
        there = self.ray.cluster_resources()
        gpus = float(there.get("GPU", 0) >= 1) if gpus is None else gpus
        self.cpus, self.gpus = cpus, gpus
        for kind, needed in (("CPU", cpus), ("GPU", gpus)):
            if (most := max((node["Resources"].get(kind, 0) for node in self._nodes()), default=0)) < needed:
                self.close()
                raise ValueError(f"a point needs {needed:g} {kind}s, the largest node of the Ray cluster has {most:g}")

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self.ray.nodes() if node["AllocationTracker"]]

    def run(self, jobs: Sequence[Job]) -> Iterator[ResultRow]:
        task = self.ray.remote(max_retries=RETRIES, retry_exceptions=False, num_cpus=self.cpus, num_gpus=self.gpus)(
            _train
        )
        device = "cuda" if self.gpus else "cpu"
        running = {}
        for job in jobs:
            job = replace(job, device=device, threads=self.cpus)
            running[task.remote(job, os.getcwd())] = job
        try:
            while running:
                ready, _ = self.ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
                for reference in ready:
                    yield self._row(reference, running.pop(reference))
                self._tell(running.values())
        finally:
            for reference in running:
                self.ray.cancel(reference, force=True)
            self.close()

    def close(self) -> None:
        """Leave the cluster, or end the one that was started here."""
        if self.started and self.ray.is_initialized():
            self.ray.shutdown()

    def _row(self, reference: Any, job: Job) -> ResultRow:
        """What a task gave back; a failed row if Ray gave it up, as after a node's third death."""
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            from ulzoo.registry.sweeps.point import in_words, make_row

            row = make_row(job, 0.0, error=f"Ray gave it up: {in_words(error)}")
            Store(job.store).append(row)
            return row

    def _tell(self, jobs: Any) -> None:
        """Where the points that are trained stand, as their metrics in the shared folder say."""
        from ulzoo.training.monitoring import read_rows

        for job in jobs:
            rows = read_rows(Path(job.store) / job.folder / "metrics.jsonl")
            if rows and (last := rows[-1])["stage"] in job.stages:
                steps = job.spec["train"][last["stage"]]["steps"]
                self.watch.started(job)
                self.watch.step(job, last["stage"], last["step"], steps, last["images_per_second"])


def _train(job: Job, folder: str) -> ResultRow:
    """The task: one point, in the folder where the command was given, for the sake of relative paths."""
    import torch

    from ulzoo.registry.sweeps.point import run_point

    if os.path.isdir(folder):
        os.chdir(folder)
    torch.set_num_threads(job.threads)
    return run_point(job)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here reports to nobody
    try:
        import ray
    except ImportError:
        raise ValueError("--engine ray needs the package ray: pip install 'ulzoo[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """Join the cluster, after a look whether anybody listens there: Ray itself would try for minutes."""
    if address and address not in ("auto", "local"):
        host, colon, port = address.removeprefix("ray://").rpartition(":")
        if not colon or not port.isdecimal():
            raise ValueError(f"--address {address}: write HOST:PORT, ray://HOST:PORT or auto")
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "no answer"
            raise ValueError(f"--address {address}: no Ray cluster there ({reason})") from None
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        raise ValueError(f"--address {address}: cannot join a Ray cluster ({str(error).splitlines()[0]})") from None
