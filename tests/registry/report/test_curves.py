"""Means over seeds, the Pareto front and Bjøntegaard deltas, against closed forms and the package `bjontegaard`."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulzoo.registry.report.curves import PchipInterpolator, average, bd_psnr, bd_rate, curve, pareto, solve


def row(point: str, bits: float | None, psnr: float | None, series: str = "s", seed: int = 0, **other: Any) -> dict:
    figures = {"bits_per_pixel": bits, "psnr_db": psnr}
    return {
        "point": point,
        "series": series,
        "seed": seed,
        "spec": "tiny",
        "set": {},
        "status": "done",
        "figures": {name: value for name, value in figures.items() if value is not None},
        **other,
    }


# The example of the package bjontegaard 1.3.0 (x265 with two presets). Expected values are from that package with the
# method "pchip", which agrees with the spreadsheet of JVET-T2010 to ten decimal places.
ANCHOR = sorted(zip([9487.76, 4593.60, 2486.44, 1358.24], [40.037, 38.615, 36.845, 34.851], strict=True))
TEST = sorted(zip([9787.80, 4469.00, 2451.52, 1356.24], [40.121, 38.651, 36.970, 34.987], strict=True))
PAPER = [(0.035, 25.7), (0.059, 27.6), (0.083, 28.9), (0.101, 29.6), (0.116, 30.1)]  # Table 2
SHORT = [(0.04, 25.0), (0.07, 27.7), (0.12, 29.5)]


def test_bd_rate_and_bd_psnr_match_the_bjontegaard_package():
    assert bd_rate(ANCHOR, TEST) == pytest.approx(-4.417485350589045, abs=1e-9)
    assert bd_psnr(ANCHOR, TEST) == pytest.approx(0.11969278542479489, abs=1e-9)
    assert bd_rate(PAPER, SHORT) == pytest.approx(19.103601702862317, abs=1e-9)
    assert bd_psnr(PAPER, SHORT) == pytest.approx(-0.6837342151080233, abs=1e-9)


def test_bd_rate_and_bd_psnr_of_shifted_curves_are_the_shift():
    assert bd_rate(PAPER, [(1.25 * x, y) for x, y in PAPER]) == pytest.approx(25)
    assert bd_psnr(PAPER, [(x, y - 0.5) for x, y in PAPER]) == pytest.approx(-0.5)
    assert bd_rate(PAPER, PAPER) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ([(0.1, 30.0)], "two points"),
        ([(0.0, 20.0), (0.1, 30.0)], "no logarithm"),
        ([(0.05, 28.0), (0.1, 27.0)], "does not rise with the rate: 28 at 0.05, 27 at 0.1"),
        ([(0.05, 35.0), (0.1, 36.0)], "no quality in common"),
    ],
)
def test_curves_that_cannot_be_compared(test, message):
    with pytest.raises(ValueError, match=message):
        bd_rate(PAPER, test)


def test_the_interpolation_is_pchip():
    f = PchipInterpolator([0, 1, 3, 4, 8], [0, 2, 2.5, 2.5, 9])
    expected = [1.262105855855856, 2.3716216216216215, 2.5, 4.2875, 8.7099578125]
    assert [f(x) for x in (0.5, 2, 3.5, 6, 7.9)] == pytest.approx(expected, abs=1e-12)
    assert f.integrate(0.5, 7) == pytest.approx(19.490236721096096, abs=1e-12)


@given(st.lists(st.tuples(st.floats(0.01, 5), st.floats(-9, 9)), min_size=2, max_size=8), st.floats(0, 1))
def test_pchip_stays_between_its_points_and_solve_inverts_it(steps, share):
    x = [sum(step for step, _ in steps[: i + 1]) for i in range(len(steps))]
    y = [y for _, y in steps]
    f = PchipInterpolator(x, y)
    at = min(x[0] + share * (x[-1] - x[0]), x[-1])
    left = max(i for i in range(len(x)) if x[i] <= at)
    ends = y[left : left + 2]
    value = float(f(at))
    assert min(ends) - 1e-9 <= value <= max(ends) + 1e-9
    if min(ends) < value < max(ends):
        roots = solve(x, y, value)
        assert roots and all(f(root) == pytest.approx(value, abs=1e-6) for root in roots)


def test_solve_finds_every_place():
    x, y = [0, 1, 2, 3, 4], [0, 1, 0, 0, 2]
    assert solve(x, y, 0) == [0, 2] and solve(x, y, 3) == [] and solve(x, y, 1) == [1, pytest.approx(3.5, abs=0.3)]
    assert len(solve(x, y, 0.5)) == 3


def test_pareto_front():
    rows = [row("a", 0.1, 25), row("b", 0.2, 24), row("c", 0.2, 27), row("d", 0.3, 27), row("e", 0.2, 27)]
    rows += [row("f", None, 90), row("g", 0.01, math.nan), row("h", 0.0, 99, status="failed")]
    assert [r["point"] for r in pareto(rows)] == ["a", "c", "e"]
    assert pareto([]) == []


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30))
def test_pareto_front_is_what_no_row_dominates(values):
    rows = [row(str(i), bits, psnr) for i, (bits, psnr) in enumerate(values)]
    non_dominated = {
        i for i, (x, y) in enumerate(values) if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in values)
    }
    front = pareto(rows)
    assert {int(r["point"]) for r in front} == non_dominated
    assert [r["figures"]["bits_per_pixel"] for r in front] == sorted(r["figures"]["bits_per_pixel"] for r in front)


def test_averages_over_seeds():
    rows = [row("a", 0.1, 20, seed=0), row("a", 0.3, 22, seed=1), row("a", 0.5, None, seed=2), row("b", 1, 30)]
    rows += [row("a", 9, 9, series="t"), row("a", 0, 0, seed=3, status="failed")]
    means = average(rows)
    first, second = means["s"]
    assert first.metrics == pytest.approx({"bits_per_pixel": 0.3, "psnr_db": 21}) and first.rows == 3
    assert first.spread == pytest.approx({"bits_per_pixel": 0.2, "psnr_db": math.sqrt(2)}) and second.spread == {}
    assert curve(means["s"]) == [(pytest.approx(0.3), 21), (1, 30)] and curve(means["t"]) == [(9, 9)]
