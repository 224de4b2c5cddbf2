"""What each stage of training minimises: L_z + L_x, then the base's loss on frozen latents (paper, §2, §3)."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ulzoo.diffusion import Noise
from ulzoo.model.conditioning import Conditions, first_frames
from ulzoo.model.contract import Stage
from ulzoo.model.denoisers import Decoder, DiffusionModel
from ulzoo.model.networks import NOTHING
from ulzoo.model.rate import scale_gradient
from ulzoo.model.unified_latents import UnifiedLatents


@dataclass(frozen=True)
class LatentsLoss:
    """The terms of stage 1 in nats per example, (B,) each.

    Attributes:
        rate: L_z, the bits in the latent.
        distortion: L_x.
        regularisation: the term that is minimised for the rate: the rate itself, except in Tables 5 and 6.
        pixels: the normaliser of all terms, H·W or T·H·W.
        balance: weight of each example in the total, (B,), in a variable-rate model.
        position: where in the range its loss factor, or else its bias, lies, from 0 to 1, (B,).
    """

    rate: Tensor
    distortion: Tensor
    regularisation: Tensor
    pixels: int
    balance: Tensor | None = None
    position: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """(L_z + L_x) / pixels, averaged over the batch, ()."""
        total = self.regularisation + self.distortion
        return (total if self.balance is None else self.balance * total).mean() / self.pixels

    def metrics(self) -> dict[str, Tensor]:
        """The loss, rates in bits per pixel and the distortion in nats per pixel, for the log, () each.

        In a variable-rate model also the rates at both ends: of the lowest and the highest quarter of its range.
        """
        rates = {"rate_bits_per_pixel": self.rate.detach()}
        if self.position is not None:
            rates["low_rate_bits_per_pixel"] = 4 * (self.position < 1 / 4) * self.rate.detach()
            rates["high_rate_bits_per_pixel"] = 4 * (self.position >= 3 / 4) * self.rate.detach()
        return {
            "loss": self.total,
            **{name: nats.mean() / self.pixels / math.log(2) for name, nats in rates.items()},
            "distortion": self.distortion.detach().mean() / self.pixels,
        }


def latents_loss(
    model: UnifiedLatents,
    x: Tensor,
    *,
    conditions: Conditions = NOTHING,
    generator: Noise | None = None,
    prior_gradient: float | Tensor = 1.0,
) -> LatentsLoss:
    """Stage 1, Algorithm 1: encoder, prior and decoder, jointly.

    Args:
        prior_gradient: scale of the gradient from the rate to the encoder; 1 in the paper, less only during warm-up.
    """
    prior, decoder = model.prior, model.decoder
    assert prior is not None and decoder is not None
    conditions = model.draw_rate(conditions, len(x), generator)  # in a variable-rate model, each example's c_lf and b
    logsnr = None  # λ_z(0) for all examples, or one per example (Appendix B ii), (B,)
    if prior.random_logsnr is not None:
        logsnr = prior.random_logsnr.sample(len(x), generator, x.device)
    level = model.contract.latent_logsnr if logsnr is None else logsnr

    # z_clean = E(x); with a learned variance a sample, whose entropy L_e is subtracted from the rate (Eq. 5).
    posterior = model.posterior(x, conditions=conditions)
    z_clean = posterior.sample(generator)  # (B, c, h, w)

    # L_z, the rate: -λ_z'(t) e^λ/2 ‖z_clean - ẑ(z_t, t)‖² with weight 1, plus the terminal KL. Its gradient reaches E.
    gradient = 0.0 if prior.stop_gradient else prior_gradient
    prior_conditions = prior.drop_conditions(model.latent_conditions(prior, len(x), conditions), generator)
    if (gain := prior_conditions.gain) is not None:  # a part of the encoder, as it scales z_clean
        prior_conditions = prior_conditions._replace(gain=scale_gradient(gain, gradient))
    rate = prior.rate(
        scale_gradient(z_clean, gradient), conditions=prior_conditions, generator=generator, logsnr_max=logsnr
    ) + scale_gradient(posterior.entropy(level), gradient)
    regularisation = prior.regularisation(rate, z_clean, level)

    # z_0 = α_0 z_clean + σ_0 ε, with fresh ε: what the decoder sees.
    z_0 = model.noise_latents(z_clean, generator=generator, logsnr=logsnr)

    # L_x, the distortion: -λ_x'(t) e^λ/2 w(λ) ‖x - x̂(x_t, t, z_0)‖² (Eq. 4) with w = c_lf · sigmoid(b - λ) (Figure 3).
    distortion = distortion_loss(model, decoder, x, z_0, conditions=conditions, generator=generator, logsnr=logsnr)

    # One normaliser for both terms, the number of pixels, or the loss factor would mean nothing.
    terms = LatentsLoss(rate, distortion, regularisation, model.contract.pixels)
    if (control := model.rate_control(conditions, len(x))) is None:
        return terms
    # The gradient of an example grows with its factor; weighed alike, all of the range is learned equally well.
    factor = conditions.loss_factor
    balance = 1 / factor if isinstance(factor, Tensor) else None
    return replace(terms, position=control[:, 0], balance=balance)


def decoder_loss(
    model: UnifiedLatents, x: Tensor, *, conditions: Conditions = NOTHING, generator: Noise | None = None
) -> Tensor:
    """The final decoder's loss given z_0 of the frozen encoder, nats per pixel, mean over the batch, ()."""
    assert model.final_decoder is not None
    conditions = model.draw_rate(conditions, len(x), generator)
    with torch.no_grad():
        z_0 = model.noise_latents(model.posterior(x, conditions=conditions).sample(generator), generator=generator)
    nats = distortion_loss(model, model.final_decoder, x, z_0, conditions=conditions, generator=generator)
    return nats.mean() / model.contract.pixels


