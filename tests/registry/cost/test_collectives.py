"""Calls and bytes of collectives, compared with those of FSDP2 and DDP on fake processes."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from ulzoo.model.conditioning import Conditions
from ulzoo.model.losses import StageLoss
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.registry import load_spec
from ulzoo.registry.compile import compile_model
from ulzoo.registry.cost.collectives import muon_collectives, replicated_collectives, sharded_collectives
from ulzoo.runtime.processes import ProcessGroup
from ulzoo.training import parallelize
from ulzoo.training.optimizers import build_optimizer
from ulzoo.training.parametrisation import trained_networks

FULL_TENSORS = {"_allgather_base_": 0, "_reduce_scatter_base_": 1, "all_gather_into_tensor": None}
"""Collective -> the argument that is the full tensor, or None for the result."""


class CollectiveCounter(TorchDispatchMode):
    """Counts the calls of collectives, and the bytes of full tensors that they gather or reduce."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, name = function(*args, **(kwargs or {})), function._opname
        if name in FULL_TENSORS:
            full = result if FULL_TENSORS[name] is None else args[FULL_TENSORS[name]]
            self.calls[name] += 1
            self.bytes[name] += full.numel() * full.element_size()
        return result


@contextmanager
def fake_processes(count: int) -> Iterator[ProcessGroup]:
    dist.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    try:
        yield ProcessGroup(world_size=count)
    finally:
        dist.destroy_process_group()


@contextmanager
def fake_networks(model: str, stage: Any, processes: int) -> Iterator[tuple[UnifiedLatents, nn.ModuleDict, Any]]:
    """A packaged model and the networks of its stage as fake tensors, and a function that shards them by FSDP2."""
    with fake_processes(processes) as group, pytest.MonkeyPatch.context() as patch:
        mesh = init_device_mesh("cpu", (processes,))  # reads its ranks, which fake tensors do not have
        patch.setattr(parallelize, "init_device_mesh", lambda *_: mesh)
        with FakeTensorMode():
            compiled = compile_model(load_spec(model), pretrained=False)
            compiled.prepare(stage)
            networks = trained_networks(compiled, stage)
            yield compiled, networks, lambda bf16: parallelize.shard(networks, group, torch.device("cpu"), bf16)


def counted(loss: nn.Module, shape: tuple[int, ...], bf16: bool) -> CollectiveCounter:
    """The collectives of a forward and a backward pass."""
    with CollectiveCounter() as counter:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss(torch.zeros(2, *shape), Conditions())["loss"]
        value.backward()
    return counter


@pytest.mark.parametrize(
    ("name", "stage", "processes"),
    [
        ("emoji32_tiny", "latents", 8),
        ("emoji32_tiny", "base", 64),
        pytest.param("imagenet512_medium", "base", 64, marks=pytest.mark.slow),
        pytest.param("kinetics600_medium", "base", 8, marks=pytest.mark.slow),
    ],
)
def test_fsdp(name: str, stage: Any, processes: int) -> None:
    bf16 = name.endswith("medium")
    with fake_networks(name, stage, processes) as (model, networks, shard):
        expected = sharded_collectives(networks, processes, bf16=bf16)
        shard(bf16)
        counter = counted(StageLoss(model, stage), model.contract.shape, bf16)
    calls = {"_allgather_base_": expected.gathers, "_reduce_scatter_base_": expected.reductions}
    assert counter.calls == calls
    assert counter.bytes.total() * (processes - 1) / processes == pytest.approx(expected.bytes_sent)


def test_ddp() -> None:
    spec, processes = load_spec("emoji32_tiny"), 8
    with fake_processes(processes) as group:
        model = compile_model(spec, pretrained=False)
        model.prepare("latents")
        networks = trained_networks(model, "latents")
        expected = replicated_collectives(networks, processes)
        ddp = parallelize.replicate(StageLoss(model, "latents"), group)
        buckets = ddp._get_ddp_logging_data()["bucket_sizes"].split(", ")  # type: ignore[operator, union-attr]
    assert len(buckets) == 1 and expected.reductions == 2  # from the second step on, the first MiB is reduced early
    assert sum(map(int, buckets)) == sum(4 * parameter.numel() for parameter in networks.parameters())
    assert expected.bytes_sent == 2 * sum(map(int, buckets)) * 7 / 8


def test_parts_of_a_batch_are_gathered_and_reduced_each() -> None:
    networks = nn.ModuleDict({"encoder": nn.Linear(6, 4, bias=False)})
    once = sharded_collectives(networks, 3, bf16=True)
    assert (once.gathers, once.reductions) == (1, 1)
    assert once.bytes_sent == 6 * 6 * (2 + 4) * 2 / 3  # four rows are padded to six
    parts = sharded_collectives(networks, 3, bf16=True, parts=2)
    assert (parts.gathers, parts.bytes_sent) == (2, 2 * once.bytes_sent)


@pytest.mark.parametrize(("stage", "processes"), [("latents", 8), ("base", 64)])
def test_muon_gathers_the_momenta_of_a_stack_at_once(stage: Any, processes: int) -> None:
    config = getattr(load_spec("emoji32_tiny").train, stage)
    with fake_networks("emoji32_tiny", stage, processes) as (_, networks, shard):
        expected = muon_collectives(networks, processes, bf16=False)
        shard(False)
        optimizer = build_optimizer(networks, config)
        optimizer.dtype = torch.float32  # type: ignore[attr-defined]
        for parameter in networks.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with CollectiveCounter() as counter:
            optimizer.step()
    assert counter.calls == {"all_gather_into_tensor": expected.gathers}
    assert counter.bytes.total() * (processes - 1) / processes == pytest.approx(expected.bytes_sent)
