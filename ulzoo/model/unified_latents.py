"""Unified Latents: encoder, prior, decoder and base, and what they promise (the paper's two stages)."""

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ulzoo.diffusion import Noise, TruncatedLogistic, randn_like
from ulzoo.diffusion.schedules import alpha_sigma, expand_like
from ulzoo.media.captions import Text
from ulzoo.model.conditioning import Labels, check_frames, check_told, first_frames, held_clip, repeated, told
from ulzoo.model.contract import STAGES, Contract, Stage
from ulzoo.model.denoisers import Conditions, DiffusionModel, RegressionDecoder
from ulzoo.model.rate import DiffusionPrior, NormalPrior, Posterior

Decoder = DiffusionModel | RegressionDecoder
LatentNetwork = Literal["prior", "base"]


class UnifiedLatents(nn.Module):
    """The compiled model. In all methods x is (B, C, *size) in [-1, 1] and generators live on the model's device.

    Args:
        encoder: x -> z_clean; without a decoder it also has `decode(z) -> x`.
        prior: of the latent, trained with the encoder, whose loss is the rate; None where no encoder is trained.
        decoder: of x given z_0; None where the encoder decodes.
        base: diffusion model of the latent, trained in stage 2 with a sigmoid weighting, that samples; or None.
        contract: shapes, λ_z(0), labels and sampling defaults.
        final_decoder: diffusion decoder that is trained on the frozen latents and then decodes in `decoder`'s place.
        random_logsnr: what z_0's log-SNR is drawn from in single-stage training (Appendix B ii); None: it is λ_z(0).
    """

    def __init__(
        self,
        encoder: nn.Module,
        prior: DiffusionPrior | NormalPrior | None,
        decoder: Decoder | None,
        base: DiffusionModel | None,
        contract: Contract,
        final_decoder: DiffusionModel | None = None,
        random_logsnr: TruncatedLogistic | None = None,
    ):
        super().__init__()
        for name, model in (("prior", prior), ("base", base)):
            if isinstance(model, DiffusionModel):
                top = model.diffusion.schedule.logsnr_max
                if top != contract.latent_logsnr:
                    raise ValueError(f"the {name}'s λ(0) is {top}, the latent's log-SNR {contract.latent_logsnr}")
        self.encoder, self.prior, self.decoder, self.base = encoder, prior, decoder, base
        self.final_decoder, self.random_logsnr, self.contract = final_decoder, random_logsnr, contract

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of training that this model has, in order."""
        return tuple(stage for stage, networks in STAGES.items() if getattr(self, networks[-1]) is not None)

    @property
    def frames_needed(self) -> int:
        """The first frames that the decoder must be given, as it never learned to do without; 0 if it did."""
        decoder = self._decoder
        return self.contract.given_frames if decoder is not None and decoder.dropout.frames == 0 else 0

    # --- what a trained model does -----------------------------------------------------------------------------------

    def encode(self, x: Tensor, generator: Noise | None = None) -> Tensor:
        """x -> z_clean (B, c, *latent_size), of x's dtype, without noise: the decoder takes `noise_latents` of it.

        Deterministic, but for an encoder with a variance of its own, of which it is a draw.
        """
        return self.posterior(x).sample(generator)

    def noise_latents(self, z_clean: Tensor, generator: Noise | None = None, logsnr: Tensor | None = None) -> Tensor:
        """z_0 = α_0 z_clean + σ_0 ε at the fixed log-SNR λ_z(0), or at each example's own, `logsnr` (B,)."""
        alpha, sigma = alpha_sigma(expand_like(self._levels(len(z_clean)) if logsnr is None else logsnr, z_clean))
        return alpha * z_clean + sigma * randn_like(z_clean, generator)

    @torch.no_grad()
    def decode(
        self,
        z_0: Tensor,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        labels: Labels | None = None,
        frames: Tensor | None = None,
        text: Text | None = None,
    ) -> Tensor:
        """z_0 -> x in [-1, 1], by sampling the diffusion decoder over `steps` (the spec's if None).

        Args:
            frames: (B, C, k, H, W), the clip's first frames, which the result then begins with.
        """
        check_frames(frames, len(z_0), self.contract, self.frames_needed > 0)
        decoder, n = self._decoder, len(z_0)
        if decoder is None:
            alpha, _ = alpha_sigma(z_0.new_tensor(self.contract.latent_logsnr))
            x = cast(Tensor, self.encoder.decode(z_0 / alpha)).clamp(-1, 1)  # type: ignore[operator]
        else:
            conditions = self.decoding(decoder, z_0, None, labels, text)
            check_told(conditions, n, decoder.num_classes, self.contract)
            if self.contract.given_frames:
                conditions["given"] = held_clip(frames, n, self.contract, self.device, None)
            sampling = self.contract.sampling_with("decoder", steps, None)
            x = decoder.sample((n, *self.contract.shape), sampling, generator, z_0.device, **conditions).clamp(-1, 1)
        return x if frames is None else torch.cat([frames.to(x), x[:, :, frames.shape[2] :]], dim=2)

    @torch.no_grad()
    def reconstruct(
        self,
        x: Tensor,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        labels: Labels | None = None,
        frames: Tensor | None = None,
        text: Text | None = None,
    ) -> Tensor:
        """x -> z_clean -> z_0 -> x̂ in [-1, 1]; `frames` as in `decode`."""
        z_0 = self.noise_latents(self.encode(x, generator), generator)
        return self.decode(z_0, steps, generator, labels, frames, text)

    @torch.no_grad()
    def sample_latents(
        self,
        n: int,
        labels: Labels | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        network: LatentNetwork | None = None,
        frames: Tensor | None = None,
        text: Text | None = None,
    ) -> Tensor:
        """n latents z_0, noise at λ_z(0) included, from the base (or from the prior, which samples worse).

        Args:
            network: None for the base, or the prior of a model that is trained in a single stage.
            frames: (n, C, k, H, W), the frames that a base trained for it continues; the prior continues none.
        """
        network = network or ("prior" if self.contract.single_stage else "base")
        model = self._latent_model(network)
        if network == "prior" and frames is not None:
            raise ValueError("the prior continues no frames: leave out `frames`, or sample from the base")
        needed = isinstance(model, DiffusionModel) and network == "base" and model.dropout.frames == 0
        check_frames(frames, n, self.contract, needed)
        if labels is not None and not model.num_classes:
            raise ValueError(f"the {network} takes no class labels: leave out `labels`")
        if text is not None and not model.takes_text:
            raise ValueError(f"the {network} takes no text: leave out `text`")
        if guidance is not None and guidance != 1 and labels is None and text is None:
            raise ValueError("guidance leans towards a class or a text: give `labels` or `text` with it")
        conditions = self._of_latent(model, n, labels, text, frames)
        sampling = self.contract.sampling_with("base", steps, guidance)
        return model.sample((n, *self.contract.latent_shape), sampling, generator, self.device, **conditions)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        labels: Labels | None = None,
        frames: Tensor | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        text: Text | None = None,
    ) -> Tensor:
        """n new x in [-1, 1]: noise -> base -> z_0 -> decoder -> x.

        Args:
            n: how many.
            labels: (n,) class labels; None samples without a class.
            frames: (n, C, k, H, W) in [-1, 1], the first frames of each clip, k of the contract's `given_frames`; the
                result begins with them. None, where the model was trained for it, makes whole clips.
            guidance: scale of the base's classifier-free guidance; the spec's if None.
            steps: of the base; the decoder keeps the spec's.
            generator: source of all noise.
            text: n captions; None samples without.
        """
        z_0 = self.sample_latents(n, labels, guidance, steps, generator, frames=frames, text=text)
        return self.decode(z_0, generator=generator, labels=labels, frames=frames, text=text)

    @torch.no_grad()
    def rate(
        self,
        x: Tensor,
        samples: int = 1,
        generator: torch.Generator | None = None,
        network: LatentNetwork | None = None,
        labels: Labels | None = None,
        text: Text | None = None,
    ) -> Tensor:
        """Bits in the latent of each x, (B,): the ELBO bound by the prior or the base, not a file size.

        A base that continues given frames is told those of x: its bits are what they leave open.

        Args:
            samples: draws of (t, ε) per example, with t spread evenly over [0, 1).
            network: None for the prior, or for the base of a model without.
        """
        network = network or ("base" if self.prior is None else "prior")
        model = self._latent_model(network)
        posterior = self.posterior(x).repeat(samples)  # (samples · B, c, ...)
        conditions = self._of_latent(model, len(x), labels, text, first_frames(x, self.contract))
        nats = model.rate(posterior.sample(generator), generator, **repeated(conditions, samples))
        nats = nats + posterior.entropy(self.contract.latent_logsnr)
        return nats.reshape(samples, len(x)).mean(0) / math.log(2)

    # --- what `ulzoo.model.losses` trains it by ------------------------------------------------------------------------

    def prepare(self, stage: Stage) -> list[nn.Parameter]:
        """Put the stage's networks in training mode and freeze all others; the parameters to train."""
        self.eval().requires_grad_(False)
        for name in STAGES[stage]:
            getattr(self, name).train().requires_grad_(True)
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    # -----------------------------------------------------------------------------------------------------------------

    @property
    def _decoder(self) -> Decoder | None:
        """What decodes: the final decoder if there is one."""
        return self.decoder if self.final_decoder is None else self.final_decoder

    def posterior(self, x: Tensor) -> Posterior:
        expected = self.contract.shape
        if x.shape[1:] != expected:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, expected))}), got {tuple(x.shape)}")
        features = self.encoder(x).to(x.dtype)  # bfloat16 under autocast, too coarse for noise of a given σ_0
        return Posterior.of(features, self.contract.learned_variance, self.contract.latent_logsnr)

    def _levels(self, n: int) -> Tensor:
        """λ_z(0) of n latents, (n,)."""
        return torch.full((n,), self.contract.latent_logsnr, device=self.device)

    def held(self, frames: Tensor | None, n: int) -> Tensor:
        """What the base is told of given frames, (n, c + 1, t, h, w)."""
        return held_clip(frames, n, self.contract, self.device, lambda held: self.posterior(held).mean)

    def _of_latent(
        self,
        model: DiffusionModel | NormalPrior,
        n: int,
        labels: Labels | None,
        text: Text | None,
        frames: Tensor | None,
    ) -> Conditions:
        """A caller's conditions for a network of the latent, checked."""
        conditions = told(model, labels, text, self.device)
        check_told(conditions, n, model.num_classes, self.contract)
        if model is self.base and self.contract.given_frames:
            conditions["given"] = self.held(frames, n)
        return conditions

    def decoding(
        self, decoder: Decoder, z_0: Tensor, logsnr: Tensor | None, labels: Labels | None, text: Text | None
    ) -> Conditions:
        """z_0 as a decoder's condition and what else it takes, its log-SNR among that."""
        conditions = told(decoder, labels, text, self.device)
        conditions["context"] = z_0
        if decoder.takes_logsnr:
            conditions["context_logsnr"] = self._levels(len(z_0)) if logsnr is None else logsnr
        return conditions

    def _latent_model(self, network: str) -> DiffusionModel | NormalPrior:
        if network not in ("prior", "base"):
            raise ValueError(f"network must be 'prior' or 'base', got {network!r}")
        if (model := getattr(self, network)) is None:
            raise ValueError(
                "this model has no base: its second stage was not trained"
                if network == "base"
                else "this model has no prior: its encoder was not trained with one"
            )
        return model
