"""The processes that train one model together, as torchrun started them, and what they tell each other.

torchrun gives each its place in the environment: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT. A process
alone is a group of one, which tells nobody anything.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

Found = TypeVar("Found")
DAYS = timedelta(days=30)  # for what only one process works on, such as measuring: torchrun ends all when that one dies


class ProcessGroup:
    """A group of processes, one for each device.

    Attributes:
        rank: this one's number.
        count: how many there are.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count
        self._waited = 0

    @property
    def main(self) -> bool:
        """Whether this one writes, measures and speaks for all."""
        return self.rank == 0

    def share(self, batch_size: int, accumulate: int = 1) -> int:
        """This process's part of a batch.

        Raises:
            ValueError: it cannot be shared out evenly, in as many parts as are accumulated; with the nearest that can.
        """
        parts = self.count * accumulate
        if batch_size % parts:
            lower = batch_size // parts * parts
            near = f"{lower} or {lower + parts}" if lower else f"{parts}"
            each = f" of {accumulate} accumulated parts each" if accumulate > 1 else ""
            raise ValueError(f"{batch_size} cannot be shared by {self.count} processes{each}; {near} can")
        return batch_size // self.count

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of all processes' values, elementwise."""
        if self.count > 1:
            dist.all_reduce(values)
            values = values / self.count
        return values

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank; small ones, for which nobody waits in a step."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found

    def run_on_all_ranks(self, attempt: Callable[[], Found]) -> Found:
        """What `attempt` gives; where it fails for one process it fails for all, and one of them says so.

        The first process goes ahead, the others follow: what they share on a disk is prepared once.

        Raises:
            ValueError: the first process's, or that of another one with its rank.
            SystemExit: with status 2, in the processes that say nothing.
        """
        found: Any = None
        error: ValueError | None = None
        for turn in (True, False):
            if self.main is turn:
                try:
                    found = attempt()
                except ValueError as caught:
                    error = caught
            if self.count > 1 and turn:
                self.wait_for_main()
        errors = [(rank, text) for rank, text in enumerate(self.gather(error and str(error))) if text is not None]
        if not errors:
            return found
        if not self.main:
            raise SystemExit(2)
        if error:
            raise error
        rank, text = errors[0]
        raise ValueError(f"process {rank} of {self.count}: {text}")

    @cached_property
    def side_group(self) -> dist.ProcessGroup | None:
        """The same processes again, over their CPUs, for what goes on beside the training; all must ask."""
        return cast(dist.ProcessGroup, dist.new_group(backend="gloo")) if self.count > 1 else None

    def wait_for_main(self) -> None:
        """Until the first process has come here too, however long it takes."""
        if self.count == 1:
            return
        self._waited += 1
        store, key = dist.distributed_c10d._get_default_store(), f"ulzoo/{self._waited}"
        if self.main:
            store.set(key, "1")
        else:
            store.wait([key], DAYS)


SINGLE_PROCESS = ProcessGroup()


def launched() -> tuple[int, int, int] | None:
    """(rank, count, local rank) that torchrun gave, if it started this process."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    return tuple(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))  # type: ignore[return-value]


def local_process_rank() -> int:
    """This process's number among those that torchrun started."""
    place = launched()
    return place[0] if place else 0


def process_count() -> int:
    """How many processes train together."""
    place = launched()
    return place[1] if place else 1


def restarted() -> bool:
    """Whether torchrun started this process anew after one of the group died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def process_group(device: torch.device, timeout_minutes: float) -> Iterator[ProcessGroup]:
    """The group that this process belongs to, for as long as the context lasts.

    Args:
        device: of this process.
        timeout_minutes: how long to wait for another process within a step before giving up.
    """
    place = launched()
    if place is None or place[1] == 1:
        yield SINGLE_PROCESS
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    rank, count, _ = place
    backend, timeout = ("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"), timedelta(minutes=timeout_minutes)
    dist.init_process_group(backend, store=_meeting(timeout), rank=rank, world_size=count, timeout=timeout)
    try:
        yield ProcessGroup(rank, count)
    finally:
        dist.destroy_process_group()


def _meeting(timeout: timedelta) -> dist.Store:
    """Where the processes find each other's addresses.

    torchrun's store outlives a restart, and with it the addresses of processes that are gone: each attempt has names of
    its own. Agents of several machines count attempts differently: there `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1` has
    torchrun begin a new store.
    """
    store, *_ = next(dist.rendezvous("env://", timeout=timeout))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    return store


def local_device(chosen: torch.device) -> torch.device:
    """The device of this process: under torchrun the GPU of its local rank, unless one was asked for by number."""
    place = launched()
    if place is None or chosen.type != "cuda" or chosen.index is not None:
        return chosen
    if place[2] >= (there := torch.cuda.device_count()):
        raise ValueError(f"process {place[2]} of this machine has no GPU of its own: there are {there}")
    return torch.device("cuda", place[2])
