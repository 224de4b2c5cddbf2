"""Networks of other libraries that ours are compared with: timm's ViT blocks, diffusers' U-Net and DiT."""

from itertools import pairwise
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ulzoo.nn import HierarchicalViT, ViT
from ulzoo.nn.transformer import Transformer


def forward_flops(network: nn.Module, *inputs: Tensor, **conditions: Any) -> int:
    """2 × multiply-accumulates of linear layers, convolutions and attention of one call, as in our summaries."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs, **conditions)
    return counter.get_total_flops()


class TimmBlocks(nn.Module):
    """timm's ViT blocks of the widths, depths, heads, dropout and tokens of one of our transformers.

    Between levels, tokens are merged and split by the same linear layers as ours. There are no noise levels, labels,
    positions, norms of queries and keys or modulation, so it is less work than ours. (B, N, width of the finest level)
    to the same.
    """

    def __init__(self, ours: ViT | HierarchicalViT):
        super().__init__()
        down, middle, up = ([], ours.transformer, []) if isinstance(ours, ViT) else (ours.down, ours.middle, ours.up)
        self.down = nn.ModuleList(_timm(stack) for stack in down)
        self.middle = _timm(middle)
        self.up = nn.ModuleList(_timm(stack) for stack in up)
        widths = list(pairwise(stack.offsets.shape[1] // 6 for stack in [*down, middle]))
        self.merges = nn.ModuleList(nn.Linear(4 * fine, coarse) for fine, coarse in widths)
        self.splits = nn.ModuleList(nn.Linear(coarse, 4 * fine) for fine, coarse in widths)

    def forward(self, tokens: Tensor) -> Tensor:
        skips = []
        for stack, merge in zip(self.down, self.merges, strict=True):
            tokens = stack(tokens)
            skips.append(tokens)
            tokens = merge(tokens.unflatten(1, (-1, 4)).flatten(2))
        tokens = self.middle(tokens)
        for stack, split in reversed(list(zip(self.up, self.splits, strict=True))):
            tokens = stack(skips.pop() + split(tokens).unflatten(2, (4, -1)).flatten(1, 2))
        return tokens


def _timm(ours: Transformer) -> nn.Sequential:
    blocks = [(block.attention, block.mlp) for block in ours.blocks]
    return nn.Sequential(
        *(
            Block(
                mlp.fc1.in_features,
                attention.heads,
                mlp.fc1.out_features / mlp.fc1.in_features,
                proj_drop=mlp.dropout.p,
            )
            for attention, mlp in blocks
        )
    )


class DiffusersUNet(nn.Module):
    """diffusers' UNet2DModel as in its example of unconditional training, with all widths scaled by one factor.

    Args:
        channels: channels of the image, (B, channels, side, side).
        flops: FLOPs of one forward pass of one example; the nearest possible factor is chosen.
    """

    def __init__(self, channels: int, side: int, flops: int):
        super().__init__()
        with torch.device("meta"):
            x, t = torch.zeros(1, channels, side, side), torch.zeros(1)
            counted = {
                width: forward_flops(_unet(channels, side, width), x, t) for width in range(32, 257, 32)
            }  # widths that are divisible by the groups of diffusers' norms
        self.network = _unet(channels, side, min(counted, key=lambda width: abs(counted[width] - flops)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x, t).sample


def _unet(channels: int, side: int, width: int) -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=2,
        block_out_channels=(width, width, 2 * width, 2 * width, 4 * width, 4 * width),
        down_block_types=(*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
    )


class DiffusersDiT(nn.Module):
    """diffusers' DiTTransformer2DModel with patches of 2 and heads of 64.

    Width and depth have about the proportion of DiT-L (arXiv 2212.09748, 1024 to 24).

    Args:
        channels: channels of the latent, (B, channels, side, side).
        flops: FLOPs of one forward pass of one example; the nearest possible size is chosen.
    """

    def __init__(self, channels: int, side: int, flops: int, num_classes: int = 1000, dropout: float = 0.0):
        super().__init__()
        tokens, counted = (side // 2) ** 2, {}
        for heads in range(2, 33):
            width = 64 * heads
            block = tokens * (24 * width**2 + 4 * tokens * width)
            depth = max(1, round(flops / block))
            counted[heads, depth] = block * depth
        within = [shape for shape, count in counted.items() if abs(count / flops - 1) < 0.03] or list(counted)
        heads, depth = min(within, key=lambda shape: abs(shape[1] / (64 * shape[0]) - 24 / 1024))
        self.network = _dit(channels, side, heads, depth, num_classes, dropout)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return self.network(x, t, labels).sample


def _dit(channels: int, side: int, heads: int, depth: int, num_classes: int = 1000, dropout: float = 0.0) -> nn.Module:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=64,
        in_channels=channels,
        num_layers=depth,
        dropout=dropout,
        sample_size=side,
        patch_size=2,
        num_embeds_ada_norm=num_classes,
    )
