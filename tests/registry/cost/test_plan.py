"""The plan of a run."""

import pytest
import torch

from ulzoo.registry.cost import plan
from ulzoo.registry.cost.plan import plan_training
from ulzoo.runtime import devices as device

CPU = torch.device("cpu")


def test_the_memory_is_that_of_the_parts_of_a_batch(tiny):
    single, halves = (
        plan_training(tiny(f"train.latents.accumulate={parts}"), "latents", CPU).stages[0] for parts in (1, 2)
    )
    assert single.memory_bytes == single.memory.peak(single.batch_size)
    assert halves.memory_bytes == halves.memory.peak(halves.batch_size // 2, keeps_gradients=True)


@pytest.mark.parametrize(("kind", "shards"), [("ddp", 1), ("fsdp", 2)])
def test_processes_share_the_batch_and_with_fsdp_the_weights(kind, shards, tiny):
    planned = plan_training(tiny(f"train.parallel.kind={kind}"), "base", CPU, 2).stages[0]
    expected = planned.memory.peak(planned.batch_size // 2, shards, keeps_gradients=kind == "ddp")
    assert planned.memory_bytes == expected


def test_the_largest_batch_is_the_last_that_fits(tiny, monkeypatch):
    planned = plan_training(tiny("train.latents.accumulate=2"), "latents", CPU).stages[0]
    monkeypatch.setattr(plan, "device_memory", lambda _: 50_000_000)
    largest = planned.largest_batch
    assert largest % 2 == 0
    peaks = [planned.memory.peak(examples, keeps_gradients=True) for examples in (largest // 2, largest // 2 + 1)]
    assert peaks[0] <= plan.USABLE_MEMORY * 50_000_000 < peaks[1]
    monkeypatch.setattr(plan, "device_memory", lambda _: 100)
    assert planned.largest_batch == 0


def test_memory_of_the_processor_is_the_limit_of_the_container(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "CGROUP", tmp_path / "none")
    total = device.device_memory(CPU)
    assert total > 1 << 28
    for limit, expected in {"max\n": total, "1000000\n": 1_000_000}.items():
        monkeypatch.setattr(device, "CGROUP", tmp_path / "memory.max")
        (tmp_path / "memory.max").write_text(limit)
        assert device.device_memory(CPU) == expected
