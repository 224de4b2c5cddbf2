"""Unified Latents: encoder, prior, decoder and base, and what they promise together (the paper's two stages)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack, cast

import torch
from torch import Tensor

from ulzoo.diffusion import (
    ExampleNoise,
    IndependentNoise,
    Noise,
    expand_like,
    independent_noise,
    independent_randn_like,
)
from ulzoo.diffusion.schedules import alpha_sigma
from ulzoo.model.arguments import check_arguments
from ulzoo.model.compression import CompressingModel
from ulzoo.model.conditioning import Conditions, DecodeOptions, RateOptions, SampleOptions, first_frames
from ulzoo.model.contract import Sampling
from ulzoo.model.denoisers import Decoder, DiffusionModel, StepCallback, check_finite, module_dtype, step_progress
from ulzoo.model.networks import NOTHING, LatentNetwork, ModelNetworks
from ulzoo.model.pretrained import PretrainedModel
from ulzoo.model.rate_control import ControlValue
from ulzoo.model.variable_rate import VariableRateModel


class UnifiedLatents(CompressingModel, VariableRateModel, PretrainedModel, ModelNetworks):
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

    @check_arguments
    @torch.no_grad()
    def encode(
        self,
        x: Tensor,
        *,
        generator: Noise | None = None,
        batch_size: int | None = None,
        loss_factor: ControlValue | None = None,
        bias: ControlValue | None = None,
        bits: float | None = None,
    ) -> Tensor:
        """x -> z_clean, (B, c, *latent_size), in float32 or better; the decoder takes `noise_latents` of it.

        Deterministic, except for an encoder with a learned variance, of whose posterior it is a sample. For gradients
        use `posterior`.

        Args:
            loss_factor: see `RateOptions`; the decoder needs it too.
            bias: the same.
            bits: instead of a loss factor, the rate that each latent shall have; see `find_loss_factor`.
        """
        if bits is not None:
            if loss_factor is not None:
                raise ValueError("give either bits or a loss factor")
            loss_factor = self.find_loss_factor(x, bits=bits, bias=bias)
        conditions = Conditions(loss_factor=loss_factor, bias=bias)
        noise = independent_noise(generator, len(x), self.device) if self.contract.learned_variance else None
        return torch.cat(
            [
                self.posterior(x[rows], conditions=conditions.part(rows)).sample(noise and noise.part(rows))
                for rows in self.contract.batches(len(x), batch_size)
            ]
        )

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
        loss_factor, bias = options.get("loss_factor"), options.get("bias")
        z_clean = self.encode(x, generator=generator, loss_factor=loss_factor, bias=bias)
        return self.decode(self.noise_latents(z_clean, generator=generator), generator=generator, **options)

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
        self.contract.check_base_rate(conditions, network)
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
        **options: Unpack[RateOptions],
    ) -> Tensor:
        """Bits in the latent of each x, (B,): the ELBO bound by the prior or the base, not the size of a file.

        A base with frame conditioning gets the first frames of x; its bits are those of the rest of the clip.

        Args:
            samples: draws of (t, ε) per example, with t spread evenly over [0, 1).
            generator: source of t and ε.
            network: None for the prior, or for the base of a model without a prior.
            options: see `RateOptions`.
        """
        conditions = replace(Conditions.of(options, RateOptions), frames=first_frames(x, self.contract))
        network = ("base" if self.prior is None else "prior") if network is None else network
        model = self._latent_model(network)
        self.contract.check_base_rate(conditions, network)
        posterior = self.posterior(x, conditions=conditions).repeat(samples)  # (samples · B, c, ...)
        selected = self.latent_conditions(model, len(x), conditions)
        self.contract.check_labels_and_text(selected, len(x), model.num_classes)
        noise = independent_noise(generator, len(x), self.device).repeat(samples)
        nats = model.rate(posterior.sample(noise), conditions=selected.repeat(samples), generator=noise)
        nats = nats + posterior.entropy(self.contract.latent_logsnr)
        return check_finite(nats.reshape(samples, len(x)).mean(0) / math.log(2), network)

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
