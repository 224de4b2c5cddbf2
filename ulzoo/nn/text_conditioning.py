"""How a text enters a network: embeddings of its tokens, read by cross-attention. Not in the paper, nor how its do."""

import torch
from timm.layers import LayerNorm
from torch import Tensor, nn

from ulzoo.media.captions import Text
from ulzoo.nn.attention import attend
from ulzoo.nn.conditioning import DenoiserInputs
from ulzoo.nn.grid import zero_init


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


class CrossAttention(nn.Module):
    """Each token of a grid attends to a text's, (B, N, width) -> (B, N, width); a residual branch that starts at zero.

    Heads, QK-norm and learned temperature are self-attention's. Keys and values are of the text alone.

    Args:
        width: channels of the grid's tokens.
        text_width: channels of the text's tokens, as `TextTokens` makes them.
        heads: attention heads.
        dropout: on the output.
    """

    def __init__(self, width: int, text_width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(text_width, 2 * width, bias=False)
        self.norm = LayerNorm(width // heads, affine=False)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.proj = zero_init(nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, text: Text) -> Tensor:
        B, N, _ = x.shape
        q = self.q(x).reshape(B, N, self.heads, -1).transpose(1, 2)  # (B, heads, N, head_width)
        k, v = self.kv(text.tokens).reshape(B, text.tokens.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = self.norm(q) * self.temperature.to(q.dtype), self.norm(k)
        x = attend(q, k, v, text.mask[:, None, None, :])
        return self.dropout(self.proj(x.transpose(1, 2).reshape(B, N, -1)))
