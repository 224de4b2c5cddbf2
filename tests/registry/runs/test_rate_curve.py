"""What is measured at several loss factors, and where by default."""

import pytest

from ulzoo.data import Latents
from ulzoo.evaluation import EvaluationConfig, measure
from ulzoo.registry.compile import compile_model, open_source
from ulzoo.registry.runs.encode import EncodeOptions, check_encoded, encode
from ulzoo.registry.runs.rate_curve import measure_curve, spread_loss_factors

RANGE = "decoder.weighting.loss_factor=[1, 4]"


def test_loss_factors_of_a_curve_are_spread_in_equal_ratios():
    assert spread_loss_factors((1, 4)) == (1, 1.414, 2, 2.828, 4)
    assert spread_loss_factors((1.23456, 1.23457))[-1] == 1.23457


def test_the_default_is_what_it_was(tiny):
    model = compile_model(tiny(RANGE), "meta")
    curve = measure_curve(model, (1.0, 4.0), lambda factor: dict(model.default_rate, seen=factor))
    assert curve == [{"loss_factor": 1.0, "seen": 1.0}, {"loss_factor": 4.0, "seen": 4.0}]
    with pytest.raises(ValueError, match="loss_factor must be from 1 to 4"):
        measure_curve(model, (1.0, 5.0), lambda factor: {})
    assert model.default_rate == {"loss_factor": 2.0}


def test_a_base_of_one_rate_is_measured_there_only(tiny):
    spec = tiny(RANGE, "base.loss_factor=3")
    model = compile_model(spec).eval()
    config = EvaluationConfig(spec.data_identity(), limit=2, rate_samples=1, decoder_steps=1)
    rows = measure_curve(model, (1, 3), lambda factor: measure(model, open_source(spec, "val"), config))
    assert ["base_bits_per_pixel" in row["figures"] for row in rows] == [False, True]
    assert all("bits_per_pixel" in row["figures"] for row in rows)


def test_latents_of_another_loss_factor_are_refused(tiny, tmp_path):
    spec = tiny(RANGE, "base.loss_factor=2")
    model, source = compile_model(spec).eval(), open_source(spec, "train")
    for name, factor in (("two", None), ("three", 3.0)):
        model.set_rate(loss_factor=factor)
        encode(model, spec, source, tmp_path / name, "train", options=EncodeOptions("float32"))
    model.set_rate(loss_factor=2.0)
    check_encoded(spec, model, ("base",), {"train.base.data": Latents("train", path=str(tmp_path / "two"))})
    other = {"train.base.data": Latents("train", path=str(tmp_path / "three"))}
    with pytest.raises(
        ValueError, match=r"contains latents of loss_factor 3.0, but base.loss_factor is 2; encode them"
    ):
        check_encoded(spec, model, ("base",), other)
