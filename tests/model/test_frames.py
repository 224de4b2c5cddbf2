"""Frame prediction: what the context clip holds, that it holds nothing of the future, and the public methods."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ulzoo.diffusion import CosineSchedule, GaussianDiffusion, SigmoidWeighting
from ulzoo.model.conditioning import Conditions, frame_mask, repeat_last_frame
from ulzoo.model.contract import Contract, Sampling
from ulzoo.model.denoisers import ConditionDropout, DiffusionModel
from ulzoo.model.losses import base_loss, latents_loss
from ulzoo.model.rate import DiffusionPrior
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.nn import DenoiserInputs, ResNetEncoder, UViT, ViT
from ulzoo.nn.conditioning import NetworkConditions

SIZE, LATENT_SIZE, CONTEXT = (8, 8, 8), (4, 2, 2), 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clips(n: int = 3) -> Tensor:
    return torch.rand(n, 3, *SIZE, generator=seeded(1)) * 2 - 1


@pytest.fixture
def make() -> Callable[..., UnifiedLatents]:
    """(context=CONTEXT, dropout=0.5, num_classes=0) -> a small video model in which every input counts."""

    def make(context: int = CONTEXT, dropout: float = 0.5, num_classes: int = 0) -> UnifiedLatents:
        torch.manual_seed(0)
        z = DenoiserInputs(LATENT_SIZE, 5)
        z_base = DenoiserInputs(LATENT_SIZE, 5, num_classes=num_classes, frame_channels=6 if context else 0)
        x = DenoiserInputs(SIZE, 3, LATENT_SIZE, 5, frame_channels=4 if context else 0)
        latents = GaussianDiffusion(CosineSchedule(logsnr_max=5.0), "v")
        small = {"width": 16, "depth": 1, "heads": 2, "positions": "learned"}
        dropped = ConditionDropout(frames=dropout)
        decoder = UViT(x, patch=2, channels=(8,), blocks=(1,), **small)  # type: ignore[arg-type]
        model = UnifiedLatents(
            ResNetEncoder(SIZE, 3, 5, (2, 4, 4), channels=(8, 8), blocks=(1, 1)),
            DiffusionPrior(ViT(z, **small), latents),  # type: ignore[arg-type]
            DiffusionModel(decoder, GaussianDiffusion(CosineSchedule(), "v"), SigmoidWeighting(), dropout=dropped),
            DiffusionModel(ViT(z_base, **small), latents, SigmoidWeighting(), dropout=dropped),  # type: ignore[arg-type]
            Contract(
                SIZE,
                3,
                LATENT_SIZE,
                5,
                5.0,
                num_classes,
                sampling={"base": Sampling("ddim", 3, 2.0 if num_classes else 1.0), "decoder": Sampling("ddim", 2)},
                context_frames=context,
            ),
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
        return model.eval()

    return make


def conditions_of(model: UnifiedLatents, network: str, frames: Tensor) -> NetworkConditions:
    """The conditions of the decoder or the base that come from context frames."""
    conditions, n = Conditions(frames=frames), len(frames)
    if network == "base":
        assert model.base is not None
        return model.latent_conditions(model.base, n, conditions)
    assert model.decoder is not None
    return model.decoder_conditions(model.decoder, torch.zeros(n, 5, *LATENT_SIZE), conditions)


def clip_of(model: UnifiedLatents, network: str, frames: Tensor) -> Tensor:
    """The context clip with its mask, as the network gets it."""
    clip = conditions_of(model, network, frames).context_frames
    assert clip is not None
    return clip


# --- the context clip ------------------------------------------------------------------------------------------------


def test_the_last_frame_is_repeated() -> None:
    x = clips()
    clip = repeat_last_frame(x[:, :, :3], 8)
    assert clip.shape == x.shape and torch.equal(clip[:, :, :3], x[:, :, :3])
    assert all(torch.equal(clip[:, :, t], x[:, :, 2]) for t in range(3, 8))


def test_the_mask_is_the_share_of_context_frames() -> None:
    assert frame_mask(5, 16, (16, 1, 1)).flatten().tolist() == [1.0] * 5 + [0.0] * 11
    assert frame_mask(5, 16, (4, 2, 3)).shape == (1, 1, 4, 2, 3)
    assert frame_mask(5, 16, (4, 1, 1)).flatten().tolist() == [1.0, 0.25, 0.0, 0.0]


@pytest.mark.parametrize("network", ["decoder", "base"])
def test_nothing_of_the_future_reaches_the_condition(make: Callable[..., UnifiedLatents], network: str) -> None:
    """The gradient of a network's condition with respect to the frames to be generated is exactly zero."""
    model, x = make(), clips().requires_grad_(True)
    clip_of(model, network, x[:, :, :CONTEXT]).square().sum().backward()
    assert x.grad is not None
    assert (x.grad[:, :, CONTEXT:] == 0).all()
    assert all(x.grad[:, :, t].abs().sum() > 0 for t in range(CONTEXT))


def test_the_bases_condition_is_the_encoding_of_the_context_clip(make: Callable[..., UnifiedLatents]) -> None:
    model, x = make(), clips()
    condition = clip_of(model, "base", x[:, :, :CONTEXT])
    assert condition.shape == (3, 6, *LATENT_SIZE)
    torch.testing.assert_close(condition[:, :5], model.encode(repeat_last_frame(x[:, :, :CONTEXT], 8)))
    assert condition[0, 5, :, 0, 0].tolist() == [1.0, 0.5, 0.0, 0.0]


