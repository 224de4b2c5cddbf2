"""Every encoder and backbone, tiny, over two and three dimensions through the same classes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ulzoo.nn import DenoiserInputs, HierarchicalViT, ResNetEncoder, UViT, ViT, ViTEncoder

BACKBONES: dict[str, Callable[[DenoiserInputs], nn.Module]] = {
    "vit": lambda inputs: ViT(inputs, patch=2, width=24, depth=2, heads=2),
    "vit_learned": lambda inputs: ViT(inputs, patch=1, width=24, depth=1, heads=4, positions="learned"),
    "vit_head": lambda inputs: ViT(inputs, patch=2, width=24, depth=1, heads=2, pixel_channels=8),
    "hierarchical_vit": lambda inputs: HierarchicalViT(inputs, channels=(12, 24), blocks=(2, 1), head_width=12),
    "uvit": lambda inputs: UViT(inputs, patch=1, channels=(8, 12), blocks=(1, 2), width=24, depth=1, heads=2),
}

ENCODERS: dict[str, Callable[[tuple[int, ...]], nn.Module]] = {
    "resnet": lambda size: ResNetEncoder(size, 3, 5, (4,) * len(size), channels=(8, 12, 12), blocks=(1, 2, 1)),
    "vit": lambda size: ViTEncoder(size, 3, 5, (4,) * len(size), width=24, depth=2, heads=2),
    "vit_rotary": lambda size: ViTEncoder(size, 3, 5, (4,) * len(size), width=24, depth=1, heads=2, positions="rotary"),
    "vit_overlap": lambda size: ViTEncoder(size, 3, 5, (4,) * len(size), width=24, depth=1, heads=2, patch_overlap=2),
}


@pytest.fixture(params=[(8, 4), (4, 8, 4)], ids=["2d", "3d"])
def size(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return request.param


@pytest.fixture(params=list(BACKBONES))
def make_backbone(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    """(size, latent=False, further `DenoiserInputs`) -> a backbone of each kind with 3 channels."""

    def make(size: tuple[int, ...], latent: bool = False, **inputs: Any) -> nn.Module:
        torch.manual_seed(0)
        at = (tuple(s // 4 for s in size), 5) if latent else ((), 0)
        return BACKBONES[request.param](DenoiserInputs(size, 3, *at, **inputs))

    return make


@pytest.fixture(params=list(ENCODERS))
def make_encoder(request: pytest.FixtureRequest) -> Callable[[tuple[int, ...]], nn.Module]:
    """size -> an encoder of each kind, 3 channels to 5, downsampling by 4."""

    def make(size: tuple[int, ...]) -> nn.Module:
        torch.manual_seed(0)
        return ENCODERS[request.param](size)

    return make


@pytest.fixture
def perturb() -> Callable[[nn.Module], nn.Module]:
    """Leave the zero-initialised start, where most gradients vanish."""

    def perturb(module: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        return module

    return perturb