def distill_loss(
    model: UnifiedLatents, x: Tensor, *, conditions: Conditions = NOTHING, generator: Noise | None = None
) -> Tensor:
    """The distilled decoder's squared error to its teacher's steps, given the same z_0, per pixel, batch mean, ()."""
    student, teacher = model.distilled, model.teacher
    assert student is not None and isinstance(teacher, DiffusionModel)
    conditions = model.draw_rate(conditions, len(x), generator)
    with torch.no_grad():
        z_0 = model.noise_latents(model.posterior(x, conditions=conditions).sample(generator), generator=generator)
    if model.contract.context_frames:
        conditions = replace(conditions, frames=first_frames(x, model.contract))
    selected = student.drop_conditions(model.decoder_conditions(student, z_0, conditions), generator)
    error = student.regression_loss(teacher, x, conditions=selected, generator=generator)
    return error.mean() / model.contract.pixels


def base_loss(
    model: UnifiedLatents,
    x: Tensor,
    *,
    conditions: Conditions = NOTHING,
    generator: Noise | None = None,
    encoded: bool = False,
) -> Tensor:
    """Stage 2: the base's sigmoid-weighted loss on z_clean of the frozen encoder, nats per pixel, batch mean, ().

    Args:
        encoded: x is z_clean, encoded beforehand.
    """
    base, contract = model.base, model.contract
    assert base is not None and not (encoded and contract.context_frames)
    conditions = model.draw_rate(conditions, len(x), generator, base=True)
    with torch.no_grad():  # noised from z_clean, not from z_0
        z_clean = x if encoded else model.posterior(x, conditions=conditions).sample(generator)
        if contract.context_frames:
            conditions = replace(conditions, frames=first_frames(x, contract))
        selected = model.latent_conditions(base, len(x), conditions)
    selected = base.drop_conditions(selected, generator)
    return base.loss(z_clean, conditions=selected, generator=generator).mean() / contract.pixels


def distortion_loss(
    model: UnifiedLatents,
    decoder: Decoder,
    x: Tensor,
    z_0: Tensor,
    *,
    conditions: Conditions = NOTHING,
    generator: Noise | None = None,
    logsnr: Tensor | None = None,
) -> Tensor:
    """L_x of a decoder given z_0, in nats per example, (B,); `logsnr` is that of z_0, λ_z(0) if None."""
    if model.contract.context_frames:
        conditions = replace(conditions, frames=first_frames(x, model.contract))
    selected = model.decoder_conditions(decoder, z_0, conditions, logsnr=logsnr)
    return decoder.loss(x, conditions=decoder.drop_conditions(selected, generator), generator=generator)


class StageLoss(nn.Module):
    """The loss of a stage as a module, so that DDP and FSDP see its forward pass.

    Args:
        model: the model, of which the stage trains a part.
        stage: "latents", "decoder", "distill" or "base".
        encoded: the examples are z_clean, not x; for the base only.
    """

    def __init__(self, model: UnifiedLatents, stage: Stage, *, encoded: bool = False) -> None:
        super().__init__()
        assert not encoded or stage == "base"
        self.model, self.stage, self.encoded = model, stage, encoded

    def forward(
        self,
        x: Tensor,
        conditions: Conditions = NOTHING,
        generator: Noise | None = None,
        prior_gradient: float | Tensor = 1.0,
    ) -> dict[str, Tensor]:
        """{"loss"} and, in stage 1, "rate_bits_per_pixel" and "distortion" in nats per pixel; batch means, () each."""
        match self.stage:
            case "latents":
                terms = latents_loss(
                    self.model, x, conditions=conditions, generator=generator, prior_gradient=prior_gradient
                )
                return terms.metrics()
            case "decoder":
                return {"loss": decoder_loss(self.model, x, conditions=conditions, generator=generator)}
            case "distill":
                return {"loss": distill_loss(self.model, x, conditions=conditions, generator=generator)}
            case "base":
                loss = base_loss(self.model, x, conditions=conditions, generator=generator, encoded=self.encoded)
                return {"loss": loss}
