"""What each stage of training minimises: L_z + L_x, then the base's weighted loss on frozen latents."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ulzoo.diffusion import ExampleNoise, Noise
from ulzoo.media.captions import Text
from ulzoo.model.conditioning import first_frames, held_clip, hidden, told
from ulzoo.model.contract import Stage
from ulzoo.model.unified_latents import Decoder, UnifiedLatents


@dataclass(frozen=True)
class LatentsLoss:
    """The terms of stage 1 in nats per example, (B,) each, and the pixels that all are divided by.

    Attributes:
        rate: L_z, the bits in the latent.
        distortion: L_x.
        regularisation: what is trained on in the rate's place: the rate itself, but for variants of Tables 5 and 6.
    """

    rate: Tensor
    distortion: Tensor
    regularisation: Tensor
    pixels: int

    @property
    def total(self) -> Tensor:
        """(L_z + L_x) / pixels, averaged over the batch."""
        return (self.regularisation + self.distortion).mean() / self.pixels


def stage_loss(
    model: UnifiedLatents,
    stage: Stage,
    x: Tensor,
    labels: Tensor | None = None,
    text: Text | None = None,
    generator: Noise | None = None,
    encoded: bool = False,
) -> Tensor:
    """What a stage minimises, nats per pixel, mean over the batch; the base's x may be `encoded`."""
    if stage == "base":
        return base_loss(model, x, labels, text, generator, encoded)
    assert not encoded, stage
    if stage == "latents":
        return latents_loss(model, x, labels, text, generator).total
    return decoder_loss(model, x, labels, text, generator)


def latents_loss(
    model: UnifiedLatents,
    x: Tensor,
    labels: Tensor | None = None,
    text: Text | None = None,
    generator: Noise | None = None,
    prior_gradient: float = 1.0,
) -> LatentsLoss:
    """Stage 1: L_z + L_x, the rate by the prior and the distortion by the decoder given a fresh z_0.

    Args:
        prior_gradient: scale of the rate's gradient to the encoder; 1 is the paper's, less only while warming up.
    """
    assert model.prior is not None and model.decoder is not None
    logsnr = None  # (B,) where each example has its own (Appendix B ii), else λ_z(0) for all
    if model.random_logsnr is not None:
        logsnr = model.random_logsnr.sample(len(x), generator, x.device)
    posterior = model.posterior(x)
    z_clean = posterior.sample(generator)  # (B, c, ...)
    entropy = posterior.entropy(model.contract.latent_logsnr if logsnr is None else logsnr)
    conditions = hidden(model.prior, told(model.prior, labels, text, model.device), generator)
    rate, regularisation = model.prior.objective(z_clean, entropy, generator, logsnr, prior_gradient, **conditions)
    z_0 = model.noise_latents(z_clean, generator, logsnr)
    distortion = _distortion(model, model.decoder, x, z_0, logsnr, labels, text, generator)
    return LatentsLoss(rate, distortion, regularisation, model.contract.pixels)


def decoder_loss(
    model: UnifiedLatents,
    x: Tensor,
    labels: Tensor | None = None,
    text: Text | None = None,
    generator: Noise | None = None,
) -> Tensor:
    """The final decoder's loss given z_0 of the frozen encoder, nats per pixel, mean over the batch."""
    assert model.final_decoder is not None
    with torch.no_grad():
        z_0 = model.noise_latents(model.encode(x, generator), generator)
    nats = _distortion(model, model.final_decoder, x, z_0, None, labels, text, generator)
    return nats.mean() / model.contract.pixels


def base_loss(
    model: UnifiedLatents,
    x: Tensor,
    labels: Tensor | None = None,
    text: Text | None = None,
    generator: Noise | None = None,
    encoded: bool = False,
) -> Tensor:
    """Stage 2: the base's weighted loss on z_clean of the frozen encoder, nats per pixel, mean over the batch.

    Args:
        encoded: x is z_clean, encoded beforehand.
    """
    assert model.base is not None
    assert not (encoded and model.contract.given_frames)
    conditions = told(model.base, labels, text, model.device)
    with torch.no_grad():
        z_clean = x if encoded else model.encode(x, generator)
        if model.contract.given_frames:
            conditions["given"] = model.held(first_frames(x, model.contract), len(x))
    conditions = hidden(model.base, conditions, generator)
    return model.base.loss(z_clean, generator, **conditions).mean() / model.contract.pixels


def _distortion(
    model: UnifiedLatents,
    decoder: Decoder,
    x: Tensor,
    z_0: Tensor,
    logsnr: Tensor | None,
    labels: Tensor | None,
    text: Text | None,
    generator: Noise | None,
) -> Tensor:
    """L_x in nats per example, (B,)."""
    conditions = model.decoding(decoder, z_0, logsnr, labels, text)
    if model.contract.given_frames:
        conditions["given"] = held_clip(first_frames(x, model.contract), len(x), model.contract, model.device, None)
    return decoder.loss(x, generator, **hidden(decoder, conditions, generator))


class StepLoss(nn.Module):
    """The terms of a stage's loss, means over the examples it is given.

    Args:
        model: whose parameters are trained.
        stage: "latents", "decoder" or "base".
        encoded: the examples are z_clean, not x.
    """

    def __init__(self, model: UnifiedLatents, stage: Stage, encoded: bool = False) -> None:
        super().__init__()
        self.model, self.stage, self.encoded = model, stage, encoded

    def forward(
        self, x: Tensor, labels: Tensor, text: Text | None, noise: ExampleNoise, prior_gradient: float = 1.0
    ) -> dict[str, Tensor]:
        """{"loss"} and, in stage 1, "rate_bits_per_pixel" and "distortion" in nats per pixel; () each.

        Args:
            prior_gradient: scale of the rate's gradient to the encoder, see `latents_loss`.
        """
        if self.stage != "latents":
            return {"loss": stage_loss(self.model, self.stage, x, labels, text, noise, self.encoded)}
        loss = latents_loss(self.model, x, labels, text, noise, prior_gradient)
        return {
            "loss": loss.total,
            "rate_bits_per_pixel": loss.rate.detach().mean() / loss.pixels / math.log(2),
            "distortion": loss.distortion.detach().mean() / loss.pixels,
        }
