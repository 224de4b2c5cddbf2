"""Captions as the networks receive them: token embeddings that the data supplies, computed by a text encoder."""

from typing import NamedTuple

import torch
from torch import Tensor


class Text(NamedTuple):
    """A batch of captions as token embeddings.

    Attributes:
        tokens: (B, L, D) embeddings, padded to L tokens.
        mask: (B, L) bool, True where there is a token; a row of False is an empty caption.
    """

    tokens: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> "Text":
        return Text(self.tokens.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))

    def pin_memory(self) -> "Text":
        """The captions in memory from which `to` copies to a GPU without waiting."""
        return Text(self.tokens.pin_memory(), self.mask.pin_memory())

    def part(self, rows: slice) -> "Text":
        """The captions in a range of rows."""
        return Text(self.tokens[rows], self.mask[rows])

    def repeat(self, times: int) -> "Text":
        """The batch of captions repeated `times` times, one copy after the other."""
        return Text(self.tokens.repeat(times, 1, 1), self.mask.repeat(times, 1))


def pad(captions: list[Tensor], length: int) -> Text:
    """Stack captions of (L_i, D) embeddings, each truncated or zero-padded to `length` tokens."""
    tokens = torch.zeros(len(captions), length, captions[0].shape[1])  # (B, L, D)
    mask = torch.zeros(len(captions), length, dtype=torch.bool)  # (B, L)
    for i, caption in enumerate(captions):
        n = min(len(caption), length)
        tokens[i, :n], mask[i, :n] = caption[:n].float(), True
    return Text(tokens, mask)
