"""Base models of a given cost: a search over width and depth of two-level ViTs (Table 1).

The paper gives its text-to-image base models as 100, 300 and 970 GFLOPs and not by their sizes. Here they are the
two-level ViTs of that cost whose shape is nearest its ImageNet base's, [512, 1024] channels and [6, 16] blocks.

FLOPs are 2 × multiply-accumulates of linear projections and of attention's two products, forward, of one example;
norms, activations and embeddings count nothing.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from ulzoo.nn import DenoiserInputs

HEAD_WIDTH = 64
PAPER_CHANNELS, PAPER_BLOCKS = (512, 1024), (6, 16)
TOLERANCE = 0.02


class Solution(NamedTuple):
    """A base model: `channels` and `blocks` of a `hierarchical_vit`, and its forward GFLOPs."""

    channels: tuple[int, int]
    blocks: tuple[int, int]
    gflops: float


def solve(inputs: DenoiserInputs, gflops: float) -> Solution:
    """The two-level ViT within 2 % of `gflops` whose shape is nearest the paper's.

    The search: outer widths in steps of a head's 64 channels, the inner level twice as wide as in the paper; the blocks
    of both levels in steps of 2, as the outer ones are split in halves. Of all that cost what they should, the one is
    taken whose ratios of depth to width, (6 + 16) / 512 in the paper, and of inner to outer blocks, 16 / 6, are nearest
    the paper's: the root of the summed squares of both ratios' logarithms.

    Args:
        inputs: grid, channels and text of what the base denoises; with patches, the grid of those and their channels.
        gflops: the cost to come near, forward, of one example.

    Raises:
        ValueError: no size costs that.
    """
    nearest = min(_candidates(inputs, gflops), key=_distance, default=None)
    if nearest is None:
        raise ValueError(f"no two-level ViT with heads of {HEAD_WIDTH} channels is within 2 % of {gflops:g} GFLOPs")
    return nearest


def hierarchical_vit_flops(inputs: DenoiserInputs, channels: tuple[int, int], blocks: tuple[int, int]) -> int:
    """Forward FLOPs of a two-level `hierarchical_vit` with patches of 1, perceptrons four times as wide as the tokens,
    full attention and no context; exact, and without building it."""
    assert not inputs.latent_channels and not inputs.latent_logsnr
    fine = math.prod(inputs.size)
    (outer, inner), coarse = channels, fine // 4
    cond = inner  # the width of the conditioning, and of a text's tokens once projected
    in_and_out = 2 * fine * outer * (inputs.input_channels + inputs.channels)
    merge_and_split = 2 * 2 * coarse * 4 * outer * inner
    logsnr = 2 * (2 * 64 + cond) * cond
    modulation = 2 * cond * (2 * 6 * outer + 6 * inner + 2 * outer)  # of the three stacks and of the output
    text = 2 * inputs.text_tokens * inputs.text_width * cond
    outside = blocks[0] * _block_flops(inputs, fine, outer, cond)
    inside = blocks[1] * _block_flops(inputs, coarse, inner, cond)
    return in_and_out + merge_and_split + logsnr + modulation + text + outside + inside


def _block_flops(inputs: DenoiserInputs, tokens: int, width: int, text_width: int) -> int:
    self_attention = 2 * tokens * 4 * width**2 + 2 * 2 * tokens**2 * width
    perceptron = 2 * tokens * 8 * width**2
    if not inputs.text_width:
        return self_attention + perceptron
    read = 1 + inputs.text_tokens  # the null token comes first
    queries_and_output, keys_and_values = 2 * tokens * 2 * width**2, 2 * read * text_width * 2 * width
    cross_attention = queries_and_output + keys_and_values + 2 * 2 * tokens * read * width
    return self_attention + cross_attention + perceptron


def _candidates(inputs: DenoiserInputs, gflops: float) -> Iterator[Solution]:
    """All models within the tolerance. The cost is linear in the blocks, so it is counted thrice a width only."""
    lowest, highest = gflops * (1 - TOLERANCE), gflops * (1 + TOLERANCE)
    for outer in range(HEAD_WIDTH, 1 << 30, HEAD_WIDTH):
        channels = (outer, outer * PAPER_CHANNELS[1] // PAPER_CHANNELS[0])
        fixed, one_outer, one_inner = (
            hierarchical_vit_flops(inputs, channels, blocks) / 1e9 for blocks in ((0, 0), (1, 0), (0, 1))
        )
        per_outer, per_inner = one_outer - fixed, one_inner - fixed
        if fixed + 2 * per_outer + 2 * per_inner > highest:
            return
        for m in range(2, int((highest - fixed) / per_outer) + 1, 2):
            rest = fixed + m * per_outer
            first = max(2 * math.ceil((lowest - rest) / per_inner / 2), 2)
            for n in range(first, int((highest - rest) / per_inner) + 1, 2):
                yield Solution(channels, (m, n), rest + n * per_inner)


def _distance(solution: Solution) -> float:
    (outer, inner), width = solution.blocks, solution.channels[0]
    aspect = (outer + inner) / width * PAPER_CHANNELS[0] / sum(PAPER_BLOCKS)
    share = inner / outer * PAPER_BLOCKS[0] / PAPER_BLOCKS[1]
    return math.hypot(math.log(aspect), math.log(share))
