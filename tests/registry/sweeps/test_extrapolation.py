"""From short runs to the rate of a full training: exact for runs that follow the law, cautious about others."""

import math

import pytest

from ulzoo.registry.sweeps.extrapolation import ShortRun, propose

IMAGES = 800
TABLE_2 = {1.3: 0.035, 1.5: 0.059, 1.7: 0.083, 1.9: 0.101, 2.1: 0.116}
EMOJI = {1.3: 0.478, 1.5: 0.562, 1.7: 0.630, 1.9: 0.679, 2.1: 0.721}  # of an earlier demo


def rate(factor: float, images: int, trend: float = math.log(0.9)) -> float:
    return 1.2 * math.exp(trend * math.log2(images / IMAGES)) * (1 - 0.8 / factor)


def run(factor: float, images: int, bits: float | None = None, **other: float) -> ShortRun:
    values = {"bias": 5.0, "bits_se": 0.0, "psnr_db": 20 + factor, **other}
    return ShortRun(loss_factor=factor, images=images, bits=rate(factor, images) if bits is None else bits, **values)


RUNS = [run(1.0, 200), run(2.0, 200), run(1.4, 400)]


def test_runs_that_follow_the_law_are_continued_exactly():
    proposal = propose(RUNS, images=IMAGES, bits=0.5)
    assert proposal.reached and not proposal.rising
    assert proposal.loss_factor == pytest.approx(0.8 / (1 - 0.5 / 1.2), abs=0.005)
    assert proposal.bits == pytest.approx(rate(proposal.loss_factor, IMAGES), rel=1e-6)


def test_the_interval_spans_no_further_change_and_twice_the_change():
    proposal = propose(RUNS, images=IMAGES, bits=rate(1.4, IMAGES))
    assert proposal.loss_factor == 1.4
    assert proposal.low == pytest.approx(proposal.bits * 0.9) and proposal.high == pytest.approx(proposal.bits / 0.9)
    moved = propose(RUNS, images=IMAGES, bits=0.3)
    noisy = propose([*RUNS[:2], run(1.4, 400, bits_se=0.1)], images=IMAGES, bits=rate(1.4, IMAGES))
    for wider in (moved, noisy):
        assert wider.high / wider.bits > proposal.high / proposal.bits
    complete = propose([*RUNS[:2], run(1.4, IMAGES)], images=IMAGES, bits=rate(1.4, IMAGES))
    assert complete.low == pytest.approx(complete.high)


def test_a_rise_with_the_images_is_not_continued():
    rising = [run(factor, images, rate(factor, images, 0.3)) for factor, images in ((1.0, 200), (2.0, 200), (1.4, 400))]
    proposal = propose(rising, images=IMAGES, bits=rising[-1].bits)
    assert proposal.rising and proposal.bits == pytest.approx(rising[-1].bits)
    assert proposal.high == pytest.approx(proposal.bits * math.exp(0.3))


@pytest.mark.parametrize(("rates", "error"), [(TABLE_2, 0.025), (EMOJI, 0.01)])
def test_two_points_predict_table_2_of_the_paper_and_its_counterpart_on_emoji(rates, error):
    runs = [run(factor, IMAGES, rates[factor]) for factor in (1.3, 2.1)]
    for factor, bits in rates.items():
        proposal = propose(runs, images=IMAGES, bits=bits)
        assert proposal.reached and proposal.loss_factor == pytest.approx(factor, rel=error)


def test_a_loss_factor_far_from_those_that_were_run_is_not_proposed():
    for bits, factor in ((5.0, 4.0), (1e-6, 0.808)):
        proposal = propose(RUNS, images=IMAGES, bits=bits)
        assert not proposal.reached and proposal.loss_factor == pytest.approx(factor)
        assert proposal.bits == pytest.approx(rate(factor, IMAGES))


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (0.3, 0.2, "does not rise with the loss factor: it is 0.3 bits/pixel at 1, 0.2 at 2"),
        (0.0, 0.2, "the latent collapsed at loss factor 1 and bias 5"),
    ],
)
def test_runs_that_tell_nothing(low, high, message):
    with pytest.raises(ValueError, match=message):
        propose([run(1.0, 200, low), run(2.0, 200, high)], images=IMAGES, bits=0.5)
