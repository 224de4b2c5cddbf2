import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ulzoo.diffusion import (
    CosineSchedule,
    InterpolatedCosineSchedule,
    LinearSchedule,
    Schedule,
    ShiftedCosineSchedule,
    time_of,
)

CLASSES: list[Callable[..., Schedule]] = [
    LinearSchedule,
    CosineSchedule,
    ShiftedCosineSchedule,
    InterpolatedCosineSchedule,
]


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    high = draw(st.floats(-4, 20))
    ends = {"logsnr_min": high - draw(st.floats(0.5, 35)), "logsnr_max": high}
    kind = draw(st.sampled_from(CLASSES))
    if kind is ShiftedCosineSchedule:
        return ShiftedCosineSchedule(**ends, shift=draw(st.floats(-8, 8)))
    if kind is InterpolatedCosineSchedule:
        low = draw(st.floats(-8, 8))
        return InterpolatedCosineSchedule(**ends, low=low, high=low + draw(st.floats(0, 8)))
    return kind(**ends)


def naive_cosine(t: Tensor, low: float, high: float) -> Tensor:
    t_min, t_max = math.atan(math.exp(-high / 2)), math.atan(math.exp(-low / 2))
    return -2 * (t_min + t * (t_max - t_min)).tan().log()


def naive_shifted(t: Tensor, low: float, high: float, shift: float) -> Tensor:
    return naive_cosine(t, low - shift, high - shift) + shift


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(schedule=schedules())
def test_exact_at_both_ends(schedule: Schedule, dtype: torch.dtype) -> None:
    logsnr = schedule.logsnr(torch.tensor([0.0, 1.0], dtype=dtype))
    assert logsnr.dtype == dtype
    assert torch.equal(logsnr, torch.tensor([schedule.logsnr_max, schedule.logsnr_min], dtype=dtype))


@given(schedule=schedules())
def test_continuous_at_both_ends(schedule: Schedule) -> None:
    """The exact ends are those of the curve, not corrections of a wrong one."""
    t = torch.tensor([1e-12, 1 - 1e-12], dtype=torch.float64)
    ends = torch.tensor([schedule.logsnr_max, schedule.logsnr_min], dtype=torch.float64)
    torch.testing.assert_close(schedule.logsnr(t), ends, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(schedule=schedules())
def test_decreasing_and_within_the_ends(schedule: Schedule, dtype: torch.dtype) -> None:
    t = torch.linspace(0, 1, 513, dtype=dtype)
    logsnr, slope = schedule.logsnr(t), schedule.dlogsnr_dt(t)
    assert (logsnr.diff() < 0).all()
    assert (slope < 0).all() and slope.isfinite().all() and slope.dtype == dtype


@given(schedule=schedules(), t=st.floats(0.001, 0.999))
def test_derivative_is_autograds_and_a_finite_difference(schedule: Schedule, t: float) -> None:
    at = torch.tensor([t], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.logsnr(at).sum(), at)
    analytic = schedule.dlogsnr_dt(at.detach())
    torch.testing.assert_close(analytic, slope, rtol=1e-7, atol=0)
    h = 1e-7
    difference = (schedule.logsnr(at.detach() + h) - schedule.logsnr(at.detach() - h)) / (2 * h)
    torch.testing.assert_close(analytic, difference, rtol=1e-4, atol=1e-5)


@given(schedule=schedules())
def test_slope_integrates_to_the_range(schedule: Schedule) -> None:
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)[1:-1]
    covered = torch.trapezoid(schedule.dlogsnr_dt(t), t)
    between = schedule.logsnr(t[-1]) - schedule.logsnr(t[0])
    torch.testing.assert_close(covered, between, rtol=0.05, atol=0)


def test_formulas_of_the_paper() -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    low, high = -12.0, 9.0
    ends = {"logsnr_min": low, "logsnr_max": high}
    near, far = 2 * math.log(32 / 256), 2 * math.log(128 / 256)
    interpolated = t * naive_shifted(t, low, high, near) + (1 - t) * naive_shifted(t, low, high, far)
    expected: list[tuple[Schedule, Tensor]] = [
        (LinearSchedule(**ends), high + t * (low - high)),
        (CosineSchedule(**ends), naive_cosine(t, low, high)),
        (ShiftedCosineSchedule(**ends, shift=near), naive_shifted(t, low, high, near)),
        (InterpolatedCosineSchedule(**ends, low=near, high=far), interpolated),
    ]
    for schedule, logsnr in expected:
        torch.testing.assert_close(schedule.logsnr(t), logsnr, rtol=0, atol=1e-8)


def test_single_precision_is_as_good_as_its_argument() -> None:
    """Near t = 1 the angle is almost π/2, whose tangent in float32 has lost half of its digits."""
    t = torch.cat([torch.tensor([1e-6, 1e-3, 0.5]), 1 - 2.0 ** -torch.arange(4.0, 25.0)])
    for schedule in (CosineSchedule(logsnr_min=-20, logsnr_max=20), ShiftedCosineSchedule(shift=-4.0)):
        exact = t.double()
        torch.testing.assert_close(schedule.logsnr(t).double(), schedule.logsnr(exact), rtol=0, atol=1e-4)
        torch.testing.assert_close(schedule.dlogsnr_dt(t).double(), schedule.dlogsnr_dt(exact), rtol=1e-4, atol=0)


@given(t=st.floats(0.01, 0.99))
@settings(max_examples=25)
def test_shift_zero_is_the_cosine_schedule_and_more_shift_is_less_noise(t: float) -> None:
    at = torch.tensor(t, dtype=torch.float64)
    assert ShiftedCosineSchedule(shift=0.0).logsnr(at) == CosineSchedule().logsnr(at)
    shifted = [ShiftedCosineSchedule(shift=shift).logsnr(at) for shift in (-6.0, -2.0, 0.0, 3.0)]
    assert shifted == sorted(shifted)
    same = InterpolatedCosineSchedule(low=-2.0, high=-2.0)
    torch.testing.assert_close(same.logsnr(at), ShiftedCosineSchedule(shift=-2.0).logsnr(at))


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("ends", [(5.0, 5.0), (5.0, -5.0), (float("nan"), 5.0), (-5.0, float("inf"))])
def test_refuses_ends_that_do_not_fall(kind: Callable[..., Schedule], ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="logsnr_min must be below logsnr_max"):
        kind(logsnr_min=ends[0], logsnr_max=ends[1])


def test_interpolation_refuses_to_rise() -> None:
    with pytest.raises(ValueError, match="low must be at most high"):
        InterpolatedCosineSchedule(low=1.0, high=0.0)


@given(schedules(), st.floats(0, 1))
def test_the_time_of_a_logsnr_is_the_inverse(schedule: Schedule, at: float) -> None:
    t = torch.tensor([at], dtype=torch.float64)
    logsnr = schedule.logsnr(t)
    torch.testing.assert_close(schedule.logsnr(time_of(schedule, logsnr)), logsnr, rtol=1e-6, atol=1e-6)


def test_the_time_of_a_logsnr_beyond_the_ends() -> None:
    schedule = CosineSchedule(logsnr_min=-10, logsnr_max=5)
    assert time_of(schedule, torch.tensor([6.0, 5.0, -10.0, -11.0])).tolist() == [0, 0, 1, 1]
