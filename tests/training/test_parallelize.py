"""Blocks compile without a graph break: with one, a block would run in parts, and CUDA graphs would be impossible."""

import pytest
import torch
from torch import nn

from ulzoo.media.captions import Text
from ulzoo.model.conditioning import Conditions
from ulzoo.model.losses import StageLoss
from ulzoo.registry import load_spec
from ulzoo.registry.compile import compile_model
from ulzoo.training.parallelize import BLOCKS, trainable_networks
from ulzoo.training.parametrisation import trained_networks

AUTOENCODER = (
    *("encoder.channels=[8,8,8,8]", "prior.backbone={width: 32, heads: 2, depth: 1}"),
    *("decoder.backbone={channels: [8,8,8], width: 32, heads: 2, depth: 1}", "data.resolution=64"),
)
TWO_LEVELS = "base.backbone={channels: [64,64], blocks: [2,1]}"
CASES: dict[str, tuple[str, ...]] = {
    "emoji32_curve": (),
    "emoji_video64_tiny": (),
    "imagenet512_medium": (*AUTOENCODER, TWO_LEVELS),
    "text2image512_100g": (*AUTOENCODER, TWO_LEVELS, "data.text_tokens=4", "data.text_width=6"),
    "kinetics600_medium": (
        *("data.resolution=32", "data.frames=8", "encoder={channels: [8,8,8], blocks: [1,1,1]}", *AUTOENCODER[1:3]),
        TWO_LEVELS,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_no_block_of_any_stage_breaks_its_graph(name: str) -> None:
    spec = load_spec(name, CASES[name])
    for stage in spec.stages:
        torch._dynamo.reset()
        model = compile_model(spec, pretrained=False)
        model.prepare(stage)
        blocks: list[nn.Module] = []
        for network in trainable_networks(trained_networks(model, stage)):
            blocks += [module for module in network.modules() if isinstance(module, BLOCKS)]
        assert blocks
        for block in blocks:
            block.compile(fullgraph=True, backend="eager")
        contract = model.contract
        labels = torch.zeros(2, dtype=torch.long) if contract.num_classes else None
        text = None
        if contract.text_tokens:
            text = Text(torch.zeros(2, contract.text_tokens, contract.text_width), torch.ones(2, 4, dtype=torch.bool))
        loss = StageLoss(model, stage)(torch.rand(2, *contract.shape), Conditions(labels, text))["loss"]
        loss.backward()
        assert loss.isfinite()


def test_a_break_is_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x

    block = Broken()
    block.compile(fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported):
        block(torch.ones(2))
