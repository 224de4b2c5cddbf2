"""Settings that hit a target, on lines whose shape is known."""

import math
import shlex
from typing import Any

import pytest

from ulzoo.registry.report.target_search import find

FACTOR, CHANNELS = "decoder.weighting.loss_factor", "latent.channels"


def row(settings: dict[str, Any], bits: float | None, psnr: float | None, **other: Any) -> dict:
    figures = {"bits_per_pixel": bits, "psnr_db": psnr}
    return {
        "point": "_".join(map(str, settings.values())),
        "series": "s",
        "seed": 0,
        "spec": "tiny",
        "set": settings,
        "status": "done",
        "figures": {name: value for name, value in figures.items() if value is not None},
        **other,
    }


STRAIGHT = [row({FACTOR: x}, 0.1 * x, 20 + 2 * x) for x in (1.0, 2.0, 3.0)]


def test_between_two_points_of_a_straight_line():
    found = find(STRAIGHT, psnr=23)
    (hit,) = found.settings
    assert hit.set == {FACTOR: 1.5} and hit.between == ("1.0", "2.0") and hit.inside and not hit.measured
    assert hit.figures == pytest.approx({"bits_per_pixel": 0.15, "psnr_db": 23})
    assert (found.low, found.high) == (22, 26)
    assert hit.command("runs/s") == f"ulzoo sweep tiny --set {FACTOR}=1.5 --out runs/s"
    assert find(STRAIGHT, bits=0.25).settings[0].set == {FACTOR: 2.5}


def test_a_measured_point_is_said_to_be_one():
    (hit,) = find(STRAIGHT, psnr=24).settings
    assert hit.measured and hit.set == {FACTOR: 2.0} and hit.between == ("2.0",)


def test_seeds_are_averaged():
    rows = [row({FACTOR: x}, 0.1, 20 + x + noise, seed=seed) for x in (1.0, 2.0) for seed, noise in ((0, -1), (1, 1))]
    assert find(rows, psnr=21.25).settings[0].set == {FACTOR: 1.25}


def test_wide_ranges_are_interpolated_in_the_logarithm_and_whole_numbers_stay_whole():
    rows = [row({CHANNELS: c}, 0.1 * math.log2(c), 20 + math.log2(c)) for c in (4, 8, 16)]
    (hit,) = find(rows, psnr=20 + math.log2(11)).settings
    assert hit.set == {CHANNELS: 11} and isinstance(hit.set[CHANNELS], int)
    assert hit.figures["psnr_db"] == pytest.approx(20 + math.log2(11), abs=1e-6)
    (hit,) = find(rows, psnr=24.05).settings
    assert not hit.inside and hit.set == {CHANNELS: 17}


def test_keys_that_take_fractions_though_written_whole():
    rows = [row({FACTOR: x}, 0.1 * x, 20 + 2 * x) for x in (1, 3)]
    assert find(rows, psnr=23).settings[0].set == {FACTOR: 2}
    assert find(rows, psnr=23, fractional={FACTOR}).settings[0].set == {FACTOR: 1.5}


def test_a_whole_positive_number_does_not_go_to_zero():
    rows = [row({CHANNELS: c}, 0.1 * c, 20 + c) for c in (1, 2)]
    assert find(rows, psnr=1).settings == []


def test_outside_is_said_and_goes_at_most_one_step_on():
    (near,) = find(STRAIGHT, psnr=27).settings
    assert not near.inside and near.set == {FACTOR: 3.5} and near.between == ("3.0",)
    assert near.figures == pytest.approx({"bits_per_pixel": 0.35, "psnr_db": 27})
    (far,) = find(STRAIGHT, psnr=60).settings
    assert far.set == {FACTOR: 4.0}
    (low,) = find(STRAIGHT, psnr=1).settings
    assert low.set == {FACTOR: 0.5}, "a positive setting stays positive"
    assert low.figures["psnr_db"] == pytest.approx(21)


def test_a_line_that_turns_back_hits_twice_or_says_nothing():
    rows = [row({FACTOR: x}, x, -((x - 2) ** 2)) for x in (1.0, 2.0, 3.0)]
    assert [hit.set[FACTOR] for hit in find(rows, psnr=-0.5).settings] == pytest.approx([1.3, 2.7], abs=0.25)
    assert find(rows, psnr=1).settings == []


def test_a_grid_is_searched_along_both_keys_and_the_cheapest_comes_first():
    rows = [
        row({CHANNELS: c, FACTOR: x, "encoder.kind": "vit"}, 0.1 * x * c, 20 + x) for c in (4, 8) for x in (1.0, 3.0)
    ]
    hits = find(rows, psnr=22, shared={"latent.logsnr": 4, "latent.downsample": [8, 8]}).settings
    assert [hit.set[CHANNELS] for hit in hits] == [4, 8] and all(hit.set[FACTOR] == 2.0 for hit in hits)
    asked = shlex.split(hits[0].command())
    assert asked[2:] == [
        *("tiny", "--set", "latent.logsnr=4", "--set", "latent.downsample=[8, 8]", "--set", "latent.channels=4"),
        *("--set", f"{FACTOR}=2.0", "--set", "encoder.kind=vit"),
    ]
    best = find(rows, bits=0.6).settings
    assert [hit.figures["psnr_db"] for hit in best] == sorted((hit.figures["psnr_db"] for hit in best), reverse=True)


def test_rows_without_the_other_figure_and_other_specs_stay_apart():
    rows = [row({FACTOR: 1.0}, None, 20), row({FACTOR: 2.0}, None, 22), row({FACTOR: 1.5}, None, 90, spec="other")]
    (hit,) = find(rows, psnr=21).settings
    assert hit.figures == {"psnr_db": pytest.approx(21)} and hit.set == {FACTOR: 1.5} and hit.spec == "tiny"


@pytest.mark.parametrize(
    ("rows", "target", "message"),
    [
        (STRAIGHT, {}, "one target"),
        (STRAIGHT, {"psnr": 1, "bits": 1}, "one target"),
        (STRAIGHT, {"bits": math.nan}, "no finite number"),
        (STRAIGHT[:1], {"psnr": 23}, "differ in one number"),
        ([row({FACTOR: 1.0}, 0.1, None)], {"psnr": 23}, "no finished point has the figure psnr_db"),
        ([row({FACTOR: x}, 0.1, x, status="failed") for x in (1.0, 2.0)], {"psnr": 1.5}, "no finished point"),
        ([row({"encoder.kind": x}, 0.1, 3) for x in ("a", "b")], {"psnr": 1.5}, "differ in one number"),
    ],
)
def test_what_cannot_be_found(rows, target, message):
    with pytest.raises(ValueError, match=message):
        find(rows, **target)
