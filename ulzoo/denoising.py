"""A network, the noise process it denoises, and the weighting it is trained with."""

import torch
from torch import Tensor, nn

from ulzoo.contract import Sampling
from ulzoo.diffusion import Denoiser, GaussianDiffusion, Weighting, guided


class DiffusionModel(nn.Module):
    """A network with the noise process it denoises and the weighting it is trained with.

    Args:
        network: (x_t, logsnr (B,), context, labels) -> prediction; its `num_classes` is 0 if it takes no labels.
        diffusion: schedule and parametrisation.
        weighting: w(λ) of its training loss.
    """

    def __init__(self, network: nn.Module, diffusion: GaussianDiffusion, weighting: Weighting):
        super().__init__()
        self.network, self.diffusion, self.weighting = network, diffusion, weighting
        self.num_classes: int = getattr(network, "num_classes", 0)

    def denoiser(self, context: Tensor | None = None, labels: Tensor | None = None) -> Denoiser:
        """The network with its conditions bound, (x_t, logsnr) -> prediction."""
        return lambda x_t, logsnr: self.network(x_t, logsnr, context, labels)

    def sample(
        self,
        shape: tuple[int, ...],
        sampling: Sampling,
        generator: torch.Generator | None,
        device: torch.device,
        context: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """A sample at λ(0), guided by the labels if there are any."""
        denoiser = self.denoiser(context, labels)
        if labels is not None:
            denoiser = guided(denoiser, self.denoiser(context), sampling.guidance, sampling.guidance_interval)
        return self.diffusion.sample(denoiser, shape, sampling.steps, sampling.sampler, generator, device)
