"""The distilled decoder: its target, its loss beside teachers with known answers, and which network decodes."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from ulzoo.diffusion import CosineSchedule, GaussianDiffusion, SigmoidWeighting
from ulzoo.diffusion.samplers import ddim
from ulzoo.diffusion.schedules import alpha_sigma, expand_like
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import Sampling
from ulzoo.model.denoisers import DiffusionModel
from ulzoo.model.distillation import DistilledDecoder, distillation_target
from ulzoo.nn.conditioning import NetworkConditions
from ulzoo.registry.compile import compile_model

SHAPE = (3, 4, 4)
DEVIATION = 0.5
DIFFUSION = GaussianDiffusion(CosineSchedule(logsnr_min=-10, logsnr_max=10), "v")


class GaussianTeacher(nn.Module):
    """The optimal prediction of v for x ~ N(z_0, s² I): what a linear decoder of Gaussian data converges to."""

    def forward(self, x_t: Tensor, logsnr: Tensor, conditions: NetworkConditions) -> Tensor:
        assert conditions.latent is not None
        alpha, sigma = alpha_sigma(expand_like(logsnr, x_t))
        noise = sigma * (x_t - alpha * conditions.latent) / (alpha**2 * DEVIATION**2 + sigma**2)
        return (noise - sigma * x_t) / alpha


class ClosedForm(GaussianTeacher):
    """The student's optimum: the x̂ that leads along the exact probability flow of N(z_0, s² I)."""

    def __init__(self, steps: tuple[int, ...]):
        super().__init__()
        self.steps = torch.tensor(steps)

    def forward(self, x_t: Tensor, logsnr: Tensor, conditions: NetworkConditions) -> Tensor:
        assert conditions.latent is not None and conditions.step_count is not None
        count = self.steps[conditions.step_count]
        times = torch.tensor([n / 12 for n in range(13)])
        levels = DIFFUSION.schedule.logsnr(times)
        start = times[(levels - logsnr[:, None]).abs().argmin(1)]
        target = DIFFUSION.schedule.logsnr(start - 1 / count)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (alpha_sigma(expand_like(level, x_t)) for level in (logsnr, target))
        scale = ((alpha_s**2 * DEVIATION**2 + sigma_s**2) / (alpha_t**2 * DEVIATION**2 + sigma_t**2)).sqrt()
        x_s = alpha_s * conditions.latent + scale * (x_t - alpha_t * conditions.latent)
        x_hat = distillation_target(x_t, x_s, logsnr=logsnr, target_logsnr=target)
        return (alpha_t * x_t - x_hat) / sigma_t


def decoder(network: nn.Module) -> DiffusionModel:
    return DiffusionModel(network, DIFFUSION, SigmoidWeighting())


def student(network: nn.Module, steps: tuple[int, ...], teacher_steps: int) -> DistilledDecoder:
    return DistilledDecoder(decoder(network), steps=steps, target="teacher", teacher_steps=teacher_steps)


