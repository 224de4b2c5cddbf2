"""From options to a sweep: the paper's grids, values as YAML, and errors that name the option."""

import pytest

from ulzoo.registry import SpecError, load_sweep
from ulzoo.registry.sweeps.options import PAPER, default_folder, looks_like_values, sweep_from_options


def points(*args, **kwargs) -> list[dict]:
    return [point.set for point in sweep_from_options(*args, **kwargs)[0].list_points()]


@pytest.mark.parametrize(
    ("spec", "option", "key", "values"),
    [
        (None, "--latent-channels", "latent.channels", [4, 8, 16, 32, 64]),
        (None, "--loss-factor", "decoder.weighting.loss_factor", [1.3, 1.5, 1.7, 1.9, 2.1]),
        (None, "--bias", "decoder.weighting.bias", [3, 4, 5, 6, 7]),
        ("imagenet512_small", "--bias", "decoder.weighting.bias", [-5, -4, -3, -2, -1]),
        ("imagenet512_medium", "--loss-factor", "decoder.weighting.loss_factor", [1.3, 1.5, 1.7, 1.9, 2.1]),
    ],
)
def test_the_papers_values(spec, option, key, values):
    assert points(spec, {option: PAPER}) == [{key: value} for value in values]


def test_a_grid_with_the_loss_factor_fastest():
    sweep, overrides = sweep_from_options(
        None, {"--loss-factor": "1.5,2", "--latent-channels": "4,8"}, ["train.base.steps=5", "base.depth=1,2"]
    )
    assert overrides == ["train.base.steps=5"]
    assert sweep.spec == sweep.name == "emoji32_tiny"
    assert sweep.columns == ("bits_per_pixel", "base_bits_per_pixel", "psnr_db")
    first, second = [point.set for point in sweep.list_points()][:2]
    assert list(first) == ["latent.channels", "base.depth", "decoder.weighting.loss_factor"]
    assert [entry["decoder.weighting.loss_factor"] for entry in (first, second)] == [1.5, 2]
    assert len(sweep.list_points()) == 8


def test_values_are_yaml():
    sets = points(None, {}, ["latent.downsample=[4,4],[8,8]"])
    assert [list(entry["latent.downsample"]) for entry in sets] == [[4, 4], [8, 8]]
    sweep, overrides = sweep_from_options(None, {"--bias": "1"}, ["latent.downsample=[8,8]", "name=x"])
    assert overrides == ["latent.downsample=[8,8]", "name=x"] and len(sweep.list_points()) == 1


def test_seeds_need_no_grid():
    assert points(None, {}, seeds=3) == [{}]


def test_a_sweep_keeps_its_points():
    sweep, overrides = sweep_from_options("paper/small/table2_loss_factor", {}, ["train.base.steps=5"])
    assert sweep.name == "paper/small/table2_loss_factor" and overrides == ["train.base.steps=5"]
    assert default_folder(sweep) == "runs/sweeps/paper/small/table2_loss_factor"


@pytest.mark.parametrize(
    ("axes", "settings", "words"),
    [
        ({"--loss-factor": ""}, [], "--loss-factor: an empty grid"),
        ({"--loss-factor": ","}, [], "--loss-factor ,: not valid YAML"),
        ({"--loss-factor": "1,2"}, ["decoder.weighting.loss_factor=3,4"], "already has values, from --set"),
        ({}, ["latent.channels=4,8", "latent.channels=2,3"], "already has values, from --set latent.channels=4,8"),
        ({"--loss-factor": "1,1"}, [], "two points are named 'loss_factor1'"),
        ({}, [], "nothing to sweep over: give --latent-channels"),
        ({}, ["train.base.steps=3"], "nothing to sweep over"),
        ({}, ["steps"], "write key.path=value"),
        ({"--loss-factor": ",".join(map(str, range(1001)))}, [], "more than 1000 points"),
    ],
)
def test_an_invalid_grid(axes, settings, words):
    with pytest.raises(SpecError) as caught:
        sweep_from_options(None, axes, settings)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["latent.chanels=4,8"], "--set latent.chanels=4,8: unknown key; did you mean 'channels'?"),
        (["latent.channels=4,many"], "--set latent.channels=4,many: expected an integer, got 'many'"),
        (["latent.channels=4,0"], "must be at least 1"),
    ],
)
def test_an_invalid_value_is_reported_with_its_option(settings, words):
    with pytest.raises(SpecError) as caught:
        sweep_from_options(None, {}, settings)[0].resolve()
    assert words in str(caught.value)


def test_a_sweep_takes_no_grid():
    for axes, settings in (({"--bias": PAPER}, []), ({}, ["latent.channels=4,8"])):
        with pytest.raises(SpecError, match="paper/table2_loss_factor is a sweep, which has its points"):
            sweep_from_options("paper/table2_loss_factor", axes, settings)


def test_a_misspelt_spec():
    with pytest.raises(SpecError, match="did you mean 'emoji32_tiny'"):
        sweep_from_options("emoji32_tyni", {"--bias": PAPER})


@pytest.mark.parametrize("text", ["4", "1.5,2", "-3", "-5,-4", ".5", "1e-3", "[4,4]", "a,b", "paper", "2."])
def test_words_that_are_values(text):
    assert looks_like_values(text)


@pytest.mark.parametrize("text", ["emoji32_tiny", "my.yaml", "./4.yaml", "--bias", "-h", "512.yaml", "paper/small"])
def test_words_that_are_not(text):
    assert not looks_like_values(text)


def test_the_papers_values_come_with_the_settings_of_the_specs_own_table():
    sweep, _ = sweep_from_options("emoji32_tiny", {"--loss-factor": PAPER})
    assert sweep.set == load_sweep("paper/small/table2_loss_factor").set == {"decoder.weighting.bias": 5.0}
    for axes in ({"--loss-factor": "1.3,2.1"}, {"--loss-factor": PAPER, "--bias": "1,2"}):
        assert sweep_from_options("emoji32_tiny", axes)[0].set == {}
    assert sweep_from_options("images32_tiny", {"--loss-factor": PAPER})[0].set == {}