def test_the_residual_mean_is_subtracted_and_added_back(make: Callable[..., UnifiedLatents]) -> None:
    """A network that predicts zero repeats the last frame, and codes a clip that stands still at no cost."""
    model = make()
    assert model.base is not None
    for part, conditions in (
        (model.decoder, conditions_of(model, "decoder", clips()[:, :, :CONTEXT])),
        (model.base, conditions_of(model, "base", clips()[:, :, :CONTEXT])),
    ):
        assert isinstance(part, DiffusionModel)
        part.diffusion.prediction = "x"
        part.network.forward = lambda x_t, *_, **__: torch.zeros_like(x_t)  # type: ignore[method-assign, assignment]
        assert conditions.context_frames is not None
        mean = conditions.context_frames[:, :-1]
        top = part.diffusion.schedule.logsnr_max
        alpha, sigma = (1 / (1 + math.exp(-top))) ** 0.5, (1 / (1 + math.exp(top))) ** 0.5
        z = part.sample(tuple(mean.shape), Sampling("ddpm", 20), conditions=conditions, generator=seeded())
        torch.testing.assert_close(z, alpha * mean, rtol=0, atol=6 * sigma)
        still, moving = (part.rate(x, conditions=conditions, generator=seeded()) for x in (mean, -mean))
        assert (still < 0.2).all() and (moving > 10).all()
        dropped = conditions._replace(context_frames=0 * conditions.context_frames)
        torch.testing.assert_close(
            part.rate(mean, conditions=dropped, generator=seeded()), part.rate(mean, generator=seeded())
        )


# --- public methods --------------------------------------------------------------------------------------------------


def test_samples_begin_with_the_context_frames(make: Callable[..., UnifiedLatents]) -> None:
    model, frames = make(), clips()[:, :, :CONTEXT]
    out = model.sample(3, frames=frames, generator=seeded())
    assert out.shape == (3, 3, *SIZE) and torch.equal(out[:, :, :CONTEXT], frames)
    assert torch.equal(model.sample(3, frames=frames, generator=seeded()), out)


def test_the_context_frames_change_what_follows(make: Callable[..., UnifiedLatents]) -> None:
    model, frames = make(), clips()[:, :, :CONTEXT]
    z = [model.sample_latents(3, generator=seeded(), conditions=Conditions(frames=f)) for f in (frames, -frames, None)]
    assert not torch.allclose(z[0], z[1]) and not torch.allclose(z[0], z[2])
    x = [model.decode(z[0], generator=seeded(), frames=f)[:, :, CONTEXT:] for f in (frames, -frames, None)]
    assert not torch.allclose(x[0], x[1]) and not torch.allclose(x[0], x[2])


def test_labels_and_frames_together(make: Callable[..., UnifiedLatents]) -> None:
    model, frames = make(num_classes=3), clips()[:, :, :CONTEXT]
    one, two = (model.sample(3, labels=[c] * 3, frames=frames, generator=seeded()) for c in (0, 1))
    assert torch.equal(one[:, :, :CONTEXT], two[:, :, :CONTEXT]) and not torch.allclose(one, two)


def test_the_rate_by_the_base_is_conditioned_on_the_first_frames(make: Callable[..., UnifiedLatents]) -> None:
    model, x = make(), clips()
    seen: list[Tensor] = []
    assert model.base is not None
    model.base.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2].context_frames))
    assert model.rate(x, samples=2, network="base", generator=seeded()).shape == (3,)
    assert torch.equal(seen[0], clip_of(model, "base", x[:, :, :CONTEXT]).repeat(2, 1, 1, 1, 1))


def test_both_stages_train_with_and_without_context_frames(make: Callable[..., UnifiedLatents]) -> None:
    model, x = make(dropout=0.5), clips(8)
    assert model.base is not None
    seen: dict[str, Tensor] = {}
    for name in ("decoder", "base"):
        network = getattr(model, name).network
        network.register_forward_pre_hook(
            lambda module, inputs, name=name: seen.__setitem__(name, inputs[2].context_frames)
        )
    model.prepare("latents")
    latents_loss(model, x, generator=seeded()).total.backward()
    model.prepare("base")
    model.zero_grad()
    base_loss(model, x, generator=seeded()).backward()
    for frames in seen.values():
        dropped = frames.flatten(1).abs().sum(1) == 0
        assert 0 < dropped.sum() < 8
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


def test_a_model_without_frame_conditioning_refuses_frames(make: Callable[..., UnifiedLatents]) -> None:
    unconditional = make(context=0)
    assert unconditional.sample(2).shape == (2, 3, *SIZE) and unconditional.reconstruct(clips()).shape == (3, 3, *SIZE)
    with pytest.raises(ValueError, match="not compiled for frame conditioning"):
        unconditional.sample(3, frames=clips()[:, :, :CONTEXT])
    with pytest.raises(ValueError, match="the prior continues no frames"):
        make().sample_latents(3, network="prior", conditions=Conditions(frames=clips()[:, :, :CONTEXT]))
    assert make().sample_latents(3, network="prior").shape == (3, 5, *LATENT_SIZE)
