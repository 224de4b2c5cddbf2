"""The distribution of the bits, against closed forms, and that recording changes nothing."""

import math

import pytest
import torch
from torch import nn

from ulzoo.diffusion import CosineSchedule, ElboWeighting, GaussianDiffusion
from ulzoo.evaluation import EvaluationConfig, rate_distortion
from ulzoo.evaluation.rate_decomposition import BINS, RateMeasurement
from ulzoo.model.denoisers import DiffusionModel
from ulzoo.model.rate import NormalPrior
from ulzoo.registry.compile import compile_model, open_source

SPREADS = torch.tensor([0.2, 1.0, 3.0])  # standard deviations of the latent's channels
LOGSNR, SIDE, SAMPLES = 5.0, 4, 16


class Optimal(nn.Module):
    """The optimal x̂ of data N(0, s²) per channel, in the parametrisation `prediction`."""

    def __init__(self, prediction):
        super().__init__()
        self.prediction = prediction

    def forward(self, x_t, logsnr, conditions):
        alpha2 = torch.sigmoid(logsnr).reshape(-1, 1, 1, 1)
        s2 = SPREADS.square().reshape(1, -1, 1, 1)
        x = s2 * alpha2.sqrt() * x_t / (s2 * alpha2 + 1 - alpha2)
        eps = (x_t - alpha2.sqrt() * x) / (1 - alpha2).sqrt()
        return {"x": x, "eps": eps, "v": alpha2.sqrt() * eps - (1 - alpha2).sqrt() * x}[self.prediction]


def latents(n=2000):
    return torch.randn(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * SPREADS.reshape(1, -1, 1, 1)


def measured(prediction="x", samples=SAMPLES):
    schedule = CosineSchedule(logsnr_max=LOGSNR, logsnr_min=-15)
    network = DiffusionModel(Optimal(prediction), GaussianDiffusion(schedule, prediction), ElboWeighting())
    measurement, generator = RateMeasurement(network, samples), torch.Generator().manual_seed(1)
    for z in latents().split(500):
        with measurement.recording() as bits:
            nats = network.rate(z.repeat(samples, 1, 1, 1), generator=generator)
            bits.append(nats.reshape(samples, -1).mean(0) / math.log(2))
    assert type(network.diffusion) is GaussianDiffusion
    return measurement


@pytest.mark.parametrize("prediction", ["x", "eps", "v"])
def test_channels_have_the_bits_of_their_spread(prediction):
    """½ log2(1 + s² e^λ0) bits a dimension."""
    channels = measured(prediction).decomposition(1)["channels"]
    expected = SIDE**2 * torch.log2(1 + SPREADS.square() * math.exp(LOGSNR)) / 2
    assert channels == pytest.approx(expected.tolist(), rel=0.02)


def test_bits_over_logsnr_in_closed_form_sum_to_the_rate():
    """½ sigmoid(λ + 2 ln s) nats a dimension and unit of log-SNR."""
    measurement = measured()
    rate, metrics = measurement.decomposition(1), measurement.metrics("", 1, 1)
    edges = torch.tensor(rate["logsnr"])
    assert len(edges) == BINS + 1 and (edges[0], edges[-1]) == (-15, LOGSNR)
    up_to = (nn.functional.softplus(edges[:, None] + 2 * SPREADS.log()) / 2).sum(1) * SIDE**2 / math.log(2)
    assert rate["bits_per_pixel"] == pytest.approx(up_to.diff().tolist(), rel=0.1, abs=0.02)
    total = sum(rate["bits_per_pixel"]) + rate["terminal"] + rate["encoder"]
    assert total == pytest.approx(metrics["bits_per_pixel"], rel=1e-6)
    assert sum(rate["channels"]) == pytest.approx(metrics["bits_per_pixel"], rel=1e-5)
    assert rate["encoder"] == pytest.approx(0, abs=1e-4)
    assert sum(rate["images"]) / 2000 == pytest.approx(metrics["bits_per_pixel"], rel=1e-9)


def test_standard_errors():
    """The part that comes from the draws is proportional to one over the square root of their number."""
    metrics = measured().metrics("", 1, 1)
    bits = torch.tensor(measured().decomposition(1)["images"], dtype=torch.float64)
    assert metrics["bits_per_pixel_se"] == pytest.approx((bits.std() / len(bits) ** 0.5).item())
    assert metrics["bits_per_pixel_mc_se"] > 0
    few = measured(samples=4).metrics("", 1, 1)
    assert few["bits_per_pixel_mc_se"] == pytest.approx(2 * metrics["bits_per_pixel_mc_se"], rel=0.1)
    assert "bits_per_pixel_mc_se" not in measured(samples=1).metrics("", 1, 1)


def test_a_normal_prior_has_bits_of_images_only():
    prior = NormalPrior(LOGSNR)
    measurement = RateMeasurement(prior, 1)
    with measurement.recording() as bits:
        bits.append(prior.rate(latents(4)))
    assert measurement.decomposition(1) is None and measurement.metrics("", 1, 1)["bits_per_pixel"] > 0


@pytest.mark.parametrize("change", [[], ["latent.variance=learned"], ["prior.backbone.width=48"]])
def test_recording_does_not_change_a_compiled_model_s_rate(tiny, change):
    spec = tiny(*change)
    model, val = compile_model(spec).eval(), open_source(spec, "val")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(0))
    results = rate_distortion(model, val, EvaluationConfig({}, batch_size=6, rate_samples=4, decompose_rate=True))
    x = torch.stack([val[i].pixels for i in range(6)]).float() / 127.5 - 1
    labels = torch.tensor([val[i].label for i in range(6)])
    for name, prefix in (("prior", ""), ("base", "base_")):
        noise = EvaluationConfig({}).noise(f"rate by the {name}", range(6), model.device)
        bits = model.rate(x, samples=4, generator=noise, network=name, labels=labels)
        pixels = model.contract.pixels
        rate = results["rate"][name]
        assert rate["images"] == pytest.approx(bits.tolist(), rel=1e-5)
        parts = sum(rate["bits_per_pixel"]) + rate["terminal"] + rate["encoder"]
        assert parts == pytest.approx(results["figures"][f"{prefix}bits_per_pixel"], rel=1e-6)
        assert parts == pytest.approx(bits.mean().item() / pixels, rel=1e-5)
        assert len(rate["channels"]) == model.contract.latent_shape[0]
    assert (abs(results["rate"]["prior"]["encoder"]) > 1e-4) == (change == ["latent.variance=learned"])
