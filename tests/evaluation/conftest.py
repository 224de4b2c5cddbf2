import threading
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from ulzoo.registry.compile import compile_model
from ulzoo.runtime.processes import ProcessGroup


@dataclass
class Group:
    """The threads of `on_threads`, which exchange values at a barrier."""

    size: int
    values: dict[int, object] = field(default_factory=dict)

    def __post_init__(self):
        self.barrier = threading.Barrier(self.size)


class Threads(ProcessGroup):
    """One thread in the place of a process."""

    def __init__(self, rank: int, group: Group):
        super().__init__(rank, group.size)
        self.group = group

    def all_gather(self, value):
        self.group.values[self.rank] = value
        self.group.barrier.wait(30)
        values = [self.group.values[rank] for rank in range(self.world_size)]
        self.group.barrier.wait(30)
        return values


@pytest.fixture(scope="session")
def on_threads():
    """on_threads(size, work, make): `work(processes, make())` in each of `size` threads; what the main one returns.

    Everything is made before the threads start, because the registration hooks of modules are global.
    """

    def on_threads(size, work, make=lambda: None):
        results, group, arguments = {}, Group(size), [make() for _ in range(size)]

        def run(rank):
            try:
                results[rank] = work(Threads(rank, group), arguments[rank])
            except BaseException as error:
                group.barrier.abort()
                results[rank] = error

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        errors = [result for result in results.values() if isinstance(result, BaseException)]
        if errors:
            raise min(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError))
        assert all(results[rank] == {} for rank in range(1, size))
        return results[0]

    return on_threads


@pytest.fixture(scope="session")
def untrained():
    """untrained(spec): a model whose weights are all drawn, also those that start at zero."""

    def untrained(spec):
        model = compile_model(spec).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(0))
        return model

    return untrained
