"""Sweeps: points and grids, `extends`, located errors, results beside the paper's."""

from pathlib import Path

import pytest

from ulzoo.registry import SpecError, load_spec
from ulzoo.registry.spec import loading as spec_module
from ulzoo.registry.spec.sweep import find_sweeps, is_sweep, load_sweep, result_table

SPEC = Path(__file__).parents[2].joinpath("tiny.yaml").read_text()
SWEEP = """\
name: factors
spec: tiny.yaml
set: {latent.channels: 6}
columns: [bits_per_pixel, psnr_db]
points:
  low:
    set: {decoder.weighting.loss_factor: 1.5}
    paper: {bits_per_pixel: 0.1}
  other:
    spec: wide.yaml
    set:
      decoder.weighting: {bias: -1, loss_factor: 2}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a subfolder that contains a sweep and its two specs; only a copy of it is packaged."""
    monkeypatch.chdir(tmp_path)
    for root in (tmp_path / "own", tmp_path / "packaged" / "paper"):
        root.mkdir(parents=True)
        root.joinpath("tiny.yaml").write_text(SPEC)
        root.joinpath("wide.yaml").write_text("extends: tiny.yaml\nlatent: {channels: 9}\nbase: {label_dropout: 0.2}\n")
        root.joinpath("factors.yaml").write_text(SWEEP)
    monkeypatch.setattr(spec_module, "files", lambda package: tmp_path / "packaged")
    return tmp_path / "own"


def error(do, *args) -> str:
    with pytest.raises(SpecError) as caught:
        do(*args)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def change(folder: Path, old: str, new: str) -> str:
    assert old in SWEEP
    (folder / "bad.yaml").write_text(SWEEP.replace(old, new, 1))
    return "own/bad.yaml"


# -------------------------------------------------------------------------------------------------------------- points


def test_points_change_their_specs():
    (low, low_spec), (_, other_spec) = load_sweep("own/factors.yaml").resolve()
    assert (low.name, low.set, low.paper) == ("low", {"decoder.weighting.loss_factor": 1.5}, {"bits_per_pixel": 0.1})
    assert low_spec == load_spec("own/tiny.yaml", ["latent.channels=6", "decoder.weighting.loss_factor=1.5"])
    changes = ["latent.channels=6", "decoder.weighting.bias=-1", "decoder.weighting.loss_factor=2"]
    assert other_spec == load_spec("own/wide.yaml", changes)
    assert other_spec.base.label_dropout == 0.2


def test_overrides_come_last():
    for _, spec in load_sweep("own/factors.yaml").resolve(["latent.channels=3", "decoder.weighting.loss_factor=4"]):
        assert (spec.latent.channels, spec.decoder.weighting.loss_factor) == (3, 4)


def test_packaged_sweeps_have_names_with_their_folder(monkeypatch, tmp_path):
    assert list(find_sweeps()) == ["paper/factors", "paper/tiny", "paper/wide"]
    resolved = load_sweep("paper/factors").resolve()
    assert resolved == load_sweep(Path("own/factors.yaml")).resolve()
    monkeypatch.chdir(tmp_path / "own")
    assert load_sweep("paper/factors").resolve() == resolved


def test_sweeps_are_recognized(folder):
    folder.joinpath("twin.yaml").write_text("extends: factors.yaml\nname: twin\nset: {latent.channels: 5}\n")
    for name in ("paper/factors", "own/factors.yaml", Path("own/factors.yaml"), "own/twin.yaml"):
        assert is_sweep(name)
    for name in ("own/tiny.yaml", "own/wide.yaml", "paper/factor", "own"):
        assert not is_sweep(name)
    assert error(load_spec, "paper/factors").startswith("paper/factors is a sweep: give one of its points")


@pytest.mark.parametrize("sweep", ["own/factors.yaml", "paper/factors"])
def test_a_point_loads_by_its_name(sweep):
    points = {point.name: spec for point, spec in load_sweep(sweep).resolve()}
    assert load_spec(f"{sweep}:other") == points["other"]
    assert load_spec(f"{sweep}:low", ["latent.channels=3"]).latent.channels == 3
    assert "there is no point named 'lou'; did you mean 'low'?" in error(load_spec, f"{sweep}:lou")


def test_a_grid_is_the_product_of_its_lists(folder):
    folder.joinpath("grid.yaml").write_text(
        "name: grid\nspec: tiny.yaml\ncolumns: [psnr_db]\n"
        "grid: {decoder.weighting.bias: [-1, 2.5], latent.downsample: [[4, 4], [8, 8]]}\n"
    )
    resolved = load_sweep("own/grid.yaml").resolve()
    names = [point.name for point, _ in resolved]
    assert names == [
        "bias-1_downsample4x4", "bias-1_downsample8x8", "bias2.5_downsample4x4", "bias2.5_downsample8x8",
    ]  # fmt: skip
    assert [(spec.decoder.weighting.bias, spec.latent.downsample) for _, spec in resolved] == [
        (-1, (4, 4)), (-1, (8, 8)), (2.5, (4, 4)), (2.5, (8, 8)),
    ]  # fmt: skip


