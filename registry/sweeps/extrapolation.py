"""The rate after the full stage 1, from short runs of it; the loss factor that reaches a rate.

The learning rate schedule of a short run ends with it, so that rates are compared at the end of training. For one bias

    R(c, n) = g(n) (1 - c_0 / c)        c: loss factor, n: training images

where the latent collapses at c_0, and g is the rate that a large loss factor approaches. c_0 follows from the two loss
factors of the shortest runs, g from each run, and log g is continued linearly in log n from the two longest lengths. At
first the rate rises, while the encoder learns to use the latent, then it falls, as the prior learns to predict it; a
rise is not continued. The law is empirical, not in the paper, but fits its Table 2 (docs/sweeps.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

ASSUMED_TREND = math.log(0.93)
"""Change of log g per doubling of the images, until there are runs of two lengths: as on emoji32_tiny."""
LARGEST_STEP = 2.0  # a proposed loss factor is at most twice the largest that was run, at least half the smallest
STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class ShortRun:
    """A finished run of a pilot.

    Attributes:
        images: training images, counted in every epoch.
        bits, bits_se: rate on the validation images in bits/pixel and its standard error over them.
        psnr_db: of its reconstructions.
    """

    bias: float
    loss_factor: float
    images: int
    bits: float
    bits_se: float
    psnr_db: float


@dataclass(frozen=True)
class Proposal:
    """The loss factor at which stage 1 of a bias is expected to reach a rate.

    Attributes:
        bits: the expected rate after the full training; the target, unless the loss factor that reaches it is more
            than `LARGEST_STEP` away from those that were run.
        low, high: the interval around it. It covers training that changes the rate no further, or by twice what is
            expected, half of what the move from the last run's loss factor is expected to change, and two standard
            errors of the last run over the validation images. It is no confidence interval, and does not cover what
            another seed would change.
        psnr_db: of short runs at this rate, which is comparable between biases only.
        rising: whether the rate still rose with the number of images, which is not extrapolated.
        reached: whether `bits` is the target.
    """

    bias: float
    loss_factor: float
    bits: float
    low: float
    high: float
    psnr_db: float
    rising: bool
    reached: bool


def propose(runs: Sequence[ShortRun], *, images: int, bits: float) -> Proposal:
    """The loss factor for a rate of `bits` per pixel after `images` training images, from short runs of one bias.

    Raises:
        ValueError: a latent has collapsed, or the rate does not rise with the loss factor.
    """
    for run in runs:
        if run.bits <= 0:
            raise ValueError(f"the latent collapsed at loss factor {run.loss_factor:g} and bias {run.bias:g}")
    lengths = sorted({run.images for run in runs})
    shortest, longest = ([run for run in runs if run.images == length] for length in (lengths[0], lengths[-1]))
    low, high = shortest[0], shortest[-1]
    collapse = _collapse_factor(low, high)
    levels = [fmean(_level(run, collapse) for run in runs if run.images == length) for length in lengths]
    trend = ASSUMED_TREND
    if len(lengths) > 1:
        trend = (levels[-1] - levels[-2]) / math.log2(lengths[-1] / lengths[-2])
    doublings = math.log2(images / lengths[-1])
    level = levels[-1] + min(trend, 0.0) * doublings
    smallest, largest = (pick(run.loss_factor for run in runs) for pick in (min, max))
    attainable = bits / math.exp(level)
    wanted = collapse / (1 - attainable) if attainable < 1 else math.inf
    factor = min(max(wanted, smallest / LARGEST_STEP, collapse * 1.01), largest * LARGEST_STEP)
    reached, factor = factor == wanted, float(f"{factor:.3g}")
    expected = level + math.log(1 - collapse / factor)
    nearest = min(longest, key=lambda run: abs(run.loss_factor - factor))
    moved = math.log((1 - collapse / factor) / (1 - collapse / nearest.loss_factor))
    width = math.hypot(trend * doublings, moved / 2, STANDARD_ERRORS * nearest.bits_se / nearest.bits)
    decibels = (high.psnr_db - low.psnr_db) / math.log(high.bits / low.bits)
    return Proposal(
        bias=nearest.bias,
        loss_factor=factor,
        bits=math.exp(expected),
        low=math.exp(expected - width),
        high=math.exp(expected + width),
        psnr_db=nearest.psnr_db + decibels * moved,
        rising=trend > 0,
        reached=reached,
    )


def _collapse_factor(low: ShortRun, high: ShortRun) -> float:
    """c_0 of the law through two runs of the same length."""
    if not low.loss_factor < high.loss_factor or not low.bits < high.bits:
        raise ValueError(
            f"bias {low.bias:g}: the rate after {low.images:,} images does not rise with the loss factor: it is "
            f"{low.bits:.4g} bits/pixel at {low.loss_factor:g}, {high.bits:.4g} at {high.loss_factor:g}"
        )
    ratio = low.bits / high.bits
    return (1 - ratio) / (1 / low.loss_factor - ratio / high.loss_factor)


def _level(run: ShortRun, collapse: float) -> float:
    """log g of a run."""
    return math.log(run.bits / (1 - collapse / run.loss_factor))
