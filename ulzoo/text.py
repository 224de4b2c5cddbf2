"""Text as the networks see it: embeddings that the data brings along, made by a text encoder of the user's."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Text(NamedTuple):
    """Captions as token embeddings.

    Attributes:
        tokens: (B, L, D) embeddings, padded to L tokens.
        mask: (B, L) bool, True where there is a token; all False is an empty caption.
    """

    tokens: Tensor
    mask: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "Text":
        """Both tensors through a function of their batch, such as `lambda x: x[:4]` or `lambda x: x.to(device)`."""
        return Text(function(self.tokens), function(self.mask))


def pad(captions: list[Tensor], length: int) -> Text:
    """Captions of (L_i, D) embeddings, each cut or padded with zeros to `length` tokens."""
    tokens = torch.zeros(len(captions), length, captions[0].shape[1])  # (B, L, D)
    mask = torch.zeros(len(captions), length, dtype=torch.bool)  # (B, L)
    for i, caption in enumerate(captions):
        n = min(len(caption), length)
        tokens[i, :n], mask[i, :n] = caption[:n].float(), True
    return Text(tokens, mask)
