"""`ulzoo show`: the differences of two specs, and the points of a sweep."""

import json

import pytest

import ulzoo as library
from ulzoo.registry import find_sweeps, load_sweep

SWEEP = """\
name: factors
source: Table 2
spec: tiny.yaml
set: {latent.logsnr: 4}
columns: [bits_per_pixel, psnr_db]
points:
  low: {set: {decoder.weighting.loss_factor: 1.5}, paper: {bits_per_pixel: 0.035}}
  wide: {spec: wide.yaml, set: {encoder: {kind: vit, depth: 2}}}
"""


@pytest.fixture
def sweep(here):
    (here / "wide.yaml").write_text("extends: tiny.yaml\nname: wide\nlatent: {channels: 5}\nbase: {label_dropout: 0}\n")
    (here / "factors.yaml").write_text(SWEEP)
    return here


def rows(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


def test_the_differences_of_two_specs(ulzoo, sweep):
    result = ulzoo("show", "--diff", "tiny.yaml", "wide.yaml")
    assert result.exit_code == 0, result.stderr
    shown = rows(result.stdout)
    assert shown.pop("key") == ["tiny.yaml", "wide.yaml"] and shown.pop("name") == ["tiny", "wide"]
    assert [values for key, values in shown.items() if "─" not in key] == [["4", "5"], ["0.1", "0.0"]]
    assert {"latent.channels", "base.label_dropout"} <= shown.keys()


def test_the_differences_of_two_specs_as_json(ulzoo, sweep):
    data = json.loads(ulzoo("show", "--diff", "tiny.yaml", "wide.yaml", "--set", "latent.channels=6", "--json").stdout)
    assert data["diff"] == {"name": ["tiny", "wide"], "base.label_dropout": [0.1, 0.0]}
    wide = library.load_spec("wide.yaml", ["latent.channels=6"])
    assert data["b"] == {"spec": "wide.yaml", "hash": wide.hash}


def test_a_missing_part_is_a_dash(ulzoo, sweep):
    (sweep / "point.yaml").write_text("extends: tiny.yaml\nbase: null\ntrain: {base: null}\n")
    shown = rows(ulzoo("show", "--diff", "tiny.yaml", "point.yaml").stdout)
    assert shown["base.backbone.kind"] == ["vit", "–"] and shown["train.base.steps"] == ["2", "–"]


def test_a_base_of_a_given_cost(ulzoo, here):
    assert ulzoo("show", "text2image512_100g", "--base-gflops", 100).stdout.splitlines() == [
        "channels [384, 768], blocks [4, 14]: 101.6 GFLOPs",
        "--set 'base.backbone.kind=hierarchical_vit' --set 'base.backbone.channels=[384, 768]' "
        "--set 'base.backbone.blocks=[4, 14]'",
    ]
    size = json.loads(ulzoo("show", "text2image512_100g", "--base-gflops", 100, "--json").stdout)
    assert (size["channels"], size["blocks"]) == ([384, 768], [4, 14])
    assert size["gflops"] == pytest.approx(101.6, abs=0.05)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ("tiny.yaml", "--base-gflops", 1e-6),
            "no two-level ViT with heads of 64 channels is within",
        ),
        (("tiny.yaml", "tiny.yaml", "--diff", "--base-gflops", 1), "takes one spec"),
        (("paper/table2_loss_factor", "--base-gflops", 1), "takes one spec"),
    ],
)
def test_no_base_of_a_given_cost(args, words, ulzoo, here):
    result = ulzoo("show", *args)
    assert result.exit_code == 2 and result.stdout == "" and words in result.stderr


def test_no_difference(ulzoo, sweep):
    result = ulzoo("show", "tiny.yaml", "tiny.yaml", "--diff")
    assert result.exit_code == 0 and result.stdout.startswith("no difference")
    assert library.load_spec("tiny.yaml").hash in result.stdout


def test_a_sweep(ulzoo, sweep):
    result = ulzoo("show", "factors.yaml")
    assert result.exit_code == 0, result.stderr
    shown = rows(result.stdout)
    assert shown["low"] == ["decoder.weighting.loss_factor=1.5", "0.035"]
    assert shown["wide"] == ["spec=wide.yaml", "–"]
    assert shown["set"] == ["for", "all", "latent.logsnr=4"] and shown["paper"] == ["Table", "2"]
    assert "encoder={kind: vit, depth: 2}" in result.stdout


def test_a_sweep_as_json(ulzoo, sweep):
    data = json.loads(ulzoo("show", "factors.yaml", "--json", "--set", "latent.channels=6").stdout)
    assert (data["name"], data["set"]) == ("factors", {"latent.logsnr": 4})
    assert data["columns"]["psnr_db"]["better"] == "higher"
    resolved = load_sweep("factors.yaml").resolve(["latent.channels=6"])
    assert data["points"] == [
        {"name": point.name, "spec": point.spec, "set": point.set, "hash": spec.hash, "paper": point.paper}
        for point, spec in resolved
    ]


def test_a_point_of_a_sweep_is_shown_and_trained_as_a_spec(ulzoo, sweep):
    data = json.loads(ulzoo("show", "factors.yaml:low", "--json").stdout)
    assert data["spec"]["decoder"]["weighting"]["loss_factor"] == 1.5
    assert ulzoo("train", "factors.yaml:low", "--out", "run").exit_code == 0
    assert library.load("run").contract.latent_logsnr == 4


def test_every_packaged_sweep_is_shown(ulzoo):
    for name in find_sweeps():
        result = ulzoo("show", name)
        assert result.exit_code == 0, result.stderr
        assert all(point.name in result.stdout for point in load_sweep(name).list_points())


@pytest.mark.parametrize(
    "args",
    [("--diff", "tiny.yaml"), ("--diff",), ("tiny.yaml", "wide.yaml"), ("--diff", "tiny.yaml", "tiny.yaml", "x.yaml")],
    ids=" ".join,
)
def test_wrong_use(ulzoo, sweep, args):
    result = ulzoo("show", *args)
    assert result.exit_code == 2 and "Usage: ulzoo show" in result.stderr and result.stdout == ""


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--diff", "tiny.yaml", "emoji32_tinny"), "did you mean 'emoji32_tiny'?"),
        (("paper/table2_los_factor",), "did you mean a point of the packaged sweep 'paper/table2_loss_factor'?"),
        (("paper/table2_loss_factor:3.1",), "there is no point named '3.1'"),
        (("factors.yaml:lo",), "there is no point named 'lo'; did you mean 'low'?"),
        (("factors.yaml", "--set", "latent.chanels=6"), "did you mean 'channels'?"),
        (("--diff", "factors.yaml", "tiny.yaml"), "factors.yaml is a sweep: give one of its points"),
        (("--diff", "paper/table2_loss_factor", "tiny.yaml"), "is a sweep: give one of its points"),
    ],
)
def test_a_mistake_is_one_line(ulzoo, sweep, args, words):
    result = ulzoo("show", *args)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and words in result.stderr


def test_a_default_that_the_sizes_decide_is_shown(ulzoo, here):
    result = ulzoo("show", "tiny.yaml")
    assert "default  decoder.backbone.carry: true, since a patch holds 192 values, more than width 32" in result.stdout
    assert "carry: true" in result.stdout
    assert "default  " not in ulzoo("show", "tiny.yaml", "--set", "decoder.backbone.carry=false").stdout
