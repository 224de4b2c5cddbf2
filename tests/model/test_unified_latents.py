"""UnifiedLatents: its promises with tiny networks, its mathematics with networks that are known in closed form."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ulzoo.diffusion import (
    CosineSchedule,
    GaussianDiffusion,
    IndependentNoise,
    LinearSchedule,
    SigmoidWeighting,
    expand_like,
)
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import Contract, Sampling
from ulzoo.model.denoisers import DiffusionModel, RegressionDecoder
from ulzoo.model.losses import base_loss, latents_loss
from ulzoo.model.rate import DiffusionPrior
from ulzoo.model.unified_latents import UnifiedLatents
from ulzoo.nn import DenoiserInputs, ViT, ViTEncoder
from ulzoo.nn.conditioning import NO_CONDITIONS, NetworkConditions

LOGSNR = 5.0
ALPHA2 = 1 / (1 + math.exp(-LOGSNR))
SIZE, LATENT_SIZE = (8, 8), (4, 4)


def latent_diffusion(logsnr_max: float = LOGSNR) -> GaussianDiffusion:
    return GaussianDiffusion(CosineSchedule(logsnr_max=logsnr_max), "v")


def tiny(num_classes: int = 0, guidance: float = 1.0, seed: int = 0) -> UnifiedLatents:
    """ViTs of a few hundred parameters; their zero outputs are perturbed so that everything counts."""
    torch.manual_seed(seed)
    z = DenoiserInputs(LATENT_SIZE, 5, num_classes=num_classes)
    x = DenoiserInputs(SIZE, 3, LATENT_SIZE, 5, num_classes)
    small = {"width": 16, "depth": 1, "heads": 2}

    def vit(inputs: DenoiserInputs, patch: int = 1) -> ViT:
        return ViT(inputs, patch=patch, **small)  # type: ignore[arg-type]

    model = UnifiedLatents(
        ViTEncoder(SIZE, 3, 5, (2, 2), **small),  # type: ignore[arg-type]
        DiffusionPrior(vit(z), latent_diffusion()),
        DiffusionModel(vit(x, patch=2), GaussianDiffusion(CosineSchedule(), "v"), SigmoidWeighting()),
        DiffusionModel(vit(z), latent_diffusion(), SigmoidWeighting()),
        Contract(
            SIZE,
            3,
            LATENT_SIZE,
            5,
            LOGSNR,
            num_classes,
            sampling={"base": Sampling("ddim", 4, guidance), "decoder": Sampling("ddpm", 3, guidance)},
        ),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.eval()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 6) -> Tensor:
    return torch.rand(n, 3, *SIZE, generator=seeded(9)) * 2 - 1


class Scale(nn.Module):
    """An encoder z_clean = gain · x."""

    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x


class GaussianPrior(nn.Module):
    """The optimal v of N(0, variance) latents."""

    def __init__(self, variance: Callable[[], Tensor]):
        super().__init__()
        self.variance = variance

    def forward(self, x_t: Tensor, logsnr: Tensor, conditions: NetworkConditions = NO_CONDITIONS) -> Tensor:
        alpha2, sigma2 = torch.sigmoid(logsnr), torch.sigmoid(-logsnr)
        variance = self.variance()
        gain = (alpha2 * sigma2).sqrt() * (1 - variance) / (alpha2 * variance + sigma2)
        return expand_like(gain, x_t) * x_t


class GaussianDecoder(nn.Module):
    """The optimal x̂ of N(0, 1) data given x_t and z_0 = α_0 gain x + σ_0 ε; keeps the z_0 it was given."""

    def __init__(self, gain: Callable[[], Tensor]):
        super().__init__()
        self.gain = gain
        self.seen: list[Tensor] = []

    def forward(self, x_t: Tensor, logsnr: Tensor, conditions: NetworkConditions = NO_CONDITIONS) -> Tensor:
        assert conditions.latent is not None
        self.seen.append(conditions.latent)
        gain, snr = self.gain(), expand_like(logsnr.exp(), x_t)
        alpha, sigma2 = expand_like(torch.sigmoid(logsnr).sqrt(), x_t), expand_like(torch.sigmoid(-logsnr), x_t)
        evidence = alpha / sigma2 * x_t + gain * math.sqrt(ALPHA2) / (1 - ALPHA2) * conditions.latent
        return evidence / (1 + snr + gain**2 * math.exp(LOGSNR))


def closed_form(gain: float = 1.0, weighting: SigmoidWeighting | None = None, channels: int = 1) -> UnifiedLatents:
    """N(0, 1) data whose latent is the data times a trainable gain, with optimal prior and decoder."""
    encoder = Scale(gain)

    def fixed() -> Tensor:  # optimal networks: by the envelope theorem, nothing is lost by not differentiating them
        return encoder.gain.detach()

    return UnifiedLatents(
        encoder,
        DiffusionPrior(GaussianPrior(lambda: fixed() ** 2), latent_diffusion()),
        DiffusionModel(
            GaussianDecoder(fixed), GaussianDiffusion(LinearSchedule(), "x"), weighting or SigmoidWeighting()
        ),
        DiffusionModel(GaussianPrior(lambda: fixed() ** 2), latent_diffusion(), SigmoidWeighting()),
        Contract(SIZE, channels, SIZE, channels, LOGSNR),
    )


# --- interface --------------------------------------------------------------------------------------------------------


def test_public_methods_return_their_shapes() -> None:
    model, x = tiny(), images()
    z_clean = model.encode(x)
    assert z_clean.shape == (6, 5, *LATENT_SIZE) and model.contract.latent_shape == (5, *LATENT_SIZE)
    z_0 = model.noise_latents(z_clean, generator=seeded())
    assert z_0.shape == z_clean.shape
    for picture in (model.decode(z_0), model.reconstruct(x), model.sample(6)):
        assert picture.shape == x.shape and picture.dtype == torch.float32 and not picture.requires_grad
        assert picture.abs().max() <= 1
    assert model.sample_latents(2).shape == model.sample_latents(2, network="prior").shape == (2, 5, *LATENT_SIZE)
    for network in ("prior", "base"):
        bits = model.rate(x, samples=2, network=network)
        assert bits.shape == (6,) and (bits > 0).all() and not bits.requires_grad
    assert model.contract.pixels == 64 and model.device == torch.device("cpu")


def test_public_methods_follow_their_generator() -> None:
    model, x = tiny(), images()
    methods: list[Callable[[torch.Generator], Tensor]] = [
        lambda g: model.noise_latents(model.encode(x), generator=g),
        lambda g: model.decode(model.encode(x), generator=g),
        lambda g: model.reconstruct(x, generator=g),
        lambda g: model.sample(3, generator=g),
        lambda g: model.rate(x, generator=g),
        lambda g: latents_loss(model, x, generator=g).total,
        lambda g: base_loss(model, x, generator=g),
    ]
    for method in methods:
        assert torch.equal(method(seeded(1)), method(seeded(1)))
        assert not torch.equal(method(seeded(1)), method(seeded(2)))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde"])
def test_the_noise_of_an_example_does_not_depend_on_the_batch(sampler: str) -> None:
    model, x = tiny(), images(8)
    model.contract = replace(model.contract, sampling=dict.fromkeys(("base", "decoder"), Sampling(sampler, 3)))
    z_0 = model.noise_latents(model.encode(x), generator=seeded(9))
    methods: list[Callable[[int], Tensor]] = [
        lambda n: model.sample(n, generator=seeded()),
        lambda n: model.sample_latents(n, generator=seeded()),
        lambda n: model.decode(z_0[:n], generator=seeded()),
        lambda n: model.reconstruct(x[:n], generator=seeded()),
        lambda n: model.rate(x[:n], samples=3, generator=seeded()),
        lambda n: model.rate(x[:n], samples=3, network="base", generator=seeded()),
    ]
    for method in methods:
        torch.testing.assert_close(method(4), method(8)[:4], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(method(4)[0], method(4)[1])


def test_methods_take_the_seeds_of_examples() -> None:
    model = tiny()

    def sample(*seeds: int) -> Tensor:
        return model.sample(len(seeds), generator=IndependentNoise(seeds, 0))

    torch.testing.assert_close(sample(5, 6, 7)[[2, 0]], sample(7, 5), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="the noise has streams for 2 examples, not 3"):
        model.sample(3, generator=IndependentNoise((5, 6), 0))


def test_many_examples_in_the_memory_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, sizes = tiny(num_classes=3), images(7), []
    for network in (model.encoder, model.base.network, model.decoder.network):
        network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    labels = torch.arange(7) % 3
    z_clean, samples = model.encode(x), model.sample(7, labels=labels, generator=seeded())
    sizes.clear()
    torch.testing.assert_close(model.encode(x, batch_size=3), z_clean, rtol=1e-4, atol=1e-5)
    in_batches = model.sample(7, labels=labels, generator=seeded(), batch_size=3)
    torch.testing.assert_close(in_batches, samples, rtol=1e-4, atol=1e-5)
    assert max(sizes) == 3
    sizes.clear()
    model.encode(images(70))
    assert sizes == [64, 6]
    with pytest.raises(ValueError, match=r"labels must have shape \(7,\), got \(2,\)"):
        model.sample(7, labels=[0, 1], batch_size=3)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        model.encode(x, batch_size=0)


def test_a_method_is_the_methods_that_it_consists_of() -> None:
    model, x = tiny(), images()
    generator = seeded()
    z_0 = model.sample_latents(4, generator=generator)
    assert torch.equal(model.decode(z_0, generator=generator), model.sample(4, generator=seeded()))
    generator = seeded()
    z_0 = model.noise_latents(model.encode(x, generator=generator), generator=generator)
    assert torch.equal(model.decode(z_0, generator=generator), model.reconstruct(x, generator=seeded()))


def test_seeds_callback_and_progress_of_sampling(capsys: pytest.CaptureFixture[str]) -> None:
    model, calls = tiny(), []
    samples = model.sample(3, seeds=[4, 5, 6], batch_size=2, callback=lambda x_t, logsnr: calls.append(x_t.shape))
    torch.testing.assert_close(model.sample(2, seeds=[6, 4]), samples[[2, 0]], rtol=1e-4, atol=1e-5)
    steps = {name: sampling.steps for name, sampling in model.contract.sampling.items()}
    latent, image = model.latent_shape, model.image_shape
    batch = [[(n, *latent)] * steps["base"] + [(n, *image)] * steps["decoder"] for n in (2, 1)]
    assert calls == batch[0] + batch[1]
    assert not capsys.readouterr().err
    model.sample(3, progress=True, batch_size=2)
    assert f"{len(calls)}/{len(calls)}" in capsys.readouterr().err
    model.decoder = RegressionDecoder(model.decoder.network, 1.0)  # decodes in one evaluation without steps
    model.sample(3, progress=True, batch_size=2)
    assert f"{2 * steps['base']}/{2 * steps['base']}" in capsys.readouterr().err
    with pytest.raises(ValueError, match="one seed for each of 3 samples and no generator, got 1 seeds"):
        model.sample(3, seeds=[1])
    with pytest.raises(TypeError, match="there is no option 'label'; did you mean 'labels'"):
        model.sample(3, label=[1, 2, 3])  # type: ignore[call-arg]


def test_steps_and_guidance_default_to_the_contract() -> None:
    model = tiny(num_classes=3, guidance=2.0)
    labels = [0, 1, 2]

    def sample(**keys: float) -> Tensor:
        return model.sample(3, labels=labels, generator=seeded(), **keys)  # type: ignore[arg-type]

    assert torch.equal(sample(), sample(steps=4, guidance=2.0))
    assert not torch.equal(sample(), sample(steps=5)) and not torch.equal(sample(), sample(guidance=1.0))
    z_0 = torch.zeros(1, 5, *LATENT_SIZE)
    assert torch.equal(model.decode(z_0, generator=seeded()), model.decode(z_0, steps=3, generator=seeded()))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        model.decode(z_0, steps=0)


def test_guidance_scale_one_is_the_conditional_and_zero_the_unconditional_base() -> None:
    model, labels = tiny(num_classes=3, guidance=1.0), Conditions(torch.tensor([0, 2]))
    unguided = model.contract.sampling_with("base", None, 0.0)
    plain = model.sample_latents(2, generator=seeded())
    none = model.sample_latents(2, conditions=labels, sampling=unguided, generator=seeded())
    dropped = model.sample_latents(2, conditions=Conditions([-1, -1]), generator=seeded())
    torch.testing.assert_close(none, plain)
    torch.testing.assert_close(dropped, plain)
    conditional = model.sample_latents(2, conditions=labels, generator=seeded())
    assert not torch.allclose(conditional, plain, rtol=1e-3, atol=1e-3)


def test_the_decoder_is_guided_by_the_label_and_always_sees_the_latent() -> None:
    model, z_0 = tiny(num_classes=3, guidance=2.0), torch.randn(2, 5, *LATENT_SIZE, generator=seeded(5))
    guided, plain, other = (
        model.decode(latent, generator=seeded(), labels=labels)
        for latent, labels in ((z_0, [0, 2]), (z_0, None), (-z_0, [0, 2]))
    )
    assert not torch.allclose(guided, plain, rtol=1e-4) and not torch.allclose(guided, other, rtol=1e-4)
    torch.testing.assert_close(model.decode(z_0, generator=seeded(), labels=[-1, -1]), plain)


def test_labels_are_checked_where_a_user_gives_them() -> None:
    model = tiny(num_classes=3)
    with pytest.raises(ValueError, match=r"labels must have shape \(2,\), got \(3,\)"):
        model.sample(2, labels=[0, 1, 2])
    for wrong in (3, -2):  # 3 is the place of the dropped label: it must not be reached by accident
        with pytest.raises(ValueError, match=r"labels must be 0 to 2, or -1 for none"):
            model.sample(2, labels=[0, wrong])
    with pytest.raises(ValueError, match="the base takes no class labels"):
        tiny().sample(2, labels=[0, 1])
    with pytest.raises(ValueError, match="guidance needs class labels or captions"):
        model.sample(2, guidance=2.0)


def test_labels_of_a_batch_are_ignored_by_a_model_without_classes() -> None:
    model, x, labels = tiny(), images(), torch.zeros(6, dtype=torch.long)
    assert torch.equal(model.rate(x, labels=labels, generator=seeded()), model.rate(x, generator=seeded()))
    assert model.reconstruct(x, labels=labels).shape == x.shape
    assert latents_loss(model, x, conditions=Conditions(labels)).total.isfinite()
    assert base_loss(model, x, conditions=Conditions(labels)).isfinite()


def test_labels_count_where_there_are_classes() -> None:
    model, x = tiny(num_classes=3), images()
    labels = torch.arange(6) % 3
    for network in ("prior", "base"):
        bits = [
            model.rate(x, samples=2, generator=seeded(), network=network, labels=own)  # type: ignore[arg-type]
            for own in (labels, labels.flip(0), None)
        ]
        assert not torch.allclose(bits[0], bits[1], rtol=1e-6) and not torch.allclose(bits[0], bits[2], rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 8, 4), (3, 8, 8)])
def test_a_wrong_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(B, 3, 8, 8\), got"):
        tiny().encode(torch.zeros(shape))


def test_prior_and_base_must_end_at_the_latents_logsnr() -> None:
    good, bad = (DiffusionPrior(nn.Identity(), latent_diffusion(top)) for top in (LOGSNR, 4.0))
    decoder = DiffusionModel(nn.Identity(), GaussianDiffusion(CosineSchedule()), SigmoidWeighting())
    contract = Contract(SIZE, 3, LATENT_SIZE, 5, LOGSNR)
    with pytest.raises(ValueError, match=r"the prior's λ\(0\) is 4.0, the latent's log-SNR 5.0"):
        UnifiedLatents(nn.Identity(), bad, decoder, good, contract)
    with pytest.raises(ValueError, match=r"the base's λ\(0\) is 4.0, the latent's log-SNR 5.0"):
        UnifiedLatents(nn.Identity(), good, decoder, bad, contract)


def test_a_model_of_the_first_stage_alone() -> None:
    model = tiny()
    model.base = None
    assert model.reconstruct(images()).shape == images().shape and model.rate(images()).shape == (6,)
    for use in (lambda: model.sample(1), lambda: model.rate(images(), network="base")):
        with pytest.raises(ValueError, match="this model has no base"):
            use()


def test_unknown_networks_and_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="network must be 'prior' or 'base', got 'decoder'"):
        tiny().rate(images(), network="decoder")  # type: ignore[arg-type]
    for use in (lambda: tiny().sample(1, frames=images()), lambda: tiny().reconstruct(images(), frames=images())):
        with pytest.raises(ValueError, match="not compiled for frame conditioning"):
            use()


# --- the latent ------------------------------------------------------------------------------------------------------


def test_noise_of_the_latent_is_fixed() -> None:
    """z_0 = α_0 z_clean + σ_0 ε with λ_z(0) = 5: α_0 ≈ 0.997, σ_0 ≈ 0.082."""
    model = tiny()
    z_clean = 1.7 * torch.randn(500, 5, *LATENT_SIZE, generator=seeded())
    z_0 = model.noise_latents(z_clean, generator=seeded(1))
    noise = (z_0 - 0.99665 * z_clean) / 0.08181
    assert noise.mean().abs() < 0.02 and noise.std().item() == pytest.approx(1, abs=0.02)
    assert z_0.var().item() == pytest.approx(ALPHA2 * 1.7**2 + 1 - ALPHA2, rel=0.02)


def test_the_latent_keeps_single_precision_under_autocast() -> None:
    """bfloat16 has steps of 0.008 at 1: a tenth of σ_0, and α_0 would round to 0.9961."""
    model, x = tiny(), images()
    with torch.autocast("cpu", torch.bfloat16):
        z_clean = model.encode(x)
        assert z_clean.dtype == model.noise_latents(z_clean).dtype == torch.float32
        loss = latents_loss(model, x, generator=seeded())
        bits = model.rate(x, generator=seeded())
    assert loss.rate.dtype == loss.distortion.dtype == bits.dtype == torch.float32
    torch.testing.assert_close(bits, model.rate(x, generator=seeded()), rtol=0.05, atol=0.5)


def test_decoder_sees_z_0_and_never_z_clean() -> None:
    model = closed_form(gain=2.0)
    x = torch.randn(512, 1, *SIZE, generator=seeded())
    latents_loss(model, x, generator=seeded(1))
    model.reconstruct(x, steps=1, generator=seeded(2))
    network = model.decoder.network
    assert isinstance(network, GaussianDecoder) and len(network.seen) == 2
    for z_0 in network.seen:
        noise = (z_0 - math.sqrt(ALPHA2) * 2 * x) / math.sqrt(1 - ALPHA2)
        assert noise.std().item() == pytest.approx(1, abs=0.02) and noise.mean().abs() < 0.02


def test_decoding_gets_the_given_latent_as_it_is() -> None:
    model, z_0 = closed_form(), torch.randn(3, 1, *SIZE)
    model.decode(z_0, steps=2)
    network = model.decoder.network
    assert isinstance(network, GaussianDecoder) and all(seen is z_0 for seen in network.seen)


def test_the_decoder_gets_the_noisy_latent_of_the_base() -> None:
    model = closed_form(gain=0.2)
    model.sample(400, generator=seeded(), batch_size=400)
    network = model.decoder.network
    assert isinstance(network, GaussianDecoder)
    z_0 = network.seen[0]
    assert torch.equal(z_0, model.sample_latents(400, generator=seeded()))
    assert z_0.var().item() == pytest.approx(ALPHA2 * 0.04 + 1 - ALPHA2, rel=0.1)  # σ_0² is a seventh of it


# --- the rate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["prior", "base"])
def test_gaussian_rate_in_bits(network: str) -> None:
    """At s = 1, λ(0) = 5: 3.6115 bits per latent dimension, by the prior and, unweighted, by the base."""
    x = torch.randn(2000, 1, *SIZE, generator=seeded())
    bits = closed_form().rate(x, samples=8, generator=seeded(1), network=network)  # type: ignore[arg-type]
    assert bits.mean().item() / 64 == pytest.approx(3.6115, rel=0.005)


def test_rate_is_the_loss_in_bits_with_its_terminal_kl() -> None:
    model, x = tiny(), images()
    z_clean = model.encode(x)
    prior = model.prior
    noise, again = (IndependentNoise.from_generator(seeded(3), len(x), "cpu") for _ in range(2))
    nats = prior.diffusion.loss(prior.denoiser(), z_clean, generator=noise) + prior.diffusion.terminal_kl(z_clean)
    torch.testing.assert_close(model.rate(x, generator=seeded(3)), nats / math.log(2))
    torch.testing.assert_close(latents_loss(model, x, generator=again).rate, nats)


def test_samples_of_one_example_share_its_label() -> None:
    model, x, labels = tiny(num_classes=3), images(), torch.arange(6) % 3
    noise = IndependentNoise.from_generator(seeded(), 6, "cpu").repeat(4)
    each = model.rate(x.repeat(4, 1, 1, 1), generator=noise, labels=labels.repeat(4))
    together = model.rate(x, samples=4, generator=seeded(), labels=labels)
    torch.testing.assert_close(together, each.reshape(4, 6).mean(0))


def test_more_samples_mean_the_same_rate_with_less_scatter() -> None:
    model = closed_form()
    scale = torch.linspace(0.1, 3, 64).reshape(-1, 1, 1, 1)  # so that no two examples cost the same
    x = scale * torch.randn(64, 1, *SIZE, generator=seeded())
    few = torch.stack([model.rate(x, generator=seeded(i)) for i in range(40)])
    many = torch.stack([model.rate(x, samples=16, generator=seeded(i)) for i in range(40)])
    assert many.shape == (40, 64)
    torch.testing.assert_close(many.mean(), few.mean(), rtol=0.03, atol=0)
    assert many.std(0).mean() < 0.5 * few.std(0).mean()
    exact = model.rate(x, samples=512, generator=seeded(99))
    torch.testing.assert_close(many.mean(0), exact, rtol=0.1, atol=0)  # each example keeps its own rate


# --- training --------------------------------------------------------------------------------------------------------


def base_of(model: UnifiedLatents) -> DiffusionModel:
    assert model.base is not None
    return model.base


def encoder_gradient(model: UnifiedLatents, loss: Tensor) -> Tensor:
    gradients = torch.autograd.grad(loss, list(model.encoder.parameters()), allow_unused=True)
    return torch.cat([torch.zeros(1) if g is None else g.flatten() for g in gradients])


def test_prior_gradient_scales_the_gradient_of_the_rate_to_the_encoder() -> None:
    model, x = tiny(), images()

    def gradient(scale: float) -> Tensor:
        return encoder_gradient(model, latents_loss(model, x, generator=seeded(), prior_gradient=scale).rate.sum())

    full = gradient(1.0)
    assert full.abs().max() > 0
    torch.testing.assert_close(gradient(0.5), full / 2)
    assert (gradient(0.0) == 0).all()


def test_prior_gradient_changes_neither_the_losses_nor_what_the_prior_and_distortion_learn() -> None:
    model, x = tiny(), images()
    full, none = (latents_loss(model, x, generator=seeded(), prior_gradient=scale) for scale in (1.0, 0.0))
    assert torch.equal(full.rate, none.rate) and torch.equal(full.distortion, none.distortion)
    parameters = list(model.prior.parameters())
    for a, b in zip(
        torch.autograd.grad(full.rate.sum(), parameters),
        torch.autograd.grad(none.rate.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    distortion = encoder_gradient(model, none.distortion.sum())
    assert distortion.abs().max() > 0  # through z_0


def test_both_losses_share_one_normaliser() -> None:
    """Pixels, whatever the latent's size: else the loss factor means nothing."""
    model = tiny()
    loss = latents_loss(model, images(), generator=seeded())
    assert loss.pixels == 64 and loss.rate.shape == loss.distortion.shape == (6,)
    torch.testing.assert_close(loss.total, (loss.rate + loss.distortion).mean() / 64)
    base = base_of(model)
    nats = base.diffusion.loss(base.denoiser(), model.encode(images()), weighting=base.weighting, generator=seeded())
    torch.testing.assert_close(base_loss(model, images(), generator=seeded()), nats.mean() / 64)


