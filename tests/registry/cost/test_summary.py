"""The summary of a spec, compared with manual counts and with the real model."""

from ulzoo.registry.compile import compile_model
from ulzoo.registry.cost.summary import summarize


def test_parameters_are_those_of_the_real_model(tiny):
    summary, model = summarize(tiny()), compile_model(tiny())
    for name, count in summary.parameters.items():
        assert count == sum(parameter.numel() for parameter in getattr(model, name).parameters())
    by_block = {
        name: sum(row.parameters for row in summary.blocks if row.path.startswith(name)) for name in ("prior", "base")
    }
    for name, count in by_block.items():  # all but positions and offsets, which belong to no block
        assert 0.8 * summary.parameters[name] < count <= summary.parameters[name]


def test_flops_of_a_vit(tiny):
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


def test_flops_and_parameters_of_a_convolutional_encoder(tiny):
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
