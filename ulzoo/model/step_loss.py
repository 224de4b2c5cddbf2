"""What one step minimises, as a module of its own, so that wrappers for many processes see its forward pass."""

import math

from torch import Tensor, nn

from ulzoo.diffusion import ExampleNoise
from ulzoo.media.captions import Text
from ulzoo.model.contract import Stage
from ulzoo.model.losses import latents_loss, stage_loss
from ulzoo.model.unified_latents import UnifiedLatents


class StepLoss(nn.Module):
    """The terms of a stage's loss, means over the examples it is given.

    Args:
        model: whose parameters are trained.
        stage: "latents", "decoder" or "base".
        encoded: the examples are z_clean, not x.
    """

    def __init__(self, model: UnifiedLatents, stage: Stage, encoded: bool = False) -> None:
        super().__init__()
        self.model, self.stage, self.encoded = model, stage, encoded

    def forward(
        self, x: Tensor, labels: Tensor, text: Text | None, noise: ExampleNoise, prior_gradient: float = 1.0
    ) -> dict[str, Tensor]:
        """{"loss"} and, in stage 1, "rate_bits_per_pixel" and "distortion" in nats per pixel; () each.

        Args:
            prior_gradient: scale of the rate's gradient to the encoder, see `latents_loss`.
        """
        if self.stage != "latents":
            return {"loss": stage_loss(self.model, self.stage, x, labels, text, noise, self.encoded)}
        loss = latents_loss(self.model, x, labels, text, noise, prior_gradient)
        return {
            "loss": loss.total,
            "rate_bits_per_pixel": loss.rate.detach().mean() / loss.pixels / math.log(2),
            "distortion": loss.distortion.detach().mean() / loss.pixels,
        }
