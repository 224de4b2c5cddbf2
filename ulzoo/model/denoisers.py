"""A network, the noise process it denoises, and the weighting it is trained with."""

from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn

from ulzoo.diffusion import Denoiser, GaussianDiffusion, Guidance, Noise, Weighting
from ulzoo.diffusion.samplers import Both
from ulzoo.diffusion.schedules import alpha_sigma
from ulzoo.media.captions import Text
from ulzoo.model.contract import Sampling


class Conditions(TypedDict, total=False):
    """What a network is told besides x_t and its log-SNR; what does not apply is left out.

    Attributes:
        context: z_0 for a decoder, (B, c, *latent_size).
        context_logsnr: its log-SNR, (B,), for a decoder that asks.
        labels: (B,), -1 for no class.
        text: captions; None for none.
        given: what is given of x itself, on its grid, the last channel a mask.
    """

    context: Tensor
    context_logsnr: Tensor
    labels: Tensor
    text: Text
    given: Tensor


@dataclass(frozen=True)
class Dropout:
    """Shares of the examples from which conditions are hidden in training, so that a network learns to do without."""

    labels: float = 0.0
    text: float = 0.0
    frames: float = 0.0


NO_DROPOUT = Dropout()


class Conditional(nn.Module):
    """A network and which conditions it takes.

    Args:
        network: (x_t, logsnr (B,), **conditions) -> prediction; its `num_classes` is 0 if it takes no labels.
        dropout: how often they are hidden, see `ulzoo.model.conditioning.hidden`.
        takes_text: whether it is told of captions.
        takes_logsnr: whether it is told of the log-SNR of its context.
    """

    def __init__(
        self, network: nn.Module, dropout: Dropout = NO_DROPOUT, takes_text: bool = False, takes_logsnr: bool = False
    ):
        super().__init__()
        self.network, self.dropout = network, dropout
        self.takes_text, self.takes_logsnr = takes_text, takes_logsnr
        self.num_classes: int = getattr(network, "num_classes", 0)