def test_distortion_is_the_weighted_loss_of_the_decoder() -> None:
    """The optimal decoder's posterior variance 1/(1 + e^λ + g² e^λ0), weighted and integrated over λ: no closed end."""
    weighting = SigmoidWeighting(bias=1.0, loss_factor=1.5)
    model = closed_form(0.5, weighting)
    x = torch.randn(4000, 1, *SIZE, generator=seeded())
    loss = latents_loss(model, x, generator=seeded(1))
    assert loss.distortion.mean().item() / 64 == pytest.approx(distortion(0.5, weighting), rel=0.01)
    assert loss.rate.mean().item() / 64 == pytest.approx(0.5 * math.log1p(0.25 * math.exp(LOGSNR)), rel=0.01)


def test_stage_one_trains_its_three_networks() -> None:
    model = tiny()
    parameters = model.prepare("latents")
    expected = [p for name in ("encoder", "prior", "decoder") for p in getattr(model, name).parameters()]
    assert {id(p) for p in parameters} == {id(p) for p in expected}
    assert model.encoder.training and model.prior.training and model.decoder.training
    assert not base_of(model).training
    latents_loss(model, images()).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
    assert all(p.grad is None for p in base_of(model).parameters())


def test_stage_two_freezes_the_rest() -> None:
    """Not merely left out of the optimizer: no gradients, and evaluation mode."""
    model = tiny(num_classes=3)
    model.prepare("latents")  # as after stage 1
    parameters = model.prepare("base")
    assert {id(p) for p in parameters} == {id(p) for p in base_of(model).parameters()}
    frozen = (model.encoder, model.prior, model.decoder)
    assert base_of(model).training and base_of(model).network.training
    assert not any(module.training for part in frozen for module in part.modules())
    base_loss(model, images(), conditions=Conditions(torch.arange(6) % 3)).backward()
    assert all(p.grad is None and not p.requires_grad for part in frozen for p in part.parameters())
    assert all(p.grad is not None for p in parameters)


