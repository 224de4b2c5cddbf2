"""The networks of other libraries have the requested shapes."""

import pytest
import torch
from torch import nn

from benchmarks.rivals import DiffusersDiT, DiffusersUNet, TimmBlocks, forward_flops
from ulzoo.nn import DenoiserInputs, HierarchicalViT, ViT

INPUTS = DenoiserInputs((8, 8), 4)


def in_blocks(network: nn.Module) -> int:
    """Number of parameters in the matrices of perceptrons and self-attention."""
    names = ("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight")
    return sum(p.numel() for name, p in network.named_parameters() if name.endswith(names) and "out." not in name)


@pytest.mark.parametrize(
    "ours",
    [
        ViT(INPUTS, width=64, depth=3, heads=2, dropout=0.1),
        HierarchicalViT(INPUTS, channels=(32, 64, 96), blocks=(2, 4, 3), head_width=16, dropout=0.1),
    ],
    ids=["vit", "hierarchical_vit"],
)
def test_timm_blocks_are_as_wide_and_deep(ours: ViT | HierarchicalViT) -> None:
    theirs = TimmBlocks(ours)
    tokens = torch.randn(2, 64, ours.embed.out_features)
    assert theirs(tokens).shape == tokens.shape
    assert in_blocks(theirs) == in_blocks(ours)
    own = forward_flops(ours, torch.randn(2, 4, 8, 8), torch.zeros(2))
    assert forward_flops(theirs, tokens) == pytest.approx(own, rel=0.05)
    assert {m.p for m in theirs.modules() if isinstance(m, nn.Dropout) and m.p} == {0.1}


def test_the_dit_comes_near_the_requested_flops() -> None:
    dit = DiffusersDiT(8, 16, flops=int(2e9))
    x, t = torch.randn(1, 8, 16, 16), torch.zeros(1, dtype=torch.long)
    assert dit(x, t, t).shape == x.shape
    assert forward_flops(dit, x, t, t) == pytest.approx(2e9, rel=0.05)


@pytest.mark.slow
def test_the_unet_is_the_nearest_of_its_widths() -> None:
    unet = DiffusersUNet(3, 64, flops=int(2e9))
    x = torch.randn(1, 3, 64, 64)
    assert unet(x, torch.zeros(1)).shape == x.shape
    assert forward_flops(unet, x, torch.zeros(1)) == pytest.approx(1.95e9, rel=0.01)  # 32 channels; 64 would be 7.8e9