class DiffusionModel(Conditional):
    """A network with the noise process it denoises and the weighting it is trained with.

    Of what is `given` the first channels are a guess of x, and the process is of the difference of x to that guess (for
    video: Yang et al. 2022, arXiv 2203.09481). The likelihood is the same, since x_t and its guess give the difference;
    but where the guess is good there is little left to say.

    Args:
        network: see `Conditional`, as for the other arguments.
        diffusion: schedule and parametrisation.
        weighting: w(λ) of its training loss.
    """

    def __init__(
        self,
        network: nn.Module,
        diffusion: GaussianDiffusion,
        weighting: Weighting,
        dropout: Dropout = NO_DROPOUT,
        takes_text: bool = False,
        takes_logsnr: bool = False,
    ):
        super().__init__(network, dropout, takes_text, takes_logsnr)
        self.diffusion, self.weighting = diffusion, weighting

    def denoiser(self, **conditions: Unpack[Conditions]) -> Denoiser:
        """The network with its conditions bound, (x_t, logsnr) -> prediction."""
        return lambda x_t, logsnr: self.network(x_t, logsnr, **conditions)

    def loss(self, x: Tensor, generator: Noise | None = None, **conditions: Unpack[Conditions]) -> Tensor:
        """Weighted nats per example, (B,), without the terminal KL, which does not train a network."""
        x = x - guess(conditions, x.shape[1])
        return self.diffusion.loss(self.denoiser(**conditions), x, self.weighting, generator)

    def rate(
        self,
        x: Tensor,
        generator: Noise | None = None,
        logsnr_max: Tensor | None = None,
        **conditions: Unpack[Conditions],
    ) -> Tensor:
        """Nats per example, (B,): the unweighted ELBO with its terminal KL, whose gradient attention_patterns x.

        Args:
            logsnr_max: (B,), the log-SNR of the latent that is coded; λ(0) if None.
        """
        x = x - guess(conditions, x.shape[1])
        nats = self.diffusion.loss(self.denoiser(**conditions), x, None, generator, logsnr_max)
        return nats + self.diffusion.terminal_kl(x)

    def sample(
        self,
        shape: tuple[int, ...],
        sampling: Sampling,
        generator: torch.Generator | None,
        device: torch.device,
        **conditions: Unpack[Conditions],
    ) -> Tensor:
        """A sample at λ(0), guided by labels and text if there are any."""
        guidance = None
        if sampling.guidance != 1 and ("labels" in conditions or "text" in conditions):
            guidance = Guidance(self.cfg_denoiser(conditions), sampling.guidance, sampling.guidance_interval)
        denoiser = self.denoiser(**conditions)
        x_0 = self.diffusion.sample(denoiser, shape, sampling.steps, sampling.sampler, generator, device, guidance)
        alpha, _ = alpha_sigma(torch.tensor(self.diffusion.schedule.logsnr_max))
        return x_0 + alpha * guess(conditions, shape[1])

    def cfg_denoiser(self, conditions: Conditions) -> Both:
        """The network told of labels and text, and told of none, as one pass over a doubled batch."""
        doubled = Conditions(**conditions)
        for name in ("context", "context_logsnr", "given"):
            if name in conditions:
                doubled[name] = torch.cat([conditions[name]] * 2)
        if "labels" in conditions:
            labels = conditions["labels"]
            doubled["labels"] = torch.cat([labels, torch.full_like(labels, -1)])
        if "text" in conditions:
            tokens, mask = conditions["text"]
            doubled["text"] = Text(torch.cat([tokens, tokens]), torch.cat([mask, torch.zeros_like(mask)]))

        def both(x_t: Tensor, logsnr: Tensor) -> tuple[Tensor, Tensor]:
            predictions = self.network(torch.cat([x_t, x_t]), torch.cat([logsnr, logsnr]), **doubled)
            conditional, unconditional = predictions.chunk(2)
            return conditional, unconditional

        return both


def guess(conditions: Conditions, channels: int) -> Tensor | float:
    """The part of what is given that is a guess of x, zero where it is hidden."""
    return conditions["given"][:, :channels] if "given" in conditions else 0.0


class RegressionDecoder(Conditional):
    """x̂(z_0), trained on weight/2 ‖x - x̂‖²: nats of N(x̂, I/weight), but for a constant.

    The network is a denoiser's whose x_t is all zeros, so that every backbone serves.

    Args:
        network: see `Conditional`, as for the other arguments.
        weight: of the squared error; the knob that the loss factor is for a diffusion decoder.
    """

    def __init__(
        self,
        network: nn.Module,
        weight: float,
        dropout: Dropout = NO_DROPOUT,
        takes_text: bool = False,
        takes_logsnr: bool = False,
    ):
        super().__init__(network, dropout, takes_text, takes_logsnr)
        self.weight = weight

    def _predict(self, shape: tuple[int, ...], conditions: Conditions) -> Tensor:
        context = conditions["context"]
        nothing = torch.zeros(shape, device=context.device)
        prediction = self.network(nothing, nothing.new_zeros(shape[0]), **conditions)
        return prediction.float() + guess(conditions, shape[1])

    def loss(self, x: Tensor, generator: Noise | None = None, **conditions: Unpack[Conditions]) -> Tensor:
        """Nats per example, (B,)."""
        error = x - self._predict(tuple(x.shape), conditions)
        return self.weight / 2 * error.square().flatten(1).sum(1)

    def sample(
        self,
        shape: tuple[int, ...],
        sampling: Sampling,
        generator: torch.Generator | None,
        device: torch.device,
        **conditions: Unpack[Conditions],
    ) -> Tensor:
        """x̂, (B, C, *size): one evaluation, no noise; `sampling` says nothing to it."""
        return self._predict(shape, conditions)
