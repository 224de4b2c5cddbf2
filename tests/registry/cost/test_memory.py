"""The memory of a step, compared with manual counts and with a real step of the trainer."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from ulzoo.data.source import TensorSource
from ulzoo.registry import load_spec
from ulzoo.registry.compile import compile_model, data_contract
from ulzoo.registry.cost.memory import (
    EXAMPLES,
    AllocationTracker,
    MemorySnapshot,
    StepMemory,
    _state_bytes,
    step_memory,
)
from ulzoo.runtime.devices import has_bf16
from ulzoo.training.trainer import AsyncCheckpointer, Trainer, TrainerOptions


def test_linear_layers():
    """A matrix saves its input, but not its weight and output; a square saves its input; shared tensors count once."""

    class Toy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(10, 20), nn.Linear(20, 30)

        def forward(self, x):
            h = self.a(x)  # saves x: 10 floats per example
            return self.b(h).square().sum()  # saves h: 20, and the input of the square: 30

    with FakeTensorMode():
        toy = Toy()
        with AllocationTracker(toy) as tracker:
            x = torch.empty(EXAMPLES, 10)
            toy(x)
        forward = max(tracker.snapshots([]), key=lambda snapshot: snapshot.per_example)
    assert forward.per_example == 4 * (10 + 20 + 30 + 30)  # including the square, temporarily
    assert forward.fixed == 4  # the sum


def test_the_peak_is_the_largest_snapshot():
    memory = StepMemory(100, 1000, 40, (MemorySnapshot(0, 10, 0), MemorySnapshot(20, 0, 40)), {4: 10})
    assert memory.peak(1) == 100 + 1000 + 60  # after the backward pass, the gradients
    assert memory.peak(50) == 100 + 1000 + 500  # before it, the saved tensors
    assert memory.peak(50, keeps_gradients=True) == 100 + 1040 + 500
    assert memory.peak(50, shards=4) == 100 + 250 + 500
    assert memory.peak(1, shards=4) == 100 + 260 + 20


def test_the_maximal_number_of_examples_just_fits():
    memory = StepMemory(100, 1000, 40, (MemorySnapshot(0, 10, 0), MemorySnapshot(20, 0, 40)), {4: 10})
    assert memory.max_examples(2000) == 90
    assert memory.max_examples(1999) == 89
    assert memory.max_examples(1159) == 0
    assert memory.peak(memory.max_examples(123456)) <= 123456 < memory.peak(memory.max_examples(123456) + 1)


@pytest.mark.parametrize(("optimizer", "bytes_of_a_value"), [("adamw", 8), ("sgd", 4), ("lion", 4)])
def test_the_state_of_an_optimizer(optimizer, bytes_of_a_value, tiny):
    layer = nn.Sequential(nn.Linear(300, 200), nn.Conv2d(100, 30, 3))
    values = sum(parameter.numel() for parameter in layer.parameters())
    config = tiny(f"train.latents.optimizer={optimizer}").train.latents
    assert _state_bytes(layer, config) == pytest.approx(bytes_of_a_value * values, rel=0.01)


@pytest.mark.parametrize(
    ("stage", "batch_size", "overrides"),
    [
        ("latents", 8, []),
        ("latents", 32, ["train.latents.precision=bf16"]),
        ("latents", 32, ["train.parallel.checkpoint_activations=true"]),
        ("latents", 8, ["train.latents.accumulate=2"]),
        ("base", 32, []),
        ("base", 8, ["train.base.precision=bf16", "train.parallel.checkpoint_activations=true"]),
    ],
)
def test_the_estimate_is_the_memory_of_a_step(stage, batch_size, overrides, tmp_path, monkeypatch):
    """The peak that PyTorch's profiler reports from the first weight through two steps."""
    steps = [f"train.{stage}.{key}" for key in (f"batch_size={batch_size}", "steps=2", "precision=fp32")]
    spec = load_spec("emoji32_tiny", [*steps, *overrides])
    config, contract = getattr(spec.train, stage), data_contract(spec)
    bf16 = config.precision == "bf16"
    if bf16 and not has_bf16(torch.device("cpu")):
        pytest.skip("no bfloat16 here")
    images = torch.zeros(batch_size, *contract.shape, dtype=torch.uint8)
    source = TensorSource(images, labels=[0] * batch_size, keys=[""] * batch_size, contract=contract)
    monkeypatch.setattr(AsyncCheckpointer, "save", lambda *_: None)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        options = TrainerOptions({}, parallel=spec.train.parallel)
        Trainer(compile_model(spec), stage, config, source, tmp_path, options).run()
    allocated = peak = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            allocated += event.nbytes()
            peak = max(peak, allocated)
    memory = step_memory(spec, stage, "cpu", bf16)
    estimate = memory.peak(batch_size // config.accumulate, keeps_gradients=config.accumulate > 1)
    assert peak > 10e6
    assert estimate == pytest.approx(peak, rel=0.05)


def test_tracked_averages_count_as_trained_weights(tiny):
    plain, tracked = (
        step_memory(tiny(*overrides), "base", "cpu", bf16=False)
        for overrides in ([], ["train.base.posthoc_ema.snapshot_every=5"])
    )
    assert tracked.trained - plain.trained == 2 * plain.gradients > 0


def test_no_fake_tensors_are_left_behind(tiny):
    step_memory(tiny(), "base", "cpu", bf16=False)
    model = compile_model(tiny())
    assert model.sample(1, steps=1).isfinite().all()
