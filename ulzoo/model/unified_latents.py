"""Unified Latents: encoder, prior, decoder and base, and what they promise together (the paper's two stages)."""

import math
from collections.abc import Sequence
from typing import Literal, Unpack, cast

import torch
from torch import Tensor, nn

from ulzoo.diffusion import (
    ExampleNoise,
    IndependentNoise,
    Noise,
    expand_like,
    independent_noise,
    independent_randn_like,
)
from ulzoo.diffusion.schedules import alpha_sigma
from ulzoo.media.captions import Text
from ulzoo.model.arguments import CheckedModule, check_arguments, check_network, check_stage
from ulzoo.model.compression import CompressingModel
from ulzoo.model.conditioning import Conditions, DecodeOptions, Labels, SampleOptions, context_clip, first_frames
from ulzoo.model.contract import STAGES, Contract, DecoderName, Sampling, Stage
from ulzoo.model.denoisers import Decoder, DiffusionModel, StepCallback, check_finite, module_dtype, step_progress
from ulzoo.model.distillation import DistilledDecoder
from ulzoo.model.pretrained import PretrainedModel
from ulzoo.model.rate import Posterior, Prior
from ulzoo.nn.conditioning import NetworkConditions

LatentNetwork = Literal["prior", "base"]
NOTHING = Conditions()


