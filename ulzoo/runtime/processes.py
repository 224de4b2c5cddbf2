"""The processes that torchrun started to work on one model together, and how they communicate.

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT in the environment of every process. A process
started without torchrun is a group of one, for which all communication is a no-op.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist

T = TypeVar("T")
MAIN_TIMEOUT = timedelta(
    days=30
)  # for work of the main process alone, such as evaluation; torchrun ends all if it dies


class ProcessGroup:
    """A group of processes, one per device.

    Attributes:
        rank: the number of this process, from 0.
        world_size: the number of processes.
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size
        self._waits = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files, evaluates and prints."""
        return self.rank == 0

    def local_batch_size(self, batch_size: int, accumulate: int = 1) -> int:
        """The number of examples of a global batch that each process computes.

        Raises:
            ValueError: the batch does not divide evenly among the processes and accumulated parts; suggests the nearest
                sizes that do.
        """
        parts = self.world_size * accumulate
        if batch_size % parts:
            lower = batch_size // parts * parts
            near = f"{lower} or {lower + parts}" if lower else f"{parts}"
            each = f" of {accumulate} accumulated parts each" if accumulate > 1 else ""
            raise ValueError(f"{batch_size} cannot be shared by {self.world_size} processes{each}; {near} can")
        return batch_size // self.world_size

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The elementwise sum over all processes, the same bits in each; `values` is overwritten."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The elementwise mean over all processes; `values` is overwritten."""
        return self.sum(values) / self.world_size if self.world_size > 1 else values

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all processes by rank. It blocks: meant for small objects, not for every training step."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def run_on_all_ranks(self, function: Callable[[], T]) -> T:
        """Call `function` in every process and return its result; if one process fails, all do, and one reports it.

        The main process runs first and the others follow, so that files they share are prepared once.

        Raises:
            ValueError: in the main process: its own error, or that of another process with its rank.
            SystemExit: with status 2, in all other processes.
        """
        result: Any = None
        error: ValueError | None = None
        for main_runs in (True, False):
            if self.is_main is main_runs:
                try:
                    result = function()
                except ValueError as caught:
                    error = caught
            if self.world_size > 1 and main_runs:
                self.wait_for_main()
        errors = [(rank, text) for rank, text in enumerate(self.all_gather(error and str(error))) if text is not None]
        if not errors:
            return result
        if not self.is_main:
            raise SystemExit(2)
        if error:
            raise error
        rank, text = errors[0]
        raise ValueError(f"process {rank} of {self.world_size}: {text}")

    @cached_property
    def cpu_group(self) -> dist.ProcessGroup | None:
        """A second group of the same processes over gloo, for communication in the background of training.

        None for a single process. Creating it is a collective operation: every process must access it.
        """
        return cast(dist.ProcessGroup, dist.new_group(backend="gloo")) if self.world_size > 1 else None

    def wait_for_main(self) -> None:
        """Block until the main process has made the same call, however long that takes."""
        if self.world_size == 1:
            return
        self._waits += 1
        store, key = dist.distributed_c10d._get_default_store(), f"ulzoo/{self._waits}"
        if self.is_main:
            store.set(key, "1")
        else:
            store.wait([key], MAIN_TIMEOUT)


SINGLE_PROCESS = ProcessGroup()


class TorchrunRanks(NamedTuple):
    """The place of a process among those that torchrun started on all machines."""

    rank: int
    world_size: int
    local_rank: int


def torchrun_ranks() -> TorchrunRanks | None:
    """The ranks in the environment; None if this process was not started by torchrun.

    Empty variables count as not set.

    Raises:
        ValueError: the variables are incomplete for more than one process, or are not the ranks of a group.
    """
    texts = {name: os.environ.get(name, "").strip() for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if not texts["RANK"] or not texts["WORLD_SIZE"]:
        return None
    if not texts["LOCAL_RANK"] and texts["WORLD_SIZE"] == "1":
        return None
    given = ", ".join(f"{name}={text}" for name, text in texts.items())
    advice = "start with torchrun, which sets all three, or unset them"
    if not all(text.isdecimal() for text in texts.values()):
        raise ValueError(f"the environment has {given}, where numbers are expected; {advice}")
    ranks = TorchrunRanks(*map(int, texts.values()))
    if max(ranks.rank, ranks.local_rank) >= ranks.world_size:
        raise ValueError(f"the environment has {given}, where ranks are below WORLD_SIZE; {advice}")
    return ranks


def launched_rank() -> int:
    """The rank that torchrun assigned to this process, known before the group exists; else 0."""
    ranks = torchrun_ranks()
    return ranks.rank if ranks else 0


def launched_world_size() -> int:
    """The number of processes that torchrun started, known before the group exists; else 1."""
    ranks = torchrun_ranks()
    return ranks.world_size if ranks else 1


def was_restarted() -> bool:
    """Whether torchrun restarted this process after a process of the group died."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "").strip() not in ("", "0")


def local_device(device: torch.device) -> torch.device:
    """The device of this process: under torchrun the GPU of its local rank, unless `device` has a number.

    Raises:
        ValueError: the machine has fewer GPUs than processes.
    """
    ranks = torchrun_ranks()
    if ranks is None or device.type != "cuda" or device.index is not None:
        return device
    if ranks.local_rank >= (count := torch.cuda.device_count()):
        raise ValueError(f"process {ranks.local_rank} of this machine has no GPU of its own: there are {count}")
    return torch.device("cuda", ranks.local_rank)


@contextmanager
def process_group(device: torch.device, timeout_minutes: float) -> Iterator[ProcessGroup]:
    """Join the group that torchrun started, and leave it at the end of the context.

    Args:
        device: the device of this process.
        timeout_minutes: how long a collective operation waits for another process before it fails.
    """
    ranks = torchrun_ranks()
    if ranks is None or ranks.world_size == 1:
        yield SINGLE_PROCESS
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=_rendezvous(timeout := timedelta(minutes=timeout_minutes)),
        rank=ranks.rank,
        world_size=ranks.world_size,
        timeout=timeout,
    )
    try:
        yield ProcessGroup(ranks.rank, ranks.world_size)
    finally:
        dist.destroy_process_group()


def _rendezvous(timeout: timedelta) -> dist.Store:
    """The store in which the processes find each other's addresses.

    torchrun's store outlives a restart and still holds the addresses of dead processes, so every attempt uses its own
    prefix. On several machines, whose agents count attempts differently, `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1` makes
    torchrun create a new store for each attempt.
    """
    store, *_ = next(dist.rendezvous("env://", timeout=timeout))
    if os.environ.get("GROUP_WORLD_SIZE", "").strip() in ("", "1"):
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT') or 0}", store)
    return store
