"""What a denoiser is told besides x_t: noise level, class label, given frames and, for the decoder, the latent z_0.

Text has a file of its own, `text_conditioning.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.layers import LayerNorm
from torch import Tensor, nn

from ulzoo.media.captions import Text
from ulzoo.nn.grid import patchify, upsample, zero_init


@dataclass(frozen=True)
class DenoiserInputs:
    """The shapes a denoiser is compiled for.

    Attributes:
        size: grid of x_t, (h, w) or (t, h, w).
        channels: channels of x_t and of the prediction.
        context_size: grid of the context (z_0 for the decoder); empty if there is none.
        context_channels: its channels.
        num_classes: class labels; 0 means unconditional.
        given_channels: channels of what is given on the grid of x_t itself, of which the last is a mask; 0 for nothing.
        text_tokens: the most tokens of a text.
        text_width: channels of their embeddings; 0 means no text.
        context_logsnr: whether the log-SNR of the context is told.
    """

    size: tuple[int, ...]
    channels: int
    context_size: tuple[int, ...] = ()
    context_channels: int = 0
    num_classes: int = 0
    given_channels: int = 0
    text_tokens: int = 0
    text_width: int = 0
    context_logsnr: bool = False

    @property
    def all_channels(self) -> int:
        """Channels of `with_given`."""
        return self.channels + self.given_channels


def with_given(x_t: Tensor, given: Tensor | None) -> Tensor:
    """x_t and what is given on its grid, as channels: (B, channels + given_channels, *size)."""
    return x_t if given is None else torch.cat([x_t, given], dim=1)


class GatedInputSkip(nn.Module):
    """What of x_t belongs in the prediction as it is: a gain for every channel, which depends on the conditions.

    So patches of more values than the network is wide keep their detail: of v = α/σ x_t - x/σ the network need make the
    smooth x only. The gains start at zero.
    """

    def __init__(self, channels: int, cond_width: int):
        super().__init__()
        self.gain = zero_init(nn.Linear(cond_width, channels))

    def forward(self, cond: Tensor, x_t: Tensor) -> Tensor:
        return self.gain(cond).reshape(*x_t.shape[:2], *[1] * (x_t.ndim - 2)) * x_t


class LogsnrEmbedding(nn.Module):
    """Fourier features of log-SNR through a two-layer perceptron, (B,) -> (B, width): how time enters every network."""

    frequency: Tensor

    def __init__(self, width: int, frequencies: int = 64):
        super().__init__()
        # Wavelengths from 120 down to 2 log-SNR units: the first spans every schedule, the last tells neighbours apart.
        self.register_buffer("frequency", 2 * math.pi / 120 * 60 ** torch.linspace(0, 1, frequencies), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, logsnr: Tensor) -> Tensor:
        angles = logsnr.float()[:, None] * self.frequency
        features = math.sqrt(2) * torch.cat([angles.cos(), angles.sin()], dim=1)  # (B, 2 · frequencies)
        return self.mlp(features)


class VectorConditioning(nn.Module):
    """Sum of the embeddings of the log-SNR, of the label, of whether anything is given and of the context's log-SNR, of
    those that there are, (B, width).

    The last is what a decoder is told of latents of several noise levels (paper App. B). Each example's label
    is dropped by a coin of its own in training; label -1, or None for all, is the dropped label.
    """

    def __init__(self, inputs: DenoiserInputs, width: int):
        super().__init__()
        self.logsnr = LogsnrEmbedding(width)
        self.num_classes = inputs.num_classes
        self.labels = nn.Embedding(inputs.num_classes + 1, width) if inputs.num_classes else None
        self.given = nn.Embedding(2, width) if inputs.given_channels else None
        self.context_logsnr = LogsnrEmbedding(width) if inputs.context_logsnr else None

    def forward(
        self,
        logsnr: Tensor,
        labels: Tensor | None,
        given: Tensor | None = None,
        context_logsnr: Tensor | None = None,
    ) -> Tensor:
        cond = self.logsnr(logsnr)
        if self.context_logsnr is not None:
            assert context_logsnr is not None
            cond = cond + self.context_logsnr(context_logsnr)
        if self.given is not None:
            assert given is not None
            known = given[:, -1].flatten(1).any(dim=1).long()  # (B,), by the mask
            cond = cond + self.given(known)
        if self.labels is not None:
            if labels is None:
                labels = torch.full(logsnr.shape, -1, device=logsnr.device)
            cond = cond + self.labels(torch.where(labels < 0, self.num_classes, labels))
        return torch.nn.functional.silu(cond)


class ContextProjection(nn.Module):
    """A learned linear projection of the context, to be *added* to features of a given grid.

    On a finer grid each context vector is repeated; on a coarser one its patches are folded into channels first. This
    is how z_0 enters a decoder (not in the paper): as a sum, at the finest features and, in a U-ViT, once more at the
    middle's tokens, whose grid is the latent's own in the paper's shapes.
    """

    def __init__(self, inputs: DenoiserInputs, size: Sequence[int], width: int):
        super().__init__()
        pairs = list(zip(size, inputs.context_size, strict=True))
        if any(fine % coarse for fine, coarse in (sorted(pair, reverse=True) for pair in pairs)):
            raise ValueError(
                f"the grids of the latent {list(inputs.context_size)} and of the features {list(size)} do not nest"
            )
        self.fold = tuple(max(context // feature, 1) for feature, context in pairs)
        self.repeat = tuple(max(feature // context, 1) for feature, context in pairs)
        self.proj = nn.Linear(inputs.context_channels * math.prod(self.fold), width)

    def forward(self, context: Tensor) -> Tensor:
        folded = patchify(context, self.fold)
        features = self.proj(folded.movedim(1, -1)).movedim(-1, 1)
        return upsample(features, self.repeat)  # (B, width, *size)


class TextTokens(nn.Module):
    """A text as a network attends to it: a learned null token first, then the embeddings, normed and projected.

    The null token is always there, so that attention is never over nothing; it is all that there is of an empty text,
    of no text, and of one that `text_dropout` hides: each example's whole text by a coin of its own in training. Tokens
    get no positions: those of a text encoder know theirs. Padding is zeroed here and masked in attention, so whatever
    it holds is without effect.

    Args:
        inputs: of which `text_width` counts.
        width: of the tokens it makes.
    """

    def __init__(self, inputs: DenoiserInputs, width: int):
        super().__init__()
        self.norm = LayerNorm(inputs.text_width, affine=False)
        self.proj = nn.Linear(inputs.text_width, width)
        self.null = nn.Parameter(torch.randn(width))

    def forward(self, text: Text | None, n: int) -> Text:
        """A text of (n, L, text_width), or None, to one of (n, 1 + L, width), or (n, 1, width)."""
        null = Text(self.null.expand(n, 1, -1), torch.ones(n, 1, dtype=torch.bool, device=self.null.device))
        if text is None:
            return null
        mask = text.mask
        tokens = self.proj(self.norm(text.tokens.masked_fill(~mask[:, :, None], 0)))
        return Text(torch.cat([null.tokens, tokens], dim=1), torch.cat([null.mask, mask], dim=1))