def test_an_extending_sweep_merges_points(folder):
    folder.joinpath("small").mkdir()
    folder.joinpath("small/twin.yaml").write_text(
        "extends: ../factors.yaml\nname: twin\nspec: ../wide.yaml\n"
        "set: {latent.channels: 5}\npoints:\n  low: {set: {decoder.weighting.loss_factor: 3}}\n  other: null\n"
    )
    ((point, spec),) = load_sweep("own/small/twin.yaml").resolve()
    assert (point.name, point.paper) == ("low", {"bits_per_pixel": 0.1})
    assert spec == load_spec("own/wide.yaml", ["latent.channels=5", "decoder.weighting.loss_factor=3"])


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: factors\n", "", "own/bad.yaml:1: missing key 'name'"),
        ("spec: tiny.yaml\n", "", "own/bad.yaml:1: missing key 'spec'"),
        ("columns:", "colums:", "own/bad.yaml:4: colums: unknown key; did you mean 'columns'?"),
        ("psnr_db]", "psnr]", "own/bad.yaml:4: columns.1: unknown column 'psnr'; did you mean 'psnr_db'?"),
        ("[bits_per_pixel, psnr_db]", "[]", "own/bad.yaml:4: columns: expected at least 1 values, got 0"),
        ("    paper:", "    papr:", "own/bad.yaml:8: points.low.papr: unknown key; did you mean 'paper'?"),
        ("pixel: 0.1", "pixel: much", "own/bad.yaml:8: points.low.paper.bits_per_pixel: expected a number, got 'much'"),
        ("pixel: 0.1", "pixel: '1'", "own/bad.yaml:8: points.low.paper.bits_per_pixel: expected a number, got '1'"),
        ("{bits_per_pixel: 0.1", "{fvd: 1", "own/bad.yaml:8: points.low.paper.fvd: not among the sweep's columns;"
         " expected one of: bits_per_pixel, psnr_db"),
        ("  low:", "  a/b:", "own/bad.yaml:6: points.a/b: a point's name consists of letters, digits, '.', '-' and"
         " '_'"),
        ("points:", "grid: {latent.channels: []}\npoint:", "own/bad.yaml:6: point: unknown key; did you mean 'points'?"
         ),
    ],
)  # fmt: skip
def test_errors_in_a_sweep(folder, old, new, message):
    assert error(load_sweep, change(folder, old, new)).removesuffix(" (and 1 more)") == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("factor: 1.5", "fctor: 1.5", "own/bad.yaml:7: decoder.weighting.loss_fctor: unknown key; did you mean"
         " 'loss_factor'?"),
        ("channels: 6", "channels: many", "own/bad.yaml:3: latent.channels: expected an integer, got 'many'"),
        ("bias: -1", "bias: x", "own/bad.yaml:12: decoder.weighting.bias: expected a number or a list, got 'x'"),
        ("wide.yaml", "wild.yaml", "own/bad.yaml:10: spec: own/wild.yaml: no such file; did you mean 'own/wide.yaml'?"),
        ("tiny.yaml", "tiny", "own/bad.yaml:2: spec: there is no spec named 'tiny'"),
        ("tiny.yaml", "factors.yaml", "own/factors.yaml:2: spec: unknown key"),
    ],
)  # fmt: skip
def test_errors_in_a_point(folder, old, new, message):
    assert error(load_sweep(change(folder, old, new)).resolve).startswith(message)


def test_a_sweep_needs_points_with_unique_names(folder):
    head = "name: x\nspec: tiny.yaml\ncolumns: [psnr_db]\n"
    for text, message in [
        ("", "own/x.yaml:1: a sweep needs points or a grid"),
        ("points: {a: null}\n", "own/x.yaml:1: a sweep needs points or a grid"),
        ("grid: {latent.channels: [4, 4]}\n", "own/x.yaml:4: grid: two points are named 'channels4'"),
        ("points: {channels4: {}}\ngrid: {latent.channels: [4]}\n", "own/x.yaml:5: grid: two points are named"),
        (f"grid: {{a: {list(range(40))}, b: {list(range(40))}}}\n", "own/x.yaml:4: grid: more than 1000 points"),
    ]:
        folder.joinpath("x.yaml").write_text(head + text)
        assert error(load_sweep, "own/x.yaml").startswith(message)


def test_missing_sweeps_are_errors_with_a_suggestion(folder):
    assert error(load_sweep, "paper/factor") == (
        "paper/factor: no such file; did you mean the packaged sweep 'paper/factors'?"
    )
    assert error(load_sweep, "factors") == "there is no sweep named 'factors'; did you mean 'paper/factors'?"
    assert error(load_sweep, "factors.yaml").endswith("the sweep 'paper/factors' is packaged: give its name alone")
    folder.joinpath("x.yaml").write_text("extends: x.yaml\n")
    assert error(load_sweep, "own/x.yaml") == "own/x.yaml:1: extends: circular: own/x.yaml -> own/x.yaml"


# ------------------------------------------------------------------------------------------------------------- results


def test_results_beside_the_papers_values():
    sweep = load_sweep("own/factors.yaml")
    rows = [
        {"point": "other", "figures": {"psnr_db": 20.0, "seconds": 3}},
        {"point": "other", "figures": {"psnr_db": 22.0, "bits_per_pixel": 0.5}},
    ]
    low, other = result_table(sweep, rows)
    assert (low["point"], low["runs"], low["paper"]) == ("low", 0, {"bits_per_pixel": 0.1, "psnr_db": None})
    assert low["measured"] == low["spread"] == {"bits_per_pixel": None, "psnr_db": None}
    assert (other["runs"], other["set"]) == (2, {"decoder.weighting": {"bias": -1, "loss_factor": 2}})
    assert other["measured"] == {"bits_per_pixel": 0.5, "psnr_db": 21.0}
    assert other["spread"] == {"bits_per_pixel": None, "psnr_db": pytest.approx(2**0.5)}


def test_results_of_another_sweep_are_refused():
    with pytest.raises(ValueError, match="factors has no point 'lo'; did you mean 'low'"):
        result_table(load_sweep("own/factors.yaml"), [{"point": "lo", "figures": {}}])