def test_base_targets_are_noised_from_z_clean() -> None:
    """Noised again from z_0, x_t at λ(0) would hold σ_0² twice and the loss would fit a blurred target."""
    model = closed_form(gain=0.0)  # z_clean = 0, so x_t must be σ_t ε and v = α ε
    seen: list[tuple[Tensor, Tensor]] = []

    class Recorder(nn.Module):
        def forward(self, x_t: Tensor, logsnr: Tensor, conditions: NetworkConditions = NO_CONDITIONS) -> Tensor:
            seen.append((x_t, logsnr))
            return x_t

    model.base = DiffusionModel(Recorder(), latent_diffusion(), SigmoidWeighting())
    base_loss(model, torch.randn(4096, 1, *SIZE, generator=seeded()), generator=seeded(1))
    ((x_t, logsnr),) = seen
    torch.testing.assert_close(x_t.flatten(1).var(1) / torch.sigmoid(-logsnr), torch.ones(4096), rtol=1, atol=0)
    cleanest = logsnr > LOGSNR - 0.3
    ratio = (x_t.flatten(1).square().mean(1) / torch.sigmoid(-logsnr))[cleanest].mean().item()
    assert cleanest.sum() > 20 and ratio == pytest.approx(1, abs=0.1)


# --- collapse --------------------------------------------------------------------------------------------------------


