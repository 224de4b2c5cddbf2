"""The numbers of a spec against counts by hand, the real model, and the memory that a step really takes."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from ulzoo.data.source import TensorSource
from ulzoo.registry import load_spec
from ulzoo.registry.compile import compile_model, data_contract
from ulzoo.registry.summary import Summary, _saved_bytes, summarize, training_bytes
from ulzoo.training.trainer import Trainer


def test_parameters_are_those_of_the_real_model(tiny):
    summary, model = summarize(tiny()), compile_model(tiny())
    for name, count in summary.parameters.items():
        assert count == sum(parameter.numel() for parameter in getattr(model, name).parameters())
    by_block = {
        name: sum(row.parameters for row in summary.blocks if row.path.startswith(name)) for name in ("prior", "base")
    }
    for name, count in by_block.items():  # all but positions and offsets, which belong to no block
        assert 0.8 * summary.parameters[name] < count <= summary.parameters[name]


def test_flops_of_a_vit_by_hand(tiny):
    """2 × multiply-accumulates: N tokens of width w, per block qkv, scores, values, projection, perceptron."""
    n, w, f = 16, 32, 128
    block = n * w * 3 * w + 2 * n * n * w + n * w * w + 2 * n * w * (4 * w)
    encoder = n * (3 * 16) * w + block + n * w * 4
    assert summarize(tiny()).flops["encoder"] == 2 * encoder
    conditioning = f * w + w * w + 6 * w * w + 2 * w * w  # log-SNR features, modulation of the stack and of the output
    prior = n * 4 * w + conditioning + block + n * w * 4
    assert summarize(tiny()).flops["prior"] == 2 * prior
    decoder = n * 48 * w + n * 4 * w + conditioning + block + n * w * 48
    assert summarize(tiny()).flops["decoder"] == 2 * decoder


def test_flops_and_parameters_of_a_conv_encoder_by_hand(tiny):
    encoder = "encoder={kind: resnet, patch: 2, channels: [16, 32], blocks: [1, 1]}"
    summary = summarize(tiny(encoder))
    fine, coarse = 8 * 8, 4 * 4  # positions after the patches, and after the halving
    weights = {
        "stem": (fine, 12 * 16 * 9),
        "block": (fine, 2 * 16 * 16 * 9),
        "halving": (coarse, 16 * 16 * 4),
        "wider block": (coarse, 16 * 32 * 9 + 32 * 32 * 9 + 16 * 32),
        "out": (coarse, 32 * 4 * 9),
    }
    assert summary.flops["encoder"] == 2 * sum(positions * weight for positions, weight in weights.values())
    biases = 16 + 2 * 16 + 16 + 3 * 32 + 4
    norms = 2 * (16 + 16 + 16 + 32 + 32)
    assert summary.parameters["encoder"] == sum(weight for _, weight in weights.values()) + biases + norms


def test_training_is_three_forwards_and_the_frozen_encoder_one(tiny):
    summary = summarize(tiny())
    flops = summary.flops
    assert summary.training_flops("latents") == 3 * (flops["encoder"] + flops["prior"] + flops["decoder"])
    assert summary.training_flops("base") == 3 * flops["base"] + flops["encoder"]


def test_blocks_say_shape_and_share(tiny):
    summary = summarize(tiny())
    rows = {row.path: row for row in summary.blocks}
    block = rows["encoder.transformer.blocks.0"]
    assert (block.kind, block.output) == ("Block", (16, 32))
    assert block.flops == 2 * (16 * 32 * 96 + 2 * 16 * 16 * 32 + 16 * 32 * 32 + 2 * 16 * 32 * 128)
    assert sum(row.flops for row in summary.blocks if row.path.startswith("encoder.")) == summary.flops["encoder"]
    assert len({row.path for row in summary.blocks}) == len(summary.blocks)


def test_plain_data(tiny):
    data = summarize(tiny()).to_dict()
    assert data["parameters"]["total"] == sum(summarize(tiny()).parameters.values())
    assert data["latent"] == [4, 4, 4]


# --------------------------------------------------------------------------------------------------------------- memory


def test_saved_bytes_of_a_linear_layer_by_hand(tiny):
    """A matrix keeps its input, not its weight nor its output; a square its input; what two keep counts once."""

    class Toy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(10, 20), torch.nn.Linear(20, 30)

        def forward(self, x):
            h = self.a(x)  # keeps x: 10 floats
            return (self.b(h) * h.sum()).square().sum()  # h: 20; b(h) : 30, the sum: 1; their product: 30

    for device in ("cpu", "meta"):
        with torch.device(device):
            toy, x = Toy(), torch.zeros(1, 10)
            assert _saved_bytes(toy, lambda toy=toy, x=x: toy(x)) == 4 * (10 + 20 + 30 + 1 + 30)


@pytest.mark.parametrize("stage", ["latents", "base"])
def test_saved_bytes_on_meta_are_near_those_of_the_real_model(stage, tiny):
    """The CPU writes small attentions out and keeps their weights too."""
    found = []
    for device in ("meta", "cpu"):
        model = compile_model(tiny(), device)
        found.append(training_bytes(model, stage, torch.zeros(1, 3, 16, 16, device=device)))
    assert found[0] == pytest.approx(found[1], rel=0.3)


@pytest.mark.parametrize("stage", ["latents", "base"])
@pytest.mark.parametrize("batch_size", [8, 64])
def test_memory_is_estimated_within_a_factor_of_two(stage, batch_size, tmp_path):
    """Against the peak of what PyTorch's profiler saw allocated, from the first weight through two steps."""
    steps = [
        f"train.{stage}.{key}" for key in (f"batch_size={batch_size}", "steps=2", "precision=fp32", "optimizer=adamw")
    ]
    spec = load_spec("emoji32_tiny", steps)
    contract = data_contract(spec)
    images = torch.zeros(batch_size, *contract.shape, dtype=torch.uint8)
    source = TensorSource(images, [0] * batch_size, [""] * batch_size, contract)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer = Trainer(compile_model(spec), stage, getattr(spec.train, stage), source, tmp_path, {})
        trainer.checkpoints.save = lambda checkpoint: None
        trainer._checkpoint = lambda: None
        trainer.run()
    now = peak = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    estimate = summarize(spec).memory_bytes(stage, batch_size, bf16=False)
    assert peak > 10e6
    assert estimate / 2 < peak < estimate * 2


def test_bf16_halves_the_activations():
    summary = Summary(
        (1,), (1,), [], {"encoder": 1, "prior": 2, "decoder": 3, "base": 4}, {}, {"latents": 100, "base": 10}
    )
    assert summary.memory_bytes("latents", 5, bf16=False) == 4 * 10 + 16 * 6 + 500
    assert summary.memory_bytes("latents", 5, bf16=True) == 4 * 10 + 16 * 6 + 250
    assert summary.memory_bytes("base", 5, bf16=False) == 4 * 10 + 16 * 4 + 50
