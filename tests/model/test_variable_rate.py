"""Variable rate: the optimum of Gaussian data in closed form, draws, defaults, checks, streams, the log."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from ulzoo.coding.stream import DamagedStream, read_header
from ulzoo.diffusion import (
    CosineSchedule,
    ExampleNoise,
    GaussianDiffusion,
    IndependentNoise,
    LinearSchedule,
    SigmoidWeighting,
    expand_like,
)
from ulzoo.model.compression import measure_codec
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import Contract
from ulzoo.model.denoisers import DiffusionModel
from ulzoo.model.losses import StageLoss, latents_loss
from ulzoo.model.rate import DiffusionPrior
from ulzoo.model.rate_control import RateControl, water_level
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.nn.conditioning import NetworkConditions, RateGain
from ulzoo.registry import load_spec
from ulzoo.registry.compile import compile_model
from ulzoo.registry.spec.schema import Spec

TINY = Path(__file__).parents[1] / "tiny.yaml"
LOSS_FACTOR, BIAS, LOGSNR = (1.5, 6.0), 2.0, 5.0
VARIANCES = torch.tensor([0.1, 1.0, 4.0])  # of the data's dimensions; the first one needs no bits at low loss factors
ALPHA2 = 1 / (1 + math.exp(-LOGSNR))


class Gains(nn.Module):
    """An encoder z_clean = gain(c_lf) · x; each dimension's gain is a polynomial of log c_lf, cut off at zero."""

    def __init__(self, degree: int = 3):
        super().__init__()
        self.coefficients = nn.Parameter(torch.zeros(degree + 1, len(VARIANCES)))
        nn.init.constant_(self.coefficients[0], 0.3)
        self.rate_gain = RateGain([[0.0]])

    def at(self, rate_control: Tensor) -> Tensor:
        """(B, 1) -> (B, dimensions)."""
        powers = torch.arange(len(self.coefficients))
        basis = torch.cos(powers * torch.arccos(2 * rate_control.clamp(0, 1) - 1))  # Chebyshev polynomials
        return (basis @ self.coefficients).relu()

    def forward(self, x: Tensor, rate_control: Tensor) -> Tensor:
        return x * self.at(rate_control)[:, None, None]


class OptimalPrior(nn.Module):
    """The optimal v of the latents of `Gains`; by the envelope theorem its dependence on them needs no gradient."""

    def __init__(self, encoder: Gains):
        super().__init__()
        self.encoder = [encoder]  # not a submodule

    def forward(self, z_t: Tensor, logsnr: Tensor, conditions: NetworkConditions) -> Tensor:
        assert conditions.rate_control is not None
        variance = (self.encoder[0].at(conditions.rate_control).detach() ** 2 * VARIANCES)[:, None, None]
        alpha2 = expand_like(torch.sigmoid(logsnr), z_t)
        return (alpha2 * (1 - alpha2)).sqrt() * (1 - variance) / (alpha2 * variance + 1 - alpha2) * z_t


class OptimalDecoder(OptimalPrior):
    """The optimal x̂ given x_t and z_0."""

    def forward(self, x_t: Tensor, logsnr: Tensor, conditions: NetworkConditions) -> Tensor:
        assert conditions.latent is not None and conditions.rate_control is not None
        gain = self.encoder[0].at(conditions.rate_control).detach()[:, None, None]
        alpha2 = expand_like(torch.sigmoid(logsnr), x_t)
        evidence = alpha2.sqrt() / (1 - alpha2) * x_t + gain * ALPHA2**0.5 / (1 - ALPHA2) * conditions.latent
        return evidence / (1 / VARIANCES + alpha2 / (1 - alpha2) + gain**2 * math.exp(LOGSNR))


def gaussian_model() -> UnifiedLatents:
    encoder, size = Gains(), (1, len(VARIANCES))
    weighting = SigmoidWeighting(bias=BIAS, loss_factor=LOSS_FACTOR)
    control = RateControl.of("loss_factor", LOSS_FACTOR, None)
    return UnifiedLatents(
        encoder,
        DiffusionPrior(OptimalPrior(encoder), GaussianDiffusion(CosineSchedule(logsnr_max=LOGSNR), "v")),
        DiffusionModel(OptimalDecoder(encoder), GaussianDiffusion(LinearSchedule(), "x"), weighting),
        None,
        Contract(size, 1, size, 1, LOGSNR, rate_controls=(control,), single_stage=True),
    )


