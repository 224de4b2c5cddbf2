"""U-ViT: convolutional stages around a transformer, the paper's decoder (paper §4; arXiv 2301.11093)."""

import torch.nn.functional as F
from torch import Tensor, nn

from ulzoo.nn.conditioning import ContextProjection, DenoiserInputs, VectorConditioning
from ulzoo.nn.grid import CONV, divide, enlarge, patchify, to_grid, to_tokens, unpatchify, zero_init
from ulzoo.nn.resnet import ResBlock, group_norm
from ulzoo.nn.transformer import Positions, Transformer


class Stage(nn.ModuleList):
    """Residual blocks one after the other."""

    def forward(self, h: Tensor, cond: Tensor) -> Tensor:
        for block in self:
            h = block(h, cond)
        return h


class UViT(nn.Module):
    """Denoiser: patches, convolution stages down, a transformer in the middle, the same stages up.

    Each stage ends in a halving of the grid, and its input to that is added back after the matching doubling (one
    residual skip per stage, as in SiD2, arXiv 2410.19324). The context is added after the first convolution and to the
    middle's tokens. Not in the paper: blocks per stage, and how time and z_0 enter.

    Args:
        patch: side of the pixel patches folded into channels before the first convolution.
        channels: width of each convolution stage, finest first.
        blocks: residual blocks of each stage, on the way down and again on the way up.
        width: channels of the middle's tokens.
        depth: transformer blocks of the middle.
        heads: attention heads.
        mlp_ratio: hidden width of the middle's perceptrons over `width`.
        dropout: dropout in the middle and in the coarsest convolution stage.
        positions: rotary or learned position encoding of the middle.
    """

    def __init__(
        self,
        inputs: DenoiserInputs,
        *,
        patch: int = 2,
        channels: tuple[int, ...] = (128, 256, 512),
        blocks: tuple[int, ...] = (2, 2, 2),
        width: int = 1024,
        depth: int = 8,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        positions: Positions = "rotary",
    ):
        super().__init__()
        if not channels or len(channels) != len(blocks):
            raise ValueError(f"channels {list(channels)} and blocks {list(blocks)} must have one entry per stage")
        dims = len(inputs.size)
        conv = CONV[dims]
        self.patch, self.halving = (patch,) * dims, (2,) * dims
        outer = divide(inputs.size, self.patch, "patch")
        self.size = divide(outer, (2 ** len(channels),) * dims, f"the halving by {len(channels)} stages")
        patch_channels = inputs.channels * patch**dims

        def stage(i: int) -> Stage:
            coarsest = i == len(channels) - 1
            return Stage(
                ResBlock(dims, channels[i], channels[i], width, dropout if coarsest else 0.0) for _ in range(blocks[i])
            )

        coarser = [*channels[1:], width]
        self.num_classes = inputs.num_classes
        self.cond = VectorConditioning(inputs, width)
        self.stem = conv(patch_channels, channels[0], 3, padding=1)
        has_context = inputs.context_channels > 0
        self.context_fine = ContextProjection(inputs, outer, channels[0]) if has_context else None
        self.down = nn.ModuleList(stage(i) for i in range(len(channels)))
        self.shrink = nn.ModuleList(conv(c, d, 2, stride=2) for c, d in zip(channels, coarser, strict=True))
        self.context_middle = ContextProjection(inputs, self.size, width) if has_context else None
        self.middle = Transformer(
            self.size,
            width,
            depth,
            heads,
            cond_width=width,
            mlp_ratio=mlp_ratio,
            dropout=dropout,
            positions=positions,
        )
        self.grow = nn.ModuleList(conv(d, c, 1) for c, d in zip(channels, coarser, strict=True))
        self.up = nn.ModuleList(stage(i) for i in range(len(channels)))
        self.norm = group_norm(channels[0])
        self.out = zero_init(conv(channels[0], patch_channels, 3, padding=1))

    def forward(
        self, x_t: Tensor, logsnr: Tensor, context: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        cond = self.cond(logsnr, labels)  # (B, width)
        h = self.stem(patchify(x_t, self.patch))  # (B, channels[0], *size / patch)
        if self.context_fine is not None:
            assert context is not None
            h = h + self.context_fine(context)
        skips = []
        for stage, shrink in zip(self.down, self.shrink, strict=True):
            h = stage(h, cond)
            skips.append(h)
            h = shrink(h)
        if self.context_middle is not None:
            assert context is not None
            h = h + self.context_middle(context)
        h = to_grid(self.middle(to_tokens(h), cond), self.size)
        for i in reversed(range(len(skips))):
            h = self.up[i](skips[i] + enlarge(self.grow[i](h), self.halving), cond)
        return unpatchify(self.out(F.silu(self.norm(h))), self.patch)