def loss(student: DistilledDecoder, n: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    z_0 = torch.randn(n, *SHAPE, generator=generator)
    x = z_0 + DEVIATION * torch.randn(n, *SHAPE, generator=generator)
    conditions = NetworkConditions(z_0)
    return student.regression_loss(decoder(GaussianTeacher()), x, conditions=conditions, generator=generator)


def test_one_step_with_the_target_leads_to_the_end_of_the_segment() -> None:
    x_t, x_s, level = torch.randn(5, *SHAPE), torch.randn(5, *SHAPE), torch.linspace(-4, 2, 5)
    target = distillation_target(x_t, x_s, logsnr=level, target_logsnr=level + 3)
    levels = torch.stack([level, level + 3]).reshape(2, 5, 1, 1, 1)
    torch.testing.assert_close(ddim(lambda x, t: target, x_t, levels), x_s)


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_student_whose_teacher_takes_as_many_steps_is_the_teacher(steps: int) -> None:
    torch.testing.assert_close(loss(student(GaussianTeacher(), (steps,), steps)), torch.zeros(64), atol=1e-6, rtol=0)


def test_every_step_count_learns_the_same_steps_of_the_teacher() -> None:
    """Of counts 1, 2 and 4 that learn 4 steps, the last third of the examples belongs to the teacher itself."""
    losses = loss(student(GaussianTeacher(), (1, 2, 4), 4), 66)
    assert ((losses < 1e-6).sum() - 22).abs() <= 1 and losses.max() > 1e-3
    assert student(GaussianTeacher(), (1, 2, 4), 6).teacher_steps == 8


@pytest.mark.parametrize("steps", [(1,), (3,), (1, 2, 4)], ids=str)
def test_gaussian_data_has_a_closed_form_student(steps: tuple[int, ...]) -> None:
    """Up to the error of the teacher's steps, which is of first order; the teacher itself is no optimum."""
    optimum = ClosedForm(steps)
    few, many = (math.lcm(*steps) * n for n in (32, 128))
    errors = [loss(student(optimum, steps, n)).mean().sqrt() for n in (few, many)]
    assert errors[1] < 0.4 * errors[0] < 0.1
    assert loss(student(GaussianTeacher(), steps, many)).mean().sqrt() > 10 * errors[1]


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_closed_form_student_samples_the_data(steps: int) -> None:
    n = 2000
    conditions = NetworkConditions(torch.full((n, *SHAPE), 0.3))
    model = student(ClosedForm((1, 2, 4)), (1, 2, 4), 4)
    conditions = model.for_steps(conditions, steps, n)
    x = model.sample((n, *SHAPE), Sampling("ddim", steps), conditions=conditions, generator=torch.Generator())
    assert x.mean().item() == pytest.approx(0.3, abs=0.01) and x.std().item() == pytest.approx(DEVIATION, abs=0.01)


class Biased(GaussianTeacher):
    """The optimal prediction of v, plus a constant."""

    def forward(self, x_t: Tensor, logsnr: Tensor, conditions: NetworkConditions) -> Tensor:
        return super().forward(x_t, logsnr, conditions) + 0.1


def test_a_student_of_the_data_learns_the_posterior_mean() -> None:
    """Its loss is the posterior variance of v, s²/(α² s² + σ²) per value, and grows by the square of a bias of v."""
    dimensions, losses = math.prod(SHAPE), []
    for network in (GaussianTeacher(), Biased()):
        student = DistilledDecoder(decoder(network), steps=(1, 2, 4))
        assert student.sampler == "ddpm"
        losses.append(loss(student, 6000).mean().item() / dimensions)
    times = [n / k for k in (1, 2, 4) for n in range(1, k + 1)]
    chances = torch.tensor([1 / k for k in (1, 2, 4) for _ in range(k)]) / 3
    alpha, sigma = alpha_sigma(DIFFUSION.schedule.logsnr(torch.tensor(times)))
    variances = DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
    assert losses[0] == pytest.approx((chances * variances).sum().item(), rel=0.02)
    assert losses[1] - losses[0] == pytest.approx(0.01, rel=0.1)


class Recorder(nn.Module):
    """Predicts zero and stores what it was given."""

    def forward(self, x_t: Tensor, logsnr: Tensor, conditions: NetworkConditions) -> Tensor:
        self.x_t, self.logsnr, self.count = x_t, logsnr, conditions.step_count
        return torch.zeros_like(x_t)


def test_segments_of_every_step_count_are_drawn_evenly_and_the_last_starts_from_pure_noise() -> None:
    network = Recorder()
    model, n = student(network, (1, 2, 4), 4), 1200
    model.regression_loss(
        decoder(GaussianTeacher()),
        torch.full((n, *SHAPE), 9.0),
        conditions=NetworkConditions(torch.zeros(n, *SHAPE)),
        generator=torch.Generator().manual_seed(0),
    )
    assert network.count is not None
    segments = [(int(k), round(level, 3)) for k, level in zip(network.count, network.logsnr.tolist(), strict=True)]
    levels = {
        k: [round(v, 3) for v in DIFFUSION.schedule.logsnr(torch.arange(1, k + 1) / k).tolist()] for k in (1, 2, 4)
    }
    expected = {(i, level): n / 3 / k for i, k in enumerate((1, 2, 4)) for level in levels[k]}
    assert {segment: segments.count(segment) for segment in expected} == pytest.approx(expected, abs=1)
    noisiest = network.logsnr <= -10
    assert abs(network.x_t[noisiest].mean()) < 0.02 < abs(network.x_t[~noisiest].mean())


@dataclass(frozen=True)
class Case:
    network: str | None
    steps: int | None
    decodes: str
    in_steps: int


CASES = [
    Case(None, None, "distilled", 4),
    Case(None, 1, "distilled", 1),
    Case(None, 3, "decoder", 3),
    Case("decoder", 1, "decoder", 1),
    Case("decoder", None, "decoder", 2),
    Case("distilled", 2, "distilled", 2),
]


@pytest.fixture(scope="module")
def model(tiny):
    model = compile_model(tiny("distilled={}", "train.distill={steps: 2, batch_size: 8, lr: 1e-3}"))
    model.prepare("distill")
    return model.eval()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_which_network_decodes(model, case):
    network, sampling = model.select_decoder(case.network, case.steps)
    assert network is getattr(model, case.decodes) and sampling.steps == case.in_steps
    assert sampling.sampler == "ddpm"  # the spec's for the decoder, and that of a student of the data
    z_0, generator = torch.randn(2, *model.contract.latent_shape), torch.Generator().manual_seed(0)
    assert model.decode(z_0, network=case.network, steps=case.steps, generator=generator).isfinite().all()


def test_a_student_starts_as_its_teacher_without_dropout(model):
    z_0 = torch.randn(2, *model.contract.latent_shape)
    model.distilled.train()
    conditions = model.decoder_conditions(model.distilled, z_0, Conditions(), steps=2)
    x_t, level = torch.randn(2, *model.contract.shape), torch.zeros(2)
    ours, theirs = (m.predict(x_t, level, conditions) for m in (model.distilled, model.decoder))
    assert torch.equal(ours, theirs)
    model.eval()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"network": "distilled", "steps": 3}, "decodes in 1, 2, 4 steps, got network='distilled', steps=3"),
        ({"network": "student"}, "network must be 'decoder' or 'distilled', got 'student'"),
    ],
)
def test_a_network_that_cannot_decode_is_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.decode(torch.randn(1, *model.contract.latent_shape), **options)


def test_a_model_without_its_decoder_decodes_in_few_steps_only(tiny):
    model = compile_model(tiny("distilled={}", "train.distill={steps: 2, batch_size: 8, lr: 1e-3}"))
    model.decoder = None
    z_0 = torch.randn(1, *model.contract.latent_shape)
    assert model.decode(z_0).shape == (1, *model.contract.shape)
    with pytest.raises(ValueError, match="in 1, 2, 4 steps by its distilled decoder alone, got network=None, steps=16"):
        model.decode(z_0, steps=16)


def test_a_model_without_a_distilled_decoder_says_so(tiny):
    model = compile_model(tiny())
    with pytest.raises(ValueError, match="this model has no distilled decoder, got network='distilled'"):
        model.decode(torch.randn(1, *model.contract.latent_shape), network="distilled")