def marginal_distortion(v: float) -> float:
    """v times the derivative by v of the distortion, ∫ sigmoid(b - λ) e^λ v / (1 + v e^λ) dλ, by a sum."""
    levels = torch.linspace(-30, 30, 20001, dtype=torch.float64)
    integrand = torch.sigmoid(BIAS - levels) * v * levels.exp() / (1 + v * levels.exp()) ** 2
    return torch.trapezoid(integrand, levels).item()


@pytest.mark.parametrize("loss_factor", [1.2, 1.5, 2.0, 3.0, 6.0, 50.0])
def test_at_the_water_level_a_bit_costs_as_much_distortion_as_it_saves_rate(loss_factor: float) -> None:
    level = water_level(loss_factor) * math.exp(-BIAS)
    assert loss_factor * marginal_distortion(level) == pytest.approx(1, rel=1e-4)


@pytest.fixture
def quadrature(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Draws replaced by grids on which the loss, quadratic in all noise, has its exact expectation; returns x.

    All combinations of 7 loss factors, 64 times and the signs of x and of the noise of prior, z_0 and decoder.
    """
    factor, time, *signs = torch.cartesian_prod(
        torch.linspace(0, 1, 7), (torch.arange(64) + 0.5) / 64, *[torch.tensor([-1.0, 1.0])] * 4
    ).unbind(1)
    noise: Iterator[Tensor] = iter(())

    def signed(z: Tensor, generator: object = None) -> Tensor:
        return next(noise)[:, None, None, None].expand_as(z)

    def spread(*_: object) -> Tensor:  # the first draw of each loss
        nonlocal noise
        noise = iter(signs[1:])
        return factor

    monkeypatch.setattr("ulzoo.model.rate_control.spread_evenly", spread)
    monkeypatch.setattr("ulzoo.diffusion.gaussian.low_discrepancy_times", lambda *_: time)
    monkeypatch.setattr("ulzoo.diffusion.gaussian.randn_like", signed)
    monkeypatch.setattr("ulzoo.model.unified_latents.independent_randn_like", signed)
    return signs[0][:, None, None, None] * VARIANCES.sqrt()


def test_a_model_of_the_whole_range_is_optimal_at_every_loss_factor(quadrature: Tensor) -> None:
    model = gaussian_model()
    model.prepare("latents")
    gains: nn.Parameter = model.encoder.coefficients  # type: ignore[assignment]
    optimizer = torch.optim.LBFGS([gains], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = latents_loss(model, quadrature).total
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type, no-untyped-call]
    for loss_factor in (1.5, 2.0, 3.0, 4.0, 6.0):
        optimum = VARIANCES.clamp(max=water_level(loss_factor) * math.exp(-BIAS))
        position = torch.tensor([[math.log(loss_factor / 1.5) / math.log(4)]])
        variance = 1 / (1 / VARIANCES + model.encoder.at(position)[0] ** 2 * math.exp(LOGSNR))  # type: ignore[operator]
        torch.testing.assert_close(variance, optimum, rtol=0.02, atol=0)
    assert water_level(1.5) * math.exp(-BIAS) > VARIANCES[0] > water_level(6.0) * math.exp(-BIAS)


def test_the_loss_factor_of_a_budget_is_found_for_each_example() -> None:
    model, generator = gaussian_model(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.encoder.coefficients[1] = 0.2  # type: ignore[index, operator]
    x = VARIANCES.sqrt() * torch.randn(8, 1, 1, len(VARIANCES), generator=generator)
    bits = 1.4 * model.rate(x, loss_factor=2.0, samples=64).mean().item()
    factors = model.find_loss_factor(x, bits=bits)
    assert factors.shape == (8,) and factors.unique().numel() > 1
    reached = model.rate(x, loss_factor=factors, samples=8, generator=IndependentNoise(range(8), 0))
    inside = (factors > LOSS_FACTOR[0] * 1.001) & (factors < LOSS_FACTOR[1] * 0.999)
    assert inside.any()
    torch.testing.assert_close(reached[inside], torch.full_like(reached[inside], bits), rtol=0.01, atol=0.01)
    assert torch.equal(model.encode(x, bits=bits), model.encode(x, loss_factor=factors))
    with pytest.raises(ValueError, match="either bits or a loss factor"):
        model.encode(x, bits=bits, loss_factor=2.0)


# --------------------------------------------------------------------------------------------------- compiled models

RANGE = {"loss_factor": [1.0, 4.0]}


def compiled(
    weighting: dict[str, object] | None = None, *, trained: bool = True, **changes: dict[str, object]
) -> UnifiedLatents:
    """tests/tiny.yaml with a range; if `trained`, all of its weights count."""
    content = load_spec(TINY).to_dict()
    content["decoder"]["weighting"] |= weighting or RANGE
    for section, values in changes.items():
        content[section] = values if "kind" in values else content[section] | values
    model = compile_model(Spec.from_plain(content))
    if not trained:
        return model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def images(n: int = 4) -> Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.mark.parametrize(
    "encoder",
    [{"kind": "vit", "width": 32, "depth": 1, "heads": 2}, {"kind": "resnet", "channels": [8, 8], "blocks": [1, 1]}],
)
def test_the_networks_of_a_fresh_model_do_not_depend_on_the_loss_factor_and_trained_ones_do(
    encoder: dict[str, object],
) -> None:
    for trained in (False, True):
        model = compiled(trained=trained, encoder=encoder)
        model.encoder.rate_gain.log_gains = [[0.0]]  # type: ignore[union-attr]
        z_clean = model.encode(images(), loss_factor=2.0)

        def seeded() -> torch.Generator:
            return torch.Generator().manual_seed(1)

        calls: list[Callable[[float], Tensor]] = [
            lambda c: model.encode(images(), loss_factor=c),  # noqa: B023
            lambda c: model.rate(images(), loss_factor=c, generator=seeded()),  # noqa: B023
            lambda c: model.decode(z_clean, loss_factor=c, generator=seeded()),  # noqa: B023
            lambda c: model.sample(2, loss_factor=c, generator=seeded()),  # noqa: B023
        ]
        for call in calls:
            assert torch.equal(call(1.0), call(4.0)) != trained


def test_the_latent_of_a_fresh_model_has_the_scale_of_gaussian_data() -> None:
    model = compiled({"loss_factor": [1.5, 6.0], "bias": [3.0, 5.0]}, trained=False)
    levels = [water_level(factor) for factor in (1.5, 3.0, 6.0)]
    middle = model.encode(images(), loss_factor=3.0, bias=4.0)
    for factor, level in zip((1.5, 3.0, 6.0), levels, strict=True):
        for bias in (3.0, 4.0, 5.0):
            z_clean = model.encode(images(), loss_factor=factor, bias=bias)
            expected = middle * math.sqrt(levels[1] / level * math.exp(bias - 4))
            torch.testing.assert_close(z_clean, expected, rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("prediction", ["x", "eps", "v"])
def test_a_denoiser_of_the_unscaled_latent_denoises_the_scaled_one(prediction: Literal["x", "eps", "v"]) -> None:
    diffusion, gain = GaussianDiffusion(CosineSchedule(), prediction), torch.tensor([0.3, 1.0, 2.5])
    logsnr, generator = torch.tensor([-2.0, 0.5, 4.0]), torch.Generator().manual_seed(0)
    y, noise = torch.randn(2, 3, 5, generator=generator)

    def optimal(scale: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The optimal prediction for N(0, scale² I)."""

        def denoiser(x_t: Tensor, logsnr: Tensor) -> Tensor:
            alpha, sigma = torch.sigmoid(logsnr).sqrt()[:, None], torch.sigmoid(-logsnr).sqrt()[:, None]
            x_hat = alpha * scale[:, None] ** 2 / (alpha**2 * scale[:, None] ** 2 + sigma**2) * x_t
            return {"x": x_hat, "eps": (x_t - alpha * x_hat) / sigma, "v": (alpha * x_t - x_hat) / sigma}[prediction]

        return denoiser

    z_t = diffusion.add_noise(gain[:, None] * y, logsnr=logsnr, noise=noise)
    scaled = diffusion.denoise_scaled(optimal(torch.ones(3)), z_t, logsnr=logsnr, gain=gain)
    torch.testing.assert_close(scaled, optimal(gain)(z_t, logsnr))


def test_each_example_may_have_its_own_loss_factor() -> None:
    model, x, factors = compiled(), images(), [1.0, 1.5, 2.0, 4.0]
    together = model.encode(x, loss_factor=factors)
    for n, factor in enumerate(factors):
        torch.testing.assert_close(model.encode(x[n : n + 1], loss_factor=factor), together[n : n + 1])
    torch.testing.assert_close(model.encode(x, loss_factor=torch.tensor(factors), batch_size=3), together)
    noise = [torch.Generator().manual_seed(1) for _ in range(2)]
    z_0 = model.noise_latents(together, generator=noise[0])
    x_hat = model.decode(z_0, loss_factor=factors, generator=noise[0])
    assert torch.equal(model.reconstruct(x, loss_factor=factors, generator=noise[1]), x_hat)


def test_the_default_is_the_middle_of_the_bases_range_and_can_be_set() -> None:
    model, x = compiled(), images()
    assert model.rate_range == {"loss_factor": (1.0, 4.0)} and compiled({"loss_factor": 2.0}).rate_range == {}
    assert torch.equal(model.encode(x), model.encode(x, loss_factor=2.0))
    model.set_rate(loss_factor=3.0)
    assert torch.equal(model.encode(x), model.encode(x, loss_factor=3.0))
    base = compiled(base={"loss_factor": 1.5})
    assert torch.equal(base.encode(x), base.encode(x, loss_factor=1.5))
    base.sample(1)
    base.rate(x, loss_factor=4.0)
    for call in (lambda: base.sample(1, loss_factor=2.0), lambda: base.rate(x, network="base", loss_factor=2.0)):
        with pytest.raises(ValueError, match=r"loss_factor must be 1.5, as the base was trained, got 2"):
            call()
    both = compiled({"loss_factor": [1.0, 4.0], "bias": [3.0, 5.0]}, base={"bias": [3.0, 4.0]})
    assert both.rate_range == {"loss_factor": (1.0, 4.0), "bias": (3.0, 5.0)}
    assert torch.equal(both.encode(x), both.encode(x, loss_factor=2.0, bias=3.5))
    assert not torch.equal(both.encode(x), both.encode(x, bias=5.0))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss_factor": 4.5}, ValueError, "loss_factor must be from 1 to 4, as the model was trained, got 4.5"),
        ({"loss_factor": [1.0, 0.5, 1.0, 1.0]}, ValueError, "got 0.5"),
        ({"loss_factor": float("nan")}, ValueError, "got nan"),
        ({"loss_factor": [1.0, 2.0]}, ValueError, r"loss_factor must be a number or of shape \(4,\), got \(2,\)"),
        ({"loss_factor": "2"}, TypeError, "loss_factor must be a number, or one for each example, got str"),
        ({"loss_factor": True}, TypeError, "got bool"),
        ({"bias": 5.0}, ValueError, "this model was trained at one bias: leave out `bias`"),
        ({"bits": -1.0}, ValueError, "bits must be positive"),
    ],
)
def test_mistaken_loss_factors_are_refused_in_one_line(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        compiled().encode(images(), **options)
    assert "\n" not in str(caught.value)


def test_draws_are_log_uniform_and_those_of_a_part_are_the_batchs() -> None:
    model = compiled({"loss_factor": [1.0, 4.0], "bias": [3.0, 5.0]}, base={"loss_factor": [2.0, 4.0]})
    seeds = range(256)

    def draw(first: int, last: int, base: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        noise = ExampleNoise(seeds[first:last], 7, first, len(seeds))
        drawn = model.draw_rate(Conditions(), last - first, noise, base=base)
        assert isinstance(drawn.loss_factor, Tensor) and isinstance(drawn.bias, Tensor)
        return drawn.loss_factor, drawn.bias, noise.times()

    factor, bias, time = draw(0, 256)
    for batch, halves in zip((factor, bias), zip(draw(0, 100), draw(100, 256), strict=True), strict=False):
        assert torch.equal(batch, torch.cat(halves))
    assert factor.min() >= 1 and factor.max() <= 4 and bias.min() >= 3 and bias.max() <= 5
    assert draw(0, 256, base=True)[0].min() >= 2
    uniform = [factor.log() / math.log(4), (bias - 3) / 2, time]
    for i, u in enumerate(uniform):  # one per cell of width 1/16, up to one, and even in pairs
        counts = torch.bincount((u * 16).long().clamp(max=15), minlength=16)
        assert counts.min() >= 14 and counts.max() <= 18
        cells = (u * 4).long().clamp(max=3) * 4 + (uniform[i - 1] * 4).long().clamp(max=3)
        assert torch.bincount(cells, minlength=16).min() >= 8


def test_streams_contain_the_loss_factor() -> None:
    model, x = compiled(), images()
    model.codec = measure_codec(model, [x])
    streams = model.compress(x, loss_factor=[1.0, 1.6, 2.5, 4.0])
    assert [read_header(stream)[0].rate for stream in streams] == [(0,), (339,), (661,), (1000,)]
    decoded = model.decompress(streams)
    for stream, image in zip(streams, decoded, strict=True):
        torch.testing.assert_close(model.decompress([stream])[0], image, atol=1e-4, rtol=0)
    default = model.compress(x[:1])
    assert read_header(default[0])[0].rate == (500,)
    for position in (3, *range(7, read_header(streams[1])[1]), -1):
        damaged = bytearray(streams[1])
        damaged[position] ^= 4
        with pytest.raises(DamagedStream):
            model.decompress([bytes(damaged)])
    large = torch.rand(2, 3, 24, 20) * 2 - 1
    assert model.decompress(model.compress(large, loss_factor=[1.0, 4.0])).shape == large.shape
    fixed = compiled({"loss_factor": 2.0})
    fixed.codec = measure_codec(fixed, [x])
    assert fixed.compress(x[:1])[0][2] >> 4 == 1  # the version that earlier versions of ulzoo read
    with pytest.raises(ValueError, match="trained at one loss factor"):
        fixed.compress(x, loss_factor=2.0)


def test_the_log_has_the_rates_at_both_ends() -> None:
    model = compiled({"loss_factor": [1.0, 1e6]})
    terms = latents_loss(model, images(64), generator=torch.Generator().manual_seed(0))
    metrics = StageLoss(model, "latents")(images(64), generator=torch.Generator().manual_seed(0))
    assert terms.position is not None and terms.position.shape == (64,)
    bits = terms.rate / 256 / math.log(2)
    for name, quarter in (("low", terms.position < 0.25), ("high", terms.position >= 0.75)):
        assert quarter.sum() == pytest.approx(16, abs=1)
        expected = bits[quarter].mean() * quarter.sum() / 16
        torch.testing.assert_close(metrics[f"{name}_rate_bits_per_pixel"], expected.detach())
    fixed = StageLoss(compiled({"loss_factor": 2.0}), "latents")(images())
    assert set(fixed) == {"loss", "rate_bits_per_pixel", "distortion"}


@pytest.mark.parametrize("position", [0.0, 0.3, 1.0])
def test_the_weighting_of_an_example_is_that_of_its_own_values(position: float) -> None:
    ranged = SigmoidWeighting(loss_factor=(1.0, 4.0), bias=(3.0, 5.0))
    levels = torch.linspace(-10, 10, 41)
    at = ranged.at(torch.full((41, 2), position))
    fixed = SigmoidWeighting(loss_factor=4**position, bias=3 + 2 * position)
    torch.testing.assert_close(at(levels), fixed(levels))
    torch.testing.assert_close(at.times_snr(levels), fixed.times_snr(levels))
