"""What a run is warned of, and where the warnings are recorded."""

import json
import warnings

import pytest

from ulzoo.registry.runs.cautions import run_cautions, warmup_cautions
from ulzoo.registry.runs.train import RunOptions, train

SHORT = ("train.latents.steps=2", "train.base.steps=2", "train.latents.checkpoint_every=2", "decoder.backbone.depth=1")


def caught_while(run) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(warning.message) for warning in caught]


def test_a_warm_up_is_compared_with_the_steps_of_its_stage(tiny):
    spec = tiny("train.latents.steps=6", "train.base.steps=4")  # warm-ups of 4 and 8, and of 4
    (caution,) = warmup_cautions(spec, spec.stages)
    assert caution.path == "train.latents.prior_warmup_steps"
    assert caution.message == (
        "8 is more than train.latents.steps, 6: the prior's gradient to the encoder ends at 75% of its value; "
        "lower it, or train longer"
    )
    assert [caution.path for caution in warmup_cautions(tiny("train.base.steps=3"), ("base",))] == [
        "train.base.warmup_steps"
    ]
    assert not list(warmup_cautions(tiny("train.latents.steps=8"), ("latents",)))


def test_a_run_within_its_warm_up_warns_at_its_start_and_at_its_end(tiny, tmp_path):
    spec = tiny(*SHORT)
    messages = caught_while(lambda: train(spec, tmp_path / "run", RunOptions(stage="latents")))
    started = [message for message in messages if "is more than" in message]
    assert len(started) == 2 and all("tiny.yaml" in message for message in started)
    cautions = json.loads((tmp_path / "run/figures.json").read_text())["cautions"]
    assert sum("is more than train.latents.steps" in line for line in cautions) == 2
    assert not any("tiny.yaml" in line for line in cautions)  # the same file wherever the spec was


def test_a_collapse_in_training_is_recorded_whatever_the_averages_measure(tiny, tmp_path, monkeypatch):
    spec = tiny(*SHORT, "train.latents.warmup_steps=0", "train.latents.prior_warmup_steps=0")
    monkeypatch.setattr("ulzoo.training.monitoring.COLLAPSED_BITS_PER_DIMENSION", 1e9)
    messages = caught_while(lambda: train(spec, tmp_path / "run", RunOptions(stage="latents")))
    assert sum("collapsing" in message for message in messages) == 1
    (line,) = [
        line
        for line in json.loads((tmp_path / "run/figures.json").read_text())["cautions"]
        if line.startswith("at the end of training the rate is ")
    ]
    assert "the latent is collapsing; raise decoder.weighting.loss_factor" in line


def test_a_run_without_rows_has_no_cautions(tiny, tmp_path):
    from ulzoo.registry.compile import compile_model

    assert run_cautions(tiny(), ("latents", "base"), compile_model(tiny(), "meta"), tmp_path) == []


@pytest.mark.parametrize("stage", ["latents", "all"])
def test_the_psnr_of_the_mean_training_image_is_measured(stage, tiny, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = train(tiny(*SHORT), tmp_path / "run", RunOptions(stage=stage))
    results = json.loads((tmp_path / "run/figures.json").read_text())
    assert result is not None and results == json.loads(json.dumps(result.results))
    mean, psnr = (results["figures"][name] for name in ("mean_image_psnr_db", "psnr_db"))
    assert 0 < mean < 40 and results["protocol"]["mean_image"]["split"] == "train"
    assert results["mean_image"]["shape"] == [3, 16, 16]
    assert any("below" in line for line in results["cautions"]) is (psnr < mean)
