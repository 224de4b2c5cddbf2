"""The advice on noise levels: medians, shares and shifts of known distributions of bits."""

import math
from itertools import pairwise

import pytest
import torch

from ulzoo.diffusion import CosineSchedule, ShiftedCosineSchedule
from ulzoo.evaluation.noise_levels import noise_levels
from ulzoo.model.pretrained import LatentStatistics

EDGES = [-10 + 15 * i / 60 for i in range(61)]


def decomposition(low: float, high: float) -> dict[str, list[float]]:
    """Bits that are spread evenly between two log-SNRs."""
    overlap = [max(0.0, min(b, high) - max(a, low)) for a, b in pairwise(EDGES)]
    return {"logsnr": EDGES, "bits_per_pixel": overlap}


@pytest.mark.parametrize("shift", [-2.0, 0.0, 1.5])
def test_a_schedule_that_fits_is_proposed_as_it_is(shift: float) -> None:
    schedule = ShiftedCosineSchedule(logsnr_max=5.0, shift=shift)
    levels = schedule.logsnr(torch.tensor(0.5, dtype=torch.float64))
    proposal = noise_levels(decomposition(levels.item() - 1, levels.item() + 1), schedule)
    assert proposal.median == pytest.approx(levels.item(), abs=1e-6)
    assert proposal.shift == pytest.approx(shift, abs=1e-6) and proposal.drawn_above == pytest.approx(0.5, abs=1e-3)


def test_clean_bits_ask_for_a_shift() -> None:
    schedule = CosineSchedule(logsnr_max=5.0)
    proposal = noise_levels(decomposition(1.0, 4.0), schedule, LatentStatistics((0.0, 0.0), (2.0, 1.0)))
    assert proposal.median == pytest.approx(2.5, abs=1e-6)
    # λ(t) = -2 ln tan(π t/2) up to the truncated ends: above 2.5 for t < 2/π · atan(e^(-1.25))
    assert proposal.drawn_above == pytest.approx(2 / math.pi * math.atan(math.exp(-1.25)), abs=0.06)
    assert proposal.shift > 2
    assert proposal.scale == pytest.approx(math.sqrt(2.5))
    schedule_line, scale_line = proposal.describe()
    assert "above log-SNR 2.5" in schedule_line and f"shift: {proposal.shift:.1f}}}" in schedule_line
    assert "a standard deviation of 1.58: add -0.9 to" in scale_line and "e.g. [-3.9, 2.1]" in scale_line