def distortion(gain: float, weighting: SigmoidWeighting) -> float:
    """L_x in nats per dimension of the optimal decoder in the closed-form world."""
    logsnr = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    posterior = 1 / (1 + logsnr.exp() + gain**2 * math.exp(LOGSNR))
    return torch.trapezoid(weighting.times_snr(logsnr) / 2 * posterior, logsnr).item()


def best_rate(weighting: SigmoidWeighting) -> float:
    """The rate at the gain that minimises L_z + L_x, by search."""
    gains = torch.logspace(-3, 1, 401).tolist()
    best = min(gains, key=lambda g: 0.5 * math.log1p(g**2 * math.exp(LOGSNR)) + distortion(g, weighting))
    return 0.5 * math.log1p(best**2 * math.exp(LOGSNR))


@pytest.mark.slow
def test_loss_factor_decides_between_collapse_and_information() -> None:
    """One gain trained by L_z + L_x: c_lf → 0 drives the rate to 0, and more of it raises the rate."""
    rates = []
    for loss_factor in (0.1, 1.5, 3.0):
        weighting, generator = SigmoidWeighting(bias=2.0, loss_factor=loss_factor), seeded()
        model = closed_form(0.3, weighting)
        optimizer = torch.optim.Adam(model.prepare("latents"), lr=0.02)
        network = model.decoder.network
        assert isinstance(network, GaussianDecoder)
        for step in range(300):
            optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 300)
            network.seen.clear()
            x = torch.randn(64, 1, *SIZE, generator=generator)
            optimizer.zero_grad()
            latents_loss(model, x, generator=generator).total.backward()
            optimizer.step()
        x = torch.randn(512, 1, *SIZE, generator=generator)
        nats = model.rate(x, samples=16, generator=generator).mean().item() * math.log(2) / 64
        assert nats == pytest.approx(best_rate(weighting), abs=0.1)  # 0.00, 0.48 and 1.51
        rates.append(nats)
    assert rates[0] < 0.01 < 0.4 < rates[1] < 1.4 < rates[2]
