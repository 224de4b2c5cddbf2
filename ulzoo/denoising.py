"""A network, the noise process it denoises, and the weighting it is trained with."""

import torch
from torch import Tensor, nn

from ulzoo.contract import Sampling
from ulzoo.diffusion import Denoiser, GaussianDiffusion, Weighting, guided
from ulzoo.diffusion.noise import alpha_sigma


class DiffusionModel(nn.Module):
    """A network with the noise process it denoises and the weighting it is trained with.

    Of what is `given` the first channels are a guess of x, and the process is of the difference of x to that guess (for
    video: Yang et al. 2022, arXiv 2203.09481). The likelihood is the same, since x_t and its guess give the difference;
    but where the guess is good there is little left to say.

    Args:
        network: (x_t, logsnr (B,), context, labels) -> prediction; its `num_classes` is 0 if it takes no labels. One
            that continues given frames takes them as a fifth argument.
        diffusion: schedule and parametrisation.
        weighting: w(λ) of its training loss.
        frame_dropout: share of the examples from which given frames are hidden in training.
    """

    def __init__(
        self, network: nn.Module, diffusion: GaussianDiffusion, weighting: Weighting, frame_dropout: float = 0.0
    ):
        super().__init__()
        self.frame_dropout = frame_dropout
        self.network, self.diffusion, self.weighting = network, diffusion, weighting
        self.num_classes: int = getattr(network, "num_classes", 0)

    def denoiser(
        self, context: Tensor | None = None, labels: Tensor | None = None, given: Tensor | None = None
    ) -> Denoiser:
        """The network with its conditions bound, (x_t, logsnr) -> prediction."""
        conditions = (context, labels) if given is None else (context, labels, given)
        return lambda x_t, logsnr: self.network(x_t, logsnr, *conditions)

    def loss(
        self,
        x: Tensor,
        generator: torch.Generator | None = None,
        context: Tensor | None = None,
        labels: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        """Weighted nats per example, (B,), without the terminal KL, which does not train a network."""
        denoiser = self.denoiser(context, labels, given)
        return self.diffusion.loss(denoiser, x - _guess(given, x.shape[1]), self.weighting, generator)

    def rate(
        self,
        x: Tensor,
        generator: torch.Generator | None = None,
        labels: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        """Nats per example, (B,): the unweighted ELBO with its terminal KL (paper §2), whose gradient reaches x."""
        x = x - _guess(given, x.shape[1])
        return self.diffusion.loss(self.denoiser(labels=labels, given=given), x, None, generator) + (
            self.diffusion.terminal_kl(x)
        )

    def sample(
        self,
        shape: tuple[int, ...],
        sampling: Sampling,
        generator: torch.Generator | None,
        device: torch.device,
        context: Tensor | None = None,
        labels: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        """A sample at λ(0), guided by the labels if there are any."""
        denoiser = self.denoiser(context, labels, given)
        if labels is not None:
            without = self.denoiser(context, given=given)
            denoiser = guided(denoiser, without, sampling.guidance, sampling.guidance_interval)
        x_0 = self.diffusion.sample(denoiser, shape, sampling.steps, sampling.sampler, generator, device)
        alpha, _ = alpha_sigma(x_0.new_tensor(self.diffusion.schedule.logsnr_max))
        return x_0 + alpha * _guess(given, shape[1])


def _guess(given: Tensor | None, channels: int) -> Tensor | float:
    """The part of what is given that is a guess of x, zero where it is hidden."""
    return 0.0 if given is None else given[:, :channels]
