"""The networks of a model, and what each of them is conditioned on."""

from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ulzoo.diffusion import Noise, expand_like
from ulzoo.diffusion.schedules import alpha_sigma
from ulzoo.model.arguments import CheckedModule, check_network, check_stage
from ulzoo.model.conditioning import Conditions, context_clip
from ulzoo.model.contract import STAGES, Contract, DecoderName, Sampling, Stage
from ulzoo.model.denoisers import Decoder, DiffusionModel, module_dtype
from ulzoo.model.distillation import DistilledDecoder
from ulzoo.model.rate import Posterior, Prior
from ulzoo.nn.conditioning import NetworkConditions

LatentNetwork = Literal["prior", "base"]
NOTHING = Conditions()


class ModelNetworks(CheckedModule):
    """The part of `UnifiedLatents` that holds the networks and calls them; see there for the arguments."""

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

    def posterior(self, x: Tensor, *, conditions: Conditions = NOTHING) -> Posterior:
        """What the encoder says about the latent of x; of the conditions it takes loss factor and bias."""
        expected = self.contract.shape
        if x.shape[1:] != expected:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, expected))}), got {tuple(x.shape)}")
        x_in = x.to(module_dtype(self.encoder, x.dtype))
        control = self.rate_control(conditions, len(x))
        features = self.encoder(x_in) if control is None else self.encoder(x_in, control)
        features = features.to(torch.promote_types(x.dtype, torch.float32))  # bfloat16 is too coarse for noise at σ_0
        contract = self.contract
        posterior = Posterior.from_features(features, learned=contract.learned_variance, logsnr=contract.latent_logsnr)
        return posterior if control is None else posterior.scale(self.gain(control))

    def latent_conditions(self, model: DiffusionModel | Prior, n: int, conditions: Conditions) -> NetworkConditions:
        """The conditions of the prior or the base for n latents; the base also takes the encoded context clip."""
        selected = model.select_conditions(conditions, self.device)
        if (control := self.rate_control(conditions, n)) is not None:
            selected = selected._replace(rate_control=control, gain=self.gain(control))
        if model is self.base and self.contract.context_frames:
            clip = context_clip(
                conditions.frames,
                n,
                self.contract,
                self.device,
                encode=lambda clip: self.posterior(clip, conditions=conditions).mean,
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
        """The conditions of a decoder: z_0, its log-SNR (λ_z(0) if None), what the caller gives, and steps."""
        selected = decoder.select_conditions(conditions, self.device)
        if (control := self.rate_control(conditions, len(z_0))) is not None:
            selected = selected._replace(rate_control=control)
            z_0 = self._unscale(z_0, self.gain(control))
        if decoder.takes_latent_logsnr:
            selected = selected._replace(latent_logsnr=self._levels(len(z_0)) if logsnr is None else logsnr)
        if self.contract.context_frames:
            clip = context_clip(conditions.frames, len(z_0), self.contract, self.device)
            selected = selected._replace(context_frames=clip)
        if isinstance(decoder, DistilledDecoder) and steps is not None:
            selected = decoder.for_steps(selected, steps, len(z_0))
        return selected._replace(latent=z_0)

    def rate_control(self, conditions: Conditions, n: int) -> Tensor | None:
        """Where in their ranges loss factor and bias of n examples are, (n, 1 or 2); None for a model of one rate."""
        columns = [
            control.positions(getattr(conditions, control.name), n, self.device)
            for control in self.contract.rate_controls
        ]
        return torch.stack(columns, dim=1) if columns else None

    def gain(self, rate_control: Tensor) -> Tensor:
        """The scale of the latent at positions in the ranges, (n,), which the encoder's `rate_gain` has learned."""
        return cast(Tensor, self.encoder.rate_gain(rate_control))  # type: ignore[operator]

    def _unscale(self, z_0: Tensor, gain: Tensor) -> Tensor:
        """z_0 divided by √(α_0² g² + σ_0²), so that a latent of unit variance has it again."""
        alpha, sigma = alpha_sigma(self._levels(len(z_0)))
        return z_0 / expand_like((alpha**2 * gain**2 + sigma**2).sqrt(), z_0)

    def draw_rate(self, conditions: Conditions, n: int, generator: Noise | None, *, base: bool = False) -> Conditions:
        """The conditions with loss factors and biases drawn for n examples in training, for the base from its range."""
        values = {
            control.name: control.draw(n, generator, self.device, base=base) for control in self.contract.rate_controls
        }
        loss_factor, bias = (values.get(name, getattr(conditions, name)) for name in ("loss_factor", "bias"))
        return replace(conditions, loss_factor=loss_factor, bias=bias)

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

    def _levels(self, n: int) -> Tensor:
        """λ_z(0) of n latents, (n,)."""
        return torch.full((n,), self.contract.latent_logsnr, device=self.device, dtype=torch.float32)

    def _latent_model(self, network: LatentNetwork) -> DiffusionModel | Prior:
        check_network(network, ("prior", "base"))
        if (model := getattr(self, network)) is None:
            untrained = {"base": "its second stage was not trained", "prior": "its encoder was not trained with one"}
            raise ValueError(f"this model has no {network}: {untrained[network]}")
        return model
