"""Frame prediction: what the networks are told of the first frames of a clip, and that it is of nothing else.

Not in the paper, which says only that Kinetics models are given 5 frames and generate 11. Here the given frames are
held: the last one is repeated to the end of the clip. The decoder gets the held clip and a mask as further channels of
x_t; the base gets the held clip's encoding and that mask at the latent's grid, so the encoder never sees the future.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d


def hold(frames: Tensor, length: int) -> Tensor:
    """A clip of `length` frames that stands still after the given ones, (B, C, k, H, W) -> (B, C, length, H, W)."""
    last = frames[:, :, -1:]
    return torch.cat([frames, last.expand(-1, -1, length - frames.shape[2], -1, -1)], dim=2)


def mask(given: int, length: int, size: Sequence[int]) -> Tensor:
    """The share of the frames under each position that are given, (1, 1, *size), for `size` with time in front."""
    known = (torch.arange(length) < given).float()[None]  # (1, length)
    return adaptive_avg_pool1d(known, size[0]).reshape(1, 1, -1, 1, 1).expand(1, 1, *size)


def condition(held: Tensor, given: int, length: int) -> Tensor:
    """The held clip, or its encoding, with the mask as a last channel, (B, C, *size) -> (B, C + 1, *size)."""
    known = mask(given, length, held.shape[2:]).to(held)
    return torch.cat([held, known.expand(len(held), -1, -1, -1, -1)], dim=1)
