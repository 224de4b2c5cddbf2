"""A network with the noise process that it denoises, the weighting of its loss and the conditions that it takes."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ulzoo.diffusion import (
    AdaptiveSchedule,
    Denoiser,
    GaussianDiffusion,
    Guidance,
    Noise,
    SigmoidWeighting,
    Weighting,
    expand_like,
    rand,
)
from ulzoo.diffusion.samplers import CfgDenoiser
from ulzoo.diffusion.schedules import alpha_sigma
from ulzoo.media.captions import Text
from ulzoo.model.conditioning import Conditions
from ulzoo.model.contract import Sampling
from ulzoo.nn.conditioning import NO_CONDITIONS, NetworkConditions

StepCallback = Callable[[Tensor, Tensor], None]
"""(x_t, logsnr (B,)) before a network evaluation of a sampler."""
Prediction = TypeVar("Prediction")


class NonFiniteOutput(ArithmeticError):
    """A network of a trained model returned NaN or infinity."""


@dataclass(frozen=True)
class ConditionDropout:
    """Shares of the examples whose conditions are dropped in training, so that a network learns to do without them."""

    labels: float = 0.0
    text: float = 0.0
    frames: float = 0.0


NO_DROPOUT = ConditionDropout()


class ConditionalNetwork(nn.Module):
    """A network and the conditions that it takes.

    Args:
        network: (x_t, logsnr (B,), conditions) -> prediction; its `num_classes` is 0 if it takes no labels.
        dropout: how often conditions are dropped in training.
        takes_text: whether it takes captions.
        takes_latent_logsnr: whether it takes the log-SNR of its latent.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        dropout: ConditionDropout = NO_DROPOUT,
        takes_text: bool = False,
        takes_latent_logsnr: bool = False,
    ):
        super().__init__()
        self.network, self.dropout = network, dropout
        self.takes_text, self.takes_latent_logsnr = takes_text, takes_latent_logsnr
        self.num_classes: int = getattr(network, "num_classes", 0)

    def predict(self, x_t: Tensor, logsnr: Tensor, conditions: NetworkConditions) -> Tensor:
        """The network's prediction, computed in the dtype of its weights."""
        dtype = module_dtype(self.network, x_t.dtype)
        return self.network(x_t.to(dtype), logsnr, conditions.to(dtype))

    def select_conditions(self, conditions: Conditions, device: torch.device) -> NetworkConditions:
        """The labels and captions, as far as the network takes them."""
        labels, text = conditions.labels, conditions.text
        return NetworkConditions(
            labels=torch.as_tensor(labels, device=device) if labels is not None and self.num_classes else None,
            text=text.to(device) if text is not None and self.takes_text else None,
        )

    def drop_conditions(self, conditions: NetworkConditions, generator: Noise | None = None) -> NetworkConditions:
        """Drop each kind of condition for a random share of the examples, independently of the other kinds.

        A dropped label becomes -1, a dropped caption empty, dropped context frames and their mask zero.
        """
        dropout = self.dropout
        labels, text, frames = conditions.labels, conditions.text, conditions.context_frames
        if labels is not None and dropout.labels:
            labels = torch.where(rand(len(labels), generator, labels.device) >= dropout.labels, labels, -1)
        if text is not None and dropout.text:
            keep = rand(len(text.mask), generator, text.mask.device) >= dropout.text  # (B,)
            text = Text(text.tokens, text.mask & keep[:, None])
        if frames is not None and dropout.frames:
            keep = rand(len(frames), generator, frames.device) >= dropout.frames  # (B,)
            frames = frames * keep.reshape(-1, 1, 1, 1, 1).to(frames)
        return conditions._replace(labels=labels, text=text, context_frames=frames)


