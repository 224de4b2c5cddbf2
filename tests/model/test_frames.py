"""Frame prediction: what is given, that nothing else is, and that the model's doors keep to it."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ulzoo.diffusion import CosineSchedule, GaussianDiffusion, SigmoidWeighting
from ulzoo.model import conditioning as frames
from ulzoo.model.conditioning import held_clip
from ulzoo.model.contract import Contract, Sampling
from ulzoo.model.denoisers import DiffusionModel, Dropout
from ulzoo.model.losses import base_loss, latents_loss
from ulzoo.model.rate import DiffusionPrior
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.nn import DenoiserInputs, ResNetEncoder, UViT, ViT

SIZE, LATENT_SIZE, GIVEN = (8, 8, 8), (4, 2, 2), 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clips(n: int = 3) -> Tensor:
    return torch.rand(n, 3, *SIZE, generator=seeded(1)) * 2 - 1


@pytest.fixture
def make() -> Callable[..., UnifiedLatents]:
    """(given=GIVEN, dropout=0.5, num_classes=0) -> a small video model in which everything counts."""

    def make(given: int = GIVEN, dropout: float = 0.5, num_classes: int = 0) -> UnifiedLatents:
        torch.manual_seed(0)
        z = DenoiserInputs(LATENT_SIZE, 5)
        z_base = DenoiserInputs(LATENT_SIZE, 5, num_classes=num_classes, given_channels=6 if given else 0)
        x = DenoiserInputs(SIZE, 3, LATENT_SIZE, 5, given_channels=4 if given else 0)
        latents = GaussianDiffusion(CosineSchedule(logsnr_max=5.0), "v")
        small = {"width": 16, "depth": 1, "heads": 2, "positions": "learned"}
        decoder = UViT(x, patch=2, channels=(8,), blocks=(1,), **small)  # type: ignore[arg-type]
        model = UnifiedLatents(
            ResNetEncoder(SIZE, 3, 5, (2, 4, 4), channels=(8, 8), blocks=(1, 1)),
            DiffusionPrior(ViT(z, **small), latents),  # type: ignore[arg-type]
            DiffusionModel(
                decoder, GaussianDiffusion(CosineSchedule(), "v"), SigmoidWeighting(), Dropout(frames=dropout)
            ),
            DiffusionModel(ViT(z_base, **small), latents, SigmoidWeighting(), Dropout(frames=dropout)),  # type: ignore[arg-type]
            Contract(
                SIZE,
                3,
                LATENT_SIZE,
                5,
                5.0,
                num_classes,
                sampling={"base": Sampling("ddim", 3, 2.0 if num_classes else 1.0), "decoder": Sampling("ddim", 2)},
                given_frames=given,
            ),
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
        return model.eval()

    return make


def told(model: UnifiedLatents, network: str, given: Tensor) -> Tensor:
    """What the decoder or the base is told of given frames."""
    n, contract = len(given), model.contract
    return model.held(given, n) if network == "base" else held_clip(given, n, contract, model.device, None)


# --- what is given ---------------------------------------------------------------------------------------------------


def test_a_held_clip_stands_still() -> None:
    x = clips()
    held = frames.hold(x[:, :, :3], 8)
    assert held.shape == x.shape and torch.equal(held[:, :, :3], x[:, :, :3])
    assert all(torch.equal(held[:, :, t], x[:, :, 2]) for t in range(3, 8))


def test_the_mask_is_the_share_that_is_given() -> None:
    assert frames.mask(5, 16, (16, 1, 1)).flatten().tolist() == [1.0] * 5 + [0.0] * 11
    assert frames.mask(5, 16, (4, 2, 3)).shape == (1, 1, 4, 2, 3)
    assert frames.mask(5, 16, (4, 1, 1)).flatten().tolist() == [1.0, 0.25, 0.0, 0.0]


@pytest.mark.parametrize("network", ["decoder", "base"])
def test_nothing_of_the_future_reaches_the_condition(make: Callable[..., UnifiedLatents], network: str) -> None:
    """The gradient of what a network is told with respect to the frames that it is to make is exactly zero."""
    model, x = make(), clips().requires_grad_(True)
    condition = told(model, network, x[:, :, :GIVEN])
    condition.square().sum().backward()
    assert x.grad is not None
    assert (x.grad[:, :, GIVEN:] == 0).all()
    assert all(x.grad[:, :, t].abs().sum() > 0 for t in range(GIVEN))


def test_the_bases_condition_is_the_encoding_of_the_given_frames_alone(make: Callable[..., UnifiedLatents]) -> None:
    model, x = make(), clips()
    condition = told(model, "base", x[:, :, :GIVEN])
    assert condition.shape == (3, 6, *LATENT_SIZE)
    torch.testing.assert_close(condition[:, :5], model.encode(frames.hold(x[:, :, :GIVEN], 8)))
    assert condition[0, 5, :, 0, 0].tolist() == [1.0, 0.5, 0.0, 0.0]


def test_the_guess_is_subtracted_and_given_back(make: Callable[..., UnifiedLatents]) -> None:
    """A silent network continues a clip by standing still, and pays nothing for a clip that does."""
    model = make()
    assert model.base is not None
    for part, given in (
        (model.decoder, told(model, "decoder", clips()[:, :, :GIVEN])),
        (model.base, told(model, "base", clips()[:, :, :GIVEN])),
    ):
        assert isinstance(part, DiffusionModel)
        part.diffusion.prediction = "x"
        part.network.forward = lambda x_t, *_, **__: torch.zeros_like(x_t)  # type: ignore[method-assign, assignment]
        guess = given[:, :-1]
        top = part.diffusion.schedule.logsnr_max
        alpha, sigma = (1 / (1 + math.exp(-top))) ** 0.5, (1 / (1 + math.exp(top))) ** 0.5
        z = part.sample(tuple(guess.shape), Sampling("ddpm", 20), seeded(), guess.device, given=given)
        torch.testing.assert_close(z, alpha * guess, rtol=0, atol=6 * sigma)
        still, moving = part.rate(guess, seeded(), given=given), part.rate(-guess, seeded(), given=given)
        assert (still < 0.2).all() and (moving > 10).all()
        torch.testing.assert_close(part.rate(guess, seeded(), given=0 * given), part.rate(guess, seeded()))


# --- doors -----------------------------------------------------------------------------------------------------------


def test_samples_begin_with_the_given_frames(make: Callable[..., UnifiedLatents]) -> None:
    model, given = make(), clips()[:, :, :GIVEN]
    out = model.sample(3, frames=given, generator=seeded())
    assert out.shape == (3, 3, *SIZE) and torch.equal(out[:, :, :GIVEN], given)
    assert torch.equal(model.sample(3, frames=given, generator=seeded()), out)


def test_the_given_frames_change_what_follows(make: Callable[..., UnifiedLatents]) -> None:
    model, given = make(), clips()[:, :, :GIVEN]
    z = [model.sample_latents(3, generator=seeded(), frames=f) for f in (given, -given, None)]
    assert not torch.allclose(z[0], z[1]) and not torch.allclose(z[0], z[2])
    x = [model.decode(z[0], generator=seeded(), frames=f)[:, :, GIVEN:] for f in (given, -given, None)]
    assert not torch.allclose(x[0], x[1]) and not torch.allclose(x[0], x[2])


def test_labels_and_frames_together(make: Callable[..., UnifiedLatents]) -> None:
    model, given = make(num_classes=3), clips()[:, :, :GIVEN]
    one, two = (model.sample(3, labels=[c] * 3, frames=given, generator=seeded()) for c in (0, 1))
    assert torch.equal(one[:, :, :GIVEN], two[:, :, :GIVEN]) and not torch.allclose(one, two)


def test_the_rate_by_the_base_is_told_the_given_frames(make: Callable[..., UnifiedLatents]) -> None:
    model, x = make(), clips()
    seen: list[Tensor] = []
    assert model.base is not None
    model.base.network.register_forward_pre_hook(lambda module, _, told: seen.append(told["given"]), with_kwargs=True)
    assert model.rate(x, samples=2, network="base", generator=seeded()).shape == (3,)
    assert torch.equal(seen[0], told(model, "base", x[:, :, :GIVEN]).repeat(2, 1, 1, 1, 1))


def test_both_stages_train_with_frames_given_and_hidden(make: Callable[..., UnifiedLatents]) -> None:
    model, x = make(dropout=0.5), clips(8)
    assert model.base is not None
    seen: dict[str, Tensor] = {}
    for name in ("decoder", "base"):
        network = getattr(model, name).network
        network.register_forward_pre_hook(
            lambda module, _, told, name=name: seen.__setitem__(name, told["given"]), with_kwargs=True
        )
    model.prepare("latents")
    latents_loss(model, x, generator=seeded()).total.backward()
    model.prepare("base")
    model.zero_grad()
    base_loss(model, x, generator=seeded()).backward()
    for given in seen.values():
        hidden = given.flatten(1).abs().sum(1) == 0
        assert 0 < hidden.sum() < 8
    assert model.base.network.embed.weight.grad.any()  # type: ignore[union-attr]
    assert all(parameter.grad is None for parameter in model.encoder.parameters())


def test_a_model_without_dropout_insists_on_frames(make: Callable[..., UnifiedLatents]) -> None:
    model = make(dropout=0.0)
    with pytest.raises(ValueError, match=r"continues given frames: pass `frames` of shape \(2, 3, 3, 8, 8\)"):
        model.sample(2)
    with pytest.raises(ValueError, match="continues given frames"):
        model.reconstruct(clips())
    assert make().sample(2).shape == (2, 3, *SIZE)


@pytest.mark.parametrize("shape", [(3, 3, 4, 8, 8), (2, 3, 3, 8, 8), (3, 3, 8, 8), (3, 1, 3, 8, 8)])
def test_frames_of_another_shape_are_refused(make: Callable[..., UnifiedLatents], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"frames must have shape \(3, 3, 3, 8, 8\), got"):
        make().sample(3, frames=torch.zeros(shape))


def test_who_takes_no_frames_says_so(make: Callable[..., UnifiedLatents]) -> None:
    whole = make(given=0)
    assert whole.sample(2).shape == (2, 3, *SIZE) and whole.reconstruct(clips()).shape == (3, 3, *SIZE)
    with pytest.raises(ValueError, match="not compiled for frame conditioning"):
        whole.sample(3, frames=clips()[:, :, :GIVEN])
    with pytest.raises(ValueError, match="the prior continues no frames"):
        make().sample_latents(3, network="prior", frames=clips()[:, :, :GIVEN])
    assert make().sample_latents(3, network="prior").shape == (3, 5, *LATENT_SIZE)