class UnifiedLatents(CompressingModel, PretrainedModel, CheckedModule):
    """The compiled model. In all methods x is (B, C, *size) in [-1, 1], and generators are on the model's device.

    Networks compute in the dtype of their weights, so `model.to(torch.bfloat16)` works; noise, log-SNRs and results are
    in float32. Methods of a trained model raise `NonFiniteOutput`, with the network and the first example, on NaN.
    In public methods each example has its own noise, derived from one number that a `torch.Generator` gives to each
    method: the first four of eight examples are the four of four. `encode` and `sample` process any number of examples
    in batches of `batch_size`, by default 64 images or 8 clips, in the memory of one.

    Args:
        encoder: x -> z_clean; without a decoder it also has `decode(z) -> x`.
        prior: prior of the latent, trained with the encoder, whose loss is the rate; None if no encoder is trained.
        decoder: decoder of x given z_0; None if the encoder decodes.
        base: diffusion model of the latent, trained in stage 2 with a sigmoid weighting, that samples; or None.
        contract: shapes, λ_z(0), labels and sampling defaults.
        final_decoder: diffusion decoder, trained on the frozen latents, that replaces `decoder` for decoding.
        distilled: decoder of few steps, distilled from the one that decodes, that replaces it for its step counts.
    """

    def __init__(
        self,
        encoder: nn.Module,
        prior: Prior | None,
        decoder: Decoder | None,
        base: DiffusionModel | None,
        contract: Contract,
        *,
        final_decoder: DiffusionModel | None = None,
        distilled: DistilledDecoder | None = None,
    ):
        super().__init__()
        for name, model in (("prior", prior), ("base", base)):
            if isinstance(model, DiffusionModel):
                top = model.diffusion.schedule.logsnr_max
                if top != contract.latent_logsnr:
                    raise ValueError(f"the {name}'s λ(0) is {top}, the latent's log-SNR {contract.latent_logsnr}")
        self.encoder, self.prior, self.decoder, self.base = encoder, prior, decoder, base
        self.final_decoder, self.distilled, self.contract = final_decoder, distilled, contract

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of training that this model has, in order."""
        return tuple(stage for stage, networks in STAGES.items() if getattr(self, networks[-1]) is not None)

    @property
    def required_context_frames(self) -> int:
        """Number of first frames that the decoder needs, as it was never trained without them; 0 if it was."""
        decoder, _ = self.select_decoder()
        return self.contract.context_frames if decoder is not None and decoder.dropout.frames == 0 else 0

    def prepare(self, stage: Stage) -> list[nn.Parameter]:
        """Put the networks that the stage trains in training mode, freeze all others; return their parameters."""
        check_stage(stage)
        if stage == "distill" and self.distilled is not None:  # its training starts with its teacher's weights
            self.distilled.start_from(cast(DiffusionModel, self.teacher))
        self.eval().requires_grad_(False)
        for name in self.contract.trained_networks(stage):
            getattr(self, name).train().requires_grad_(True)
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @check_arguments
    @torch.no_grad()
    def encode(self, x: Tensor, *, generator: Noise | None = None, batch_size: int | None = None) -> Tensor:
        """x -> z_clean, (B, c, *latent_size), in float32 or better; the decoder takes `noise_latents` of it.

        Deterministic, except for an encoder with a learned variance, of whose posterior it is a sample. For gradients
        use `posterior`.
        """
        noise = independent_noise(generator, len(x), self.device) if self.contract.learned_variance else None
        batches = self.contract.batches(len(x), batch_size)
        return torch.cat([self.posterior(x[rows]).sample(noise and noise.part(rows)) for rows in batches])

    @check_arguments
    def noise_latents(self, z_clean: Tensor, *, generator: Noise | None = None, logsnr: Tensor | None = None) -> Tensor:
        """z_0 = α_0 z_clean + σ_0 ε at the fixed log-SNR λ_z(0), or at one per example, `logsnr` (B,)."""
        z_clean = z_clean.to(torch.promote_types(z_clean.dtype, torch.float32))
        if self.contract.decodes_clean and logsnr is None:
            return z_clean
        alpha, sigma = alpha_sigma(expand_like(self._levels(len(z_clean)) if logsnr is None else logsnr, z_clean))
        return alpha * z_clean + sigma * independent_randn_like(z_clean, generator)

    @check_arguments
    @torch.no_grad()
    def decode(self, z_0: Tensor, *, generator: Noise | None = None, **options: Unpack[DecodeOptions]) -> Tensor:
        """z_0 -> x in [-1, 1], by sampling the diffusion decoder, or the distilled one in few steps.

        Args:
            generator: source of the noise.
            options: see `DecodeOptions`.
        """
        conditions, noise = Conditions.of(options, DecodeOptions), independent_noise(generator, len(z_0), z_0.device)
        decoder = self.select_decoder(options.get("network"), options.get("steps"))
        return self._decode(z_0, conditions, decoder, noise=noise)

    @check_arguments
    @torch.no_grad()
    def reconstruct(self, x: Tensor, *, generator: Noise | None = None, **options: Unpack[DecodeOptions]) -> Tensor:
        """x -> z_clean -> z_0 -> x̂: `encode`, `noise_latents` and `decode`, with one generator and its options."""
        z_0 = self.noise_latents(self.encode(x, generator=generator), generator=generator)
        return self.decode(z_0, generator=generator, **options)

    @check_arguments
    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        generator: Noise | None = None,
        seeds: Sequence[int] | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        callback: StepCallback | None = None,
        **options: Unpack[SampleOptions],
    ) -> Tensor:
        """n new x in [-1, 1]: noise -> base -> z_0 -> decoder -> x.

        Args:
            n: number of samples.
            generator: source of all noise.
            seeds: instead of a generator, one seed per sample, which alone determines its noise.
            progress: show a progress bar.
            callback: called before each network evaluation of the base and the decoder.
            options: see `SampleOptions`.
        """
        conditions, guidance = Conditions.of(options, SampleOptions), options.get("guidance")
        if guidance not in (None, 1) and conditions.labels is None and conditions.text is None:
            raise ValueError("guidance needs class labels or captions: give `labels` or `text` with it")
        sampling = self.contract.sampling_with("base", options.get("steps"), guidance)
        if seeds is not None:
            if generator is not None or len(seeds) != n:
                raise ValueError(f"give one seed for each of {n} samples and no generator, got {len(seeds)} seeds")
            generator = IndependentNoise(seeds, 0, device=self.device)
        latent_noise, noise = (independent_noise(generator, n, self.device) for _ in range(2))
        batches = self.contract.batches(n, batch_size)
        decoder = self.select_decoder(options.get("network"))
        networks = (self.prior if self.contract.single_stage else self.base, sampling), decoder
        with step_progress(networks, len(batches), progress, callback) as callback:
            x = []
            for rows in batches:
                part = conditions.part(rows)
                z_0 = self.sample_latents(
                    rows.stop - rows.start,
                    conditions=part,
                    sampling=sampling,
                    generator=latent_noise.part(rows),
                    callback=callback,
                )
                x.append(self._decode(z_0, part, decoder, noise=noise.part(rows), callback=callback))
        return torch.cat(x)

    @check_arguments
    @torch.no_grad()
    def sample_latents(
        self,
        n: int,
        *,
        conditions: Conditions = NOTHING,
        sampling: Sampling | None = None,
        generator: Noise | None = None,
        network: LatentNetwork | None = None,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """n latents z_0, (n, c, *latent_size), noise at λ_z(0) included.

        Args:
            conditions: labels, captions and context frames; the prior takes no frames.
            sampling: sampler, steps and guidance; the spec's for the base if None.
            network: the base, or the prior, which samples worse; None for the base, or for the prior of a model that is
                trained in a single stage.
        """
        network = ("prior" if self.contract.single_stage else "base") if network is None else network
        model, sampling = self._latent_model(network), sampling or self.contract.sampling["base"]
        if network == "prior" and conditions.frames is not None:
            raise ValueError("the prior continues no frames: leave out `frames`, or sample from the base")
        needs_frames = isinstance(model, DiffusionModel) and network == "base" and model.dropout.frames == 0
        self.contract.check_frames(conditions.frames, n, needed=needs_frames)
        if conditions.labels is not None and not model.num_classes:
            raise ValueError(f"the {network} takes no class labels: leave out `labels`")
        if conditions.text is not None and not model.takes_text:
            raise ValueError(f"the {network} takes no text: leave out `text`")
        selected = self.latent_conditions(model, n, conditions)
        self.contract.check_labels_and_text(selected, n, model.num_classes)
        shape, noise = (n, *self.contract.latent_shape), independent_noise(generator, n, self.device)
        z_0 = model.sample(shape, sampling, conditions=selected, generator=noise, device=self.device, callback=callback)
        return check_finite(z_0, network)

    @check_arguments
    @torch.no_grad()
    def rate(
        self,
        x: Tensor,
        *,
        samples: int = 1,
        generator: Noise | None = None,
        network: LatentNetwork | None = None,
        labels: Labels | None = None,
        text: Text | None = None,
    ) -> Tensor:
        """Bits in the latent of each x, (B,): the ELBO bound by the prior or the base, not the size of a file.

        A base with frame conditioning gets the first frames of x; its bits are those of the rest of the clip.

        Args:
            samples: draws of (t, ε) per example, with t spread evenly over [0, 1).
            generator: source of t and ε.
            network: None for the prior, or for the base of a model without a prior.
            labels: with `text`, see `Conditions`.
        """
        network = ("base" if self.prior is None else "prior") if network is None else network
        model = self._latent_model(network)
        posterior = self.posterior(x).repeat(samples)  # (samples · B, c, ...)
        selected = self.latent_conditions(model, len(x), Conditions(labels, text, first_frames(x, self.contract)))
        self.contract.check_labels_and_text(selected, len(x), model.num_classes)
        noise = independent_noise(generator, len(x), self.device).repeat(samples)
        nats = model.rate(posterior.sample(noise), conditions=selected.repeat(samples), generator=noise)
        nats = nats + posterior.entropy(self.contract.latent_logsnr)
        return check_finite(nats.reshape(samples, len(x)).mean(0) / math.log(2), network)

    def posterior(self, x: Tensor) -> Posterior:
        """What the encoder says about the latent of x."""
        expected = self.contract.shape
        if x.shape[1:] != expected:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, expected))}), got {tuple(x.shape)}")
        features = self.encoder(x.to(module_dtype(self.encoder, x.dtype)))
        features = features.to(torch.promote_types(x.dtype, torch.float32))  # bfloat16 is too coarse for noise at σ_0
        contract = self.contract
        return Posterior.from_features(features, learned=contract.learned_variance, logsnr=contract.latent_logsnr)

    def latent_conditions(self, model: DiffusionModel | Prior, n: int, conditions: Conditions) -> NetworkConditions:
        """The conditions of the prior or the base for n latents; the base also takes the encoded context clip."""
        selected = model.select_conditions(conditions, self.device)
        if model is self.base and self.contract.context_frames:
            clip = context_clip(
                conditions.frames, n, self.contract, self.device, encode=lambda clip: self.posterior(clip).mean
            )
            selected = selected._replace(context_frames=clip)
        return selected

    def decoder_conditions(
        self,
        decoder: Decoder,
        z_0: Tensor,
        conditions: Conditions,
        *,
        logsnr: Tensor | None = None,
        steps: int | None = None,
    ) -> NetworkConditions:
        """The conditions of a decoder: z_0, its log-SNR (λ_z(0) if None), labels, captions, context clip, steps."""
        selected = decoder.select_conditions(conditions, self.device)
        if decoder.takes_latent_logsnr:
            selected = selected._replace(latent_logsnr=self._levels(len(z_0)) if logsnr is None else logsnr)
        if self.contract.context_frames:
            clip = context_clip(conditions.frames, len(z_0), self.contract, self.device)
            selected = selected._replace(context_frames=clip)
        if isinstance(decoder, DistilledDecoder) and steps is not None:
            selected = decoder.for_steps(selected, steps, len(z_0))
        return selected._replace(latent=z_0)

    @property
    def teacher(self) -> Decoder | None:
        """The decoder that a distilled one is trained on; None if the encoder decodes, or in an export without it."""
        return self.decoder if self.final_decoder is None else self.final_decoder

    def select_decoder(
        self, network: DecoderName | None = None, steps: int | None = None
    ) -> tuple[Decoder | None, Sampling]:
        """The decoder that decodes in a number of steps, and its sampling; see `DecodeOptions`. Raises ValueError."""
        if network is not None:
            check_network(network, ("decoder", "distilled"))
        counts = self.contract.distilled_steps if self.distilled is not None else ()
        if self.distilled is not None and steps in (None, *counts) and network != "decoder":
            return self.distilled, Sampling(self.distilled.sampler, steps or max(counts))
        if network == "distilled" or (counts and self.teacher is None):
            available = f"decodes in {', '.join(map(str, counts))} steps" if counts else "has no distilled decoder"
            alone = " by its distilled decoder alone" if counts and self.teacher is None else ""
            raise ValueError(f"this model {available}{alone}, got network={network!r}, steps={steps}")
        return self.teacher, self.contract.sampling_with("decoder", steps, None)

    def _decode(
        self,
        z_0: Tensor,
        conditions: Conditions,
        decoder_and_sampling: tuple[Decoder | None, Sampling],
        *,
        noise: ExampleNoise,
        callback: StepCallback | None = None,
    ) -> Tensor:
        (decoder, sampling), frames = decoder_and_sampling, conditions.frames
        self.contract.check_frames(frames, len(z_0), needed=self.required_context_frames > 0)
        if decoder is None:
            alpha, _ = alpha_sigma(torch.tensor(self.contract.decoded_logsnr, dtype=torch.float32))
            z = (z_0 / alpha).to(module_dtype(self.encoder, z_0.dtype))
            x = cast(Tensor, self.encoder.decode(z)).float()  # type: ignore[operator]
        else:
            selected = self.decoder_conditions(decoder, z_0, conditions, steps=sampling.steps)
            self.contract.check_labels_and_text(selected, len(z_0), decoder.num_classes)
            shape = (len(z_0), *self.contract.shape)
            x = decoder.sample(
                shape, sampling, conditions=selected, generator=noise, device=z_0.device, callback=callback
            )
        x = check_finite(x, "decoder").clamp(-1, 1)
        return x if frames is None else torch.cat([frames.to(x), x[:, :, frames.shape[2] :]], dim=2)

    def _levels(self, n: int) -> Tensor:
        """λ_z(0) of n latents, (n,)."""
        return torch.full((n,), self.contract.latent_logsnr, device=self.device, dtype=torch.float32)

    def _latent_model(self, network: LatentNetwork) -> DiffusionModel | Prior:
        check_network(network, ("prior", "base"))
        if (model := getattr(self, network)) is None:
            untrained = {"base": "its second stage was not trained", "prior": "its encoder was not trained with one"}
            raise ValueError(f"this model has no {network}: {untrained[network]}")
        return model
