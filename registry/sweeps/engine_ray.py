"""The engine for a cluster: every job is a Ray task, which Ray's scheduler places, retries and moves between nodes.

The sweep's folder must be on a file system that all nodes share, and ulzoo must be installed on them.
"""

import os
import socket
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ulzoo.registry.runs.stopwatch import seconds_worked
from ulzoo.registry.sweeps.jobs import RETRIES, Job, SweepCallback
from ulzoo.registry.sweeps.point import make_row, run_point
from ulzoo.registry.sweeps.ranks import RankKilled
from ulzoo.registry.sweeps.store import ResultRow, Store, error_line
from ulzoo.training.interruption import STOPPED_STATUS
from ulzoo.training.monitoring import read_rows

CONNECT_SECONDS = 10
VARIABLE = "RAY_ADDRESS"
POLL_SECONDS = 1.0


class RayEngine:
    """Trains jobs as tasks of a Ray cluster.

    Args:
        address: of the cluster, "HOST:PORT", "ray://HOST:PORT" or "auto"; None: that of the variable
            RAY_ADDRESS, or else start one on this machine.
        gpus: GPUs per job, which may be a fraction; None: one if the cluster has GPUs.
        cpus: CPU cores, and threads, per process of a job.
        processes: processes per job, all on one node; with GPUs each has one.
        callback: receives the progress.

    Raises:
        ValueError: Ray is not installed, there is no cluster at the address, or it is too small for a job.
    """

    def __init__(
        self,
        address: str | None = None,
        gpus: float | None = None,
        cpus: int = 1,
        callback: SweepCallback | None = None,
        *,
        processes: int = 1,
    ) -> None:
        self.ray = _import_ray()
        self.callback = callback or SweepCallback()
        self.started = not self.ray.is_initialized()
        if self.started:
            _connect(self.ray, address)
        if gpus is None:
            gpus = float(processes * (self.ray.cluster_resources().get("GPU", 0) >= 1))
        self.cpus, self.gpus, self.processes = cpus, gpus, processes
        nodes = [node["Resources"] for node in self.ray.nodes() if node["alive"]]
        for resource, needed in (("CPU", cpus * processes), ("GPU", gpus)):
            if (largest := max((node.get(resource, 0) for node in nodes), default=0)) < needed:
                self.close()
                raise ValueError(
                    f"a point needs {needed:g} {resource}s, the largest node of the Ray cluster has {largest:g}"
                )

    def run(self, jobs: Sequence[Job]) -> Iterator[ResultRow]:
        resources = {"num_cpus": self.cpus * self.processes, "num_gpus": self.gpus}
        task = self.ray.remote(max_retries=RETRIES, retry_exceptions=False, **resources)(_train)
        devices = [f"cuda:{i}" if self.gpus else "cpu" for i in range(self.processes)]
        running = {}
        for job in jobs:
            job = replace(job, devices=tuple(devices), threads=self.cpus)
            running[task.remote(job, os.getcwd())] = job
        try:
            while running:
                ready, _ = self.ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
                for reference in ready:
                    yield self._result(reference, running.pop(reference))
                self._report_progress(running.values())
        finally:
            for reference in running:
                self.ray.cancel(reference, force=True)
            self.close()

    def close(self) -> None:
        """Disconnect from the cluster, or stop the one that was started here."""
        if self.started and self.ray.is_initialized():
            self.ray.shutdown()

    def _result(self, reference: Any, job: Job) -> ResultRow:
        """The row that a task returned; a failed row if Ray gave the task up, as after the loss of a third node."""
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            seconds = seconds_worked(Path(job.store) / job.folder)
            row = make_row(job, seconds, error=f"Ray gave it up: {error_line(error)}")
            Store(job.store).append(row)
            return row

    def _report_progress(self, jobs: Collection[Job]) -> None:
        """Report the current steps, read from the metrics in the shared folder."""
        for job in jobs:
            rows = read_rows(Path(job.store) / job.folder / "metrics.jsonl")
            if rows and (last := rows[-1])["stage"] in job.stages:
                steps = job.spec["train"][last["stage"]]["steps"]
                self.callback.started(job)
                self.callback.step(job, last["stage"], last["step"], steps, last["images_per_second"])


def _train(job: Job, working_directory: str) -> ResultRow:
    """The Ray task: trains a job in the working directory of the command, to which paths may be relative."""
    if os.path.isdir(working_directory):
        os.chdir(working_directory)
    torch.set_num_threads(job.threads)
    try:
        return run_point(job)
    except (KeyboardInterrupt, RankKilled):  # the node is shut down; Ray restarts the task of a process that ends
        os._exit(STOPPED_STATUS)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here sends no usage statistics
    try:
        import ray
    except ImportError:
        raise ValueError("--engine ray needs the package ray: pip install 'ulzoo[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """Connect to a cluster. Whether its port is open is checked first, since Ray would retry for minutes.

    Without an address, and for "auto", Ray uses the variable RAY_ADDRESS if it is set.
    """
    option = f"--address {address}" if address else "a cluster on this machine"
    if address in (None, "", "auto") and os.environ.get(VARIABLE):
        address = os.environ[VARIABLE]
        option = f"{VARIABLE}={address} (unset it to start a cluster on this machine)"
    if address and address not in ("auto", "local"):
        host, colon, port = address.removeprefix("ray://").rpartition(":")
        if not colon or not port.isdecimal():
            raise ValueError(f"{option}: write HOST:PORT, ray://HOST:PORT or auto")
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "no answer"
            raise ValueError(f"{option}: no Ray cluster there ({reason})") from None
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        raise ValueError(f"{option}: cannot join a Ray cluster ({str(error).splitlines()[0]})") from None