class DiffusionModel(ConditionalNetwork):
    """A network with the noise process that it denoises and the weighting that it is trained with.

    Where there are context frames, the process is of the residual of x to the context clip (for video: Yang et al.
    2022, arXiv 2203.09481). The likelihood is the same, since the clip is known; where the clip predicts x well, little
    is left to model.

    Args:
        network: see `ConditionalNetwork`.
        diffusion: schedule and parametrisation.
        weighting: w(λ) of the training loss.
        dropout, takes_text, takes_latent_logsnr: see `ConditionalNetwork`.
    """

    def __init__(
        self,
        network: nn.Module,
        diffusion: GaussianDiffusion,
        weighting: Weighting,
        *,
        dropout: ConditionDropout = NO_DROPOUT,
        takes_text: bool = False,
        takes_latent_logsnr: bool = False,
    ):
        super().__init__(network, dropout=dropout, takes_text=takes_text, takes_latent_logsnr=takes_latent_logsnr)
        self.diffusion, self.weighting = diffusion, weighting
        self.schedule: AdaptiveSchedule | None = None  # a module, whose density is saved with the weights
        if isinstance(diffusion.schedule, AdaptiveSchedule):
            self.schedule = diffusion.schedule

    def predict(self, x_t: Tensor, logsnr: Tensor, conditions: NetworkConditions) -> Tensor:
        """The network's prediction; of a latent that a variable-rate model scales, by that of the latent as it was."""
        gain, frames = conditions.gain, conditions.context_frames
        if gain is None:
            return super().predict(x_t, logsnr, conditions)
        if frames is not None:
            frames = torch.cat([frames[:, :-1] / expand_like(gain, frames), frames[:, -1:]], dim=1)
        unscaled = conditions._replace(gain=None, context_frames=frames)
        predict = super().predict
        return self.diffusion.denoise_scaled(
            lambda x_t, logsnr: predict(x_t, logsnr, unscaled), x_t, logsnr=logsnr, gain=gain
        )

    def denoiser(self, conditions: NetworkConditions = NO_CONDITIONS) -> Denoiser:
        """The network with its conditions bound, (x_t, logsnr) -> prediction."""
        return lambda x_t, logsnr: self.predict(x_t, logsnr, conditions)

    def loss(
        self, x: Tensor, *, conditions: NetworkConditions = NO_CONDITIONS, generator: Noise | None = None
    ) -> Tensor:
        """Weighted nats per example, (B,), without the terminal KL, which trains no network."""
        x, weighting = x - residual_mean(conditions, x.shape[1]), self.weighting
        if isinstance(weighting, SigmoidWeighting) and weighting.ranges:
            assert conditions.rate_control is not None
            weighting = weighting.at(conditions.rate_control)
        return self.diffusion.loss(
            self.denoiser(conditions), x, weighting=weighting, generator=generator, adaptive=self.schedule
        )

    def rate(
        self,
        x: Tensor,
        *,
        conditions: NetworkConditions = NO_CONDITIONS,
        generator: Noise | None = None,
        logsnr_max: Tensor | None = None,
    ) -> Tensor:
        """L_z: the unweighted ELBO with its terminal KL, in nats per example, (B,). Its gradient reaches x.

        Args:
            logsnr_max: log-SNR of the latent that is coded, (B,); λ(0) if None.
        """
        x = x - residual_mean(conditions, x.shape[1])
        elbo = self.diffusion.loss(self.denoiser(conditions), x, generator=generator, logsnr_max=logsnr_max)
        return elbo + self.diffusion.terminal_kl(x)

    def sample(
        self,
        shape: tuple[int, ...],
        sampling: Sampling,
        *,
        conditions: NetworkConditions = NO_CONDITIONS,
        generator: Noise | None = None,
        device: torch.device | None = None,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """A sample at λ(0), guided by labels and captions if there are any.

        Args:
            callback: called before each network evaluation.
        """
        guidance = None
        if sampling.guidance != 1 and (conditions.labels is not None or conditions.text is not None):
            cfg_denoiser = observed(self.cfg_denoiser(conditions), callback)
            guidance = Guidance(cfg_denoiser, sampling.guidance, sampling.guidance_interval)
        x_0 = self.diffusion.sample(
            observed(self.denoiser(conditions), callback),
            shape,
            sampling.steps,
            sampling.sampler,
            generator,
            device,
            guidance,
        )
        end = math.inf if self.diffusion.final_prediction else self.diffusion.schedule.logsnr_max
        alpha, _ = alpha_sigma(torch.tensor(end, dtype=torch.float32))
        return x_0 + alpha * residual_mean(conditions, shape[1])

    def cfg_denoiser(self, conditions: NetworkConditions) -> CfgDenoiser:
        """The predictions with and without labels and captions, from one pass over a doubled batch."""
        doubled = conditions.repeat(2)
        if (labels := conditions.labels) is not None:
            doubled = doubled._replace(labels=torch.cat([labels, torch.full_like(labels, -1)]))
        if (text := conditions.text) is not None:
            empty = Text(text.tokens, torch.zeros_like(text.mask))
            doubled = doubled._replace(text=Text(*(torch.cat(pair) for pair in zip(text, empty, strict=True))))

        def denoiser(x_t: Tensor, logsnr: Tensor) -> tuple[Tensor, Tensor]:
            predictions = self.predict(torch.cat([x_t, x_t]), torch.cat([logsnr, logsnr]), doubled)
            conditional, unconditional = predictions.chunk(2)
            return conditional, unconditional

        return denoiser


class RegressionDecoder(ConditionalNetwork):
    """A decoder that regresses x from z_0, as a usual autoencoder's does (Table 5, the rows with MSE).

    It is trained on weight/2 ‖x - x̂‖², the nats of N(x̂, I/weight) up to a constant. The network is a denoiser whose x_t
    is zero, so every backbone can be used.

    Args:
        network: see `ConditionalNetwork`.
        weight: weight of the squared error; it takes the place of a diffusion decoder's loss factor.
        dropout, takes_text, takes_latent_logsnr: see `ConditionalNetwork`.
    """

    def __init__(
        self,
        network: nn.Module,
        weight: float,
        *,
        dropout: ConditionDropout = NO_DROPOUT,
        takes_text: bool = False,
        takes_latent_logsnr: bool = False,
    ):
        super().__init__(network, dropout=dropout, takes_text=takes_text, takes_latent_logsnr=takes_latent_logsnr)
        self.weight = weight

    def _predict(self, shape: tuple[int, ...], conditions: NetworkConditions) -> Tensor:
        assert conditions.latent is not None
        x_t = torch.zeros(shape, device=conditions.latent.device, dtype=torch.float32)
        prediction = self.predict(x_t, x_t.new_zeros(shape[0]), conditions)
        return prediction.float() + residual_mean(conditions, shape[1])

    def loss(
        self, x: Tensor, *, conditions: NetworkConditions = NO_CONDITIONS, generator: Noise | None = None
    ) -> Tensor:
        """Nats per example, (B,)."""
        error = x - self._predict(tuple(x.shape), conditions)
        return self.weight / 2 * error.square().flatten(1).sum(1)

    def sample(
        self,
        shape: tuple[int, ...],
        sampling: Sampling,
        *,
        conditions: NetworkConditions = NO_CONDITIONS,
        generator: Noise | None = None,
        device: torch.device | None = None,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """x̂, (B, C, *size), by one evaluation without noise; `sampling` and `callback` have no effect."""
        return self._predict(shape, conditions)


Decoder = DiffusionModel | RegressionDecoder


def observed(
    denoiser: Callable[[Tensor, Tensor], Prediction], callback: StepCallback | None
) -> Callable[[Tensor, Tensor], Prediction]:
    """The denoiser, with the callback called before each evaluation."""
    if callback is None:
        return denoiser

    def observe(x_t: Tensor, logsnr: Tensor) -> Prediction:
        callback(x_t, logsnr)
        return denoiser(x_t, logsnr)

    return observe


@contextmanager
def step_progress(
    networks: Iterable[tuple[nn.Module | None, Sampling]], batches: int, show: bool, callback: StepCallback | None
) -> Iterator[StepCallback]:
    """A callback that calls `callback` and advances a progress bar, if `show`, of the networks' steps in all batches.

    A regression, a normal prior, or an encoder that decodes takes no steps.
    """
    total = batches * sum(sampling.steps for network, sampling in networks if isinstance(network, DiffusionModel))
    with tqdm(total=total, disable=not show, unit="step") as bar:

        def advance(x_t: Tensor, logsnr: Tensor) -> None:
            bar.update()
            if callback is not None:
                callback(x_t, logsnr)

        yield advance


def module_dtype(module: nn.Module, default: torch.dtype) -> torch.dtype:
    """The dtype of a module's weights; the default if it has none."""
    return next((parameter.dtype for parameter in module.parameters()), default)


def check_finite(output: Tensor, network: str) -> Tensor:
    """The output itself, (B, ...), if all of it is finite.

    Raises:
        NonFiniteOutput: names the network and the first example that is not.
    """
    finite = output.isfinite().flatten(1).all(1) if output.ndim > 1 else output.isfinite()  # (B,)
    if not finite.all():
        first = int(finite.int().argmin())
        raise NonFiniteOutput(f"the {network} returned NaN or infinity for example {first} of {len(output)} in a batch")
    return output


def residual_mean(conditions: NetworkConditions, channels: int) -> Tensor | float:
    """The context clip that x is modelled relative to, (B, channels, *size); 0 without context frames."""
    frames = conditions.context_frames
    return 0.0 if frames is None else frames[:, :channels]
