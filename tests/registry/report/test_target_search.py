"""Settings that reach a target, on lines of known shape."""

import math
import shlex
from typing import Any

import pytest

from ulzoo.registry.report.target_search import find_settings

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
    result = find_settings(STRAIGHT, psnr=23)
    (hit,) = result.settings
    assert hit.set == {FACTOR: 1.5} and hit.between == ("1.0", "2.0") and hit.inside and not hit.measured
    assert hit.metrics == pytest.approx({"bits_per_pixel": 0.15, "psnr_db": 23})
    assert (result.low, result.high) == (22, 26)
    assert hit.command("runs/s") == f"ulzoo sweep tiny --set {FACTOR}=1.5 --out runs/s"
    assert find_settings(STRAIGHT, bits=0.25).settings[0].set == {FACTOR: 2.5}


def test_a_measured_point_is_marked():
    (hit,) = find_settings(STRAIGHT, psnr=24).settings
    assert hit.measured and hit.set == {FACTOR: 2.0} and hit.between == ("2.0",)


def test_seeds_are_averaged():
    rows = [row({FACTOR: x}, 0.1, 20 + x + noise, seed=seed) for x in (1.0, 2.0) for seed, noise in ((0, -1), (1, 1))]
    assert find_settings(rows, psnr=21.25).settings[0].set == {FACTOR: 1.25}


def test_wide_ranges_are_interpolated_in_the_logarithm_and_integers_stay_integers():
    rows = [row({CHANNELS: c}, 0.1 * math.log2(c), 20 + math.log2(c)) for c in (4, 8, 16)]
    (hit,) = find_settings(rows, psnr=20 + math.log2(11)).settings
    assert hit.set == {CHANNELS: 11} and isinstance(hit.set[CHANNELS], int)
    assert hit.metrics["psnr_db"] == pytest.approx(20 + math.log2(11), abs=1e-6)
    (hit,) = find_settings(rows, psnr=24.05).settings
    assert not hit.inside and hit.set == {CHANNELS: 17}


def test_keys_that_take_fractions_although_their_values_are_integers():
    rows = [row({FACTOR: x}, 0.1 * x, 20 + 2 * x) for x in (1, 3)]
    assert find_settings(rows, psnr=23).settings[0].set == {FACTOR: 2}
    assert find_settings(rows, psnr=23, fractional={FACTOR}).settings[0].set == {FACTOR: 1.5}


def test_a_positive_integer_does_not_become_zero():
    rows = [row({CHANNELS: c}, 0.1 * c, 20 + c) for c in (1, 2)]
    assert find_settings(rows, psnr=1).settings == []


def test_a_guess_outside_is_marked_and_at_most_one_step_beyond():
    (near,) = find_settings(STRAIGHT, psnr=27).settings
    assert not near.inside and near.set == {FACTOR: 3.5} and near.between == ("3.0",)
    assert near.metrics == pytest.approx({"bits_per_pixel": 0.35, "psnr_db": 27})
    (far,) = find_settings(STRAIGHT, psnr=60).settings
    assert far.set == {FACTOR: 4.0}
    (low,) = find_settings(STRAIGHT, psnr=1).settings
    assert low.set == {FACTOR: 0.5}, "a positive setting stays positive"
    assert low.metrics["psnr_db"] == pytest.approx(21)


def test_a_line_that_turns_back_has_two_settings_or_none():
    rows = [row({FACTOR: x}, x, -((x - 2) ** 2)) for x in (1.0, 2.0, 3.0)]
    assert [hit.set[FACTOR] for hit in find_settings(rows, psnr=-0.5).settings] == pytest.approx([1.3, 2.7], abs=0.25)
    assert find_settings(rows, psnr=1).settings == []


def test_a_grid_is_searched_along_both_keys_and_the_cheapest_comes_first():
    rows = [
        row({CHANNELS: c, FACTOR: x, "encoder.kind": "vit"}, 0.1 * x * c, 20 + x) for c in (4, 8) for x in (1.0, 3.0)
    ]
    hits = find_settings(rows, psnr=22, shared={"latent.logsnr": 4, "latent.downsample": [8, 8]}).settings
    assert [hit.set[CHANNELS] for hit in hits] == [4, 8] and all(hit.set[FACTOR] == 2.0 for hit in hits)
    words = shlex.split(hits[0].command())
    assert words[2:] == [
        *("tiny", "--set", "latent.logsnr=4", "--set", "latent.downsample=[8, 8]", "--set", "latent.channels=4"),
        *("--set", f"{FACTOR}=2.0", "--set", "encoder.kind=vit"),
    ]
    best = find_settings(rows, bits=0.6).settings
    assert [hit.metrics["psnr_db"] for hit in best] == sorted((hit.metrics["psnr_db"] for hit in best), reverse=True)


def test_rows_without_the_other_metric_and_other_specs_are_separate():
    rows = [row({FACTOR: 1.0}, None, 20), row({FACTOR: 2.0}, None, 22), row({FACTOR: 1.5}, None, 90, spec="other")]
    (hit,) = find_settings(rows, psnr=21).settings
    assert hit.metrics == {"psnr_db": pytest.approx(21)} and hit.set == {FACTOR: 1.5} and hit.spec == "tiny"


@pytest.mark.parametrize(
    ("rows", "target", "message"),
    [
        (STRAIGHT, {}, "give one target"),
        (STRAIGHT, {"psnr": 1, "bits": 1}, "give one target"),
        (STRAIGHT, {"bits": math.nan}, "not a finite number"),
        (STRAIGHT[:1], {"psnr": 23}, "differ in one number"),
        ([row({FACTOR: 1.0}, 0.1, None)], {"psnr": 23}, "no finished point has the metric psnr_db"),
        ([row({FACTOR: x}, 0.1, x, status="failed") for x in (1.0, 2.0)], {"psnr": 1.5}, "no finished point"),
        ([row({"encoder.kind": x}, 0.1, 3) for x in ("a", "b")], {"psnr": 1.5}, "differ in one number"),
    ],
)
def test_a_search_that_is_impossible(rows, target, message):
    with pytest.raises(ValueError, match=message):
        find_settings(rows, **target)
