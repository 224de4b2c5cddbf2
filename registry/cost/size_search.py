"""The size of a base of a given cost: a search over widths and depths of two-level ViTs (Table 1).

The paper states the cost of its text-to-image bases, 100, 300 and 970 GFLOPs, but not their sizes. Ours are the
two-level ViTs of that cost whose shape is closest to that of the paper's ImageNet base, [512, 1024] channels and
[6, 16] blocks. `ulzoo show SPEC --base-gflops N` does the same for the latent of any spec.

FLOPs are 2 × multiply-accumulates of the linear projections and of the two products of attention, for one forward pass
on one example; norms, activations and embeddings are not counted.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from ulzoo.nn import DenoiserInputs
from ulzoo.registry.compile import compile_model
from ulzoo.registry.spec.schema import Spec

HEAD_WIDTH = 64
PAPER_CHANNELS, PAPER_BLOCKS = (512, 1024), (6, 16)
TOLERANCE = 0.02


class BaseSize(NamedTuple):
    """The size of a base: `channels` and `blocks` of a `hierarchical_vit`, and its forward GFLOPs."""

    channels: tuple[int, int]
    blocks: tuple[int, int]
    gflops: float


def base_inputs(spec: Spec) -> DenoiserInputs:
    """What the base of a spec denoises and is conditioned on, for patches of 1; class labels cost nothing.

    Raises:
        SpecError: the parts of the spec do not fit together.
    """
    contract = compile_model(spec, "meta").contract
    text = spec.base is not None and spec.base.text_conditional
    return DenoiserInputs(
        contract.latent_size,
        contract.latent_channels,
        frame_channels=contract.latent_channels + 1 if contract.context_frames else 0,
        text_tokens=contract.text_tokens if text else 0,
        text_width=contract.text_width if text else 0,
    )


def search_base_size(inputs: DenoiserInputs, gflops: float) -> BaseSize:
    """Find the two-level ViT within 2 % of `gflops` whose shape is closest to the paper's.

    The candidates have outer widths in steps of the 64 channels of a head, an inner level twice as wide, as in the
    paper, and even numbers of blocks, because the outer blocks are split into halves. The distance of two shapes is the
    Euclidean norm of the log ratios of their aspects, blocks over width, (6 + 16) / 512 in the paper, and of their
    shares, inner over outer blocks, 16 / 6 in the paper.

    Args:
        inputs: grid, channels and text of what the base denoises; with patches, their grid and channels.
        gflops: the cost of a forward pass on one example.

    Raises:
        ValueError: no size has this cost, or a level of half the resolution does not exist.
    """
    if any(side % 2 for side in inputs.size[-2:]):
        raise ValueError(f"a latent of {'×'.join(map(str, inputs.size))} has no second level: its sides must be even")
    closest = min(_candidates(inputs, gflops), key=_distance, default=None)
    if closest is None:
        raise ValueError(f"no two-level ViT with heads of {HEAD_WIDTH} channels is within 2 % of {gflops:g} GFLOPs")
    return closest


def hierarchical_vit_flops(inputs: DenoiserInputs, channels: tuple[int, int], blocks: tuple[int, int]) -> int:
    """Exact forward FLOPs, in closed form, of a two-level `hierarchical_vit` with patches of 1, MLPs four times as wide
    as the tokens, full attention and no latent as a condition."""
    assert not inputs.latent_channels and not inputs.latent_logsnr
    fine = math.prod(inputs.size)
    (outer, inner), coarse = channels, fine // 4
    cond = inner  # width of the conditioning vector, and of projected text tokens
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
    mlp = 2 * tokens * 8 * width**2
    if not inputs.text_width:
        return self_attention + mlp
    text_tokens = 1 + inputs.text_tokens  # with the null token
    queries_and_output, keys_and_values = 2 * tokens * 2 * width**2, 2 * text_tokens * text_width * 2 * width
    cross_attention = queries_and_output + keys_and_values + 2 * 2 * tokens * text_tokens * width
    return self_attention + cross_attention + mlp


def _candidates(inputs: DenoiserInputs, gflops: float) -> Iterator[BaseSize]:
    """All sizes within the tolerance. The cost is linear in both numbers of blocks: three evaluations per width."""
    if not math.isfinite(gflops):
        return
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
                yield BaseSize(channels, (m, n), rest + n * per_inner)


def _distance(size: BaseSize) -> float:
    (outer, inner), width = size.blocks, size.channels[0]
    aspect = (outer + inner) / width * PAPER_CHANNELS[0] / sum(PAPER_BLOCKS)
    share = inner / outer * PAPER_BLOCKS[0] / PAPER_BLOCKS[1]
    return math.hypot(math.log(aspect), math.log(share))
