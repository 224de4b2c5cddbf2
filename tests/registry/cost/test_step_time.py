"""Time and energy on accelerators, compared with manual counts; shards, with those of FSDP2 on fake processes."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from ulzoo.registry.cost.accelerators import ACCELERATORS, Machines, parse_machines
from ulzoo.registry.cost.memory import StepMemory, _leading
from ulzoo.registry.cost.plan import plan_training
from ulzoo.registry.cost.step_time import MFU, kilowatt_hours, step_time

CPU = torch.device("cpu")


def test_machines_are_read_from_their_name():
    assert parse_machines("8xH100") == Machines(8, ACCELERATORS["h100"])
    assert parse_machines("b200") == Machines(1, ACCELERATORS["b200"])
    for text in ("0xh100", "x", "8 h100", "-1xh100", ""):
        with pytest.raises(ValueError, match="expected a number and one of"):
            parse_machines(text)
    with pytest.raises(ValueError, match="did you mean 'h200'"):
        parse_machines("8xh20")


def test_a_ring_over_several_hosts_is_as_fast_as_their_network():
    assert Machines(8, ACCELERATORS["h100"]).bandwidth == 450e9
    assert Machines(16, ACCELERATORS["h100"]).bandwidth == 400e9
    assert Machines(16, ACCELERATORS["l40s"]).bandwidth == 32e9


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_step_is_the_sum_of_its_parts(kind, tiny):
    machines = Machines(2, ACCELERATORS["a100"])
    spec = tiny(f"train.parallel.kind={kind}", "train.base.precision=bf16")
    stage = plan_training(spec, "base", CPU, 2, machines).stages[0]
    step, weights = step_time(stage), stage.memory.weights
    assert stage.precision == "bf16"
    assert stage.device_memory == 80e9
    assert weights == sum(plan_training(spec, "base", CPU).summary.parameters[name] for name in ("base",))
    assert step.compute == pytest.approx(stage.batch_size * stage.flops_per_image / 2 / (MFU * 312e12))
    assert step.optimizer >= 44 * weights / (1 if kind == "ddp" else 2) / 2.039e12
    sent = stage.collectives.bytes_sent
    most = weights * 8 / 2  # DDP: all-reduce in fp32; FSDP: 2 + 2 bytes gathered, only 2 outside blocks, and 4 reduced
    assert sent == most if kind == "ddp" else 0.75 * most < sent < most
    assert step.collectives == sent / 300e9
    assert step.total == step.compute + step.optimizer + max(0, step.collectives - 2 / 3 * step.compute)
    assert kilowatt_hours(3600, machines) == pytest.approx(0.8)


@pytest.mark.parametrize("processes", [8, 64, 1024])
def test_the_largest_shard_is_that_of_fsdp(processes):
    layers = nn.Sequential(nn.Linear(24, 72), nn.Conv2d(5, 7, 3), nn.LayerNorm(96))
    parameters = list(layers.parameters())
    weights = sum(parameter.numel() for parameter in parameters)
    memory = StepMemory(0, 0, 0, (), _leading(parameters))
    dist.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    try:
        fully_shard(layers)
        first = sum(parameter.to_local().numel() for parameter in layers.parameters())
    finally:
        dist.destroy_process_group()
    assert memory.largest_shard(processes) == pytest.approx(first / weights)
