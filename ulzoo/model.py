"""Unified Latents: encoder, prior, decoder and base, what they promise and what they are trained on (paper §2, §3)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ulzoo.contract import STAGES, Contract, Sampling, Stage
from ulzoo.denoising import DiffusionModel
from ulzoo.diffusion import randn_like
from ulzoo.frames import condition, hide, hold


@dataclass(frozen=True)
class LatentsLoss:
    """The two terms of stage 1 in nats per example, (B,) each, and the pixels both are divided by."""

    rate: Tensor
    distortion: Tensor
    pixels: int

    @property
    def total(self) -> Tensor:
        """(L_z + L_x) / pixels, averaged over the batch."""
        return (self.rate + self.distortion).mean() / self.pixels


class UnifiedLatents(nn.Module):
    """The compiled model. In all methods x is (B, C, *size) in [-1, 1] and generators live on the model's device.

    Args:
        encoder: x -> z_clean.
        prior: diffusion model of the latent, trained with the encoder; its unweighted ELBO is the rate.
        decoder: diffusion model of x given z_0.
        base: diffusion model of the latent, trained in stage 2 with a sigmoid weighting, that samples; or None.
        contract: shapes, λ_z(0), labels and sampling defaults.
    """

    def __init__(
        self,
        encoder: nn.Module,
        prior: DiffusionModel,
        decoder: DiffusionModel,
        base: DiffusionModel | None,
        contract: Contract,
    ):
        super().__init__()
        for name, model in (("prior", prior), ("base", base)):
            if model is not None and (top := model.diffusion.schedule.logsnr_max) != contract.latent_logsnr:
                raise ValueError(f"the {name}'s λ(0) is {top}, the latent's log-SNR {contract.latent_logsnr}")
        self.encoder, self.prior, self.decoder, self.base = encoder, prior, decoder, base
        self.contract = contract

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def frames_needed(self) -> int:
        """The first frames that the decoder must be given, as it never learned to do without; 0 if it did."""
        return self.contract.given_frames if self.decoder.frame_dropout == 0 else 0

    # --- what a trained model does -----------------------------------------------------------------------------------

    def encode(self, x: Tensor) -> Tensor:
        """x -> z_clean (B, c, *latent_size), of x's dtype, without noise: the decoder takes `noise_latents` of it."""
        expected = self.contract.shape
        if x.shape[1:] != expected:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, expected))}), got {tuple(x.shape)}")
        return self.encoder(x).to(x.dtype)  # bfloat16 under autocast, too coarse for noise of a given σ_0

    def noise_latents(self, z_clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """z_0 = α_0 z_clean + σ_0 ε at the fixed log-SNR λ_z(0) (paper §1)."""
        logsnr = z_clean.new_full((len(z_clean),), self.contract.latent_logsnr)
        return self.prior.diffusion.add_noise(z_clean, logsnr, randn_like(z_clean, generator))

    @torch.no_grad()
    def decode(
        self,
        z_0: Tensor,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        labels: Tensor | Sequence[int] | None = None,
        frames: Tensor | None = None,
    ) -> Tensor:
        """z_0 -> x in [-1, 1], by sampling the diffusion decoder over `steps` (the spec's if None).

        Args:
            frames: (B, C, k, H, W), the clip's first frames, which the result then begins with.
        """
        self._check_frames(self.decoder, frames, len(z_0))
        sampling = self._sampling("decoder", steps, None)
        shape = (len(z_0), *self.contract.shape)
        labels = self._labels(self.decoder, labels, len(z_0))
        given = self._given("decoder", frames, len(z_0))
        x = self.decoder.sample(shape, sampling, generator, z_0.device, z_0, labels, given).clamp(-1, 1)
        return x if frames is None else torch.cat([frames.to(x), x[:, :, frames.shape[2] :]], dim=2)

    @torch.no_grad()
    def reconstruct(
        self,
        x: Tensor,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        labels: Tensor | Sequence[int] | None = None,
        frames: Tensor | None = None,
    ) -> Tensor:
        """x -> z_clean -> z_0 -> x̂ in [-1, 1]; `frames` as in `decode`."""
        return self.decode(self.noise_latents(self.encode(x), generator), steps, generator, labels, frames)

    @torch.no_grad()
    def sample_latents(
        self,
        n: int,
        labels: Tensor | Sequence[int] | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        network: Literal["base", "prior"] = "base",
        frames: Tensor | None = None,
    ) -> Tensor:
        """n latents z_0, noise at λ_z(0) included, from the base (or from the prior, which samples worse: paper §3).

        Args:
            frames: (n, C, k, H, W), the frames that a base trained for it continues; the prior continues none.
        """
        model = self._latent_model(network)
        if network == "prior" and frames is not None:
            raise ValueError("the prior continues no frames: leave out `frames`, or sample from the base")
        self._check_frames(model, frames, n)
        if labels is not None and not model.num_classes:
            raise ValueError(f"the {network} takes no class labels: leave out `labels`")
        if guidance is not None and guidance != 1 and labels is None:
            raise ValueError("guidance leans towards a class: give `labels` with it")
        shape = (n, *self.contract.latent_shape)
        labels = self._labels(model, labels, n)
        given = self._given("base", frames, n) if network == "base" else None
        sampling = self._sampling("base", steps, guidance)
        return model.sample(shape, sampling, generator, self.device, labels=labels, given=given)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        labels: Tensor | Sequence[int] | None = None,
        frames: Tensor | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """n new x in [-1, 1]: noise -> base -> z_0 -> decoder -> x (paper §3).

        Args:
            n: how many.
            labels: (n,) class labels; None samples without a class.
            frames: (n, C, k, H, W) in [-1, 1], the first frames of each clip, k of the contract's `given_frames`; the
                result begins with them. None, where the model was trained for it, makes whole clips.
            guidance: scale of the base's classifier-free guidance; the spec's if None.
            steps: of the base; the decoder keeps the spec's.
            generator: source of all noise.
        """
        z_0 = self.sample_latents(n, labels, guidance, steps, generator, frames=frames)
        return self.decode(z_0, generator=generator, labels=labels, frames=frames)

    @torch.no_grad()
    def rate(
        self,
        x: Tensor,
        samples: int = 1,
        generator: torch.Generator | None = None,
        network: Literal["prior", "base"] = "prior",
        labels: Tensor | None = None,
    ) -> Tensor:
        """Bits in the latent of each x, (B,): the ELBO bound by the prior or the base, not a file size (paper §2, §3).

        A base that continues given frames is told those of x: its bits are what they leave open.

        Args:
            samples: draws of (t, ε) per example, with t spread evenly over [0, 1).
        """
        model = self._latent_model(network)
        z_clean = self.encode(x).repeat(samples, *[1] * (x.ndim - 1))  # (samples · B, c, ...)
        if labels is not None:
            labels = labels.repeat(samples)
        given = self._given("base", self._first_frames(x), len(x)) if network == "base" else None
        if given is not None:
            given = given.repeat(samples, *[1] * (x.ndim - 1))
        nats = model.rate(z_clean, generator, self._labels(model, labels, len(z_clean)), given)
        return nats.reshape(samples, len(x)).mean(0) / math.log(2)

    # --- what it is trained on ---------------------------------------------------------------------------------------

    def prepare(self, stage: Stage) -> list[nn.Parameter]:
        """Put the stage's networks in training mode and freeze all others; the parameters to train."""
        self.eval().requires_grad_(False)
        for name in STAGES[stage]:
            getattr(self, name).train().requires_grad_(True)
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def latents_loss(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        prior_gradient: float = 1.0,
    ) -> LatentsLoss:
        """Stage 1: L_z + L_x, the rate by the prior and the distortion by the decoder given a fresh z_0 (paper §2).

        Args:
            prior_gradient: scale of the rate's gradient to the encoder; 1 is the paper's, less only while warming up.
        """
        z_clean = self.encode(x)  # (B, c, ...)
        z_prior = _scale_gradient(z_clean, prior_gradient)
        rate = self.prior.rate(z_prior, generator, self._labels(self.prior, labels))
        z_0 = self.noise_latents(z_clean, generator)
        given = self._hidden(self.decoder, self._given("decoder", self._first_frames(x), len(x)), generator)
        decoder_labels = self._labels(self.decoder, labels)
        distortion = self.decoder.loss(x, generator, z_0, decoder_labels, given)
        return LatentsLoss(rate, distortion, self.contract.pixels)

    def base_loss(self, x: Tensor, labels: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Stage 2: the base's weighted loss on z_clean of the frozen encoder, nats per pixel, mean over the batch."""
        with torch.no_grad():
            z_clean = self.encode(x)
            given = self._given("base", self._first_frames(x), len(x))
        base = self._latent_model("base")
        given = self._hidden(base, given, generator)
        nats = base.loss(z_clean, generator, labels=self._labels(base, labels), given=given)
        return nats.mean() / self.contract.pixels

    # -----------------------------------------------------------------------------------------------------------------

    def _first_frames(self, x: Tensor) -> Tensor | None:
        """The frames of x that are given, and no others, (B, C, k, H, W)."""
        return x[:, :, : self.contract.given_frames] if self.contract.given_frames else None

    def _given(self, part: Literal["decoder", "base"], frames: Tensor | None, n: int) -> Tensor | None:
        """What a network is told of the given frames, zeros where none are; None if it continues none.

        The held clip for the decoder, (n, C + 1, T, H, W), its encoding for the base, (n, c + 1, t, h, w).
        """
        contract = self.contract
        if not contract.given_frames:
            return None
        if frames is None:
            channels, *size = contract.shape if part == "decoder" else contract.latent_shape
            return torch.zeros(n, channels + 1, *size, device=self.device)
        held = hold(frames.to(self.device), contract.size[0])
        guess = held if part == "decoder" else self.encode(held)
        return condition(guess, contract.given_frames, contract.size[0])

    @staticmethod
    def _hidden(model: DiffusionModel, given: Tensor | None, generator: torch.Generator | None) -> Tensor | None:
        return None if given is None else hide(given, model.frame_dropout, generator)

    def _check_frames(self, model: DiffusionModel, frames: Tensor | None, n: int) -> None:
        """What a caller gives a model to continue fits what it was trained for."""
        contract = self.contract
        channels, (*_, height, width) = contract.channels, contract.size
        expected = (n, channels, contract.given_frames, height, width)
        if not contract.given_frames:
            if frames is not None:
                raise ValueError("this model was not compiled for frame conditioning: leave out `frames`")
        elif frames is None:
            if model is not self.prior and model.frame_dropout == 0:
                raise ValueError(f"this model continues given frames: pass `frames` of shape {expected}")
        elif frames.shape != expected:
            raise ValueError(f"frames must have shape {expected}, got {tuple(frames.shape)}")

    def _latent_model(self, network: str) -> DiffusionModel:
        if network not in ("prior", "base"):
            raise ValueError(f"network must be 'prior' or 'base', got {network!r}")
        if (model := getattr(self, network)) is None:
            raise ValueError("this model has no base: its second stage was not trained")
        return model

    def _labels(
        self, model: DiffusionModel, labels: Tensor | Sequence[int] | None, n: int | None = None
    ) -> Tensor | None:
        """Labels as a tensor on the model's device if that network takes any; checked where a caller gives `n`."""
        if labels is None or not model.num_classes:
            return None
        labels = torch.as_tensor(labels, device=self.device)
        if n is not None and labels.shape != (n,):
            raise ValueError(f"labels must have shape ({n},), got {tuple(labels.shape)}")
        if n is not None and ((labels < -1) | (labels >= model.num_classes)).any():
            raise ValueError(f"labels must be 0 to {model.num_classes - 1}, or -1 for none, got {labels.tolist()}")
        return labels

    def _sampling(self, network: str, steps: int | None, guidance: float | None) -> Sampling:
        default = self.contract.sampling[network]
        return replace(
            default,
            steps=default.steps if steps is None else steps,
            guidance=default.guidance if guidance is None else guidance,
        )


def _scale_gradient(x: Tensor, scale: float) -> Tensor:
    """x, with its gradient times `scale`."""
    return x if scale == 1 else x.detach() + scale * (x - x.detach())
