"""Text as the networks see it: embeddings that the data brings along, made by a text encoder of the user's."""

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

    def to(self, device: torch.device) -> "Text":
        return Text(self.tokens.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))

    def part(self, some: slice) -> "Text":
        """Some of the captions."""
        return Text(self.tokens[some], self.mask[some])

    def repeat(self, times: int) -> "Text":
        """The same captions, `times` times over."""
        return Text(self.tokens.repeat(times, 1, 1), self.mask.repeat(times, 1))


def pad(captions: list[Tensor], length: int) -> Text:
    """Captions of (L_i, D) embeddings, each cut or padded with zeros to `length` tokens."""
    tokens = torch.zeros(len(captions), length, captions[0].shape[1])  # (B, L, D)
    mask = torch.zeros(len(captions), length, dtype=torch.bool)  # (B, L)
    for i, caption in enumerate(captions):
        n = min(len(caption), length)
        tokens[i, :n], mask[i, :n] = caption[:n].float(), True
    return Text(tokens, mask)
