"""Training over a range of loss factors: what a range without width is, the log, the warning, kills, other stages."""

import json
import warnings

import pytest
import torch

from ulzoo.files import tensor_file
from ulzoo.model.losses import base_loss, decoder_loss, distill_loss, latents_loss
from ulzoo.registry.compile import compile_model
from ulzoo.registry.runs.train import RunOptions, train
from ulzoo.registry.spec.yaml_source import SpecError
from ulzoo.training.monitoring import CollapseMonitor, read_rows

RANGE = "decoder.weighting.loss_factor=[1.0, 4.0]"


def test_a_range_without_width_is_the_number_to_the_bit(tiny, tmp_path):
    states = []
    for name, value in (("number", "2.0"), ("range", "[2.0, 2.0]")):
        spec = tiny(f"decoder.weighting.loss_factor={value}", "train.latents.steps=3", "train.base.steps=2")
        train(spec, tmp_path / name)
        rows = [{**row, "images_per_second": 0, "data_wait": 0} for row in read_rows(tmp_path / name / "metrics.jsonl")]
        states.append((tensor_file.read(tmp_path / name / "model.safetensors").tensors, rows))
    (number, number_rows), (without_width, rows) = states
    assert number.keys() == without_width.keys() and rows == number_rows
    assert all(torch.equal(number[key], without_width[key]) for key in number)


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_the_rates_gradient_reaches_the_gain_as_far_as_the_encoder(scale, tiny):
    model = compile_model(tiny(RANGE))
    model.prepare("latents")
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    gradients = []
    for prior_gradient in (1.0, scale):
        model.zero_grad()
        terms = latents_loss(model, x, generator=torch.Generator().manual_seed(0), prior_gradient=prior_gradient)
        terms.rate.mean().backward()
        gradient = model.encoder.rate_gain.correction.grad
        gradients.append(torch.zeros(8) if gradient is None else gradient.clone())
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[1], scale * gradients[0])


def test_the_log_has_the_rates_at_both_ends(tiny, tmp_path):
    train(tiny(RANGE, "train.latents.steps=3"), tmp_path / "run", RunOptions(stage="latents"))
    (row,) = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert row["low_rate_bits_per_pixel"] > 0 and row["high_rate_bits_per_pixel"] > 0
    assert "bits_per_pixel" in json.loads((tmp_path / "run" / "figures.json").read_text())["figures"]


def test_the_warning_of_a_collapse_is_of_the_low_end(tiny):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CollapseMonitor(compile_model(tiny(RANGE)), 0).check(1, 0.001)
    (warning,) = caught
    assert "decoder.weighting.loss_factor or decoder.weighting.bias (now 1 to 4 and 5)" in str(warning.message)


STEPS = "{steps: 2, batch_size: 8, lr: 1e-3}"
FINAL = "{backbone: {kind: vit, patch: 4, width: 32, depth: 1, heads: 2}}"


@pytest.mark.parametrize("stage", ["decoder", "distill", "base"])
def test_later_stages_are_trained_over_the_range(stage, tiny):
    overrides = [
        f"final_decoder={FINAL}",
        f"train.decoder={STEPS}",
        "distilled={steps: [1, 2]}",
        f"train.distill={STEPS}",
    ]
    model = compile_model(tiny(RANGE, *(overrides if stage != "base" else ())))
    seen = []
    posterior = model.posterior
    model.posterior = lambda x, *, conditions: (
        seen.append(conditions.loss_factor) or posterior(x, conditions=conditions)
    )
    loss = {"decoder": decoder_loss, "distill": distill_loss, "base": base_loss}[stage]
    model.prepare(stage)
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    loss(model, x, generator=torch.Generator().manual_seed(0)).backward()
    (factors,) = seen
    assert factors.shape == (8,) and factors.min() < 1.3 and factors.max() > 3.0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["decoder.weighting.loss_factor=[4.0, 1.0]"], r"loss_factor must be a number or a range \[low, high\]"),
        (["decoder.weighting.loss_factor=[0.0, 1.0]"], "loss_factor must be positive, got 0"),
        (
            [RANGE, "base.weighting.loss_factor=[1.0, 2.0]"],
            "only the decoder's moves the rate",
        ),
        (["base.loss_factor=2.0"], "decoder.weighting.loss_factor is not a range: remove this key"),
        ([RANGE, "base.loss_factor=5.0"], "must lie within decoder.weighting.loss_factor, 1 to 4"),
        ([RANGE, "base.loss_factor=[3.0, 2.0]"], "must lie within"),
        (
            [RANGE, "train.base.data={kind: latents, path: latents}"],
            "latents that were encoded beforehand have one loss_factor: set base.loss_factor to a number",
        ),
        (
            [RANGE, "base=null", "train.base=null", "latent.logsnr_bias=0.0", "decoder.latent_logsnr=true"],
            "single-stage training with a random log-SNR has one rate",
        ),
        (
            [RANGE, "encoder={kind: identity}", "latent.channels=3", "latent.downsample=[1, 1]"],
            "'identity' takes no rate control: give one loss factor and one bias",
        ),
    ],
)
def test_ranges_that_cannot_be_are_refused_with_their_key(overrides, message, tiny):
    with pytest.raises(SpecError, match=message):
        compile_model(tiny(*overrides), "meta")
