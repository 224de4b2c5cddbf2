"""A network, the noise process it denoises, and the weighting it is trained with."""

import torch
from torch import Tensor, nn

from ulzoo.contract import Sampling
from ulzoo.diffusion import Denoiser, GaussianDiffusion, Weighting, guided


class DiffusionModel(nn.Module):
    """A network with the noise process it denoises and the weighting it is trained with.

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
        return self.diffusion.sample(denoiser, shape, sampling.steps, sampling.sampler, generator, device)
