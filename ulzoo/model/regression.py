"""A decoder that regresses x from z_0, the usual autoencoder's (Table 5, the rows with MSE)."""

from typing import Unpack

import torch
from torch import Tensor, nn

from ulzoo.diffusion import Noise
from ulzoo.model.contract import Sampling
from ulzoo.model.denoisers import NO_DROPOUT, Conditional, Conditions, Dropout, guess


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
